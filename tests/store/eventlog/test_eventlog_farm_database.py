"""The database of a farm: what it refuses, crashes, lost answers, and a log that comes from SQLite."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from statemachine.errors import DcdError, Unavailable, UsageError
from statemachine.events import Actor, Event, PauseRequested
from store.eventlog import Conflict, LogDamaged, LogFull
from store.eventlog.postgresql import connection as connections
from store.eventlog.postgresql.administration import init
from store.eventlog.postgresql.log import PostgresqlLog
from store.eventlog.postgresql.members import add
from store.eventlog.postgresql.writer import PostgresqlWriter
from tests.postgresql import Cluster, program
from tests.store.eventlog.conftest import NOW, Postgresql, until

Append = Callable[..., list[Event]]


@pytest.fixture
def own(initialised: Cluster, tmp_path: Path) -> Iterator[Postgresql]:
    """A farm on a server of its own, which may be stopped."""
    cluster = Cluster(initialised).start()
    try:
        yield Postgresql(cluster, "farm", tmp_path)
    finally:
        cluster.remove()


@pytest.mark.parametrize("setting", ["synchronous_commit", "fsync", "full_page_writes"])
def test_a_database_that_may_lose_events_is_refused(own: Postgresql, setting: str) -> None:
    own.cluster.stop()
    own.cluster.start(f"{setting}=off")
    with pytest.raises(Unavailable, match="may lose") as caught:
        own.open()
    assert f"{setting} is off" in caught.value.details
    assert setting in caught.value.resolution


def test_nor_does_it_lose_events_when_the_setting_changes_later(
    farm: Postgresql, submission: Any, append: Append
) -> None:
    farm.run('ALTER ROLE "dcd-here" SET application_name = dcd')
    with farm.open() as log:
        append(log, "b1", 0, submission())
        assert isinstance(log._writer._connection, psycopg.Connection)
        log._writer._connection.execute("SET synchronous_commit = off")
        with pytest.raises(Unavailable, match="may lose"):
            append(log, "b1", 1, PauseRequested("c1"))
        log._writer._connection.execute("SET synchronous_commit = on")
        append(log, "b1", 1, PauseRequested("c1"))
        assert log.trouble is None


@pytest.mark.parametrize(
    ("statement", "brief"),
    [
        ("UPDATE dcd.farm SET revision = revision + 1", "used by a newer dcd"),
        ("UPDATE dcd.farm SET events_version = events_version + 1", "used by a newer dcd"),
        ("UPDATE dcd.farm SET revision = 0", "older than this dcd"),
        ("UPDATE dcd.farm SET events_version = 3", "older than this dcd"),
        ("UPDATE dcd.farm SET id = 'another'", "that of another farm"),
        ("DELETE FROM dcd.farm", "not that of a farm"),
        ("DROP SCHEMA dcd CASCADE", "not that of a farm"),
    ],
)
def test_a_database_of_another_kind_is_refused(
    farm: Postgresql, statement: str, brief: str
) -> None:
    farm.open().close()
    farm.run(statement)
    with pytest.raises(LogDamaged, match=brief) as caught:
        farm.open()
    assert caught.value.resolution


def test_a_database_that_does_not_exist_or_does_not_answer_is_reported(
    server: Cluster, tmp_path: Path
) -> None:
    with pytest.raises(Unavailable, match="refuses the connection") as caught:
        PostgresqlLog(server.dsn("none"), tmp_path)
    assert "dcd farm init" in caught.value.resolution
    with pytest.raises(Unavailable, match="cannot be reached"):
        PostgresqlLog(f"host={tmp_path} dbname=none", tmp_path)
    with pytest.raises(UsageError, match="connection string"):
        PostgresqlLog("what is this", tmp_path)


def test_a_database_restored_from_an_older_backup_is_noticed(
    farm: Postgresql, new_farm: Any, submission: Any, append: Append
) -> None:
    with farm.open() as log:
        append(log, "b1", 0, submission())
        append(log, "b1", 1, PauseRequested("c1"))
    farm.forge("DELETE FROM events WHERE position = 2")
    farm.run("UPDATE dcd.head SET position = 1")
    with farm.open() as log:
        assert log.lost == 1


def test_a_dump_of_the_database_is_restored_under_another_name(
    farm: Postgresql, submission: Any, append: Append, tmp_path: Path
) -> None:
    with farm.open() as log:
        append(log, "b1", 0, submission())
        place, administrator = str(farm.cluster.place), ["-U", "postgres"]
        dump = subprocess.run(
            [program("pg_dump"), "-h", place, *administrator, farm.name],
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        append(log, "b1", 1, PauseRequested("c1"))
    name = f"{farm.name}_restored"
    farm.run(f"CREATE DATABASE {name} TEMPLATE template0")
    restored = Postgresql(farm.cluster, name, tmp_path)
    try:
        subprocess.run(
            [program("psql"), "-q", "-v", "ON_ERROR_STOP=1", "-h", place, *administrator, name],
            input=dump,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        init(restored.administrator)
        add(restored.administrator, "here", ["amd64"])
        with restored.open() as log:
            assert log.lost == 1  # what this host had seen
            assert log.verify_all() == []
            append(log, "b1", 1, PauseRequested("c2"))
            assert log.take("b1", "here") == 1
    finally:
        farm.run(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_read_only_database_refuses_appends(
    farm: Postgresql, submission: Any, append: Append
) -> None:
    with farm.open() as log:
        append(log, "b1", 0, submission())
        connection = log._writer._connection
        assert connection is not None
        connection.execute("SET default_transaction_read_only = on")
        for _ in range(2):
            with pytest.raises(Unavailable, match="read-only"):
                append(log, "b1", 1, PauseRequested("c1"))
        connection.execute("SET default_transaction_read_only = off")
        append(log, "b1", 1, PauseRequested("c1"))
        assert log.trouble is None
    farm.run(f"ALTER DATABASE {farm.name} SET default_transaction_read_only = on")
    with pytest.raises(Unavailable, match="read-only"):
        farm.open()


def test_a_full_disk_of_the_database_is_reported_as_one(
    farm: Postgresql, submission: Any, append: Append
) -> None:
    with farm.open() as log:
        farm.run(
            "CREATE FUNCTION dcd.is_full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$",
            "CREATE TRIGGER is_full BEFORE INSERT ON dcd.events EXECUTE FUNCTION dcd.is_full()",
        )
        with pytest.raises(LogFull, match="disk of the farm's database is full"):
            append(log, "b1", 0, submission())
        assert isinstance(log.trouble, LogFull)
        farm.run("DROP TRIGGER is_full ON dcd.events")
        append(log, "b1", 0, submission())
        assert log.trouble is None


def test_a_lock_of_another_program_only_delays(
    farm: Postgresql, submission: Any, append: Append, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LOCK_SECONDS", 1)
    with farm.open() as log, psycopg.connect(farm.administrator) as other:
        other.execute("SELECT FROM dcd.head FOR UPDATE")
        with pytest.raises(Unavailable, match="another program locks"):
            append(log, "b1", 0, submission())
        other.rollback()
        append(log, "b1", 0, submission())
        assert log.trouble is None


def test_text_with_nul_is_kept(farm: Postgresql, submission: Any, append: Append) -> None:
    with farm.open() as log:
        append(log, "b1", 0, submission(parameters={"a": "x\0y"}))
        assert log.read_build("b1")[0].data.parameters == {"a": "x\0y"}
        assert log.verify_all() == []


def test_a_connection_that_was_closed_is_made_again(
    farm: Postgresql, submission: Any, append: Append
) -> None:
    with farm.open() as log:
        append(log, "b1", 0, submission())
        log.read()
        farm.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE usename = 'dcd-here' AND datname = current_database()",
        )
        append(log, "b1", 1, PauseRequested("c1"))
        assert len(log.read()) == 2
        assert log.trouble is None


@pytest.mark.parametrize("arrives", [True, False])
def test_an_append_whose_answer_is_lost_is_made_once(
    farm: Postgresql,
    submission: Any,
    append: Append,
    monkeypatch: pytest.MonkeyPatch,
    arrives: bool,
) -> None:
    with farm.open() as log:
        append(log, "b1", 0, submission())
        sent = PostgresqlWriter._sent
        lost = iter([True])

        def cut(self: PostgresqlWriter, prepared: Any) -> Any:
            if not next(lost, False):
                return sent(self, prepared)
            if arrives:
                sent(self, prepared)
            raise psycopg.OperationalError("the connection is lost")

        monkeypatch.setattr(PostgresqlWriter, "_sent", cut)
        appended = append(log, "b1", 1, PauseRequested("c1"))
        assert [event.position for event in appended] == [2]
        assert log.read_build("b1")[1:] == appended
        append(log, "b1", 2, PauseRequested("c2"))
        assert log.verify_all() == []


def test_an_append_that_somebody_overtook_while_its_answer_was_lost_is_a_conflict(
    farm: Postgresql, submission: Any, append: Append, monkeypatch: pytest.MonkeyPatch
) -> None:
    with farm.open() as log, farm.open() as other:
        append(log, "b1", 0, submission())
        sent = PostgresqlWriter._sent
        lost = iter([True])

        def cut(self: PostgresqlWriter, prepared: Any) -> Any:
            if self is log._writer and next(lost, False):
                append(other, "b1", 1, PauseRequested("c2"))
                raise psycopg.OperationalError("the connection is lost")
            return sent(self, prepared)

        monkeypatch.setattr(PostgresqlWriter, "_sent", cut)
        with pytest.raises(Conflict):
            append(log, "b1", 1, PauseRequested("c1"))


@pytest.mark.faults
def test_a_crash_of_the_database_loses_nothing_acknowledged_and_doubles_nothing(
    own: Postgresql, submission: Any
) -> None:
    """Killed three times under eight writers, each on its build."""
    acknowledged: dict[str, int] = {}
    ends = threading.Event()

    def write(number: int) -> None:
        build, payload, sequence = f"b{number}", submission(), 0
        while not ends.is_set():
            try:
                log.append(build, sequence, [payload], Actor(), NOW).result(timeout=60)
            except Conflict:
                raise
            except Unavailable:
                ends.wait(0.02)
                continue
            payload, sequence = PauseRequested("c1"), sequence + 1
            acknowledged[build] = sequence

    with own.open() as log:
        with ThreadPoolExecutor(8) as threads:
            writers = [threads.submit(write, number) for number in range(8)]
            try:
                for crash in range(1, 4):
                    until(lambda crash=crash: sum(acknowledged.values()) > 20 * crash)
                    own.cluster.stop(signal.SIGQUIT)
                    own.cluster.start()
                until(lambda: sum(acknowledged.values()) > 80)
            finally:
                ends.set()
            for writer in writers:
                writer.result()
        events = []
        while page := log.read(after=len(events)):
            events += page
        assert [event.position for event in events] == list(range(1, len(events) + 1))
        for build, sequence in acknowledged.items():
            assert [e.sequence for e in events if e.build == build] == list(range(1, sequence + 1))
        assert log.verify_all() == []
        assert log.trouble is None


def test_while_the_database_is_down_commands_are_refused_and_what_was_sent_waits(
    own: Postgresql, submission: Any, append: Append, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = PostgresqlWriter._sent

    def crash(self: PostgresqlWriter, prepared: Any) -> Any:
        monkeypatch.undo()
        own.cluster.stop(signal.SIGQUIT)
        return sent(self, prepared)

    with own.open() as log:
        append(log, "b1", 0, submission())
        monkeypatch.setattr(PostgresqlWriter, "_sent", crash)
        waiting: Future[Any] = log.append("b1", 1, [PauseRequested("c1")], Actor(), NOW)
        until(lambda: log.trouble is not None)
        with pytest.raises(Unavailable, match="cannot be reached"):
            append(log, "b2", 0, submission())
        with pytest.raises(Unavailable, match="cannot be reached"):
            log.read()
        assert not waiting.done()
        own.cluster.start()
        assert waiting.result(timeout=60)[0].sequence == 2
        assert log.verify_all() == []


def test_an_outage_is_seen_and_forgotten_without_an_append(
    own: Postgresql, submission: Any, append: Append
) -> None:
    with own.open() as log, own.open() as other:
        own.cluster.stop(signal.SIGQUIT)
        until(lambda: log.trouble is not None)
        own.cluster.start()
        until(lambda: log.trouble is None)
        append(other, "b1", 0, submission())
        until(lambda: log.position == 1)


def test_a_log_ends_while_the_database_is_down(
    own: Postgresql, submission: Any, append: Append
) -> None:
    log = own.open()
    own.cluster.stop(signal.SIGQUIT)
    future = log.append("b1", 0, [submission()], Actor(), NOW)
    log.close()
    assert isinstance(future.exception(), Unavailable)


APPENDER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from statemachine.events import Actor, PauseRequested
from store.eventlog.postgresql.log import PostgresqlLog
from store.eventlog.postgresql.members import add
with PostgresqlLog(sys.argv[1], Path(sys.argv[2])) as log:
    sequence = log.summary("b1").sequence
    while True:
        log.append("b1", sequence, [PauseRequested("c1")], Actor(), datetime.now(UTC)).result()
        sequence += 1
        print(sequence, flush=True)
"""


