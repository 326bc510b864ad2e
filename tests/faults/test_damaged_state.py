"""What a daemon finds when it starts: a damaged log, a foreign one, another boot, another daemon."""

import socket
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from cli.client import ClientError
from statemachine.events import Actor, BuildResumed, BuildStarted, CheckpointStarted
from store.eventlog import SqliteLog
from store.host.boot import boot_id

pytestmark = [pytest.mark.faults, pytest.mark.root]


def refuses_to_start(daemon, *words):
    """The daemon ends with exit status 9 and says why, in words, not with a traceback."""
    before = daemon.log.stat().st_size if daemon.log.exists() else 0
    daemon.spawn()
    status = daemon.process.wait()
    said = daemon.log.read_text()[before:]
    assert status == 9, said
    assert "Traceback" not in said
    for word in words:
        assert word in said
    return said


@pytest.fixture
def stopped(frail, witness, write_manifest):
    """A daemon that was stopped in good order: one build has completed, one is paused."""
    frail.start()
    witness.submit(write_manifest(witness.step("one"), name="done"))
    witness.until("completed")
    witness.submit(
        write_manifest(witness.step("one"), witness.step("two"), name="waiting"),
        pause_before="two",
    )
    witness.until("completed", "paused")
    assert frail.stop() == 0
    return frail


@pytest.fixture
def idle(frail):
    """A daemon whose log is empty, but whole."""
    (frail.state_dir / "events").mkdir(parents=True)
    SqliteLog(frail.state_dir / "events/events.db").close()
    return frail


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda content: content[:50], "truncated"),
        (lambda content: content[: len(content) // 2], "damaged"),
        (lambda content: bytes(4096) + content[4096:], "damaged"),
        (lambda content: b"this is a text\n" * 1000, "damaged"),
    ],
    ids=["cut in its header", "cut in half", "without header", "a text"],
)
def test_log_that_is_no_whole_database_is_refused_and_left_as_it_is(idle, damage, word):
    path = idle.state_dir / "events/events.db"
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)

    refuses_to_start(idle, "event log", word, "restore")

    assert path.read_bytes() == damaged


def test_foreign_database_is_refused(idle):
    path = idle.state_dir / "events/events.db"
    path.unlink()
    with sqlite3.connect(path) as foreign:
        foreign.execute("CREATE TABLE recipes (name TEXT)")

    refuses_to_start(idle, "not an event log of dcd")


def test_log_of_a_newer_version_is_refused(idle):
    change(idle, "UPDATE alembic_version SET version_num = '9999'")

    refuses_to_start(idle, "written by a newer dcd", "9999")


def change(daemon, *statements):
    """Change the log behind the back of a stopped daemon."""
    with sqlite3.connect(daemon.state_dir / "events/events.db") as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def altered(daemon, build):
    """Alter an event of a build, as no daemon would."""
    path = daemon.state_dir / "events/events.db"
    (trigger,) = (
        sqlite3.connect(path)
        .execute("SELECT sql FROM sqlite_master WHERE name = 'events_are_never_changed'")
        .fetchone()
    )
    change(
        daemon,
        "DROP TRIGGER events_are_never_changed",
        f"UPDATE events SET data = replace(data, 'one', 'two') WHERE build = '{build}'",
        trigger,
    )


def test_altered_event_is_told_and_stops_only_its_build(stopped, witness):
    done, waiting = witness.shown
    altered(stopped, waiting)

    stopped.start()

    stopped.ctl("events", waiting, "--verify", status=1)
    stopped.ctl("events", done, "--verify")
    with pytest.raises(ClientError, match="are damaged"):
        witness.ask("POST", f"/builds/{waiting}/resume", {})
    with pytest.raises(ClientError, match="are damaged"):
        witness.ask("GET", f"/builds/{waiting}")
    assert "a build cannot continue" in stopped.log.read_text()
    assert witness.ask("GET", f"/builds/{done}")["state"] == "completed"
    assert len(stopped.json("list", "--all")) == 2


def test_control_the_same_log_unharmed_starts_and_verifies(stopped, witness):
    stopped.start()

    for build in witness.shown:
        stopped.ctl("events", build, "--verify")
    witness.ask("POST", f"/builds/{list(witness.shown)[1]}/resume", {})
    witness.until("completed")
    assert witness.wrong_at_rest() == []


