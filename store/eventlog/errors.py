"""The errors of the event log."""

from statemachine.errors import Refused, Unavailable


class Conflict(Refused):
    """The build has changed since the caller read it: read it again and decide again."""


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
    """A write failed and the state of the disk is unknown: nothing is appended until a restart."""


class LogDamaged(Unavailable):
    """The database is not a valid event log: foreign, truncated, corrupt or newer."""
