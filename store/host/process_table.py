"""The processes of this host, as the kernel shows them in /proc.

Linux has text files there, illumos the structure psinfo_t; elsewhere no process is found. Each process that
ends while it is read is left out, and so is one that has ended and is not waited for. Times of start are in
the unit of `clock`, which is that of the host.

Source: proc_pid_stat(5), proc_pid_status(5), proc_pid_environ(5) of Linux; proc(5) and sys/procfs.h of
illumos (the layout for programs of 64 bits).
"""

import os
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")

MARK = "DCD_ATTEMPT_BELOW"
"""The environment variable that marks what a portable worker starts (`dcd.worker.recover`). Programs inherit
it with every environment."""

_PSINFO = struct.Struct("=10i 5Q 2H 4x 6q 16s 80s 2i 2Q 4x 6i")
"""psinfo_t to pr_contract: flags and ids; address, sizes and terminal; shares; start and times; names; status
and arguments; task to contract."""

_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Entry:
    """A process: its id, its parent's, those of its process group and session, all its user ids, when it
    started, and the id of its process contract (0 on a system without)."""

    pid: int
    parent: int
    group: int
    session: int
    users: frozenset[int]
    started: int
    contract: int = 0


def processes() -> Iterator[Entry]:
    """All processes that run."""
    for place in PROC.iterdir():
        if place.name.isdecimal() and (found := entry(int(place.name))) is not None:
            yield found


def entry(pid: int) -> Entry | None:
    """The process with this id, or None."""
    place = PROC / str(pid)
    try:
        if sys.platform == "sunos5":
            return parse_psinfo((place / "psinfo").read_bytes())
        stat = (place / "stat").read_text("utf-8", "replace")
        return parse_stat(stat, (place / "status").read_text("utf-8", "replace"))
    except (OSError, ValueError):
        return None


def environment(pid: int) -> list[bytes]:
    """The variables with which a process was started, NAME=VALUE. None on illumos, where a contract
    says to which attempt a process belongs. Raises OSError."""
    return (PROC / str(pid) / "environ").read_bytes().split(b"\0")


def clock() -> int:
    """The present time in the unit of `Entry.started`."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))
    return time.time_ns()


def parse_stat(stat: str, status: str) -> Entry | None:
    """The entry of Linux' files `stat` and `status`; None for a process that has ended. Raises ValueError."""
    # The name, in parentheses, may contain any characters.
    before, _, after = stat.rpartition(")")
    fields = after.split()
    if fields[0] in "ZX":
        return None
    users = {
        int(number)
        for line in status.splitlines()
        if line.startswith("Uid:")
        for number in line.split()[1:]
    }
    parent, group, session = map(int, fields[1:4])
    pid = int(before.partition(" ")[0])
    return Entry(pid, parent, group, session, frozenset(users), int(fields[19]))


def parse_psinfo(content: bytes) -> Entry | None:
    """The entry of illumos' file `psinfo`; None for a process that has ended. Raises ValueError."""
    try:
        fields = _PSINFO.unpack_from(content)
    except struct.error as error:
        raise ValueError(str(error)) from error
    _, threads, pid, parent, group, session, real, effective = fields[:8]
    if threads == 0:
        return None
    started = fields[17] * _NANOSECONDS + fields[18]
    return Entry(
        pid, parent, group, session, frozenset((real, effective)), started, contract=fields[-1]
    )
