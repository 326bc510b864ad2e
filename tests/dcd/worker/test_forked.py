"""Workers that are forked from a zygote: their isolation and their end, as in the tests of workers that are
programs; and that a zygote, and so the next worker, knows nothing of an attempt."""

import asyncio
import contextlib
import os
import re
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dcd.launcher import zygote as launcher_zygote
from dcd.launcher.workers import environment
from dcd.launcher.zygote import Zygote
from dcd.worker.launch import run_attempt
from dcd.worker.marker import PLACEHOLDER
from dcd.worker.messages import Cancelled, Completed, Died
from dcd.worker.recover import leftover_workers
from dcd.worker.request import Grants, WorkerRequest
from store.layers.overlay import OverlayTrees
from tests.dcd.worker.conftest import PROBES, Bench, bench_in, processes_with, said
from tests.dcd.worker.test_attempt import TestClaims, TestEnd, TestIsolation, TestResult
from tests.dcd.worker.test_isolation import (
    TestInsideAnImage,
    TestRefusals,
    TestRights,
    TestTheHost,
)
from tests.dcd.worker.test_strangers import (
    test_names_that_everybody_sees_do_not_show_the_mark,
    test_what_a_checkpoint_runs_cannot_read_the_mark,
)
from tests.dcd.worker.test_system_calls import (
    TestSockets,
    test_every_call_of_the_table_is_refused_as_it_says,
    test_nobody_on_the_host_hands_an_open_directory_to_root,
)
from tests.launching import starting

__all__ = [
    "TestClaims",
    "TestEnd",
    "TestInsideAnImage",
    "TestIsolation",
    "TestRefusals",
    "TestResult",
    "TestRights",
    "TestSockets",
    "TestTheHost",
    "test_every_call_of_the_table_is_refused_as_it_says",
    "test_names_that_everybody_sees_do_not_show_the_mark",
    "test_nobody_on_the_host_hands_an_open_directory_to_root",
    "test_what_a_checkpoint_runs_cannot_read_the_mark",
]

pytestmark = [pytest.mark.root, pytest.mark.slow]

MORE_PROBES = '''

import hashlib, random


class Looks(Checkpoint):
    """Shows what its process has: variables, descriptors, and things that differ from process to process."""

    def execute(self, context: Context) -> None:
        for name, value in sorted(os.environ.items()):
            print("variable", name, value, flush=True)
        for number in sorted(map(int, os.listdir("/proc/self/fd"))):
            try:
                print("descriptor", number, os.readlink(f"/proc/self/fd/{number}"), flush=True)
            except FileNotFoundError:
                pass  # of the listing itself
        print("hash", hash("text"), flush=True)
        print("random", random.random(), flush=True)
        print("limits", Path("/proc/self/limits").read_text(), flush=True)
        print("oom", Path("/proc/self/oom_score_adj").read_text(), flush=True)
        status = Path("/proc/self/status").read_text().splitlines()
        kept = ("Umask", "Cap", "NoNewPrivs", "Seccomp", "SigIgn", "SigBlk", "Groups", "Uid")
        for line in status:
            if line.startswith(kept):
                print("status", line, flush=True)


class Dumps(Checkpoint):
    """Leaves its memory in the evidence."""

    def execute(self, context: Context) -> None:
        with (context.evidence / "memory").open("wb") as out, open("/proc/self/mem", "rb", 0) as memory:
            for line in Path("/proc/self/maps").read_text().splitlines():
                place, rights = line.split()[:2]
                first, end = (int(each, 16) for each in place.split("-"))
                if rights.startswith("r") and "[v" not in line:
                    memory.seek(first)
                    out.write(memory.read(end - first))
'''


@contextlib.contextmanager
def zygote_at(directory: Path, **more: str) -> Iterator[Zygote]:
    """A zygote whose workers find the probes, with more variables."""
    (directory / "dcd_test_probes.py").write_text(PROBES + MORE_PROBES)
    sys.path.insert(0, str(directory))
    try:
        found = Zygote({**environment(), **more}, idle_seconds=0)
    finally:
        sys.path.remove(str(directory))
    try:
        yield found
    finally:
        found.close()


