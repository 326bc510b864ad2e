"""The worker that a zygote has forked in advance."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import pytest

from dcd.launcher.zygote import Zygote
from dcd.worker.ready import make_ready
from dcd.worker.recover import leftover_workers
from statemachine.variation import REPEATED
from store.host.mounts import bind, mount
from tests.dcd.worker.conftest import Bench, processes_with, said
from tests.dcd.worker.test_daemon_death import eventually
from tests.dcd.worker.test_forked import bench, looks, pid_of, shared_zygote, use, zygote_at

__all__ = ["bench", "shared_zygote"]

pytestmark = [pytest.mark.root, pytest.mark.slow]


def waiting_of(zygote: Zygote) -> tuple[int, int]:
    """The worker that a zygote has forked in advance, and its process that works."""
    group = pid_of(zygote)

    def find() -> int:
        children = Path(f"/proc/self/task/{zygote._keeper.native_id}/children").read_text().split()
        found = [int(pid) for pid in children if int(pid) != group]
        return found[0] if found and os.getpgid(found[0]) == group else 0

    def below(pid: int) -> list[str]:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

    assert eventually(lambda: (first := find()) and below(first))
    first = find()
    return first, int(below(first)[0])


def test_one_that_waits_is_what_the_next_attempt_gets(bench: Bench, tmp_path: Path) -> None:
    mark = f"{os.getpid()}.{time.monotonic_ns()}"
    found: list[int] = []
    with zygote_at(tmp_path) as zygote:
        use(bench, zygote)
        first, second = waiting_of(zygote)
        request = bench.request("Runs", f"exec sleep {mark}")

        def look() -> None:
            assert eventually(lambda: processes_with(mark))
            found.extend(each.pid for each in leftover_workers(request.marker))
            for pid in processes_with(mark):
                status = Path(f"/proc/{pid}/stat").read_text()
                found.append(int(status.rpartition(")")[2].split()[1]))

        bench.run(request, stop_at="started", before=look)
    assert found == [first, second]


@pytest.mark.parametrize("which", [0, 1], ids=["first process", "process that works"])
def test_one_that_waits_and_dies_is_not_missed(bench: Bench, tmp_path: Path, which: int) -> None:
    with zygote_at(tmp_path) as zygote:
        use(bench, zygote)
        os.kill(waiting_of(zygote)[which], signal.SIGKILL)
        assert "hello\n" in said(bench, "echo hello")
        assert "hello\n" in said(bench, "echo hello")


def test_one_that_waits_ends_with_its_zygote_without_a_trace(tmp_path: Path) -> None:
    with zygote_at(tmp_path) as zygote:
        first, second = waiting_of(zygote)
        os.kill(pid_of(zygote), signal.SIGKILL)
        assert eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in (first, second)))
    with zygote_at(tmp_path) as zygote:
        last = waiting_of(zygote)
    assert not any(Path(f"/proc/{pid}").exists() for pid in last)


def test_one_that_waits_sees_what_the_host_has_mounted_since(bench: Bench, tmp_path: Path) -> None:
    place = bench.directory / "place"
    (place / "later").mkdir(parents=True)
    bind(place, place)  # a mount of its own, from which nothing reaches other namespaces
    try:
        subprocess.run(["mount", "--make-private", place], check=True)
        with zygote_at(tmp_path) as zygote:
            use(bench, zygote)
            waiting_of(zygote)
            mount("tmpfs", place / "later", "mode=755")
            (place / "later/file").write_text("there")
            assert "there" in said(bench, f"cat {place}/later/file")
    finally:
        subprocess.run(["umount", "--recursive", place], check=True)


def test_one_that_waits_is_not_used_where_surroundings_are_varied(bench: Bench) -> None:
    """A process has the clocks of the process that forked it."""
    shown = looks(bench, variation=REPEATED)
    assert f"variable HOME {REPEATED.home}" in shown
    # It is outside of the view, so nothing may lead to it.
    assert not [line for line in shown if line.startswith("descriptor") and "socket:" in line]


def test_one_that_waits_enters_the_control_group_of_its_attempt(tmp_path: Path) -> None:
    """The group is a directory here, with the file that a group has."""

    def work(request: bytes, root: Path, messages: int, answers: int) -> NoReturn:
        os.write(messages, request)
        os._exit(0)

    ready = make_ready(work, lambda: None)
    reading, messages = os.pipe()
    answers, _ = os.pipe()
    assert ready.hand_over(b"{}\n", tmp_path, messages, answers, tmp_path)
    os.waitpid(ready.pid, 0)
    assert os.read(reading, 10) == b"{}\n"
    assert (tmp_path / "cgroup.procs").read_text() == "0"


CHROOTED = """
import os
from dcd.worker.ready import make_ready
from pathlib import Path
from store.host.namespaces import be_apart

def work(request, root, messages, answers):
    os.write(messages, b"inside" if Path("/mnt/inside").exists() else b"outside")
    os._exit(0)

ready = make_ready(work, lambda: None)
be_apart()
reading, messages = os.pipe()
answers, _ = os.pipe()
assert ready.hand_over(b"{}\\n", Path("/"), messages, answers, None)
os.waitpid(ready.pid, 0)
print(os.read(reading, 10).decode())
"""


def test_one_that_waits_stays_in_the_root_of_a_daemon_in_a_chroot(tmp_path: Path) -> None:
    """The root of its mount namespace is the host's there."""
    root = tmp_path / "root"
    root.mkdir()
    prepare = 'mount --rbind / "$1"; mount -t tmpfs inside "$1/mnt"; touch "$1/mnt/inside"'
    enter = f'{prepare}; exec chroot "$1" "$2" -c "$3"'
    own = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
    shown = subprocess.run(
        [*own, "sh", "-ec", enter, "sh", root, sys.executable, CHROOTED],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert (shown.stdout, shown.stderr) == ("inside\n", "")
