"""A control group for each attempt, below the daemon's own if the service manager delegated it.

Limits of a process cannot limit an attempt, which may have thousands of processes; its group can, and
removing the group ends all of them. systemd delegates with Delegate=; other systems, such as illumos, have no
groups.

Source: cgroups(7) and the kernel's cgroup-v2.rst ("No Internal Process Constraint", "Core Interface
Files"); systemd.resource-control(5) and systemd's CGROUP_DELEGATION ("Three Scenarios").
"""

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

_DAEMON = "daemon"
_PREFIX = "attempt-"
_WANTED = {"memory", "pids"}
_DELEGATED = ("trusted.delegate", "user.delegate")
_END_SECONDS = 30.0

_ENTER = 'echo 0 >"$0/cgroup.procs" && exec "$@"'


@dataclass(frozen=True, slots=True)
class Delegated:
    """The group delegated to the daemon, with its usable controllers (`memory`, `pids`)."""

    directory: Path
    controllers: frozenset[str]

    def begin(self, name: str, memory_bytes: int, processes: int) -> "AttemptGroup":
        """An empty group for an attempt, limited to `memory_bytes` (0: no limit), which include the kernel's
        cache of its files, and to that number of processes and threads. Raises OSError."""
        directory = self.directory / f"{_PREFIX}{name}"
        directory.mkdir(exist_ok=True)
        if "memory" in self.controllers and memory_bytes:
            (directory / "memory.max").write_text(str(memory_bytes))
            # Kill the whole attempt: the rest would fail with a misleading error.
            (directory / "memory.oom.group").write_text("1")
        if "pids" in self.controllers:
            (directory / "pids.max").write_text(str(processes))
        return AttemptGroup(directory)

    def clear(self) -> list[str]:
        """End the groups that the attempts of a dead daemon left. Returns their names."""
        left = sorted(self.directory.glob(f"{_PREFIX}*"))
        for directory in left:
            AttemptGroup(directory).end()
        return [directory.name for directory in left]


@dataclass(frozen=True, slots=True)
class AttemptGroup:
    """The group of one attempt."""

    directory: Path

    def command(self) -> tuple[str, ...]:
        """The prefix that makes a command run, with its descendants, in this group."""
        return ("sh", "-c", _ENTER, str(self.directory))

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel killed a process in it because of the memory limit."""
        try:
            events = (self.directory / "memory.events").read_text().split()
        except FileNotFoundError:
            return False  # Its memory is not limited.
        return int(events[events.index("oom_kill") + 1]) > 0

    def end(self) -> None:
        """Kill its processes and remove it. Blocking. Raises OSError when a process does not end."""
        with contextlib.suppress(FileNotFoundError):
            # Before Linux 5.14 only the end of the attempt's PID namespace kills them.
            (self.directory / "cgroup.kill").write_text("1")
        deadline = time.monotonic() + _END_SECONDS
        while self.directory.exists():
            try:
                self.directory.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)


def enter(group: Path) -> None:
    """Move this process into a group, with all that it starts. Raises OSError."""
    (group / "cgroup.procs").write_text("0")


def take_over() -> Delegated | None:
    """Prepare the daemon's own group for the groups of attempts, if it was delegated; else None. All its
    processes move into a child group, since only leaves may hold processes. Raises OSError."""
    own = _own_group()
    if own is None or not _was_delegated(own):
        return None
    (own / _DAEMON).mkdir(exist_ok=True)
    for process in (own / "cgroup.procs").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            (own / _DAEMON / "cgroup.procs").write_text(process)
    controllers = _WANTED.intersection((own / "cgroup.controllers").read_text().split())
    if controllers:
        switches = " ".join(f"+{name}" for name in sorted(controllers))
        (own / "cgroup.subtree_control").write_text(switches)
    return Delegated(own, frozenset(controllers))


def _own_group() -> Path | None:
    """The directory of this process's group."""
    try:
        groups = Path("/proc/self/cgroup").read_text().splitlines()
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    except FileNotFoundError:
        return None
    paths = [line.removeprefix("0::") for line in groups if line.startswith("0::")]
    tops = [line.split()[4] for line in mounts if " - cgroup2 " in line and line.split()[3] == "/"]
    return Path(tops[0] + paths[0]) if paths and tops else None


def _was_delegated(group: Path) -> bool:
    for name in _DELEGATED:
        with contextlib.suppress(OSError, AttributeError):
            return os.getxattr(group, name) == b"1"
    return False
