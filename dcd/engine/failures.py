"""What an error becomes in the log: the command that records it, and what it says to people. Pure."""

import errno

from statemachine.commands import Command, FailCheckpoint, InterruptCheckpoint
from statemachine.errors import DcdError
from statemachine.events import ErrorInfo
from store.host.durable import is_full


def broken_off(checkpoint: str, error: OSError) -> Command:
    """What follows from an error of the state directory's file system in an attempt."""
    if is_full(error):
        return InterruptCheckpoint(checkpoint, "no-space", str(error))
    return FailCheckpoint(checkpoint, disk_error(error))


_OF_THE_MACHINE = frozenset(
    getattr(errno, name)
    for name in (
        *(
            "EIO",
            "EROFS",
            "ENODEV",
            "ENXIO",
            "ESTALE",
            "EREMOTEIO",
            "EUCLEAN",
            "ENOMEDIUM",
            "EMEDIUMTYPE",
        ),
        *("ENOTCONN", "ESHUTDOWN", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH"),
    )
    if hasattr(errno, name)
)
"""What a disk or a remote file system says that fails. All else a tree can provoke: by names that are too
long, links that lead in circles, a file where a directory should be."""


def disk_error(error: OSError) -> ErrorInfo:
    """An error of the state directory's file system, for people: whether the disk fails, or cannot hold or
    show what a checkpoint left there."""
    if error.errno == errno.ENAMETOOLONG:
        return ErrorInfo(
            "what the checkpoint left has a path that is too long",
            str(error),
            "shorten it: below the state directory a path has at most 4095 bytes, and a name 255",
        )
    if error.errno is not None and error.errno not in _OF_THE_MACHINE:
        return ErrorInfo(
            f"what the checkpoint left cannot be kept: {error.strerror or error}",
            str(error),
            "look at that path in what the checkpoint makes, correct it, then resume the build",
        )
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
