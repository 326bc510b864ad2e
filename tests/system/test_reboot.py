"""A build server whose power fails in the middle of builds, and that is switched on again.

dcd builds the server itself, as the disk of a virtual machine in which dcd is installed from its Debian
package and enabled. There a build is submitted, and the power fails in the middle of its checkpoints.
DCD_SEED chooses the moments; with DCD_SOAK=1 it fails oftener, also during recovery.
"""

import hashlib
import json
import random
import shutil
import subprocess
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from store.eventlog import SqliteLog

pytestmark = [pytest.mark.system, pytest.mark.root, pytest.mark.timeout(3600)]

DATA = Path(__file__).parent / "data" / "reboot"
STATE = "/var/lib/dcd"
ROOT_BYTES = 2 << 20
"""Where the root file system begins on both disks: behind the partition for the boot loader."""

WORK = ("first", "second", "third")
WORK_SECONDS = 5.0
"""The inner build's checkpoints that take their time, and what of it there still is when somebody sees that
one has started."""
ENDS = ("BuildCompleted", "BuildFailed", "BuildCancelled", "BuildPaused")
BUILD_SECONDS, START_SECONDS = 600.0, 400.0
TICK_SECONDS = 0.1


@pytest.fixture
def server_disk(cold_daemon: Any, debian_package: Path, tmp_path: Path) -> Path:
    """The disk of a build server, built by dcd."""
    source = tmp_path / "manifest"
    shutil.copytree(DATA, source)
    shutil.copyfile(debian_package, source / "dcd.deb")
    with tarfile.open(source / "tree.tar", "w") as archive:
        archive.add(DATA / "work", "work")
    daemon = cold_daemon.start()
    build = daemon.submit(source / "build-server.xml")
    status = daemon.wait(build, "completed", seconds=900)
    (artifact,) = (one for one in status["artifacts"] if one["format"] == "raw")
    disk = tmp_path / "disk.img"
    subprocess.run(["cp", "--sparse=always", artifact["path"], disk], check=True)
    assert daemon.stop() == 0
    assert daemon.leaks() == []
    return disk


def test_build_survives_power_cuts_of_the_server(
    server_disk: Path, plug_in: Any, tmp_path: Path, chance: random.Random, soak: bool
) -> None:
    machine = plug_in(server_disk)
    server = Server(machine)
    server.switch_on()
    for _ in range(4 if soak else 1):
        server.submit()
        for _ in range(2 if soak else 1):
            checkpoint = server.wait_for_middle(chance.uniform(0.0, WORK_SECONDS))
            machine.fail_power()
            for _ in range(chance.randint(0, 2) if soak else 0):
                machine.start()
                machine.listen(chance.uniform(1.0, 90.0))
                machine.fail_power()
            server.switch_on()
            assert (checkpoint, "machine-rebooted") in interruptions(server.seen.values())
        server.wait_for_end()
        assert_promises(server.events(), server.seen)
        machine.run(
            f"dcctl events {server.build} --verify && dcctl artifacts {server.build} --verify"
        )
    print(f"{machine.lost_writes} writes were lost")

    server.kill_the_daemon()
    assert "hog was killed because it used too much memory" in server.failure_of_a_hog()
    assert server.leaks() == ""
    machine.switch_off()
    state = tmp_path / "server"
    state.mkdir()
    debugfs(machine.disk, f"rdump {STATE} {state}")
    assert_state(state / "dcd", server)


