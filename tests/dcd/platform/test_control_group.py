"""Control groups of attempts, in a group that is delegated as systemd does it."""

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dcd.platform.control_group import AttemptGroup, Delegated, take_over

pytestmark = pytest.mark.root


@pytest.fixture
def delegated() -> Iterator[Path]:
    """An empty group with the mark of delegation."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    tops = [fields[1] for fields in mounts if fields[2] == "cgroup2"]
    if not tops:
        pytest.skip("this host has no control groups of version 2")
    directory = Path(tops[0], f"dcd-test-{uuid.uuid4().hex[:8]}")
    directory.mkdir()
    os.setxattr(directory, "trusted.delegate", b"1")
    try:
        yield directory
    finally:
        (directory / "cgroup.kill").write_text("1")
        for group in [*directory.iterdir(), directory]:
            if group.is_dir():
                AttemptGroup(group).end()


def group_of(pid: int) -> str:
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return next(line.removeprefix("0::") for line in lines if line.startswith("0::"))


def test_without_delegation_nothing_is_taken_over() -> None:
    before = group_of(os.getpid())
    assert take_over() is None
    assert group_of(os.getpid()) == before


def test_all_that_a_command_starts_is_in_the_group_and_ends_with_it(delegated: Path) -> None:
    group = Delegated(delegated, frozenset()).begin("build.0.1", 0, 100)
    script = "setsid sh -c 'echo $$; exec sleep 1000' & wait"
    with subprocess.Popen(
        [*group.command(), "sh", "-c", script], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        stray = int(process.stdout.readline())
        for pid in (process.pid, stray):
            assert group_of(pid).endswith(f"{delegated.name}/attempt-build.0.1")
        assert not group.ran_out_of_memory()

        group.end()

        assert process.wait(60) == -signal.SIGKILL
    assert not Path(f"/proc/{stray}").exists() or "Z" in Path(f"/proc/{stray}/stat").read_text()
    assert not group.directory.exists()
    group.end()


# The kernels of the build machines have no memory controller in version 2; the reboot test's has.
def test_the_limits_are_those_of_the_controllers_that_there_are(tmp_path: Path) -> None:
    group = Delegated(tmp_path, frozenset({"memory", "pids"})).begin("build.0.1", 1 << 30, 100)
    assert {file.name: file.read_text() for file in group.directory.iterdir()} == {
        "memory.max": str(1 << 30),
        "memory.oom.group": "1",
        "pids.max": "100",
    }
    unlimited = Delegated(tmp_path, frozenset({"memory"})).begin("build.0.2", 0, 100)
    assert list(unlimited.directory.iterdir()) == []


@pytest.mark.parametrize(("kills", "out_of_memory"), [(0, False), (3, True)])
def test_the_kernel_tells_of_killing_for_want_of_memory(
    tmp_path: Path, kills: int, out_of_memory: bool
) -> None:
    (tmp_path / "memory.events").write_text(
        f"low 0\nhigh 0\nmax 7\noom 2\noom_kill {kills}\noom_group_kill 1\n"
    )
    assert AttemptGroup(tmp_path).ran_out_of_memory() is out_of_memory


def test_a_daemon_gives_each_attempt_a_group_and_removes_a_dead_ones(
    delegated: Path,
    cold_daemon: Any,
    write_manifest: Callable[..., Path],
    tmp_path: Path,
) -> None:
    inside = AttemptGroup(delegated).command()
    go_on = tmp_path / "go-on"
    manifest = write_manifest(("one", f"until [ -e {go_on} ]; do sleep 0.1; done"))
    cold_daemon.start(inside)
    build = cold_daemon.submit(manifest)
    attempt = wait_for(lambda: list(delegated.glob(f"attempt-{build}.*/cgroup.procs")))[0]
    assert wait_for(lambda: attempt.read_text().split())
    assert str(cold_daemon.process.pid) not in attempt.read_text().split()
    assert group_of(cold_daemon.process.pid) == group_of_directory(delegated / "daemon")

    cold_daemon.kill()
    cold_daemon.start(inside)

    assert not attempt.exists()
    assert '"what": "control group attempt-' in cold_daemon.log.read_text()
    go_on.touch()
    cold_daemon.wait(build, "completed")
    assert list(delegated.glob("attempt-*")) == []


def group_of_directory(directory: Path) -> str:
    return f"/{directory.parent.name}/{directory.name}"


def wait_for(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found