def test_any_damaged_page_is_told_in_words(stopped, witness, chance, soak):
    path = stopped.state_dir / "events/events.db"
    whole = path.read_bytes()
    pages = range(1, len(whole) // 4096)
    for page in pages if soak else chance.sample(pages, 4):
        path.write_bytes(whole[: page * 4096] + chance.randbytes(4096) + whole[(page + 1) * 4096 :])
        before = stopped.log.stat().st_size
        stopped.spawn()
        try:
            stopped.wait_until_ready()
        except pytest.fail.Exception:
            assert stopped.process.wait() in (1, 9)
        else:
            for build in witness.shown:
                stopped.ctl("status", build, status=None)
                stopped.ctl("events", build, "--verify", status=None)
            stopped.process.kill()
            stopped.process.wait()
        assert "Traceback" not in stopped.log.read_text()[before:], f"page {page}"
        for leftover in stopped.state_dir.glob("events/events.db-*"):
            leftover.unlink()


def append(daemon, build, *payloads, time):
    """Append events as a daemon would."""
    with SqliteLog(daemon.state_dir / "events/events.db") as log:
        sequence = log.summary(build).sequence
        log.append(build, sequence, payloads, Actor(), time).result()


@pytest.mark.parametrize(
    ("began", "cause"),
    [
        ({"boot_id": "another boot"}, "machine-rebooted"),
        ({"boot_id": boot_id(), "host": "another-member"}, "host-lost"),
    ],
)
def test_attempt_that_could_not_end_is_interrupted_by_its_cause(stopped, witness, began, cause):
    _, waiting = witness.shown
    key = key_of(stopped, waiting, "two")
    start = CheckpointStarted("two", 1, key, "two.1.log", **began)
    append(stopped, waiting, BuildResumed(), BuildStarted(), start, time=datetime.now(UTC))

    stopped.start()

    witness.until("completed")
    (interrupted,) = [e for e in stopped.events(waiting) if e["type"] == "CheckpointInterrupted"]
    assert interrupted["data"]["cause"] == cause
    assert stopped.events(waiting)[-1]["type"] == "BuildCompleted"


def key_of(daemon, build, checkpoint):
    """The planned key of a checkpoint."""
    with SqliteLog(daemon.state_dir / "events/events.db") as log:
        plan = log.read_build(build)[0].data.plan
    return next(planned.key for planned in plan.checkpoints if planned.name == checkpoint)


def test_clock_that_jumps_back_breaks_nothing(stopped, witness, write_manifest):
    done, waiting = witness.shown
    # What was written until now is, seen from now on, from the future.
    future = datetime.now(UTC) + timedelta(days=365)
    append(stopped, waiting, BuildResumed(pause_before="two"), time=future)
    stopped.start()
    witness.until("completed", "paused")

    later = witness.submit(write_manifest(witness.step("one"), name="later"))
    witness.ask("POST", f"/builds/{waiting}/resume", {})
    witness.until("completed")

    listed = [build["id"] for build in witness.ask("GET", "/builds")["builds"]]
    assert listed == [later, waiting, done]
    assert witness.wrong_at_rest() == []
    stopped.kill()
    assert witness.wrong_after_death() == []


def test_second_daemon_on_a_state_directory_is_refused_and_the_first_is_unharmed(
    frail, witness, write_manifest, tmp_path
):
    frail.start()
    build = witness.submit(write_manifest(witness.step("one", "sleep 2"), witness.step("two")))
    witness.wait_for_effect("begin one")

    second = run_dcd("--state-dir", frail.state_dir, "--socket", tmp_path / "other")

    assert second.returncode == 9
    assert f"another dcd uses {frail.state_dir}" in second.stderr
    assert str(frail.process.pid) in second.stderr
    assert "Traceback" not in second.stderr
    assert [c["attempts"] for c in witness.until("completed")[build]["checkpoints"]] == [1, 1]
    assert witness.wrong_at_rest() == []


def test_socket_of_a_living_daemon_is_refused_and_stays(frail, witness, tmp_path):
    frail.start()

    second = run_dcd("--state-dir", tmp_path / "other-state", "--socket", frail.socket)

    assert second.returncode == 9
    assert f"a daemon is listening on {frail.socket} already" in second.stderr
    assert witness.ask("GET", "/version")["pid"] == frail.process.pid


def test_stale_socket_is_replaced(frail, witness):
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(frail.socket))
    with pytest.raises(ClientError):
        witness.ask("GET", "/version")

    frail.start()

    assert witness.ask("GET", "/version")["pid"] == frail.process.pid
    frail.kill()
    assert frail.socket.exists()
    frail.start()
    assert witness.ask("GET", "/version")["pid"] == frail.process.pid


def test_file_in_the_place_of_the_socket_is_refused_and_stays(frail):
    frail.socket.write_text("precious")

    refuses_to_start(frail, "is not a socket")

    assert frail.socket.read_text() == "precious"


def run_dcd(*options):
    """A whole daemon that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "dcd.main", "serve", *map(str, options)],
        capture_output=True,
        text=True,
        timeout=60,
    )