class Server:
    """The build server, and what somebody sees who follows a build over its serial line."""

    def __init__(self, machine: Any) -> None:
        self.build = ""
        self.seen: dict[int, dict[str, Any]] = {}
        self._machine = machine

    def switch_on(self) -> None:
        """Until the daemon runs, which nobody has asked for yet. A parked build is let go on."""
        self._machine.switch_on()
        self._machine.run(
            f"timeout {START_SECONDS:g} sh -c 'until systemctl -q is-active dcd; do sleep 2; done'"
            " || { journalctl -u dcd -n 40 --no-pager; false; }",
            START_SECONDS + 60,
        )
        if self.build and self.events()[-1]["type"] == "BuildPaused":
            self._ctl("resume")

    def submit(self) -> None:
        """Submit the inner build, which reuses nothing."""
        self.build = self._machine.run("dcctl submit --fresh inner.xml 2>/dev/null").strip()
        self.seen = {}
        self.events()

    def events(self) -> list[dict[str, Any]]:
        """The build's events until now."""
        events = [json.loads(line) for line in self._ctl("events", "--json").splitlines()]
        self.seen |= {event["position"]: event for event in events}
        return events

    def wait_for_middle(self, seconds: float) -> str:
        """Until so long after a checkpoint of work was seen to start. Returns its name."""
        started: list[tuple[str, float]] = []

        def in_the_middle(event: dict[str, Any] | None) -> bool:
            if event is not None and event["type"] == "CheckpointStarted":
                started.append((event["data"]["checkpoint"], time.monotonic() + seconds))
            name, moment = started[-1] if started else ("", 0.0)
            return name in WORK and time.monotonic() >= moment

        self._follow(in_the_middle)
        return started[-1][0]

    def wait_for_end(self) -> None:
        """Until the build has completed."""
        self._follow(lambda event: event is not None and event["type"] == "BuildCompleted")
        self._machine.run("wait")

    def kill_the_daemon(self) -> None:
        """Until systemd has started another, whose own control group the dead one had divided."""
        self._machine.run("systemctl kill --kill-whom=main --signal=KILL dcd.service")
        self._machine.run(
            "until [ $(systemctl show dcd.service -P NRestarts) = 1 ] && systemctl -q is-active dcd;"
            " do sleep 2; done",
            START_SECONDS,
        )

    def failure_of_a_hog(self) -> str:
        """What is said of a build that takes more memory than its control group may. It is ended then."""
        self._machine.run(
            "echo 'attempt_memory_bytes = 200_000_000' >>/etc/dcd/dcd.toml && dcctl config --reload"
        )
        return str(
            self._machine.run(
                "hog=$(dcctl submit hog.xml); dcctl follow $hog || dcctl status $hog; dcctl cancel $hog",
                BUILD_SECONDS,
            )
        )

    def leaks(self) -> str:
        """What there is that nobody needs: loop devices, mounts in any namespace, workspaces; and, when
        the daemon has been stopped, anything that it started."""
        return str(
            self._machine.run(
                "losetup --all;"
                # Planners see the captured files, in a mount namespace of theirs.
                # A process may end before its file is read; then it has none.
                f" cat /proc/[0-9]*/mountinfo 2>/dev/null | grep {STATE}/ | grep -v ' {STATE}/blobs ';"
                f" find {STATE}/layers/*/.work -mindepth 1;"
                " systemctl stop dcd.socket dcd.service;"
                " systemctl show dcd.service -P Result | grep -v success;"
                " cat $(find /sys/fs/cgroup/system.slice -path '*/dcd.service/*cgroup.procs') </dev/null"
            )
        )

    def _ctl(self, command: str, *options: str) -> str:
        return str(self._machine.run(" ".join(("dcctl", command, self.build, *options))))

    def _follow(self, done: Callable[[dict[str, Any] | None], bool]) -> None:
        command = f"dcctl events {self.build} --json --follow --after {max(self.seen, default=0)}"
        deadline = time.monotonic() + BUILD_SECONDS
        for line in self._machine.lines(command, TICK_SECONDS):
            event = json.loads(line) if line.startswith("{") else None
            if event is not None:
                self.seen[event["position"]] = event
            if done(event):
                return
            if time.monotonic() > deadline or (event and event["type"] in ENDS):
                pytest.fail(f"waited in vain: {[one['type'] for one in self.seen.values()]}")


def interruptions(events: Iterable[dict[str, Any]]) -> list[tuple[str, str]]:
    """Checkpoints that were interrupted, and why."""
    interrupted = [e["data"] for e in events if e["type"] == "CheckpointInterrupted"]
    return [(data["checkpoint"], data["cause"]) for data in interrupted]


def named(events: list[dict[str, Any]], kind: str) -> list[str]:
    """The checkpoints that events of a type name, in order."""
    return [event["data"]["checkpoint"] for event in events if event["type"] == kind]


def assert_promises(events: list[dict[str, Any]], seen: dict[int, dict[str, Any]]) -> None:
    """Whatever was seen is there; each checkpoint has completed once; each other attempt at it was ended
    by a power cut."""
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert {event["position"]: event for event in events} == seen
    planned = [checkpoint["name"] for checkpoint in events[0]["data"]["plan"]["checkpoints"]]
    assert named(events, "CheckpointCompleted") == planned
    assert named(events, "CheckpointReused") == named(events, "CheckpointFailed") == []
    attempts = Counter(named(events, "CheckpointStarted"))
    assert attempts == Counter(planned) + Counter(named(events, "CheckpointInterrupted"))
    assert {cause for _, cause in interruptions(events)} == {"machine-rebooted"}


def assert_state(state: Path, server: Server) -> None:
    """The state directory, as it is on the server's disk: the log is whole, what completed has its output,
    and what the build delivered is what its checkpoints did, each once."""
    with SqliteLog(state / "events/events.db") as log:
        assert log.verify_all() == []
    events = list(server.seen.values())
    logs = {path.name for path in (state / "logs" / server.build).iterdir()}
    completed = [e["data"] for e in events if e["type"] == "CheckpointCompleted"]
    assert {f"{data['checkpoint']}.{data['attempt']}.log" for data in completed} <= logs
    published = (e["data"]["artifact"] for e in events if e["type"] == "ArtifactPublished")
    # One that was published again after a crash counts as it is recorded last.
    artifacts = {artifact["name"]: artifact for artifact in published}
    place = state / "artifacts" / server.build
    for name, artifact in artifacts.items():
        assert hashlib.sha256((place / name).read_bytes()).hexdigest() == artifact["sha256"], name
    (disk,) = (name for name, artifact in artifacts.items() if artifact["format"] == "raw")
    assert debugfs(place / disk, "cat record").split() == list(WORK)


def debugfs(disk: Path, command: str) -> str:
    """What debugfs(8) prints when it carries out a command on a disk's root file system."""
    argv = ["debugfs", "-R", command, f"{disk}?offset={ROOT_BYTES}"]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout
