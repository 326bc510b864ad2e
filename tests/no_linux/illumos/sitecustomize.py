"""Put on the import path, this makes each process of dcd take Linux for illumos.

Python calls the system `sunos5` and lacks what it lacks there. Processes are read from psinfo, made here of
Linux' files, with the contracts of the stand-in for ctrun(1) in `bin`, and no environment of a process can be
read. Privileges are not dropped: Linux has no setppriv(2).
"""

import re
import runpy
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from struct import pack
from typing import Any

HERE = Path(__file__).parent
runpy.run_path(str(HERE.parent / "sitecustomize.py"))

BASE = 10**12
"""As in `bin/ctrun`."""

_TICKS = 100
_NANOSECONDS = 1_000_000_000


class Processes:
    """In the place of the path /proc."""

    def iterdir(self) -> Iterator[Path]:
        return Path("/proc").iterdir()

    def __truediv__(self, pid: str) -> "Process":
        return Process(Path("/proc") / pid)


class Process:
    """In the place of a process' directory in /proc."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def __truediv__(self, name: str) -> Any:
        return self if name == "psinfo" else Path("/nowhere")

    def read_bytes(self) -> bytes:
        """psinfo_t of sys/procfs.h for programs of 64 bits."""
        stat = (self._place / "stat").read_text("utf-8", "replace")
        status = (self._place / "status").read_text("utf-8", "replace")
        limits = (self._place / "limits").read_text()
        fields = stat.rpartition(")")[2].split()
        threads = 0 if fields[0] in "ZX" else int(fields[17])
        parent, group, session = map(int, fields[1:4])
        uid, euid = re.search(r"^Uid:\t(\d+)\t(\d+)", status, re.MULTILINE).groups()  # type: ignore[union-attr]
        seconds, ticks = divmod(int(fields[19]), _TICKS)
        label = re.search(r"^Max realtime timeout +(\d+)", limits, re.MULTILINE)
        contract = int(label[1]) - BASE if label else 1
        ids = (0, threads, int(self._place.name), parent, group, session, int(uid), int(euid), 0, 0)
        return (
            pack("=10i5Q2H4x", *ids, 0, 0, 0, 0, 0, 0, 0)
            + pack("=6q", seconds, ticks * _NANOSECONDS // _TICKS, 0, 0, 0, 0)
            + bytes(16 + 80)
            + pack("=2i2Q4x6i", 0, 1, 0, 0, 0, 0, 0, 0, 0, contract)
        )


def be_illumos() -> None:
    sysconfig.get_config_vars()  # reads a file with the system's name
    sys.platform = "sunos5"
    from store.host import tools

    tools.TOOL_PATH = f"{HERE / 'bin'}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    # These have the path from there.
    from store.host import identity, mounts, privileges, process_table

    mounts.MNTTAB = HERE / "mnttab"
    process_table.PROC = Processes()  # type: ignore[assignment]
    # Linux' clock of processes, in the unit of illumos.
    process_table.clock = lambda: int(float(Path("/proc/uptime").read_text().split()[0]) * 1e9)
    # Tests lie below directories that the daemon's user cannot enter.
    identity.can_restrict = lambda: True
    privileges.keep_only = lambda capabilities, *, network: None


be_illumos()
