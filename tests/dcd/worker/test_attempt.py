"""Attempts: what a checkpoint gets, what becomes of what it does, and that nothing stays."""

import asyncio
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from dcd.launcher.namespaced import _command, _environment
from dcd.worker.launch import Ending, run_attempt
from dcd.worker.messages import Cancelled, Claim, Completed, Died, Failed, Progress, encode
from dcd.worker.recover import leftover_workers
from dcd.worker.request import AREAS
from statemachine.errors import Unprepared
from statemachine.results import Artifact, ErrorInfo
from store.layers.interface import LayerRecord
from tests.dcd.worker.conftest import MOUNTING, Bench, loops_on, mounts_below, processes_with

pytestmark = [pytest.mark.root, pytest.mark.slow]


class TestResult:
    def test_is_in_the_workspace_and_in_the_outcome(self, bench: Bench) -> None:
        request = bench.request("Delivers")
        ending = bench.end(request)
        assert isinstance(ending.outcome, Completed)
        assert ending.artifacts == (Artifact("image.iso", "media/image.iso", "iso", 3, "0" * 64),)
        assert bench.progress == [Progress(0.5, "half \ufffd done")]
        assert (request.evidence / "console.log").read_text() == "booted"
        key = "1" * 64
        record = LayerRecord(key, None, "build", "probe", 1, ending.seconds, ending.artifacts)
        bench.store.commit(request.workspace, record)
        assert bench.store.file(key, "media/image.iso").read_text() == "iso"

    def test_messages_are_logged_once_and_a_stale_list_of_packages_is_renewed(
        self, bench: Bench
    ) -> None:
        request = bench.request("Tells")
        ending = bench.end(request)
        assert isinstance(ending.outcome, Completed)
        log = bench.log(request).read_text()
        assert "of a tool" not in log
        assert log.count("# of its own") == 1
        assert {"of a tool", "of its own"} <= {each.message for each in bench.progress}
        (artifact,) = ending.artifacts
        assert (artifact.name, artifact.size_bytes) == ("packages.tsv", len("new\t1\t\n"))

    def test_is_handed_to_the_next_checkpoint(self, bench: Bench) -> None:
        first = bench.request("Delivers")
        record = LayerRecord("1" * 64, None, "build", "probe", 1, 0.0)
        bench.store.commit(first.workspace, record, bench.end(first).document)
        captured = bench.directory / "blob"
        captured.write_text("captured content")
        second = bench.request(
            "Hands",
            parent="1" * 64,
            inputs={"/captured": captured},
            environment={"WHAT": "hello"},
        )
        assert isinstance(bench.run(second), Completed)
        assert bench.log(second).read_text().splitlines() == [
            "the persistent part says probe",
            "input captured content",
            "areas ['boot_archive', 'media', 'pkg_image', 'tmp']",
            "scratch []",
            "the environment says hello",
        ]

    def test_a_refusal_is_told_without_traceback(self, bench: Bench) -> None:
        request = bench.request("Refuses")
        outcome = bench.run(request)
        assert isinstance(outcome, Failed)
        assert outcome.error == ErrorInfo("it cannot be", "because", "do something else")
        assert not outcome.no_space
        assert "Traceback" not in bench.log(request).read_text()

    def test_a_fault_of_the_code_is_told_and_its_traceback_logged(self, bench: Bench) -> None:
        request = bench.request("Breaks")
        outcome = bench.run(request)
        assert isinstance(outcome, Failed)
        assert outcome.error.details == "KeyError: 'odd'"
        assert "Traceback" in bench.log(request).read_text()

    def test_an_error_of_the_system_is_told_in_its_words_and_not_in_pythons(
        self, bench: Bench
    ) -> None:
        outcome = bench.run(bench.request("MakesTwice"))
        assert isinstance(outcome, Failed)
        assert outcome.error == ErrorInfo("probe broke off: File exists", "pkg_image/made", "")

    def test_warnings_of_rights_above_a_cause_bring_no_advice_on_rights(self, bench: Bench) -> None:
        command = "echo 'W: mount: Operation not permitted'; echo 'E: install arch-test'; exit 25"
        outcome = bench.run(bench.request("Runs", command))
        assert isinstance(outcome, Failed)
        assert outcome.error.resolution == ""
        outcome = bench.run(bench.request("Runs", "echo 'mount: Operation not permitted'; exit 1"))
        assert isinstance(outcome, Failed)
        assert "capabilities" in outcome.error.resolution

    def test_want_of_space_is_seen_behind_an_error(self, bench: Bench) -> None:
        outcome = bench.run(bench.request("FillsTheDisk"))
        assert isinstance(outcome, Failed)
        assert outcome.no_space

    @pytest.mark.parametrize("text", ["No space left on device", "Disk quota exceeded"])
    def test_want_of_space_is_seen_in_what_a_tool_says(self, bench: Bench, text: str) -> None:
        outcome = bench.run(bench.request("Runs", f"echo 'dpkg: {text}'; exit 1"))
        assert isinstance(outcome, Failed)
        assert outcome.no_space

    def test_death_without_a_word_is_told_with_the_last_lines(self, bench: Bench) -> None:
        outcome = bench.run(bench.request("Dies"))
        assert isinstance(outcome, Died)
        assert outcome.how == "the worker was killed by SIGKILL"
        assert outcome.tail == "last words"

    def test_a_checkpoint_that_cannot_be_constructed_fails(self, bench: Bench) -> None:
        outcome = bench.run(bench.request("Missing"))
        assert isinstance(outcome, Failed)
        assert "Missing" in outcome.error.brief

    def test_a_flood_of_output_goes_to_the_log_only(self, bench: Bench) -> None:
        request = bench.request("Runs", "yes $(printf %064d 0) | head -c 20000000")
        assert isinstance(bench.run(request), Completed)
        assert bench.log(request).stat().st_size >= 20_000_000

    def test_the_log_of_an_attempt_is_appended_to(self, bench: Bench) -> None:
        request = bench.request("Runs", "echo hello")
        bench.log(request).parent.mkdir()
        bench.log(request).write_text("before\n")
        bench.run(request)
        assert bench.output(request) == "before\nhello\n"