@pytest.fixture(scope="module")
def shared_zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    with zygote_at(tmp_path_factory.mktemp("probes")) as found:
        yield found


@pytest.fixture
def bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_zygote: Zygote
) -> Iterator[Bench]:
    """A bench whose workers are forked."""
    directory = tmp_path / "a-directory-with-a-name-that-is-rather-long-but-not-too-long"
    directory.mkdir()
    with bench_in(directory, OverlayTrees(), monkeypatch) as found:
        (directory / "dcd_test_probes.py").write_text(PROBES + MORE_PROBES)
        use(found, shared_zygote)
        yield found


def use(bench: Bench, zygote: Zygote | None) -> None:
    """Have the workers of a bench forked from this zygote. They see the bench's directory, as those that are
    programs see it as a place of code."""

    def begin(request: WorkerRequest) -> Callable[[int], object]:
        grants = replace(request.grants, reads=(*request.grants.reads, bench.directory))
        return starting(replace(request, grants=grants), bench.log(request), zygote=zygote)

    bench.starting = begin  # type: ignore[method-assign, assignment]


def pid_of(zygote: Zygote) -> int:
    """The pid of the zygote, which is running."""
    assert zygote._ready() is not None
    assert zygote._process is not None
    return zygote._process.pid


def memory_of(process: int) -> bytes:
    """All memory of a process."""
    content = bytearray()
    with Path(f"/proc/{process}/mem").open("rb", 0) as memory:
        for line in Path(f"/proc/{process}/maps").read_text().splitlines():
            first, end = (int(each, 16) for each in line.split()[0].split("-"))
            if line.split()[1].startswith("r") and "[v" not in line:
                memory.seek(first)
                content += memory.read(end - first)
    return bytes(content)


def looks(bench: Bench, **more: object) -> list[str]:
    """What a worker has, without what is its own."""
    request = bench.request("Looks", **more)
    assert isinstance(bench.run(request), Completed), bench.log(request).read_text()
    own = bench.output(request).replace(str(bench.log(request)), "LOG")
    # The host's, which is outside of the view: the kernel shows the rest of its path.
    own = own.replace(" /dev/null", " /null")
    return re.sub(r"descriptor \d+ pipe:\[\d+\]", "descriptor of a pipe", own).splitlines()


def test_a_worker_is_forked_and_a_child_of_the_launcher(
    bench: Bench, shared_zygote: Zygote
) -> None:
    mark = f"{os.getpid()}.{time.monotonic_ns()}"
    request = bench.request("Runs", f"sleep {mark}")
    parents: list[str] = []

    def look() -> None:
        found = leftover_workers(request.marker)
        status = Path(f"/proc/{min(each.pid for each in found)}/status").read_text()
        parents.extend(line.split()[1] for line in status.splitlines() if line[:4] == "PPid")
        command = Path(f"/proc/{found[0].pid}/cmdline").read_bytes()
        parents.append(command.split(b"\0")[3].decode())

    bench.run(request, stop_at="started", before=look)
    assert parents == [str(os.getpid()), "dcd.worker.zygote"]


def test_it_has_what_a_worker_has_that_is_a_program(bench: Bench) -> None:
    forked = looks(bench)
    use(bench, None)
    program = looks(bench)
    differing = ("random", "variable PYTHONPATH")
    assert [line for line in forked if not line.startswith(differing)] == [
        line for line in program if not line.startswith(differing)
    ]
    assert any(line.startswith("hash") for line in forked)


def test_chance_differs_from_worker_to_worker(bench: Bench) -> None:
    first, second = ([line for line in looks(bench) if line.startswith("random")] for _ in range(2))
    assert first != second


