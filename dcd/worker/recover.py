"""Removing processes and loop devices that the workers of a dead daemon may have left.

A worker dies with its daemon (see `dcd.worker.launch`), so after a crash there is normally nothing to
remove; this makes sure. A process matches only if its environment has a marker of this state directory,
which no other user can read, and all its user ids are the daemon's: processes of other users, set-uid
programs included, are neither killed nor waited for. Processes that start after the search need no attention:
those of a worker are in a PID namespace and end with its first process. Blocking; run before any build
continues.
"""

import contextlib
import fcntl
import os
import select
import signal
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dcd.worker.request import MARKER, SCRATCH
from statemachine.errors import Unavailable
from store.host.regular import open_regular
from store.layers.overlay import DEVICE_FILE

_KILL_SECONDS = 30.0
_NUMBER_BYTES = 20
_ROUNDS = 3
"""The number of searches: processes may start while earlier ones are killed."""

_LOOP_CLR_FD, _LOOP_GET_STATUS64 = 0x4C01, 0x4C05  # linux/loop.h
_STATUS64_BYTES, _FILE_NAME = 232, slice(56, 120)


_NOT_OURS = (FileNotFoundError, PermissionError)
"""A loop device that is gone, or that a daemon without root cannot open and so never attached."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """A process that belongs to an attempt: its pid and start time (clock ticks since boot), and the
    attempt's marker."""

    pid: int
    start_time: int
    marker: str

    @property
    def attempt(self) -> str:
        """BUILD:CHECKPOINT:ATTEMPT: the marker without its secret part."""
        return self.marker.partition(":")[2]


def leftover_workers(prefix: str) -> list[Leftover]:
    """The daemon's own processes whose marker begins with `prefix`: `STATE:` for all of a state directory,
    a whole marker for one attempt."""
    wanted = f"{MARKER}={prefix}".encode()
    return [
        Leftover(pid, start_time, marker.removeprefix(f"{MARKER}=".encode()).decode())
        for pid, start_time, environment in _processes()
        for marker in environment
        if marker.startswith(wanted)
    ]


def kill_leftovers(prefix: str) -> list[Leftover]:
    """Kill those processes, wait for their end, and return them.

    Raises Unavailable when one does not end: it could write into layers.
    """
    killed: dict[int, Leftover] = {}
    deadline = time.monotonic() + _KILL_SECONDS
    for _ in range(_ROUNDS):
        looked_at = _ticks_since_boot()
        found = leftover_workers(prefix)
        if not found:
            break
        while remaining := [leftover for leftover in found if leftover.start_time <= looked_at]:
            for leftover in remaining:
                _kill(leftover, deadline)
                killed[leftover.pid] = leftover
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{len(remaining)} processes of an earlier attempt cannot be killed",
                    ", ".join(f"{left.pid} ({left.attempt})" for left in remaining),
                    "they hang in the kernel; restart the machine",
                )
            found = leftover_workers(prefix)
    return list(killed.values())


def detach_loops(below: Path) -> list[str]:
    """Detach every loop device on a file below `below`, which is a workspace's directory or that of
    all layers. Returns them."""
    loops = _loops()
    if not loops:
        return []  # The usual case; skips the search below.
    workspaces = [below, *below.glob("*/.work/*")]
    noted_devices = (_noted_device(workspace / DEVICE_FILE) for workspace in workspaces)
    devices = {device for device in noted_devices if device is not None}
    scratch = {file for workspace in workspaces for file in _files(workspace / SCRATCH)}
    prefix = f"{below}/"
    detached = []
    for name in loops:
        with contextlib.suppress(*_NOT_OURS), Path("/dev", name).open("rb") as opened:
            shown = Path("/sys/block", name, "loop/backing_file").read_text()
            device, inode, noted = _backing(opened.fileno())
            # After the worker's mounts are gone, the kernel shows only the end of a path. It still knows
            # the first 63 bytes of the name given to losetup(8) and, if these do not identify the
            # workspace, the device of the mount; but not of a mount inside the workspace.
            ours = noted.startswith(prefix) or (device in devices and noted.startswith(prefix[:63]))
            # A file that the worker called /tmp/NAME.
            if shown.startswith(prefix) or ours or (device, inode) in scratch:
                fcntl.ioctl(opened, _LOOP_CLR_FD)
                detached.append(name)
    return detached


def _noted_device(note: Path) -> int | None:
    """The device number of a workspace's mount, or None. A power cut may leave an empty note; then no device
    is left either. Workers of version 0.1.0 could replace the note by any file."""
    try:
        with open_regular(note) as file:
            number = file.read(_NUMBER_BYTES)
    except OSError:
        return None
    return int(number) if number.isdigit() else None


def _processes() -> Iterator[tuple[int, int, list[bytes]]]:
    """pid, start time and environment of all other processes of this user."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or entry.name == str(os.getpid()):
            continue
        with contextlib.suppress(OSError):
            if _user_ids(entry) != {os.geteuid()}:
                continue
            environment = (entry / "environ").read_bytes().split(b"\0")
            yield int(entry.name), _start_time(entry), environment


def _user_ids(process: Path) -> set[int]:
    """The real, effective, saved and file system user ids. Source: proc_pid_status(5)."""
    lines = (process / "status").read_text("utf-8", "replace").splitlines()
    return {int(number) for line in lines if line.startswith("Uid:") for number in line.split()[1:]}


def _ticks_since_boot() -> int:
    """The present time in the unit of start times."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def _start_time(process: Path) -> int:
    # The name, in parentheses, may contain any characters. Source: proc(5), field 22 of stat.
    return int((process / "stat").read_text().rpartition(")")[2].split()[19])


def _kill(leftover: Leftover, deadline: float) -> None:
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        descriptor = os.pidfd_open(leftover.pid)
        try:
            # The descriptor refers to the process that has the pid now, which may be a different one.
            if _start_time(Path("/proc", str(leftover.pid))) == leftover.start_time:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        finally:
            os.close(descriptor)


def _loops() -> list[str]:
    return sorted(
        path.parent.parent.name for path in Path("/sys/block").glob("loop*/loop/backing_file")
    )


def _files(directory: Path) -> Iterator[tuple[int, int]]:
    """Device and inode numbers of all files below a directory."""
    for parent, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                status = Path(parent, name).lstat()
                yield status.st_dev, status.st_ino


def _backing(loop: int) -> tuple[int, int, str]:
    """Device and inode numbers and noted name of the file behind a loop device (struct loop_info64). They
    are unknown (0, 0, "") if the file system has died, as FUSE's can; that of layers cannot."""
    try:
        status = fcntl.ioctl(loop, _LOOP_GET_STATUS64, bytes(_STATUS64_BYTES))
    except OSError:
        return 0, 0, ""
    name = status[_FILE_NAME].split(b"\0")[0]
    device, inode = struct.unpack_from("=QQ", status)
    return device, inode, os.fsdecode(name)
