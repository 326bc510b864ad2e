"""What the event log refuses, and why."""

from statemachine.errors import Refused, Unavailable


class Conflict(Refused):
    """The build has moved on since the caller looked: read it again and decide again."""


class DuplicateSubmission(Conflict):
    """The idempotency key was used before, for `build`."""

    def __init__(self, idempotency_key: str, build: str) -> None:
        super().__init__(
            f"idempotency key {idempotency_key} was used before",
            f"it submitted build {build}",
        )
        self.build = build


class LogFull(Unavailable):
    """The disk is full: the events were not appended, later ones may be."""


class LogFailed(Unavailable):
    """A write failed and it is not known what is on disk: nothing is appended until a restart."""


class LogDamaged(Unavailable):
    """The database is not an event log that can be trusted: foreign, truncated, corrupt or newer."""
