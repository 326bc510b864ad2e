"""`store.host.process.run`: what it returns, what it refuses, and what it leaves behind (nothing)."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from statemachine.errors import CheckpointError, Unprepared
from store.host import filesystem_tools
from store.host.durable import DiskFull
from store.host.filesystem_tools import run_tool
from store.host.process import (
    BASE_ENVIRONMENT,
    LONGEST_LINE_BYTES,
    SHOWN_LINE_BYTES,
    ToolFailed,
    run,
)


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie that nobody has waited for does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid: int) -> bool:
    """Whether a process is gone, now or within the time that the kernel needs for it."""
    for _ in range(200):
        if not alive(pid):
            return True
        time.sleep(0.05)
    return False


def pid_in(path: Path) -> int:
    for _ in range(400):
        if path.exists() and path.read_text().strip():
            return int(path.read_text())
        time.sleep(0.05)
    raise AssertionError(f"nothing wrote a process id into {path}")


def test_captured_output_is_returned_and_not_logged(capfd: pytest.CaptureFixture[str]) -> None:
    completed = run(["sh", "-c", "echo out; echo err >&2"], capture=True)
    assert (completed.stdout, completed.status) == ("out\n", 0)
    assert completed.argv == ("sh", "-c", "echo out; echo err >&2")
    assert capfd.readouterr().err == "err\n"


def test_output_that_is_not_captured_goes_to_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["sh", "-c", "echo out; echo err >&2"]).stdout == ""
    assert capfd.readouterr().err == "out\nerr\n"


def test_lines_are_handed_on_as_they_come_and_logged_too(capfd: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    run(["printf", r"one\ntwo\r\n10%%\r20%%\nlast"], on_line=lines.append)
    assert lines == ["one", "two", "20%", "last"]
    assert capfd.readouterr().err == "one\ntwo\r\n10%\r20%\nlast"


def test_what_a_progress_meter_shows_is_handed_on_while_it_moves() -> None:
    shown: list[str] = []
    script = r"printf 'a\n1%%\r'; sleep 0.2; printf '2%%\r3%%\r'; sleep 0.2; printf '4%%'"
    completed = run(["sh", "-c", script], capture=True, on_meter=shown.append)
    assert shown == ["1%", "3%", "3%"]
    assert completed.stdout == "a\n1%\r2%\r3%\r4%"


def test_merged_output_holds_both_streams() -> None:
    assert (
        run(["sh", "-c", "echo out; echo err >&2"], capture=True, merge=True).stdout == "out\nerr\n"
    )


def test_the_environment_is_the_explicit_one_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAKED", "secret")
    output = run(["env"], env={"LC_ALL": "C", "ADDED": "1"}, capture=True).stdout
    seen = dict(line.split("=", 1) for line in output.splitlines())
    assert seen == {**BASE_ENVIRONMENT, "LC_ALL": "C", "ADDED": "1"}


def test_large_input_and_output_do_not_block_each_other() -> None:
    data = os.urandom(150_000).hex().encode()
    assert run(["cat"], stdin=data, capture=True).stdout.encode() == data


def test_a_program_that_ignores_its_input_may() -> None:
    assert run(["true"], stdin=b"x" * 1_000_000).status == 0


def test_without_input_a_program_reads_nothing() -> None:
    assert run(["cat"], capture=True).stdout == ""


def test_bytes_that_are_not_text_survive() -> None:
    name = run(["printf", r"\377\n"], capture=True).stdout
    assert os.fsencode(name) == b"\xff\n"


def test_a_failure_shows_command_status_and_last_lines() -> None:
    with pytest.raises(ToolFailed) as caught:
        run(["sh", "-c", "seq 100; echo 'No space' >&2; exit 7"])
    assert caught.value.brief == "sh failed with exit status 7"
    assert "command: sh -c 'seq 100;" in caught.value.details
    assert caught.value.details.endswith("100\nNo space")
    assert "\n80\n" not in caught.value.details
    assert caught.value.exit_status == 7


def test_an_expected_status_is_no_failure() -> None:
    assert run(["sh", "-c", "exit 4"], ok=(0, 4)).status == 4


def test_a_signal_is_named() -> None:
    with pytest.raises(ToolFailed, match=r"sh was killed by signal 9 \(SIGKILL\)"):
        run(["sh", "-c", "kill -KILL $$"])


def test_a_missing_tool_names_the_package_that_installs_it() -> None:
    with pytest.raises(Unprepared) as caught:
        run(["mksquashfs", "x"], env={"PATH": "/nowhere"})
    assert "mksquashfs is not installed" in caught.value.brief
    assert caught.value.resolution == "install it: apt-get install squashfs-tools"


def test_a_program_that_cannot_be_started_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be started"):
        run(["true"], cwd=tmp_path / "missing")


@pytest.mark.slow
def test_the_time_limit_ends_the_whole_group(tmp_path: Path) -> None:
    script = f"sleep 1000 & echo $! > {tmp_path}/child; wait"
    with pytest.raises(ToolFailed, match="did not finish within 2 seconds") as caught:
        run(["sh", "-c", script], timeout_seconds=2.0)
    assert caught.value.timed_out
    assert gone(pid_in(tmp_path / "child"))


@pytest.mark.slow
def test_a_program_that_ignores_sigterm_is_killed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("store.host.process.GRACE_SECONDS", 0.3)
    with pytest.raises(ToolFailed) as caught:
        run(["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"], timeout_seconds=2.0)
    assert (caught.value.timed_out, caught.value.exit_status) == (True, -signal.SIGKILL)


def test_what_a_program_leaves_behind_in_its_group_goes(tmp_path: Path) -> None:
    run(["sh", "-c", f"sleep 1000 & echo $! > {tmp_path}/child"])
    assert gone(pid_in(tmp_path / "child"))


def test_an_exception_out_of_on_line_ends_the_program(tmp_path: Path) -> None:
    def stop(line: str) -> None:
        raise RuntimeError(line)

    with pytest.raises(RuntimeError, match="ready"):
        run(["sh", "-c", f"echo $$ > {tmp_path}/self; echo ready; sleep 1000"], on_line=stop)
    assert gone(pid_in(tmp_path / "self"))


def test_it_runs_in_threads() -> None:
    outputs: list[str] = []

    def ask(number: int) -> None:
        outputs.append(run(["echo", str(number)], capture=True).stdout.strip())

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outputs) == [str(number) for number in range(8)]


@pytest.mark.parametrize(
    ("handler", "status"),
    [
        ("signal.SIG_DFL", 128 + signal.SIGTERM),
        ("lambda *_: print('asked')", 9),
    ],
)
def test_sigterm_reaches_the_group_and_then_the_callers_own_handler(
    handler: str, status: int, tmp_path: Path
) -> None:
    program = textwrap.dedent(
        f"""
        import signal, sys
        from store.host.process import ToolFailed, run
        signal.signal(signal.SIGTERM, {handler})
        try:
            run(["sh", "-c", "sleep 1000 & echo $! > {tmp_path}/child; wait"])
        except ToolFailed as error:
            assert error.exit_status == -signal.SIGTERM
            sys.exit(9)
        """
    )
    worker = subprocess.Popen([sys.executable, "-c", program])
    try:
        child = pid_in(tmp_path / "child")
        worker.terminate()
        assert worker.wait(30) == status
        assert gone(child)
    finally:
        worker.kill()
        worker.wait()


def test_the_previous_sigterm_handler_is_back_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    run(["true"])
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_a_line_without_end_costs_no_more_than_as_many_bytes_in_short_lines(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def seconds(shape: str) -> float:
        started = time.process_time()
        run(["sh", "-c", f"head -c 33554432 /dev/zero | tr '\\0' {shape}"])
        return time.process_time() - started

    lines, line = seconds("'\\n'"), seconds("A")
    meter = seconds("'\\r'")
    assert max(line, meter) < 3 * lines + 2
    # The log has all of it.
    assert len(capfd.readouterr().err) == 3 * 33554432


def test_what_is_kept_of_a_line_is_bounded() -> None:
    lines: list[str] = []
    script = "head -c 1000000 /dev/zero | tr '\\0' A; echo; echo next; exit 3"
    with pytest.raises(ToolFailed) as failure:
        run(["sh", "-c", script], on_line=lines.append)
    assert lines == ["A" * LONGEST_LINE_BYTES, "next"]
    assert failure.value.output == "A" * SHOWN_LINE_BYTES + "\nnext"


def test_a_return_ends_a_line_also_a_long_one() -> None:
    lines: list[str] = []
    shown: list[str] = []
    script = "head -c 1000000 /dev/zero | tr '\\0' A; printf '\\rdone\\r\\n'"
    run(["sh", "-c", script], on_line=lines.append, on_meter=shown.append)
    assert lines == ["done"]
    assert set(shown) <= {"A" * LONGEST_LINE_BYTES, "done"}


def test_a_tool_that_prints_without_end_fails_instead_of_filling_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("store.host.process.CAPTURE_BYTES", 100_000)
    with pytest.raises(CheckpointError, match="yes printed more than 100000 bytes"):
        run(["yes"], capture=True)


def test_errors_that_are_not_logged_are_in_the_error_only(
    capfd: pytest.CaptureFixture[str],
) -> None:
    run(["sh", "-c", "echo aside >&2"], capture=True, log_errors=False)
    with pytest.raises(ToolFailed, match="it hurts"):
        run(["sh", "-c", "echo it hurts >&2; exit 3"], capture=True, log_errors=False)
    run(["sh", "-c", "echo heard >&2"], capture=True)
    assert capfd.readouterr().err == "heard\n"


def test_a_tool_of_the_file_system_tells_a_full_disk_from_other_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "tool"
    tool.write_text('#!/bin/sh\necho "$1" >&2\nexit 1\n')
    tool.chmod(0o755)
    for said in ("cp: error writing: No space left on device", "cannot create: out of space"):
        with pytest.raises(DiskFull, match="no space left while copying") as full:
            run_tool("copying", str(tool), said)
        assert full.value.cause.errno == errno.ENOSPC
    with pytest.raises(DiskFull) as full:
        run_tool("copying", str(tool), "cp: Disk quota exceeded")
    assert full.value.cause.errno == errno.EDQUOT
    with pytest.raises(
        Unprepared, match=r"^tool failed with exit status 1, while copying"
    ) as failed:
        run_tool("copying", str(tool), "cp: it is not there")
    assert not isinstance(failed.value, DiskFull)
    assert "cp: it is not there" in failed.value.details
    with pytest.raises(Unprepared, match="absent is not installed"):
        run_tool("copying", "absent")
    monkeypatch.setattr(filesystem_tools, "SECONDS", 0.2)
    with pytest.raises(Unprepared, match=r"did not finish within 0\.2 seconds .* while copying"):
        run_tool("copying", "sleep", "60")
