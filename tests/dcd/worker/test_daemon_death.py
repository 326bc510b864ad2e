"""When the daemon dies by SIGKILL, nothing of its attempts stays."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dcd.launcher.namespaced import _command, _environment
from dcd.worker.messages import encode
from dcd.worker.recover import detach_loops, kill_leftovers, leftover_workers
from dcd.worker.request import MARKER, WorkerRequest
from store.layers.overlay import DEVICE_FILE
from tests.dcd.worker.conftest import MOUNTING, Bench, loops_on, mounts_below, processes_with

pytestmark = pytest.mark.root

ROOT = Path(__file__).parents[3]

DAEMON = """
import asyncio, sys
from pathlib import Path
from dcd.worker.launch import run_attempt
from dcd.worker.messages import decode_request
from tests.launching import starting

async def attempt():
    request = decode_request(Path(sys.argv[1]).read_bytes())
    report = lambda progress: print(progress.message, flush=True)
    log = Path(sys.argv[1]).with_suffix(".log")
    stop = asyncio.Event()
    start, name = starting(request, log), request.checkpoint
    ending = await run_attempt(
        start, checkpoint=name, log_path=log, on_progress=report, on_claim=None, stop=stop
    )
    print(ending)

asyncio.run(attempt())
"""

BUSY = """
setsid sleep MARK & (setsid sleep MARK &)
mkdir ROOT/tmp/m ROOT/tmp/n
mount -t tmpfs none ROOT/tmp/n
truncate -s 4M ROOT/tmp/imageMARK ROOT/tmp/otherMARK
mkfs.ext4 -q ROOT/tmp/imageMARK
mount -o loop ROOT/tmp/imageMARK ROOT/tmp/m
losetup --find ROOT/tmp/otherMARK
touch ROOT/ready
sleep MARK
"""


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether it becomes true before patience ends."""
    deadline = time.monotonic() + 20
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@contextmanager
def daemon(bench: Bench, request: WorkerRequest) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs the attempt as the daemon does."""
    told = bench.directory / "request.json"
    told.write_bytes(encode(request))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(ROOT)])}
    process = subprocess.Popen([sys.executable, "-c", DAEMON, told], env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def mark() -> str:
    """An odd time to sleep, to know processes and files by."""
    return f"{os.getpid()}.{time.monotonic_ns()}"


def is_ready(request: WorkerRequest) -> bool:
    return (request.workspace.directory / "layer" / "tree" / "ready").exists()


def test_nothing_is_left(bench: Bench, mark: str) -> None:
    request = bench.request("Runs", BUSY.replace("MARK", mark), grants=MOUNTING)
    with daemon(bench, request) as process:
        assert eventually(lambda: is_ready(request)), (bench.directory / "request.log").read_text()
        assert eventually(lambda: len(processes_with(mark)) == 3)
        assert loops_on(f"image{mark}") != []
        assert loops_on(f"other{mark}") != []
        process.kill()
        process.wait()
    # Without anybody's help: processes, mounts, and loop devices that belong to a mount.
    assert eventually(lambda: processes_with(mark) == [])
    assert eventually(lambda: leftover_workers(f"{bench.state_id}:") == [])
    assert eventually(lambda: loops_on(f"image{mark}") == [])
    assert mounts_below(bench.directory) == []
    # At the next start: loop devices that belong to nobody, and the workspace.
    assert kill_leftovers(f"{bench.state_id}:") == []
    assert len(detach_loops(bench.directory / "layers")) == 1
    assert loops_on(f"other{mark}") == []
    assert bench.store.reconcile((), ()) == ["workspace a1"]
    assert list((bench.store.directory / ".work").iterdir()) == []


@pytest.fixture
def somebodys_loop(tmp_path: Path) -> Iterator[str]:
    """A loop device that is not dcd's: without one there is nothing to look for."""
    (tmp_path / "image").write_bytes(bytes(1 << 20))
    command = ["losetup", "--find", "--show", tmp_path / "image"]
    device = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    yield device
    subprocess.run(["losetup", "--detach", device], check=True)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("note", ["empty", "zeros", "text", "long", "fifo", "link", "directory"])
def test_what_is_no_note_of_a_workspaces_device_is_passed_over(
    tmp_path: Path, somebodys_loop: str, note: str
) -> None:
    path = tmp_path / "layers" / "overlay" / ".work" / "build.0.1" / DEVICE_FILE
    path.parent.mkdir(parents=True)
    match note:
        case "fifo":
            os.mkfifo(path)
        case "link":
            (tmp_path / "number").write_text("1")
            path.symlink_to(tmp_path / "number")
        case "directory":
            path.mkdir()
        case _:
            contents = {"empty": b"", "zeros": bytes(2), "text": b"none", "long": b"7" * 100000}
            path.write_bytes(contents[note])
    assert detach_loops(tmp_path / "layers") == []
    assert Path("/sys/block", Path(somebodys_loop).name, "loop/backing_file").exists()


def test_without_the_parent_death_signal_it_would_be(bench: Bench, mark: str) -> None:
    """The negative control: what the chain of signals is for, and that recovery helps without it."""
    request = bench.request("Runs", f"touch ROOT/ready; sleep {mark}")
    receiving, sending = os.pipe()
    stream, held = os.pipe()
    worker = subprocess.Popen(
        _command(request, sending)[3:],  # without setpriv, and the request's stream stays open
        env=_environment(request),
        stdin=stream,
        pass_fds=(sending,),
        start_new_session=True,
    )
    os.write(held, encode(request) + b"\n")
    try:
        assert eventually(lambda: is_ready(request))
        # unshare(1) and the first process; the one that works has taken its mark off
        assert len(leftover_workers(f"{bench.state_id}:")) >= 2
        killed = kill_leftovers(f"{bench.state_id}:")
        assert {leftover.marker for leftover in killed} == {request.marker}
        assert eventually(lambda: processes_with(mark) == [])
    finally:
        for descriptor in (receiving, sending, stream, held):
            os.close(descriptor)
        worker.kill()
        worker.wait()


def test_recovery_kills_only_what_bears_the_mark(bench: Bench, mark: str) -> None:
    def sleeper(marker: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["sleep", mark], env={**os.environ, MARKER: marker})

    ours = sleeper(f"{bench.state_id}:build:probe:1")
    longer = sleeper(f"{bench.state_id}x:build:probe:1")
    unmarked = subprocess.Popen(["sleep", mark])
    try:
        # A dead daemon's processes have been adopted; here they must be reaped to be gone.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        assert [leftover.pid for leftover in kill_leftovers(f"{bench.state_id}:")] == [ours.pid]
        assert longer.poll() is None
        assert unmarked.poll() is None
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for process in (ours, longer, unmarked):
            process.kill()
            process.wait()
