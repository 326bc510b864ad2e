"""Portable workers: the same attempts without namespaces, and nothing of them left.

The classes of `test_attempt` and `test_daemon_death` that need no namespace run here again, in a portable
worker whose Python lacks what it lacks on illumos (`tests/no_linux`).
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dcd.launcher.portable import PortableWorkers
from dcd.worker import recover, supervisor
from dcd.worker.kinds import Kind, chosen_kind
from dcd.worker.messages import Completed, Died, Failed
from dcd.worker.recover import kill_leftovers, leftover_workers
from dcd.worker.request import DESCENDANT, WorkerRequest, descendant_mark
from store.host import process_table, tools
from store.host.loops import Attached
from store.layers.copy import CopyTrees
from tests.dcd.worker import test_attempt
from tests.dcd.worker.conftest import Bench, bench_in, processes_with, said
from tests.dcd.worker.test_daemon_death import daemon, eventually, is_ready, mark

__all__ = ["mark"]

pytestmark = [pytest.mark.slow, pytest.mark.root]

NO_LINUX = Path(__file__).parents[2] / "no_linux"

ESCAPING = """
setsid sleep MARK &
(setsid env -i sleep MARK &)
(setsid setsid sh -c 'sleep MARK & sleep MARK' &)
setpriv --reuid nobody --clear-groups sleep MARK &
"""
"""Five processes in sessions of their own, without a parent, without an environment, of another user."""


class PortableBench(Bench):
    """A bench whose workers are portable."""

    def request(
        self, probe: str, *args: str, parent: str | None = None, **more: Any
    ) -> WorkerRequest:
        return super().request(probe, *args, parent=parent, portable=True, **more)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.syspath_prepend(NO_LINUX)
    with bench_in(tmp_path, CopyTrees(), monkeypatch) as found:
        yield PortableBench(found.directory, found.store, found.state_id)


class TestResult(test_attempt.TestResult):
    """As in namespaces."""


class TestClaims(test_attempt.TestClaims):
    """As in namespaces."""


class TestEnd:
    test_by_asking = test_attempt.TestEnd.test_by_asking
    test_by_force = test_attempt.TestEnd.test_by_force_when_asking_does_not_help
    test_before_it_began = test_attempt.TestEnd.test_of_a_worker_that_was_to_stop_before_it_began
    test_when_cancelled = test_attempt.TestEnd.test_when_the_daemons_task_is_cancelled

    def test_leaves_none_of_its_processes_and_spares_all_others(
        self, bench: Bench, mark: str
    ) -> None:
        other = f"1{mark}"
        with subprocess.Popen(["sleep", other], start_new_session=True) as bystander:
            request = bench.request("Runs", ESCAPING.replace("MARK", mark) + "sleep 0.2")
            assert isinstance(bench.run(request), Completed)
            assert processes_with(mark) == []
            assert bystander.poll() is None
            bystander.kill()

    def test_of_the_supervisor_alone_is_the_end_of_all(self, bench: Bench, mark: str) -> None:
        find = "supervisor=$(ps -o ppid= -p $(ps -o ppid= -p $PPID))"
        command = f"{ESCAPING.replace('MARK', mark)}\n{find}\nkill -9 $supervisor; sleep {mark}"
        assert isinstance(bench.run(bench.request("Runs", command)), Died)
        assert processes_with(mark) == []


def test_it_dies_with_the_daemon(bench: Bench, mark: str) -> None:
    request = bench.request(
        "Runs", f"{ESCAPING.replace('MARK', mark)} touch ROOT/ready; sleep {mark}"
    )
    with daemon(bench, request) as process:
        assert eventually(lambda: is_ready(request)), (bench.directory / "request.log").read_text()
        assert eventually(lambda: len(processes_with(mark)) == 6)
        process.kill()
        process.wait()
    assert eventually(lambda: processes_with(mark) == [])
    assert eventually(lambda: leftover_workers(f"{bench.state_id}:") == [])


def test_recovery_finds_what_a_dead_supervisor_and_a_dead_daemon_have_left(
    bench: Bench, mark: str
) -> None:
    request = bench.request(
        "Runs", f"{ESCAPING.replace('MARK', mark)} touch ROOT/ready; sleep {mark}"
    )
    with daemon(bench, request) as process:
        assert eventually(lambda: is_ready(request)), (bench.directory / "request.log").read_text()
        assert eventually(lambda: len(processes_with(mark)) == 6)
        (supervising,) = [
            each.pid
            for each in process_table.processes()
            if each.parent == process.pid and each.pid == each.session
        ]
        for victim in (process.pid, supervising):
            os.kill(victim, signal.SIGSTOP)
        for victim in (process.pid, supervising):
            os.kill(victim, signal.SIGKILL)
        process.wait()
    assert processes_with(mark) != []
    killed = kill_leftovers(f"{bench.state_id}:")
    assert {each.marker for each in killed} == {request.marker}
    assert eventually(lambda: processes_with(mark) == [])


def test_the_holder_of_its_contract_does_not_wait_for_what_hangs_in_the_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    signalled: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: signalled.append((pid, number)))
    monkeypatch.setattr(supervisor, "end_all", lambda *_: True)
    supervisor.end("marker", 7, os.getppid())
    monkeypatch.setattr(supervisor, "end_all", lambda *_: False)
    supervisor.end("marker", 0, 0)
    supervisor.end("marker", 7, os.getpid())  # the holder is dead, and the number another's
    assert signalled == []
    supervisor.end("marker", 7, os.getppid())
    assert signalled == [(os.getppid(), signal.SIGKILL)]


def test_a_device_on_the_tree_of_a_workspace_is_found_where_zfs_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / ".trees/0001"
    tree.mkdir(parents=True)
    workspace = tmp_path / ".work/one"
    (workspace / "layer").mkdir(parents=True)
    (workspace / "layer/tree").symlink_to(tree)
    attached = [
        Attached(name, f"{place}/tmp/boot_archive")
        for name, place in (("1", tree), ("2", workspace), ("3", tmp_path / ".trees/0002"))
    ]
    monkeypatch.setattr(recover, "any_attached", lambda: True)
    monkeypatch.setattr(
        recover, "detach_files", lambda ours: [each.name for each in filter(ours, attached)]
    )
    assert recover.detach_loops(workspace) == ["1", "2"]


def test_a_mark_is_of_use_only_in_the_environment_of_the_daemons_user(mark: str) -> None:
    state = "0123456789abcdef"
    marker = f"{state}:build:probe:1"
    value = descendant_mark(marker)
    assert state not in value
    assert value.startswith(descendant_mark(f"{state}:"))
    environment = {**os.environ, DESCENDANT: value}
    command = ["setpriv", "--reuid", "nobody", "--clear-groups", "sleep", mark]
    with subprocess.Popen(command, env=environment, start_new_session=True) as stranger:
        assert eventually(lambda: processes_with(mark) == [stranger.pid])
        assert leftover_workers(f"{state}:") == []
        stranger.kill()


class TestWhatItGives:
    def test_a_session_of_its_own_and_the_hosts_processes(self, bench: Bench) -> None:
        session, own = said(bench, f"ps -o sid= -p $$; ls -d /proc/{os.getpid()}").split()
        assert int(session) != os.getsid(0)
        assert own == f"/proc/{os.getpid()}"

    def test_no_capability_that_was_not_declared(self, bench: Bench) -> None:
        assert "must be superuser" in said(bench, "umount /proc")

    def test_no_network_without_asking(self, bench: Bench) -> None:
        command = f"{sys.executable} -c 'import socket; socket.socket(socket.AF_INET)'"
        assert "Error" in said(bench, command)
        assert said(bench, command, network=True) == ""


def test_no_code_for_it_signals_every_process_of_the_host() -> None:
    for module in (recover, supervisor, sys.modules[PortableWorkers.__module__]):
        assert module.__file__ is not None
        source = Path(module.__file__).read_text()
        assert "os.kill(-1" not in source


class TestChoice:
    def test_is_by_the_tools_of_the_host(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert chosen_kind("auto")[0] is Kind.NAMESPACES
        monkeypatch.setattr(tools, "TOOL_PATH", str(tmp_path))
        kind, reason = chosen_kind("auto")
        assert kind is Kind.PORTABLE
        assert reason == "setpriv and unshare of util-linux are not installed"
        assert chosen_kind("namespaces")[0] is Kind.NAMESPACES

    def test_elsewhere_is_portable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "platform", "sunos5")
        assert chosen_kind("auto")[0] is Kind.PORTABLE


def test_a_checkpoint_that_fails_is_told_as_in_namespaces(bench: Bench) -> None:
    outcome = bench.run(bench.request("Runs", "echo last words; exit 3"))
    assert isinstance(outcome, Failed)
    assert outcome.error.brief == "sh failed with exit status 3"
