"""Running the file system's own tools (cp, btrfs, zfs), with errors that show command and output."""

import errno
import os
from pathlib import Path

from statemachine.errors import Unprepared
from store.host.durable import FULL, DiskFull
from store.host.process import ToolFailed, run

SECONDS = 3600.0
"""Time limit of a tool: long enough to copy a large tree."""

_FULL = {
    **{os.strerror(number): number for number in FULL},
    "out of space": errno.ENOSPC,  # zfs(8)
}


def run_tool(doing: str, program: str, *arguments: str | Path) -> str:
    """Run a tool to its end.

    Returns its standard output. Raises DiskFull when it reports a lack of space, else Unprepared when
    it fails or is missing.
    """
    try:
        return run(
            [program, *arguments], timeout_seconds=SECONDS, capture=True, log_errors=False
        ).stdout
    except ToolFailed as failure:
        for text, number in _FULL.items():
            if text in failure.output:
                raise DiskFull(doing, arguments[-1], OSError(number, os.strerror(number))) from None
        remedy = "look for the cause in the kernel's log: a disk or pool that does not answer"
        raise Unprepared(
            f"{failure.brief}, while {doing}",
            failure.details,
            remedy if failure.timed_out else "",
        ) from None
