"""Exit codes of dcctl. Scripts depend on them; docs/reference/exit-codes.md is the table for people.

Two more follow the shell's convention for signals: 130 after Ctrl-C and 141 when the reader of the
output closed it.
"""

from enum import IntEnum
from typing import Any


class ExitCode(IntEnum):
    """The exit codes of dcctl."""

    OK = 0
    ERROR = 1
    USAGE = 2
    FAILED = 3
    PAUSED = 4
    CANCELLED = 5
    REFUSED = 6
    NOT_FOUND = 7
    INVALID_MANIFEST = 8
    UNREACHABLE = 9
    PERMISSION = 10
    UNPREPARED = 11
    DIFFERENT = 12
    BAD_KEY = 20
    ALTERED = 21
    OTHER_KEY = 22
    OTHER_FILE = 23
    UNPROVED = 24
    OTHER_BUILDER = 25
    BAD = 26
    BAD_EXPORT = 27
    NO_PACKAGES = 28
    DAMAGED = 30
    INTERRUPTED = 130
    BROKEN_PIPE = 141


PROBLEMS = {
    "internal": ExitCode.ERROR,
    "usage": ExitCode.USAGE,
    "refused": ExitCode.REFUSED,
    "not-found": ExitCode.NOT_FOUND,
    "removed": ExitCode.NOT_FOUND,
    "invalid-manifest": ExitCode.INVALID_MANIFEST,
    "inputs-missing": ExitCode.INVALID_MANIFEST,
    "unavailable": ExitCode.UNREACHABLE,
    "too-many-requests": ExitCode.UNREACHABLE,
    "permission": ExitCode.PERMISSION,
    "unprepared": ExitCode.UNPREPARED,
}
"""By the last part of the API's problem type."""

OF_FILES = {
    "bad-key": ExitCode.BAD_KEY,
    "altered": ExitCode.ALTERED,
    "other-key": ExitCode.OTHER_KEY,
    "other-file": ExitCode.OTHER_FILE,
    "unproved": ExitCode.UNPROVED,
    "other-builder": ExitCode.OTHER_BUILDER,
    "bad-export": ExitCode.BAD_EXPORT,
}
"""By the problem that `dcctl verify` finds in files, without a daemon."""

AT_REST = {
    "completed": ExitCode.OK,
    "failed": ExitCode.FAILED,
    "paused": ExitCode.PAUSED,
    "cancelled": ExitCode.CANCELLED,
}
"""By the state of a build that has stopped; in the other states it is active."""

OF_FAILURES = {"no-package-database": ExitCode.NO_PACKAGES}
"""By the problem of a failed checkpoint; other failures have the code of their state."""


def at_rest(build: dict[str, Any]) -> ExitCode:
    """The code for a build, as the API describes it, that has stopped; OK for an active one."""
    if build["state"] == "failed" and build["error"]:
        return OF_FAILURES.get(build["error"]["problem"], ExitCode.FAILED)
    return AT_REST.get(build["state"], ExitCode.OK)