@pytest.fixture
def appender(farm: Postgresql) -> Callable[[], "subprocess.Popen[bytes]"]:
    """Starts a process that appends to b1 all the time, and prints what was acknowledged."""
    other = farm.directory / "other"
    other.mkdir()
    command = [sys.executable, "-c", APPENDER, farm.dsn, str(other)]
    return lambda: subprocess.Popen(command, stdout=subprocess.PIPE)


@pytest.mark.faults
def test_what_was_acknowledged_before_a_member_was_killed_is_there(
    farm: Postgresql, submission: Any, append: Append, appender: Any
) -> None:
    with farm.open() as log:
        append(log, "b1", 0, submission())
        for after in (1, 7, 30):
            with appender() as process:
                for _ in range(after):
                    process.stdout.readline()
                process.kill()
                said = [int(line) for line in process.stdout.read().split(b"\n")[:-1]]
            assert log.summary("b1").sequence >= max(said, default=0)
            assert log.verify_all() == []


@pytest.mark.faults
def test_a_frozen_member_holds_nobody_up(
    farm: Postgresql, submission: Any, append: Append, appender: Any
) -> None:
    with farm.open() as log:
        append(log, "b1", 0, submission())
        with appender() as process:
            for number in range(10):
                process.stdout.readline()
                process.send_signal(signal.SIGSTOP)
                append(log, f"n{number}", 0, submission())
                process.send_signal(signal.SIGCONT)
            process.kill()
        assert log.verify_all() == []


def test_init_is_idempotent_and_keeps_everything(
    farm: Postgresql, submission: Any, append: Append
) -> None:
    with farm.open() as log:
        append(log, "b1", 0, submission())
    assert init(farm.administrator) is False
    with farm.open() as log:
        assert log.position == 1
    with pytest.raises(DcdError):
        init(farm.dsn)


def test_nothing_imports_the_farm_s_libraries_without_a_farm() -> None:
    code = (
        "import sys, dcd.main, dcd.serve, store.eventlog, cli.main;"
        "print([name for name in sys.modules if name.partition('.')[0] in ('psycopg', 'procrastinate')])"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert said == "[]\n"
