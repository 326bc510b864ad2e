"""A control group for each attempt, below the daemon's own where the service manager delegated that to it.

What limits apply to a process alone cannot limit an attempt, which may have thousands; its group can, and
ends with all that is in it. systemd delegates with Delegate=; elsewhere, illumos too, there are no groups.

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
    """The group that is the daemon's to divide, and which controllers (`memory`, `pids`) do so."""

    directory: Path
    controllers: frozenset[str]

    def begin(self, name: str, memory_bytes: int, processes: int) -> "AttemptGroup":
        """An empty group for an attempt, which takes at most that much memory (0: no limit), the kernel's
        cache of its files included, and has at most that many processes and threads. Raises OSError."""
        directory = self.directory / f"{_PREFIX}{name}"
        directory.mkdir(exist_ok=True)
        if "memory" in self.controllers and memory_bytes:
            (directory / "memory.max").write_text(str(memory_bytes))
            # All or nothing: half of an attempt would fail with an error that tells something else.
            (directory / "memory.oom.group").write_text("1")
        if "pids" in self.controllers:
            (directory / "pids.max").write_text(str(processes))
        return AttemptGroup(directory)

    def clear(self) -> list[str]:
        """End what a dead daemon's attempts left. Returns their groups' names."""
        left = sorted(self.directory.glob(f"{_PREFIX}*"))
        for directory in left:
            AttemptGroup(directory).end()
        return [directory.name for directory in left]


@dataclass(frozen=True, slots=True)
class AttemptGroup:
    """The group of one attempt."""

    directory: Path

    def command(self) -> tuple[str, ...]:
        """What to put before a command so that it runs, with all that it starts, in this group."""
        return ("sh", "-c", _ENTER, str(self.directory))

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel killed something in it because it had reached its limit."""
        try:
            events = (self.directory / "memory.events").read_text().split()
        except FileNotFoundError:
            return False  # nothing limits its memory
        return int(events[events.index("oom_kill") + 1]) > 0

    def end(self) -> None:
        """Kill what is in it and remove it. Blocking. Raises OSError when something in it does not end."""
        with contextlib.suppress(FileNotFoundError):
            # Linux 5.14; before, the end of the attempt's PID namespace has to do.
            (self.directory / "cgroup.kill").write_text("1")
        deadline = time.monotonic() + _END_SECONDS
        while self.directory.exists():
            try:
                self.directory.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)


def take_over() -> Delegated | None:
    """Make the daemon's own group ready to hold those of attempts, if it was delegated: the daemon itself
    moves one deeper, since only leaves may hold processes. None when it was not. Raises OSError."""
    own = _own_group()
    if own is None or not _was_delegated(own):
        return None
    (own / _DAEMON).mkdir(exist_ok=True)
    (own / _DAEMON / "cgroup.procs").write_text(str(os.getpid()))
    controllers = _WANTED.intersection((own / "cgroup.controllers").read_text().split())
    if controllers:
        switches = " ".join(f"+{name}" for name in sorted(controllers))
        (own / "cgroup.subtree_control").write_text(switches)
    return Delegated(own, frozenset(controllers))


def _own_group() -> Path | None:
    """Where this process's group is in the file system."""
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
        with contextlib.suppress(OSError):
            return os.getxattr(group, name) == b"1"
    return False