@pytest.mark.parametrize("forked", [True, False], ids=["forked", "program"])
def test_it_can_be_asked_to_stop_at_once_although_the_launcher_ignores_signals(
    bench: Bench, tmp_path: Path, forked: bool
) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with zygote_at(tmp_path) as zygote:
            use(bench, zygote if forked else None)
            request = bench.request("Runs", "sleep 3600")
            stop = asyncio.Event()
            stop.set()
            ending = asyncio.run(
                run_attempt(
                    bench.starting(request),
                    checkpoint=request.checkpoint,
                    log_path=bench.log(request),
                    on_progress=bench.progress.append,
                    on_claim=bench.claimed,
                    stop=stop,
                )
            )
            assert isinstance(ending.outcome, Cancelled)
            assert not any("killed;" in each.message for each in bench.progress)
    finally:
        signal.signal(signal.SIGTERM, before)


class TestNothingOfAnAttempt:
    """Runs an attempt with secrets of every kind, then looks."""

    SECRET = {
        kind: uuid.uuid4().hex for kind in ("variable", "environment", "manifest", "argument")
    }

    def first(self, bench: Bench) -> list[bytes]:
        """The words of an attempt that has ended."""
        request = bench.request(
            "Runs",
            f"true {self.SECRET['argument']}",
            grants=Grants(variables={"DCD_SECRET_ONE": self.SECRET["variable"]}),
            environment={"WHAT": self.SECRET["environment"]},
        )
        text = f"<!-- {self.SECRET['manifest']} -->{request.manifest}"
        object.__setattr__(request, "manifest", text)
        assert isinstance(bench.run(request), Completed)
        return [request.marker.encode(), *(word.encode() for word in self.SECRET.values())]

    def test_is_in_the_next_ones_memory(self, bench: Bench) -> None:
        planted = self.first(bench)
        own = uuid.uuid4().hex
        request = bench.request("Dumps", environment={"OWN": own})
        assert isinstance(bench.run(request), Completed), bench.log(request).read_text()
        memory = (request.evidence / "memory").read_bytes()
        assert own.encode() in memory
        assert [text for text in planted if text in memory] == []

    def test_is_in_the_zygotes_memory_or_descriptors(
        self, bench: Bench, shared_zygote: Zygote
    ) -> None:
        process = pid_of(shared_zygote)
        before = sorted(Path(f"/proc/{process}/fd").iterdir())
        planted = [
            *self.first(bench),
            b"Leaves its memory in the evidence",
        ]  # also no code of users
        memory = memory_of(process)
        assert b"own_modules" in memory
        assert [text for text in planted if text in memory] == []
        assert sorted(Path(f"/proc/{process}/fd").iterdir()) == before
        assert len(before) == 5  # the fifth leads to the worker that waits
        assert len(list(Path(f"/proc/{process}/task").iterdir())) == 1

    def test_would_be_if_the_zygote_had_it(self, bench: Bench, tmp_path: Path) -> None:
        """The negative control: a planted leak is seen."""
        planted = uuid.uuid4().hex
        (tmp_path / "planted").mkdir()
        with zygote_at(tmp_path / "planted", PLANTED=planted) as leaky:
            use(bench, leaky)
            request = bench.request("Dumps")
            assert isinstance(bench.run(request), Completed)
            assert planted.encode() in (request.evidence / "memory").read_bytes()
            assert f"variable PLANTED {planted}" in looks(bench)

    def test_is_in_the_next_ones_variables(self, bench: Bench) -> None:
        self.first(bench)
        found = [line for line in looks(bench) if line.startswith("variable")]
        assert not any(word in line for line in found for word in self.SECRET.values())
        assert not any(PLACEHOLDER in line for line in found)


