"""What other local users can do to the recovery of a daemon: nothing."""

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dcd.worker.recover import kill_leftovers, leftover_workers
from dcd.worker.request import MARKER
from tests.dcd.worker.conftest import Bench

pytestmark = pytest.mark.root

STRANGER = 54321
QUICK_SECONDS = 25.0
"""Less than what is waited for the end of leftovers."""


@contextmanager
def running(command: list[str], **options: object) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(command, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def marked(bench: Bench) -> dict[str, str]:
    """The environment of a process that claims to be an attempt's, by somebody who knows the mark."""
    return {"PATH": "/usr/bin:/bin", MARKER: f"{bench.state_id}:build:probe:1"}


def kill_in_time(bench: Bench) -> list[int]:
    began = time.monotonic()
    killed = [leftover.pid for leftover in kill_leftovers(f"{bench.state_id}:")]
    assert time.monotonic() - began < QUICK_SECONDS
    return killed


def test_a_process_of_another_user_is_neither_killed_nor_waited_for(bench: Bench) -> None:
    stranger = {"user": STRANGER, "group": STRANGER, "extra_groups": []}
    with running(
        ["sleep", "100"], env=marked(bench), start_new_session=True, **stranger
    ) as process:
        assert leftover_workers(f"{bench.state_id}:") == []
        assert kill_in_time(bench) == []
        assert process.poll() is None


def test_processes_that_are_started_again_and_again_hold_up_nothing(bench: Bench) -> None:
    loop = "while :; do sleep 0.01; done"
    stranger = {"user": STRANGER, "group": STRANGER, "extra_groups": []}
    with running(["sh", "-c", loop], env=marked(bench), start_new_session=True, **stranger):
        assert kill_in_time(bench) == []


def test_a_set_uid_program_that_another_user_runs_is_not_ours(bench: Bench, tmp_path: Path) -> None:
    program = tmp_path / "sleep"
    shutil.copy("/bin/sleep", program)
    program.chmod(0o4755)
    for directory in (tmp_path, *tmp_path.parents):
        directory.chmod(directory.stat().st_mode | stat.S_IXOTH)
    stranger = {"user": STRANGER, "group": STRANGER, "extra_groups": []}
    with running(
        [str(program), "100"], env=marked(bench), start_new_session=True, **stranger
    ) as process:
        assert kill_in_time(bench) == []
        assert process.poll() is None


WALKER = "import os, time\nwhile not os.fork(): time.sleep(0.002)"
"""A process that lives on in its child, under a new number."""


def test_what_is_born_again_and_again_does_not_hold_up_the_start(bench: Bench) -> None:
    with running([sys.executable, "-c", WALKER], env=marked(bench), start_new_session=True):
        time.sleep(0.2)
        kill_in_time(bench)


def test_what_a_checkpoint_runs_cannot_read_the_mark(bench: Bench) -> None:
    """A submitter who learnt it could leave processes that look like the daemon's."""
    look = "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'"
    request = bench.request("Runs", f"({look}; env) || :; echo looked")
    bench.run(request)
    output = bench.output(request)
    assert "looked" in output
    assert "PYTHONUNBUFFERED=1" in output, "it can read its parent's environment"
    assert bench.state_id not in output


def test_names_that_everybody_sees_do_not_show_the_mark(bench: Bench) -> None:
    one, other = bench.request("Runs", "true"), bench.request("Runs", "true")
    assert bench.state_id not in one.attempt_name
    assert one.attempt_name != other.attempt_name
    assert one.attempt_name.endswith(":build:probe:1")
