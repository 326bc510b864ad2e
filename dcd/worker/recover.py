"""Removing processes and loop devices that the workers of a dead daemon may have left.

A worker dies with its daemon (see `dcd.worker.launch`), so after a crash there is normally nothing to
remove; this makes sure. A process matches only if its environment has a marker of this state directory,
which no other user can read, and all its user ids are the daemon's: processes of other users, set-uid
programs included, are neither killed nor waited for. Processes that start after the search need no
attention: those of a worker are in a PID namespace and end with its first process.

Portable workers have no such namespace. Their processes have a second marker, which `DESCENDANT` names; with
each go its descendants and the processes of its session. On illumos there are all members of the attempt's
process contract, whose id the attempt notes, for root those of other users too. Blocking; run before any
build continues.
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dcd.worker.request import DESCENDANT, MARKER, SCRATCH, descendant_mark
from statemachine.errors import Unavailable
from store.host import process_table
from store.host.boot import boot_id
from store.host.loops import Attached, any_attached, detach_files
from store.host.process_table import Entry
from store.host.regular import open_regular
from store.layers.overlay import DEVICE_FILE

_KILL_SECONDS = 30.0
_NUMBER_BYTES = 20
_NOTE_BYTES = 200
_LOOK_SECONDS = 0.005
_ROUNDS = 3
"""The number of searches: processes may start while earlier ones are killed."""

CONTRACT_FILE = "contract"
"""In a workspace's directory: the boot and the id of the process contract of its last attempt."""


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


def leftover_workers(prefix: str, contracts: Collection[int] = ()) -> list[Leftover]:
    """The daemon's own processes whose marker begins with `prefix`: `STATE:` for all of a state directory,
    a whole marker for one attempt. With those of portable workers, what belongs to them; and the members of
    these process contracts."""
    wanted = f"{MARKER}={prefix}".encode()
    below = f"{DESCENDANT}={descendant_mark(prefix)}".encode()
    found: list[Leftover] = []
    portable: dict[int, str] = {}
    user = os.geteuid()
    for process in process_table.processes():
        own = process.users == frozenset({user})
        # Root ends the members of a contract that run as another user, too.
        member = (own or user == 0) and process.contract != 0 and process.contract in contracts
        marker = prefix if member else ""
        for variable in _environment(process.pid) if own else ():
            if variable.startswith(below):
                portable[process.pid] = prefix + variable[len(below) :].decode()
                marker = marker or portable[process.pid]
            if variable.startswith(wanted):
                marker = variable.partition(b"=")[2].decode()
        if marker and process.pid != os.getpid():
            found.append(_leftover(process, marker))
    return [*found, *_company(portable, {each.pid for each in found})] if portable else found


def _environment(pid: int) -> list[bytes]:
    try:
        return process_table.environment(pid)
    except OSError:
        return []


def _leftover(process: Entry, marker: str) -> Leftover:
    return Leftover(process.pid, process.started, marker)


def _company(markers: dict[int, str], known: Collection[int]) -> Iterator[Leftover]:
    """What belongs to processes of portable workers, given with their markers, without being marked:
    descendants, and members of their sessions, which nobody else can enter. For the daemon of an ordinary
    user only that user's: it could not end others."""
    markers = dict(markers)
    able = os.geteuid() == 0
    everything = [
        each
        for each in process_table.processes()
        if able or each.users == frozenset({os.geteuid()})
    ]
    never = {0, 1, os.getpid(), *known}
    while True:
        sessions = {each.session: markers[each.pid] for each in everything if each.pid in markers}
        new = {
            each.pid: marker
            for each in everything
            if each.pid not in markers
            and each.pid not in (0, 1, os.getpid())
            and (marker := markers.get(each.parent) or sessions.get(each.session))
        }
        if not new:
            break
        markers |= new
    for each in everything:
        if each.pid in markers and each.pid not in never:
            yield _leftover(each, markers[each.pid])


def kill_leftovers(prefix: str, contracts: Collection[int] = ()) -> list[Leftover]:
    """Kill those processes, wait for their end, and return them.

    Raises Unavailable when one does not end: it could write into layers.
    """
    killed: dict[int, Leftover] = {}
    deadline = time.monotonic() + _KILL_SECONDS
    for _ in range(_ROUNDS):
        looked_at = process_table.clock()
        found = leftover_workers(prefix, contracts)
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
            found = leftover_workers(prefix, contracts)
    return list(killed.values())


