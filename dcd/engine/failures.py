"""Recording errors in the log: the command for an error, and its text for people. Pure."""

import errno

from statemachine.commands import Command, FailCheckpoint, InterruptCheckpoint
from statemachine.results import ErrorInfo
from store.host.durable import is_full


def command_for_disk_error(checkpoint: str, error: OSError) -> Command:
    """The command for an error of the state directory's file system in an attempt."""
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
"""Errors of a failing disk or remote file system. The contents of a tree can cause all other errors:
names that are too long, circular links, a file in place of a directory."""


def disk_error(error: OSError) -> ErrorInfo:
    """An error of the state directory's file system, for people: either the disk fails, or it cannot
    store or read a checkpoint's files."""
    if error.errno == errno.ENAMETOOLONG:
        return ErrorInfo(
            "a path in the checkpoint's workspace is too long",
            str(error),
            "shorten it: below the state directory a path has at most 4095 bytes, and a name 255",
        )
    if error.errno is not None and error.errno not in _OF_THE_MACHINE:
        return ErrorInfo(
            f"the checkpoint's workspace cannot be kept: {error.strerror or error}",
            str(error),
            "check that path in the output of the checkpoint, correct it, then resume the build",
        )
    return ErrorInfo(
        "the disk of the state directory fails",
        str(error),
        "look for the cause in the kernel's log, repair it, then resume the build",
    )


def defect(error: Exception) -> ErrorInfo:
    """The error for an unexpected exception."""
    details = f"{type(error).__name__}: {error}"
    return ErrorInfo("a defect in dcd stopped the build", details, "report it, then resume")
