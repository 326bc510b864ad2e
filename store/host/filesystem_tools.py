"""Running the file system's own tools (cp, btrfs, zfs), with errors that show command and output."""

import errno
import os
import shlex
import subprocess
from pathlib import Path

from statemachine.errors import Unprepared
from store.host.durable import DiskFull
from store.host.forking import patiently
from store.host.tools import TOOL_PATH

SECONDS = 3600.0
"""Time limit of a tool: long enough to copy a large tree."""

_ENVIRONMENT = {"PATH": TOOL_PATH, "LC_ALL": "C"}
_FULL = {
    os.strerror(errno.ENOSPC): errno.ENOSPC,
    os.strerror(errno.EDQUOT): errno.EDQUOT,
    "out of space": errno.ENOSPC,  # zfs(8)
}


def run_tool(doing: str, program: str, *arguments: str | Path) -> str:
    """Run a tool to its end.

    Returns its standard output. Raises DiskFull when it reports a lack of space, else Unprepared when
    it fails or is missing.
    """
    command = [program, *(os.fspath(argument) for argument in arguments)]
    try:
        ended = patiently(
            lambda: subprocess.run(
                command,
                env=_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=SECONDS,
            )
        )
    except subprocess.TimeoutExpired:
        raise Unprepared(
            f"{program} did not finish within {SECONDS:g} s and was stopped, while {doing}",
            f"command: {shlex.join(command)}",
            "look for the cause in the kernel's log: a disk or pool that does not answer",
        ) from None
    except FileNotFoundError as error:
        raise Unprepared(
            f"{program} is needed for {doing}", str(error), f"install {program}"
        ) from None
    complaint = ended.stderr.decode(errors="replace").strip()
    if ended.returncode == 0:
        return ended.stdout.decode()
    for text, number in _FULL.items():
        if text in complaint:
            raise DiskFull(doing, arguments[-1], OSError(number, os.strerror(number)))
    raise Unprepared(
        f"{program} failed while {doing}",
        f"command: {shlex.join(command)}\nexit status {ended.returncode}: {complaint}",
    )