def signal_all(processes: Iterable[Leftover]) -> None:
    """Send SIGKILL to processes, without waiting for their end."""
    now = time.monotonic()
    for each in processes:
        _kill(each, now)


def own_contract() -> int:
    """The process contract in which this process was started, if it is another than its parent's; else 0."""
    this, parent = process_table.entry(os.getpid()), process_table.entry(os.getppid())
    if this is None or parent is None or this.contract == parent.contract:
        return 0
    return this.contract


def note_contract(contract: int, workspace: Path) -> None:
    """Note the process contract of an attempt in the directory of its workspace."""
    (workspace / CONTRACT_FILE).write_text(f"{boot_id()} {contract}")


def noted_contracts(below: Path) -> set[int]:
    """The contracts of this boot that attempts have noted in `below`, which is a workspace's directory or
    that of all layers."""
    found = set()
    for note in (below / CONTRACT_FILE, *below.glob(f"*/.work/*/{CONTRACT_FILE}")):
        with contextlib.suppress(OSError), open_regular(note) as file:
            boot, _, number = file.read(_NOTE_BYTES).decode("ascii", "replace").rpartition(" ")
            if boot == boot_id() and number.isdecimal():
                found.add(int(number))
    return found


def detach_loops(below: Path) -> list[str]:
    """Detach every loop device on a file below `below`, which is a workspace's directory or that of
    all layers. Returns them."""
    if not any_attached():
        return []  # The usual case; skips the search below.
    workspaces = [below, *below.glob("*/.work/*")]
    noted_devices = (_noted_device(workspace / DEVICE_FILE) for workspace in workspaces)
    devices = {device for device in noted_devices if device is not None}
    scratch = {file for workspace in workspaces for file in _files(workspace / SCRATCH)}
    prefix = f"{below}/"
    # On ZFS the tree of a workspace is elsewhere.
    trees = tuple(f"{(each / 'layer' / 'tree').resolve()}/" for each in workspaces)

    def is_ours(loop: Attached) -> bool:
        # After the worker's mounts are gone, the kernel shows only the end of a path. It still knows
        # the first 63 bytes of the name given to losetup(8) and, if these do not identify the
        # workspace, the device of the mount; but not of a mount inside the workspace.
        ours = loop.noted.startswith(prefix) or (
            loop.device in devices and loop.noted.startswith(prefix[:63])
        )
        # A file that the worker called /tmp/NAME.
        in_scratch = (loop.device, loop.inode) in scratch
        return loop.shown.startswith((prefix, *trees)) or ours or in_scratch

    return detach_files(is_ours)


def _noted_device(note: Path) -> int | None:
    """The device number of a workspace's mount, or None. A power cut may leave an empty note; then no device
    is left either. Workers of version 0.1.0 could replace the note by any file."""
    try:
        with open_regular(note) as file:
            number = file.read(_NUMBER_BYTES)
    except OSError:
        return None
    return int(number) if number.isdigit() else None


def _kill(leftover: Leftover, deadline: float) -> None:
    if not hasattr(os, "pidfd_open"):
        _kill_by_number(leftover, deadline)
        return
    with contextlib.suppress(ProcessLookupError, FileNotFoundError, PermissionError):
        descriptor = os.pidfd_open(leftover.pid)
        try:
            # The descriptor refers to the process that has the pid now, which may be a different one.
            if _still_runs(leftover):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        finally:
            os.close(descriptor)


def _kill_by_number(leftover: Leftover, deadline: float) -> None:
    """The same on a system that has only numbers of processes, which it uses again late."""
    if not _still_runs(leftover):
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(leftover.pid, signal.SIGKILL)
    while _still_runs(leftover) and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)


def _still_runs(leftover: Leftover) -> bool:
    found = process_table.entry(leftover.pid)
    return found is not None and found.started == leftover.start_time


def _files(directory: Path) -> Iterator[tuple[int, int]]:
    """Device and inode numbers of all files below a directory."""
    for parent, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                status = Path(parent, name).lstat()
                yield status.st_dev, status.st_ino
