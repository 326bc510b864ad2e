"""Events that were there once and are gone: the daemon says so, and keeps what the lost builds left."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cli import client
from store.eventlog.high_water import HighWater

pytestmark = [pytest.mark.root, pytest.mark.faults]


def health(daemon: Any) -> dict[str, Any]:
    found: dict[str, Any] = client.request(str(daemon.socket), "GET", "/v1/health")
    return found


def errors(daemon: Any) -> list[dict[str, Any]]:
    """The errors in the log of the last start."""
    lines = daemon.log.read_bytes()[daemon._ready_from :].decode().splitlines()
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    return [entry for entry in entries if entry["level"] == "error"]


def without_wal(state_dir: Path) -> None:
    (state_dir / "events/events.db-wal").unlink()


def without_log(state_dir: Path) -> None:
    for path in state_dir.glob("events/events.db*"):
        path.unlink()


def without_mark(state_dir: Path) -> None:
    """The evidence is what the build left."""
    without_wal(state_dir)
    HighWater(state_dir / "events/events.db").forget()


def tree(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


@pytest.mark.parametrize("lose", [without_wal, without_log, without_mark])
def test_a_start_without_events_that_were_there_says_so_and_removes_nothing(
    daemon: Any, write_manifest: Any, lose: Any
) -> None:
    manifest = write_manifest(("one", "echo 1 > {PKG_IMAGE_PATH}/one"), ("two", "false"))
    build = daemon.submit(manifest)
    daemon.wait(build, "failed")
    daemon.settings["layers_max_bytes"] = 10**9
    daemon.kill()
    left = {name: tree(daemon.state_dir / name) for name in ("layers", "logs", "blobs")}
    lose(daemon.state_dir)

    daemon.start()

    assert daemon.json("list") == []
    (told,) = errors(daemon)
    assert told["event"] == "the event log has lost events"
    assert health(daemon)["status"] == "warning"
    assert "lost events" in health(daemon)["problems"][0]
    checks = {check["name"]: check for check in daemon.json("doctor", status=None)["checks"]}
    assert checks["event log"]["status"] == "warning"
    assert build in checks["event log"]["value"]
    assert {name: tree(daemon.state_dir / name) for name in left} == left
    # The administrator has looked, and removes the kept workspace.
    shutil.rmtree(next(daemon.state_dir.glob(f"layers/*/.work/{build}.1.2")))


def test_the_last_events_of_a_build_that_is_known_are_missed(
    daemon: Any, write_manifest: Any, tmp_path: Path
) -> None:
    """A copy of the log that was put in its place knows the build, and less of it."""
    build = daemon.submit(write_manifest(("one", "true"), ("two", "true")), "--pause-before", "two")
    daemon.wait(build, "paused")
    daemon.stop()
    shutil.copy(daemon.state_dir / "events/events.db", tmp_path / "older.db")
    daemon.start()
    daemon.ctl("resume", build)
    daemon.wait(build, "completed")
    daemon.stop()
    shutil.copy(tmp_path / "older.db", daemon.state_dir / "events/events.db")

    daemon.start()

    (told,) = errors(daemon)
    assert "events are missing" in told["details"]


def test_a_loss_is_not_told_where_there_is_none(
    daemon: Any, write_manifest: Any, tmp_path: Path
) -> None:
    build = daemon.submit(write_manifest(("one", "true")))
    daemon.wait(build, "completed")
    removed = daemon.submit(write_manifest(("other", "true")))
    daemon.wait(removed, "completed")
    daemon.ctl("rm", removed)
    daemon.ctl("backup", tmp_path / "copy.db")
    for end in (daemon.kill, daemon.stop):
        end()
        daemon.start()
        assert errors(daemon) == []
        assert health(daemon) == {"status": "ok"}


def test_a_damaged_mark_is_passed_over(daemon: Any, write_manifest: Any) -> None:
    build = daemon.submit(write_manifest(("one", "true")))
    daemon.wait(build, "completed")
    for content in (b"", b"\0" * 21, b"99999", b"\xff" * 21):
        daemon.stop()
        (daemon.state_dir / "events/events.db.position").write_bytes(content)
        daemon.start()
        assert errors(daemon) == []


def test_layers_of_a_removed_build_outlive_a_restart(daemon: Any, write_manifest: Any) -> None:
    manifest = write_manifest(("one", "echo 1 > {PKG_IMAGE_PATH}/one"), ("two", "true"))
    build = daemon.submit(manifest)
    daemon.wait(build, "completed")
    daemon.ctl("rm", build)
    for end in (daemon.kill, daemon.stop):
        end()
        daemon.start()
        planned = daemon.json("plan", manifest)["checkpoints"]
        assert [checkpoint["action"] for checkpoint in planned] == ["reuse", "reuse"]
    daemon.ctl("gc")
    planned = daemon.json("plan", manifest)["checkpoints"]
    assert [checkpoint["action"] for checkpoint in planned] == ["run", "run"]


def test_layers_of_a_removed_build_stay_while_there_is_room(
    daemon: Any, write_manifest: Any
) -> None:
    """`layers_max_bytes` is a limit, not a broom."""
    daemon.settings["layers_max_bytes"] = 10**9
    daemon.stop()
    daemon.start()
    manifest = write_manifest(("one", "true"))
    build = daemon.submit(manifest)
    daemon.wait(build, "completed")
    daemon.ctl("rm", build)
    other = daemon.submit(write_manifest(("other", "true")))
    daemon.wait(other, "completed")
    daemon.stop()
    daemon.start()
    assert daemon.json("plan", manifest)["checkpoints"][0]["action"] == "reuse"
