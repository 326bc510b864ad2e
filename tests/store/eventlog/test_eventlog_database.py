"""The file: what it refuses, what it is made of, and how a wrong one is told."""

import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory

from statemachine.errors import DcdError, Unavailable
from statemachine.events import BuildStarted, PauseRequested
from store.eventlog import EventLog, LogDamaged, SqliteLog
from store.eventlog.sqlite import database, schema
from store.eventlog.tables import EVENTS_VERSION

Execute = Callable[..., list[Any]]


@pytest.fixture
def log(path: Path) -> Iterator[SqliteLog]:
    with SqliteLog(path) as opened:
        yield opened


@pytest.fixture
def filled(path: Path, submit: Callable[..., Any]) -> Path:
    """A log with a few builds, closed."""
    with SqliteLog(path) as log:
        for number in range(3):
            submit(log, f"b{number}").run(2)
    return path


COLUMNS = "(position, build, sequence, type, version, time, actor, data, hash)"
REST = "'BuildStarted', 1, '', '{}', '{}', ''"


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("UPDATE events SET data = '{}' WHERE position = 1", "never changed"),
        ("UPDATE events SET position = 900 WHERE position = 18", "never changed"),
        ("DELETE FROM events WHERE position = 18", "never removed"),
        ("DELETE FROM events", "never removed"),
        (f"INSERT OR REPLACE INTO events {COLUMNS} VALUES (19, 'b1', 6, {REST})", "the next"),
        (f"INSERT OR REPLACE INTO events {COLUMNS} VALUES (18, 'b1', 7, {REST})", "the next"),
        (f"REPLACE INTO events {COLUMNS} VALUES (1, 'b1', 7, {REST})", "the next"),
        (f"INSERT INTO events {COLUMNS} VALUES (19, 'b1', 8, {REST})", "the next"),
        (f"INSERT INTO events {COLUMNS} VALUES (20, 'b1', 7, {REST})", "the next"),
        (f"INSERT INTO events {COLUMNS} VALUES (NULL, 'b1', 7, {REST})", "the next"),
        (f"INSERT INTO events {COLUMNS} VALUES (-1, 'b1', 7, {REST})", "the next"),
        (f"INSERT INTO events {COLUMNS} VALUES (19, 'new', 2, {REST})", "the next"),
        (f"INSERT INTO events {COLUMNS} VALUES (19, 'new', 0, {REST})", "the next"),
        (
            f"INSERT INTO events {COLUMNS} VALUES (19, 'b1', 7, {REST}) "
            "ON CONFLICT DO UPDATE SET data = ''",
            None,
        ),
    ],
)
def test_the_database_itself_only_lets_the_log_grow(
    filled: Path, execute: Execute, statement: str, why: str | None
) -> None:
    before = execute(filled, "SELECT * FROM events")
    assert len(before) == 18
    if why is None:
        execute(filled, statement)
        assert execute(filled, "SELECT * FROM events")[:18] == before
        return
    with pytest.raises(sqlite3.IntegrityError, match=why):
        execute(filled, statement)
    assert execute(filled, "SELECT * FROM events") == before


def test_types_are_enforced(filled: Path, execute: Execute) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="cannot store TEXT"):
        execute(filled, "UPDATE builds SET priority = 'high'")


def test_the_log_is_kept_in_the_modes_that_lose_nothing(log: EventLog, execute: Execute) -> None:
    assert execute(log.path, "PRAGMA journal_mode") == [("wal",)]
    with closing(sqlite3.connect(log.path)) as other:
        assert other.execute("PRAGMA application_id").fetchone() == (schema.APPLICATION_ID,)


def test_modes_that_did_not_take_effect_are_refused(path: Path) -> None:
    """A database in memory stands for a file system that cannot do WAL."""
    with (
        sa.create_engine("sqlite://").connect() as connection,
        pytest.raises(Unavailable, match="cannot be kept safe") as caught,
    ):
        database._set_modes(connection, path)
    assert "journal_mode is memory" in caught.value.details


def test_readers_cannot_write(log: EventLog) -> None:
    with (
        log._readers.connect() as connection,
        pytest.raises(sa.exc.OperationalError, match="readonly"),
    ):
        connection.exec_driver_sql("DELETE FROM builds")


def test_only_its_owner_may_read_it(log: EventLog) -> None:
    """Manifests have passwords in them."""
    files = [*log.path.parent.glob("events.db"), *log.path.parent.glob("events.db-*")]
    assert len(files) == 3
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_the_declared_schema_is_what_the_migrations_make(log: EventLog) -> None:
    with log._readers.connect() as connection:
        schema.check_schema(connection)


def test_the_known_revisions_are_those_of_the_migrations() -> None:
    config = Config()
    config.set_main_option("script_location", "store.eventlog.sqlite:migrations")
    script = ScriptDirectory.from_config(config)
    newest_first = [revision.revision for revision in script.walk_revisions()]
    assert tuple(reversed(newest_first)) == schema.REVISIONS


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TRIGGER events_are_never_changed",
        "DROP INDEX builds_by_state",
        "ALTER TABLE events ADD COLUMN note TEXT",
        "CREATE TABLE more (id INTEGER)",
    ],
)
def test_a_schema_that_lost_or_gained_something_is_refused(
    filled: Path, execute: Execute, statement: str
) -> None:
    execute(filled, statement)
    with pytest.raises(DcdError, match="schema of the event log") as caught:
        SqliteLog(filled)
    assert statement.split()[2] in caught.value.details


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_text("Dear diary, " * 1000)
    with pytest.raises(LogDamaged, match="not an event log"):
        SqliteLog(path)
    assert path.read_text().startswith("Dear diary")


