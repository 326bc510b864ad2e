"""The errors of the event log."""

from statemachine.errors import DcdError, Refused, Unavailable


class Conflict(Refused):
    """The build has changed since the caller read it: read it again and decide again."""


class Fenced(Refused):
    """The epoch is over: another member of the farm owns the build. End the attempt, forget the build."""


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


def is_outage(error: DcdError) -> bool:
    """Whether the log cannot be read at present: then it says nothing of a build, as it does when it is
    damaged."""
    return isinstance(error, Unavailable) and not isinstance(error, LogDamaged)


def fenced(build: str, epoch: int | None, current: int) -> Fenced:
    """The answer to an append in an epoch that is not the current one."""
    return Fenced(
        f"epoch {epoch} of build {build} is over",
        f"it is in epoch {current}",
        "nothing: the member that took the build continues it",
    )