class TestIsolation:
    def test_without_network_there_is_only_a_loopback_that_works(self, bench: Bench) -> None:
        request = bench.request(
            "Runs", "ls /proc/sys/net/ipv4/conf; ping -c1 127.0.0.1 || ip -br a"
        )
        assert isinstance(bench.run(request), Completed)
        text = bench.output(request)
        assert text.splitlines()[:3] == ["all", "default", "lo"]
        assert "1 received" in text or "127.0.0.1/8" in text

    def test_with_network_it_is_the_hosts(self, bench: Bench) -> None:
        request = bench.request("Runs", "readlink /proc/self/ns/net", network=True)
        assert isinstance(bench.run(request), Completed)
        assert bench.output(request).strip() == str(Path("/proc/self/ns/net").readlink())

    def test_other_processes_are_out_of_sight(self, bench: Bench) -> None:
        request = bench.request("Runs", "echo /proc/[0-9]* | wc -w")
        bench.run(request)
        assert int(bench.output(request)) <= 6

    def test_mounts_do_not_reach_the_host(self, bench: Bench) -> None:
        command = "mount -t tmpfs none ROOT/pkg_image; grep -c ROOT/pkg_image /proc/self/mounts"
        request = bench.request("Runs", command, grants=MOUNTING)
        assert isinstance(bench.run(request), Completed)
        assert bench.output(request).startswith("1\n")
        assert mounts_below(bench.directory) == []

    def test_the_environment_of_tools_is_not_the_daemons(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SECRET_OF_THE_DAEMON", "x")
        request = bench.request("Runs", "cat /proc/1/environ /proc/2/environ /proc/self/environ")
        bench.run(request)
        assert "SECRET_OF_THE_DAEMON" not in bench.log(request).read_text()

    def test_orphans_do_not_stay_as_zombies(self, bench: Bench) -> None:
        command = "for i in 1 2 3; do (setsid sleep 0.01 &); done; sleep 0.5; cat /proc/*/stat"
        request = bench.request("Runs", command)
        bench.run(request)
        assert ") Z " not in bench.log(request).read_text()


class TestEnd:
    def test_leaves_no_process_mount_or_loop_device(self, bench: Bench) -> None:
        mark = f"{os.getpid()}.12345"
        command = f"""
            setsid sleep {mark} & (setsid sleep {mark} &)
            mkdir ROOT/tmp/m ROOT/tmp/n
            mount -t tmpfs none ROOT/tmp/n
            truncate -s 4M ROOT/tmp/image{mark} ROOT/tmp/other{mark}
            mkfs.ext4 -q ROOT/tmp/image{mark}
            mount -o loop ROOT/tmp/image{mark} ROOT/tmp/m
            losetup --find ROOT/tmp/other{mark}
        """
        request = bench.request("Runs", command, grants=MOUNTING)
        assert isinstance(bench.run(request), Completed)
        assert processes_with(mark) == []
        assert mounts_below(bench.directory) == []
        assert loops_on(f"image{mark}") == loops_on(f"other{mark}") == []
        bench.store.discard(request.workspace)
        assert list((bench.store.directory / ".work").iterdir()) == []

    def test_keeps_what_was_mounted_into_the_workspace(self, bench: Bench) -> None:
        """The host's files must not go when scratch space is emptied."""
        precious = bench.directory / "precious name"
        precious.mkdir()
        (precious / "file").write_text("kept")
        command = f"mkdir 'ROOT/tmp/in side'; mount --bind '{precious}' 'ROOT/tmp/in side'"
        request = bench.request("Runs", command, grants=MOUNTING)
        assert isinstance(bench.run(request), Completed)
        assert (precious / "file").read_text() == "kept"
        bench.store.discard(request.workspace)
        assert (precious / "file").read_text() == "kept"

    def test_by_asking(self, bench: Bench) -> None:
        mark = f"{os.getpid()}.23456"
        request = bench.request("Runs", f"sleep {mark}")
        outcome = bench.run(request, stop_at="started")
        assert isinstance(outcome, Cancelled)
        assert (request.evidence / "cancelled").exists()
        assert processes_with(mark) == []
        assert "Traceback" not in bench.log(request).read_text()

    def test_by_force_when_asking_does_not_help(self, bench: Bench) -> None:
        request = bench.request("Stubborn")
        outcome = bench.run(request, stop_at="started", grace_seconds=0.2)
        assert isinstance(outcome, Cancelled)
        assert leftover_workers(request.marker) == []

    def test_of_a_worker_that_was_to_stop_before_it_began(self, bench: Bench) -> None:
        request = bench.request("Runs", "sleep 3600")

        async def attempt() -> Ending:
            stop = asyncio.Event()
            stop.set()
            return await run_attempt(
                bench.starting(request),
                checkpoint=request.checkpoint,
                log_path=bench.log(request),
                on_progress=print,
                on_claim=bench.claimed,
                stop=stop,
            )

        assert isinstance(asyncio.run(attempt()).outcome, Cancelled)

    def test_when_the_daemons_task_is_cancelled(self, bench: Bench) -> None:
        mark = f"{os.getpid()}.34567"
        request = bench.request("Runs", f"sleep {mark}")

        async def attempt() -> None:
            started = asyncio.Event()
            task = asyncio.create_task(
                run_attempt(
                    bench.starting(request),
                    checkpoint=request.checkpoint,
                    log_path=bench.log(request),
                    on_progress=lambda progress: started.set(),
                    on_claim=bench.claimed,
                    stop=asyncio.Event(),
                )
            )
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert leftover_workers(request.marker) == []

        asyncio.run(attempt())
        assert processes_with(mark) == []

    def test_when_the_request_stream_ends(self, bench: Bench) -> None:
        """The daemon died before the kernel could be told to kill the worker with it."""
        request = bench.request("Runs", "sleep 3600")
        receiving, sending = os.pipe()
        worker = subprocess.Popen(
            _command(request, sending)[3:],  # without setpriv
            env=_environment(request),
            stdin=subprocess.PIPE,
            pass_fds=(sending,),
        )
        os.close(sending)
        assert worker.stdin is not None
        worker.stdin.write(encode(request) + b"\n")
        worker.stdin.flush()
        with os.fdopen(receiving, "rb") as messages:
            assert b"started" in messages.readline()
            worker.stdin.close()
            assert messages.read() == b""
        assert worker.wait() != 0
        assert leftover_workers(request.marker) == []


class TestClaims:
    def test_are_known_before_what_they_claim_is_made(self, bench: Bench) -> None:
        request = bench.request("Claims")
        made_before = []

        async def claimed(claim: Claim) -> None:
            await asyncio.sleep(0.1)
            made_before.append((request.evidence / "made").exists())
            await Bench.claimed(bench, claim)

        bench.claimed = claimed  # type: ignore[method-assign]
        assert isinstance(bench.run(request), Completed)
        assert bench.claims == [Claim("iscsi-tgt", request.attempt_name)]
        assert made_before == [False]
        assert (request.evidence / "made").exists()

    def test_that_cannot_be_recorded_are_not_made(self, bench: Bench) -> None:
        request = bench.request("Claims")

        async def refused(claim: Claim) -> None:
            raise Unprepared("the log takes no events")

        bench.claimed = refused  # type: ignore[method-assign]
        with pytest.raises(Unprepared, match="takes no events"):
            bench.run(request)
        assert not (request.evidence / "made").exists()
        assert leftover_workers(request.marker) == []

    def test_can_be_waited_for_in_vain(self, bench: Bench) -> None:
        request = bench.request("Claims")

        async def never(claim: Claim) -> None:
            await asyncio.sleep(3600)

        async def attempt() -> None:
            task = asyncio.create_task(
                run_attempt(
                    bench.starting(request),
                    checkpoint=request.checkpoint,
                    log_path=bench.log(request),
                    on_progress=lambda progress: claiming.set(),
                    on_claim=never,
                    stop=asyncio.Event(),
                )
            )
            await claiming.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        claiming = asyncio.Event()
        asyncio.run(attempt())
        assert not (request.evidence / "made").exists()
        assert leftover_workers(request.marker) == []

    def test_of_what_nobody_could_release_are_a_fault_of_the_code(self, bench: Bench) -> None:
        outcome = bench.run(bench.request("ClaimsTheUnknown"))
        assert isinstance(outcome, Failed)
        assert "perpetual motion" in outcome.error.details
        assert bench.claims == []


@pytest.mark.parametrize("area", AREAS)
@pytest.mark.parametrize("instead", ["ln -s EVIDENCE", "ln -s nothing", "touch", "mkfifo"])
def test_an_area_that_was_replaced_fails_the_checkpoint(
    bench: Bench, area: str, instead: str
) -> None:
    request = bench.request("Runs", "")
    (request.evidence / "kept").touch()
    instead = instead.replace("EVIDENCE", str(request.evidence))
    command = f"rmdir ROOT/{area}; {instead} ROOT/{area}"
    outcome = bench.run(replace(request, args=(command,)))
    assert isinstance(outcome, Failed)
    assert outcome.error.brief == f"the area {area} of the workspace is not a directory any more"
    assert (request.evidence / "kept").exists()


@pytest.mark.parametrize("area", AREAS)
def test_a_layer_with_a_link_for_an_area_is_not_worked_in(bench: Bench, area: str) -> None:
    before = bench.request("Runs", "true")
    assert isinstance(bench.run(before), Completed)
    shutil.rmtree(before.workspace.directory / "layer/tree" / area)
    (before.workspace.directory / "layer/tree" / area).symlink_to("/etc")
    key = "1" * 64
    bench.store.commit(before.workspace, LayerRecord(key, None, "build", "probe", 1, 0.0))
    request = bench.request("Runs", "echo never", parent=key)
    outcome = bench.run(request)
    assert isinstance(outcome, Failed)
    assert f"the area {area} " in outcome.error.brief
    assert bench.output(request) == ""


def test_attempts_run_beside_each_other(bench: Bench) -> None:
    requests = [bench.request("Runs", f"sleep 0.2; echo {n}") for n in range(3)]

    async def attempts() -> list[Ending]:
        return await asyncio.gather(
            *(
                run_attempt(
                    bench.starting(request),
                    checkpoint=request.checkpoint,
                    log_path=bench.log(request),
                    on_progress=lambda progress: None,
                    on_claim=bench.claimed,
                    stop=asyncio.Event(),
                )
                for request in requests
            )
        )

    assert all(isinstance(ending.outcome, Completed) for ending in asyncio.run(attempts()))
    assert [bench.output(request) for request in requests] == ["0\n", "1\n", "2\n"]


def test_a_host_without_the_tools_is_told_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcd.launcher.namespaced._command", lambda *_: ["/missing/setpriv"])
    with pytest.raises(Unprepared):
        bench.run(bench.request("Delivers"))


def test_the_worker_does_not_start_outside_a_namespace() -> None:
    """It would kill every process on the host."""
    started = subprocess.run(
        ["python3", "-c", "import runpy; runpy.run_module('dcd.worker', run_name='__main__')", "1"],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert started.returncode == 1
    assert "first process of a PID namespace" in started.stderr