def test_somebody_elses_database_is_refused_and_left_alone(path: Path, execute: Execute) -> None:
    execute(path, "CREATE TABLE bookmarks (url TEXT)")
    before = path.read_bytes()
    with pytest.raises(LogDamaged, match="not an event log of dcd"):
        SqliteLog(path)
    assert path.read_bytes() == before


def test_a_log_of_a_newer_version_is_refused(filled: Path, execute: Execute) -> None:
    execute(filled, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(LogDamaged, match="newer dcd"):
        SqliteLog(filled)


def test_an_event_of_a_newer_version_is_not_skipped(filled: Path, execute: Execute) -> None:
    execute(
        filled,
        f"INSERT INTO events {COLUMNS} VALUES (19, 'b1', 7, 'BuildPondered', 1,"
        " '2026-01-01T00:00:00.000000Z', '{}', '{}', '')",
    )
    with SqliteLog(filled) as log:
        with pytest.raises(DcdError, match="newer dcd"):
            log.read(after=18)
        assert len(log.read_build("b2")) == 6


def test_an_emptied_log_is_not_taken_for_a_new_one(filled: Path) -> None:
    with filled.open("wb"):
        pass
    with pytest.raises(LogDamaged, match="truncated"):
        SqliteLog(filled)


def test_a_truncated_log_is_refused(filled: Path) -> None:
    with filled.open("r+b") as file:
        file.truncate(filled.stat().st_size // 2)
    with pytest.raises(LogDamaged, match="damaged"):
        SqliteLog(filled)


def test_damaged_pages_are_told_and_do_not_crash(filled: Path) -> None:
    size = filled.stat().st_size
    with filled.open("r+b") as file:
        file.seek(4096 * 2)
        file.write(b"\xff" * (size - 4096 * 2))
    with pytest.raises(LogDamaged), SqliteLog(filled) as log:
        log.read()


def test_a_creation_that_was_interrupted_is_begun_again(path: Path) -> None:
    path.with_name(f".{path.name}.new").write_text("half")
    with SqliteLog(path) as log:
        assert log.position == 0
    assert not path.with_name(f".{path.name}.new").exists()


def test_a_directory_that_does_not_exist_is_told(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be used"):
        SqliteLog(tmp_path / "none" / "events.db")


def test_a_backup_is_a_log(log: EventLog, submit: Callable[..., Any], tmp_path: Path) -> None:
    submit(log, "b1").run(2)
    target = tmp_path / "backup.db"
    log.backup(target)
    submit(log, "b2")
    with SqliteLog(target) as copy:
        assert copy.read() == log.read(limit=copy.position)
        assert copy.position == 6
        assert copy.verify("b1") == copy.verify_projection() == []
        submit(copy, "b9")
    with pytest.raises(Unavailable, match="exists already"):
        log.backup(target)


def test_a_backup_that_fails_leaves_nothing(log: EventLog, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be copied"):
        log.backup(tmp_path / "none" / "backup.db")
    assert not list(tmp_path.rglob("*backup*"))


def test_backups_while_builds_go_on_are_consistent(
    log: EventLog, submit: Callable[..., Any], append: Callable[..., Any], tmp_path: Path
) -> None:
    submit(log, "b1")
    stop = threading.Event()

    def go_on() -> None:
        sequence = 1
        while not stop.is_set():
            append(log, "b1", sequence, PauseRequested("c1"))
            sequence += 1

    appender = threading.Thread(target=go_on)
    appender.start()
    try:
        for number in range(3):
            log.backup(tmp_path / f"{number}.db")
    finally:
        stop.set()
        appender.join()
    for number in range(3):
        with SqliteLog(tmp_path / f"{number}.db") as copy:
            assert copy.verify("b1") == copy.verify_projection() == []


def test_another_program_that_holds_the_file_only_delays(
    path: Path, submit: Callable[..., Any], append: Callable[..., Any], monkeypatch: Any
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    with SqliteLog(path) as log, closing(sqlite3.connect(path, isolation_level=None)) as other:
        submit(log, "b1")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="another program"):
            append(log, "b1", 1, BuildStarted())
        other.execute("ROLLBACK")
        append(log, "b1", 1, BuildStarted())
        assert log.trouble is None


def test_a_log_with_events_of_a_newer_version_is_refused_though_its_tables_are_the_same(tmp_path):
    path = tmp_path / "events.db"
    SqliteLog(path).close()
    with closing(sqlite3.connect(path)) as other:
        (written,) = other.execute("PRAGMA user_version").fetchone()
        assert written == EVENTS_VERSION
        other.execute(f"PRAGMA user_version={written + 1}")

    with pytest.raises(LogDamaged, match="was written by a newer dcd"):
        SqliteLog(path)


def test_a_log_of_an_older_version_is_marked_when_it_is_opened(tmp_path):
    path = tmp_path / "events.db"
    SqliteLog(path).close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version=3")

    SqliteLog(path).close()

    with closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA user_version").fetchone() == (EVENTS_VERSION,)


@pytest.mark.parametrize("what", ["unfinished", "events of a build", "a page of the list"])
def test_no_question_at_start_reads_what_has_ended(
    log: SqliteLog, submit: Callable[..., Any], execute: Execute, what: str
) -> None:
    query = {
        "unfinished": "SELECT * FROM builds WHERE state IN ('queued', 'failed')"
        " ORDER BY submitted_position",
        "events of a build": "SELECT * FROM events WHERE build = 'b1' ORDER BY sequence",
        "a page of the list": "SELECT * FROM builds WHERE removed = 0"
        " ORDER BY submitted_position DESC LIMIT 10",
    }[what]
    submit(log, "b1")
    plan = " ".join(row[3] for row in execute(log.path, f"EXPLAIN QUERY PLAN {query}"))
    assert "INDEX" in plan
    if what != "a page of the list":
        assert "SCAN" not in plan
