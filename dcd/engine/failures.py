"""What an error becomes in the log: the command that records it, and what it says to people. Pure."""

from statemachine.commands import Command, FailCheckpoint, InterruptCheckpoint
from statemachine.errors import DcdError
from statemachine.events import ErrorInfo
from store.durable import is_full


def broken_off(checkpoint: str, error: OSError) -> Command:
    """What follows from an error of the state directory's file system in an attempt."""
    if is_full(error):
        return InterruptCheckpoint(checkpoint, "no-space", str(error))
    return FailCheckpoint(checkpoint, disk_error(error))


def disk_error(error: OSError) -> ErrorInfo:
    """An error of the state directory's file system, for people."""
    return ErrorInfo(
        "the disk of the state directory fails",
        str(error),
        "look for the cause in the kernel's log, repair it, then resume the build",
    )


def info_of(error: DcdError) -> ErrorInfo:
    """An error as an event holds it."""
    return ErrorInfo(error.brief, error.details, error.resolution)


def defect(error: Exception) -> ErrorInfo:
    """An error that no code of dcd expects."""
    details = f"{type(error).__name__}: {error}"
    return ErrorInfo("a defect in dcd stopped the build", details, "report it, then resume")