class TestAZygoteThat:
    def test_is_killed_during_an_attempt_does_not_end_it(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        with zygote_at(tmp_path) as zygote:
            use(bench, zygote)
            pid_of(zygote)
            request = bench.request("Runs", "sleep 0.5; echo done")
            killer = threading.Timer(0.3, lambda: os.kill(pid_of(zygote), signal.SIGKILL))
            killer.start()
            assert isinstance(bench.run(request), Completed)
            killer.join()
            assert bench.output(request) == "done\n"
            assert leftover_workers(request.marker) == []

    def test_was_killed_is_not_missed(self, bench: Bench, tmp_path: Path) -> None:
        with zygote_at(tmp_path) as zygote:
            use(bench, zygote)
            for _ in range(3):
                if zygote._control is not None:
                    os.kill(pid_of(zygote), signal.SIGKILL)
                assert "hello\n" in said(bench, "echo hello")

    def test_dies_at_once_each_time_is_started_after_longer_and_longer_pauses(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        started = tmp_path / "started"
        command = ["sh", "-c", f"date +%s.%N >> {started}; exit 1"]
        monkeypatch.setattr(launcher_zygote, "module_command", lambda *_: command)
        monkeypatch.setattr(launcher_zygote, "SHORT_SECONDS", 0.2)
        zygote = Zygote(environment(), idle_seconds=0)
        try:
            assert zygote.fork((0, 1, 2), network=False) is None
            deadline = time.monotonic() + 60
            while len(times := list(map(float, started.read_text().split()))) < 4:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            pauses = [after - before for before, after in pairwise(times)]
            assert all(pause > 0.2 * 2**number - 0.05 for number, pause in enumerate(pauses))
        finally:
            zygote.close()

    def test_dies_after_a_fork_and_before_its_reply_leaves_no_second_worker(
        self, bench: Bench, shared_zygote: Zygote, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        forked: list[int | None] = []

        def lost(*given: Any, **more: Any) -> None:
            forked.append(fork(*given, **more))

        fork = shared_zygote.fork
        monkeypatch.setattr(shared_zygote, "fork", lost)
        assert "hello\n" in said(bench, "echo hello")
        (first,) = forked
        assert first is not None
        assert os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) == 1

    def test_hangs_is_replaced(
        self, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(launcher_zygote, "PATIENCE_SECONDS", 3.0)
        monkeypatch.setattr(launcher_zygote, "SHORT_SECONDS", 0.0)
        with zygote_at(tmp_path) as zygote:
            use(bench, zygote)
            said(bench, "true")
            hanging = pid_of(zygote)
            os.kill(hanging, signal.SIGSTOP)
            assert "hello\n" in said(bench, "echo hello")
            assert pid_of(zygote) != hanging
            assert "hello\n" in said(bench, "echo hello")

    def test_cannot_be_started_is_not_needed(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(launcher_zygote, "module_command", lambda *_: ["/missing/python"])
        zygote = Zygote(environment(), idle_seconds=0)
        try:
            use(bench, zygote)
            assert "hello\n" in said(bench, "echo hello")
        finally:
            zygote.close()

    def test_ends_with_its_thread_in_the_launcher_ends_its_workers(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        """That thread is what workers depend on, as on the death of the launcher."""
        mark = f"{os.getpid()}.{time.monotonic_ns()}"
        request = bench.request("Runs", f"setsid sleep {mark} & sleep {mark}")
        with zygote_at(tmp_path) as zygote:
            use(bench, zygote)

            async def attempt() -> object:
                running = asyncio.Event()
                task = asyncio.create_task(
                    run_attempt(
                        bench.starting(request),
                        checkpoint=request.checkpoint,
                        log_path=bench.log(request),
                        on_progress=lambda progress: running.set(),
                        on_claim=bench.claimed,
                        stop=asyncio.Event(),
                    )
                )
                await running.wait()
                assert len(leftover_workers(request.marker)) == 1
                await asyncio.to_thread(zygote.close)
                return (await task).outcome

            outcome = asyncio.run(attempt())
        assert isinstance(outcome, Died)
        assert outcome.how == "the worker was killed by SIGKILL"
        assert processes_with(mark) == []
        assert leftover_workers(request.marker) == []
