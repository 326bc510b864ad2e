"""A database of a farm that refuses connections, is another one meanwhile, or is of an earlier revision; and
members whose clock is wrong."""

import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from statemachine.errors import Unavailable
from statemachine.events import Event, PauseRequested
from store.eventlog import LogDamaged
from store.eventlog.postgresql import members
from store.eventlog.postgresql.administration import init
from store.eventlog.postgresql.connection import connect, connect_to, explain
from tests.store.eventlog.conftest import Postgresql, until

Append = Callable[..., list[Event]]


LOSE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE usename = 'dcd-here' AND datname = current_database()"
)
"""End the connections of the member."""


def test_a_database_that_takes_no_more_connections_says_so_and_not_that_it_is_the_wrong_one(
    farm: Postgresql,
) -> None:
    farm.run('ALTER ROLE "dcd-here" CONNECTION LIMIT 0')
    try:
        with pytest.raises(Unavailable, match="takes no more connections") as caught:
            farm.open()
    finally:
        farm.run('ALTER ROLE "dcd-here" CONNECTION LIMIT -1')
    assert "max_connections" in caught.value.resolution


@pytest.mark.parametrize(
    ("text", "brief"),
    [
        ("FATAL:  sorry, too many clients already", "takes no more connections"),
        ("FATAL:  remaining connection slots are reserved for roles", "takes no more connections"),
        ("FATAL:  the database system is starting up", "cannot be reached"),
        ("FATAL:  the database system is in recovery mode", "cannot be reached"),
        ("FATAL:  the database system is not yet accepting connections", "cannot be reached"),
        ('FATAL:  role "dcd-x" does not exist', "does not know the role"),
        ('FATAL:  role "dcd-x" is not permitted to log in', "refuses the connection"),
        ("connection refused", "cannot be reached"),
    ],
)
def test_a_refused_connection_has_its_reason_and_remedy(text: str, brief: str) -> None:
    error = explain(psycopg.OperationalError(text))
    assert brief in error.brief
    assert error.details == text
    assert error.resolution


def test_a_database_that_is_another_one_meanwhile_is_neither_read_nor_written(
    farm: Postgresql, submission: Any, append: Append
) -> None:
    with farm.open() as log:
        append(log, "b1", 0, submission())
        farm.run(
            "UPDATE dcd.farm SET id = 'another'",
            LOSE,
        )
        with pytest.raises(LogDamaged, match="another farm"):
            log.take("b1", "here")
        with pytest.raises(LogDamaged, match="another farm"):
            log.read()
        until(lambda: isinstance(log.trouble, LogDamaged))
        with pytest.raises(LogDamaged, match="another farm"):
            append(log, "b1", 1, PauseRequested("c1"))
    with pytest.raises(LogDamaged, match="another farm"):
        connect_to(farm.dsn, "this")


def test_a_database_that_has_become_unsafe_is_noticed_before_anything_is_sent(
    farm: Postgresql, submission: Any, append: Append
) -> None:
    with farm.open() as log:
        append(log, "b1", 0, submission())
        unsafe = 'ALTER ROLE "dcd-here" SET synchronous_commit = off'
        try:
            farm.run(unsafe, LOSE)
            until(lambda: log.trouble is not None and "may lose" in log.trouble.brief)
            with pytest.raises(Unavailable, match="may lose"):
                append(log, "b1", 1, PauseRequested("c1"))
        finally:
            farm.run('ALTER ROLE "dcd-here" RESET ALL')
        until(lambda: log.trouble is None)
        append(log, "b1", 1, PauseRequested("c1"))


def test_a_host_that_was_removed_and_added_again_goes_on_without_a_restart(
    farm: Postgresql, submission: Any, append: Append
) -> None:
    with farm.open() as log:
        append(log, "b1", 0, submission())
        log.read()
        members.remove(farm.administrator, "here")
        with pytest.raises(Unavailable):
            log.read()
        with pytest.raises(Unavailable):
            append(log, "b1", 1, PauseRequested("c1"))
        members.add(farm.administrator, "here", ["amd64"])
        until(lambda: log.trouble is None)
        append(log, "b1", 1, PauseRequested("c1"))
        assert len(log.read()) == 2


def columns(farm: Postgresql) -> set[tuple[str, ...]]:
    """The columns of all tables, without their order."""
    with psycopg.connect(farm.administrator) as connection:
        query = """SELECT table_name, column_name, data_type, is_nullable
            FROM information_schema.columns WHERE table_schema = 'dcd'"""
        return set(connection.execute(query).fetchall())


def functions(farm: Postgresql) -> set[str]:
    """The functions that members may execute."""
    with psycopg.connect(farm.administrator) as connection:
        query = """SELECT p.oid::regprocedure::text FROM pg_proc p
            WHERE pronamespace = 'dcd'::regnamespace
            AND has_function_privilege('dcd-here', p.oid, 'EXECUTE')"""
        return {name for (name,) in connection.execute(query)}


def test_init_brings_a_database_of_the_first_revision_to_this_one(farm: Postgresql) -> None:
    present, executed = columns(farm), functions(farm)
    of_then = "dcd.dcd_append(text, bigint, bigint, json, json, json)"
    farm.run(
        "ALTER TABLE dcd.members DROP COLUMN clock_ahead_seconds",
        "ALTER TABLE dcd.farm DROP COLUMN origin",
        "ALTER TABLE dcd.placements DROP COLUMN moves_to",
        "DROP FUNCTION dcd.dcd_heartbeat",
        f"CREATE FUNCTION {of_then} RETURNS bigint LANGUAGE sql RETURN 1",
        f"ALTER FUNCTION {of_then} OWNER TO farm_owner",
        f"GRANT EXECUTE ON FUNCTION {of_then} TO farm_member",
        "UPDATE dcd.farm SET revision = 1",
    )
    with pytest.raises(LogDamaged, match="older than this dcd") as caught:
        farm.open()
    assert "dcd farm init" in caught.value.resolution
    assert init(farm.administrator) is False
    assert columns(farm) == present
    assert functions(farm) == executed
    with farm.open(), connect(farm.dsn) as mine:
        members.heartbeat(mine, 10, [], "1.0")


def test_a_heartbeat_says_how_wrong_the_clock_of_its_member_is(
    farm: Postgresql, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(farm.dsn) as mine:
        assert {each.clock_ahead_seconds for each in members.members(farm.dsn)} == {None}
        for ahead in (0.0, 3600.0, -3600.0):
            present = time.time() + ahead
            monkeypatch.setattr(
                "store.eventlog.postgresql.members.time.time", lambda now=present: now
            )
            members.heartbeat(mine, 10, [], "1.0")
            member = next(each for each in members.members(farm.dsn) if each.host == "here")
            assert member.clock_ahead_seconds == pytest.approx(ahead, abs=60)
            assert member.silent_seconds == pytest.approx(0, abs=60), (
                "by the database's clock alone"
            )
            monkeypatch.undo()
