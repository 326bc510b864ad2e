"""Moving the log of one machine into the database of a farm."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from statemachine.errors import NotFound, Refused
from statemachine.events import InputFile
from statemachine.plan import Locked
from store.eventlog import LogDamaged, SqliteLog
from store.eventlog.postgresql.administration import import_log
from store.eventlog.postgresql.connection import connect
from store.eventlog.postgresql.members import lost, placements
from tests.store.eventlog.conftest import Postgresql


def test_a_log_in_sqlite_becomes_that_of_a_farm(
    farm: Postgresql, path: Path, submit: Callable[..., Any], append: Callable[..., Any]
) -> None:
    with SqliteLog(path) as old:
        submit(old, "b1", requires=("amd64",)).complete()
        submit(old, "b2").run(1)
        expected = old.read()
    assert import_log(farm.administrator, path, "here") == len(expected)
    with farm.open() as log:
        assert log.read() == expected
        assert log.verify_all() == []
        assert log.take("b2", "here") == 1
        append(log, "b3", 0, expected[0].data)
        assert log.verify_all() == []
    with pytest.raises(Refused, match="not empty"):
        import_log(farm.administrator, path, "here")
    with pytest.raises(NotFound):
        import_log(farm.administrator, path.with_name("none"), "here")


def test_builds_of_an_imported_log_belong_to_the_host_that_made_them(
    farm: Postgresql, path: Path, submit: Callable[..., Any]
) -> None:
    """Their files and packages are there only; and nobody calls a member lost that has not joined yet."""
    with SqliteLog(path) as old:
        submit(old, "b1", requires=("amd64",)).run(1)
        submit(old, "b2", requires=("amd64",), inputs=(InputFile("/f", "1" * 64),))
        submit(old, "b3", locked=Locked(("1" * 64,)))
    import_log(farm.administrator, path, "here")
    found = {each.build: each for each in placements(farm.administrator)}
    assert {(each.host, each.epoch) for each in found.values()} == {("here", 0)}
    assert [found[build].requires for build in ("b1", "b2", "b3")] == [
        ["amd64"],
        ["amd64", "host:here"],
        ["host:here"],
    ]
    heard = "UPDATE dcd.members SET seen_at = '{}', unbroken_since = '-infinity' WHERE host = '{}'"
    farm.run(heard.format("infinity", "there"))
    with farm.open() as log, connect(farm.administrator) as there:
        assert log.origin == "here"
        there.execute("SET SESSION AUTHORIZATION 'dcd-there'")
        assert lost(there, 0.0) == []
        farm.run(heard.format("-infinity", "here"))
        assert lost(there, 0.0) == ["here"]


def test_a_damaged_log_is_not_imported(
    farm: Postgresql, path: Path, submit: Callable[..., Any]
) -> None:
    from tests.store.eventlog.conftest import Sqlite

    with SqliteLog(path) as old:
        submit(old, "b1").run(1)
    Sqlite(path).forge("UPDATE events SET version = 2 WHERE position = 2")
    with pytest.raises(LogDamaged, match="is damaged"):
        import_log(farm.administrator, path, "here")
    with farm.open() as log:
        assert log.position == 0
