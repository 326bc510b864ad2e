"""Backups of the event log: taken while builds go on, verified, restored, and gone on from."""

import sqlite3
import stat
import subprocess
import sys
from contextlib import closing

import pytest

pytestmark = pytest.mark.root


def restore(*arguments):
    command = [sys.executable, "-m", "dcd.main", "restore", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def rows(path, query="SELECT position, hash FROM events ORDER BY position"):
    with closing(sqlite3.connect(path)) as log:
        return log.execute(query).fetchall()


@pytest.fixture
def saved(daemon, write_manifest, tmp_path):
    """A build that stands after two checkpoints, a completed one, and a backup with both."""
    completed = daemon.submit(write_manifest(("zero", "true"), name="ended"))
    daemon.wait(completed, "completed")
    counters = [tmp_path / name for name in ("1", "2", "3")]
    build = daemon.submit(
        write_manifest(
            *((f"c{n}", f"echo run >> {counter}") for n, counter in enumerate(counters))
        ),
        "--pause-before",
        "c2",
    )
    daemon.wait(build, "paused")
    path = tmp_path / "backup.db"
    daemon.ctl("backup", path)
    return build, path, counters


def test_a_backup_is_the_log_and_for_nobody_else(daemon, saved, tmp_path):
    _, path, _ = saved
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert rows(path) == rows(daemon.state_dir / "events/events.db")
    assert [p.name for p in tmp_path.iterdir() if "part" in p.name] == []
    assert list(daemon.state_dir.glob("*backup-*")) == []
    daemon.ctl("backup", path, status=2)
    daemon.ctl("backup", tmp_path / "no" / "such" / "directory", status=1)


def test_a_restored_daemon_goes_on_and_makes_lost_layers_again(daemon, saved, tmp_path):
    build, path, counters = saved
    before = daemon.events(build)
    daemon.stop()
    daemon.state_dir = tmp_path / "new-disk"

    done = restore(path, "--state-dir", daemon.state_dir)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{before[-1]['position']} events" in done.stdout
    daemon.start()

    assert daemon.events(build) == before
    assert build in [item["id"] for item in daemon.json("list", "--all")]
    resumable = [c["name"] for c in daemon.json("checkpoints", build) if c["resumable"]]
    assert resumable == ["c0"], "no layer is there"
    daemon.ctl("resume", build)
    daemon.wait(build, "completed")
    assert [counter.read_text().count("run") for counter in counters] == [2, 2, 1]
    (rewound,) = [e["data"] for e in daemon.events(build) if e["type"] == "BuildRewound"]
    assert (rewound["checkpoint"], rewound["cause"]) == ("c0", "layer-missing")
    daemon.ctl("events", build, "--verify")
    daemon.ctl("artifacts", build, "--verify")


def test_a_lost_captured_file_is_reported_and_captured_again(daemon, tmp_path):
    script, manifest = tmp_path / "go.sh", tmp_path / "inputs.xml"
    script.write_text("#!/bin/sh\necho from the script\n")
    manifest.write_text(
        '<dc><distro name="inputs"><execution><checkpoint name="one"'
        ' mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript"><kwargs>'
        '<arg name="script">go.sh</arg></kwargs></checkpoint></execution></distro></dc>'
    )
    build = daemon.submit(manifest, "--pause-before", "one")
    daemon.wait(build, "paused")
    for blob in (daemon.state_dir / "blobs").iterdir():
        blob.unlink()

    daemon.ctl("resume", build)
    error = daemon.wait(build, "failed")["error"]
    assert error["brief"] == "the captured file go.sh is missing"
    assert "--manifest" in error["resolution"]

    daemon.ctl("resume", build, "--manifest", manifest)
    daemon.wait(build, "completed")
    assert "from the script" in daemon.ctl("logs", build, "one")


def test_restoring_over_a_log_needs_force_and_keeps_what_was_there(daemon, saved, write_manifest):
    build, path, _ = saved
    later = daemon.submit(write_manifest(("later", "true"), name="later"))
    daemon.wait(later, "completed")
    daemon.kill()  # the last events are in the -wal file then

    refused = restore(path, "--state-dir", daemon.state_dir)
    assert refused.returncode == 6
    assert "already has an event log" in refused.stderr

    assert restore(path, "--state-dir", daemon.state_dir, "--force").returncode == 0
    assert rows(daemon.state_dir / "events/events.db") == rows(path)
    (kept,) = [p for p in daemon.state_dir.glob("events/events.db.replaced-*") if p.name[-1] == "Z"]
    assert (later,) in rows(kept, "SELECT id FROM builds")
    daemon.start()
    daemon.ctl("status", later, status=7)
    daemon.ctl("resume", build)
    daemon.wait(build, "completed")


def test_a_state_directory_in_use_is_not_restored_into(daemon, saved):
    _, path, _ = saved
    refused = restore(path, "--state-dir", daemon.state_dir, "--force")
    assert refused.returncode == 9
    assert "another dcd uses" in refused.stderr
    daemon.ctl("list")


@pytest.mark.parametrize("damage", ["altered", "projection", "truncated", "foreign", "missing"])
def test_a_backup_that_cannot_be_trusted_is_not_restored(saved, tmp_path, damage):
    _, path, _ = saved
    match damage:
        case "altered":
            with closing(sqlite3.connect(path)) as log:
                log.execute("DROP TRIGGER events_are_never_changed")
                log.execute("UPDATE events SET data = replace(data, 'c1', 'c9')")
                log.execute(
                    "CREATE TRIGGER events_are_never_changed BEFORE UPDATE ON events"
                    " BEGIN SELECT RAISE(ABORT, 'events are never changed'); END"
                )
                log.commit()
        case "projection":
            with closing(sqlite3.connect(path)) as log:
                log.execute("UPDATE builds SET state = 'completed'")
                log.commit()
        case "truncated":
            path.write_bytes(path.read_bytes()[:8192])
        case "foreign":
            path.unlink()
            with closing(sqlite3.connect(path)) as other:
                other.execute("CREATE TABLE t (x)")
        case "missing":
            path.unlink()
    target = tmp_path / "target"

    refused = restore(path, "--state-dir", target)

    assert refused.returncode == 9, refused.stderr
    assert "Traceback" not in refused.stderr
    assert {p.name for p in target.iterdir()} == {"lock"}
