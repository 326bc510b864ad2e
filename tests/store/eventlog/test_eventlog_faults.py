"""What is acknowledged is on disk: killed at any moment, with failing writes, on a full disk.

A process of its own appends and says what was acknowledged; strace makes its system calls fail or kills
it in the middle of one. Afterwards the log is opened and compared with what was said.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from store.eventlog import SqliteLog

pytestmark = pytest.mark.faults

APPENDER = """
import json, sys
from datetime import UTC, datetime
from pathlib import Path
from statemachine.errors import DcdError
from statemachine.events import Actor, BuildSubmitted, PauseRequested
from statemachine.keys import chain
from statemachine.plan import Ingredient, PlannedCheckpoint
from store.eventlog import SqliteLog

plan = chain([PlannedCheckpoint("c", "", "m", "C", "", (Ingredient("code", "c", "1"),))])
first = BuildSubmitted("live", "<dc/>", "/m", plan)
with SqliteLog(Path(sys.argv[1])) as log:
    sequence = log.position
    for _ in range(int(sys.argv[2])):
        payload = PauseRequested("c") if sequence else first
        try:
            log.append("b1", sequence, [payload], Actor(), datetime.now(UTC)).result()
        except DcdError as error:
            said = {"refused": type(error).__name__}
        else:
            sequence += 1
            said = {"acknowledged": sequence}
        trouble = log.trouble
        said["trouble"] = None if trouble is None else f"{trouble.brief}; {trouble.details}"
        print(json.dumps(said), flush=True)
"""

strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def command(path: Path, appends: int, *inject: str) -> list[str]:
    trace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64,fdatasync"]
    prefix = [*trace, *(part for rule in inject for part in ("-e", f"inject={rule}"))]
    return [*(prefix if inject else []), sys.executable, "-c", APPENDER, str(path), str(appends)]


def run(path: Path, appends: int, *inject: str) -> list[dict[str, Any]]:
    """What the appender said before it ended or was killed."""
    done = subprocess.run(command(path, appends, *inject), capture_output=True, timeout=120)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


def acknowledged(said: list[dict[str, Any]]) -> int:
    return max((line.get("acknowledged", 0) for line in said), default=0)


def check(path: Path, last: int) -> None:
    """The log has what was acknowledged, at most the one append more that was under way, and is sound."""
    with SqliteLog(path) as log:
        found = log.read()
        assert [event.sequence for event in found] == list(range(1, len(found) + 1))
        assert last <= len(found) <= last + 1
        if found:
            assert log.verify("b1") == []
        assert log.verify_projection() == []


@pytest.fixture
def made(path: Path) -> Path:
    """An empty log."""
    SqliteLog(path).close()
    return path


@pytest.mark.parametrize("after", [1, 10, 50])
def test_what_was_acknowledged_before_a_kill_is_there(made: Path, after: int) -> None:
    appender = subprocess.Popen(command(made, 10_000), stdout=subprocess.PIPE)
    try:
        assert appender.stdout is not None
        lines = [appender.stdout.readline() for _ in range(after)]
    finally:
        appender.kill()
        rest = appender.stdout.read() if appender.stdout else b""
        appender.wait()
    whole = [*lines, *rest.splitlines(keepends=True)]
    said = [json.loads(line) for line in whole if line.endswith(b"\n")]
    with SqliteLog(made) as log:
        assert log.position >= acknowledged(said) >= after
        assert log.verify("b1") == log.verify_projection() == []
        before = log.position
    assert acknowledged(run(made, 1)) == before + 1


@strace
@pytest.mark.parametrize("call", ["fdatasync", "pwrite64"])
@pytest.mark.parametrize("when", [1, 4, 9])
def test_a_kill_in_the_middle_of_a_write_loses_nothing_acknowledged(
    made: Path, call: str, when: int
) -> None:
    said = run(made, 20, f"{call}:signal=KILL:when={when}")
    assert len(said) < 20
    check(made, acknowledged(said))
    assert acknowledged(run(made, 3)) >= 3


@strace
def test_after_a_failed_sync_nothing_is_acknowledged_until_a_restart(made: Path) -> None:
    said = run(made, 6, "fdatasync:error=EIO:when=5")
    assert [line.get("acknowledged") for line in said[:2]] == [1, 2]
    assert [line.get("refused") for line in said[2:]] == ["LogFailed"] * 4
    assert "disk I/O error" in said[-1]["trouble"]
    check(made, 2)
    assert run(made, 1)[0]["trouble"] is None


@strace
def test_a_full_disk_is_met_with_the_reserve(made: Path) -> None:
    reserve = made.with_name("events.db.reserve")
    assert reserve.stat().st_size == 8 << 20
    said = run(made, 4, "pwrite64:error=ENOSPC:when=12")
    assert [line.get("acknowledged") for line in said] == [1, 2, 3, 4]
    check(made, 4)


@strace
def test_a_log_on_a_full_disk_is_opened_with_the_reserve(made: Path) -> None:
    """The first writes of the process are those of the shared memory file."""
    said = run(made, 2, "pwrite64:error=ENOSPC:when=3")
    assert [line.get("acknowledged") for line in said] == [1, 2]


@strace
def test_a_disk_that_stays_full_refuses_until_there_is_space(made: Path) -> None:
    said = run(made, 20, "pwrite64:error=ENOSPC:when=30..40")
    refused = [index for index, line in enumerate(said) if "refused" in line]
    assert refused
    assert {said[index]["refused"] for index in refused} == {"LogFull"}
    assert all("full" in said[index]["trouble"] for index in refused)
    assert "acknowledged" in said[-1]
    assert said[-1]["trouble"] is None
    check(made, acknowledged(said))


def test_the_reserve_is_not_taken_from_a_disk_that_is_nearly_full(
    path: Path, submit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Appends go on; the trouble tells the engine that builds should pause."""
    monkeypatch.setattr("store.eventlog.sqlite.reserve.RESERVED_BYTES", 1 << 60)
    with SqliteLog(path) as log:
        submit(log, "b1")
        assert log.trouble is not None
        assert log.trouble.brief == "the disk of the event log is nearly full"
        assert not path.with_name(f"{path.name}.reserve").exists()
        monkeypatch.undo()
        submit(log, "b2")
        assert log.trouble is None
        assert path.with_name(f"{path.name}.reserve").exists()


def test_two_logs_in_one_process_do_not_disturb_each_other(
    tmp_path: Path, submit: Callable[..., Any]
) -> None:
    with SqliteLog(tmp_path / "1.db") as one, SqliteLog(tmp_path / "2.db") as two:
        submit(one, "b1")
        submit(two, "b2")
        assert (one.position, two.position) == (1, 1)
