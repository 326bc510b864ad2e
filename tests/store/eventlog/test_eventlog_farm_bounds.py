"""What a member can have others read: little enough, and in a form that they expect."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from statemachine.errors import DcdError
from statemachine.events import Actor, CancelRequested, Event, MoveRequested, PauseRequested
from store.eventlog import EventLog
from store.eventlog.postgresql import log as of_farm
from store.eventlog.postgresql import members
from store.eventlog.postgresql.connection import connect
from tests.store.eventlog.conftest import NOW, Postgresql

Append = Callable[..., list[Event]]


@pytest.fixture
def here(farm: Postgresql) -> Iterator[EventLog]:
    with farm.open() as log:
        yield log


SAID = (
    ("'{slots:many}'", "'1'", "0"),
    ("'{slots:9999999}'", "'1'", "0"),
    ("'{{amd64},{kvm}}'", "'1'", "0"),
    ("'{amd64,NULL}'", "'1'", "0"),
    ("array_fill('x'::text, ARRAY[10001])", "'1'", "0"),
    ("ARRAY[repeat('x', 1048576)]", "'1'", "0"),
    ("'{}'", "repeat('1', 101)", "0"),
    ("'{}'", "'1'", "'NaN'"),
    ("'{}'", "'1'", "'-Infinity'"),
)


def test_what_a_member_says_of_itself_can_be_read(farm: Postgresql) -> None:
    """Every member reads it with each look: one that fails takes no builds."""
    with connect(farm.cluster.dsn(farm.name, "dcd-there")) as stolen:
        members.heartbeat(stolen, 10.0, ["amd64", "slots:2"], "1")
        for labels, version, clock in SAID:
            with pytest.raises(psycopg.Error, match="could read what dcd-there says") as found:
                stolen.execute(f"SELECT dcd_heartbeat(10, {labels}, {version}, {clock})")
            assert found.value.sqlstate == "DC004"
        (there,) = (each for each in members.members_by(stolen) if each.host == "there")
        assert there.announced == ["amd64", "slots:2"]


def test_a_build_requires_and_moves_within_bounds(
    here: EventLog, submission: Any, append: Append
) -> None:
    for requires in ([f"l{number}" for number in range(1001)], ["x" * 65536]):
        with pytest.raises(DcdError, match="too many labels"):
            append(here, "b1", 0, submission(requires=tuple(requires)))
    with pytest.raises(DcdError, match="its name has"):
        append(here, "b1", 0, submission("x" * 4097))
    request = here.append("b1", 0, (submission(),), Actor(user="x" * 4096), NOW)
    with pytest.raises(DcdError, match="its actor has"):
        request.result(timeout=30)
    append(here, "b1", 0, submission(requires=tuple(f"l{number}" for number in range(1000))))
    for goal in ("../there", "x" * 60, "-"):
        with pytest.raises(DcdError, match="no member has such a name"):
            append(here, "b1", 1, MoveRequested(goal))
    append(here, "b1", 1, MoveRequested("build-2.example"))
    append(here, "b1", 2, MoveRequested())


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ({"actor": '{"x":' + "[" * 1500 + "]" * 1500 + "}"}, "its actor is malformed"),
        ({"actor": "[]"}, "its actor is malformed"),
        ({"time": "10000-01-01T00:00:00.000000Z"}, "such a year"),
        ({"time": "infinity"}, "such a year"),
        ({"time": "0044-03-15T00:00:00.000000Z BC"}, "not how dcd writes times"),
    ],
)
def test_a_list_of_builds_can_be_read_whoever_submits_one(
    farm: Postgresql, named: dict[str, str], why: str
) -> None:
    """The actor and the time of a submission are in the row of its build, which all lists read."""
    event = {"type": "CancelRequested", "version": 1, "actor": "{}", "data": "{}"}
    event["time"] = "2026-01-01T00:00:00.000000Z"
    with psycopg.connect(farm.administrator, options="-c search_path=dcd") as connection:
        connection.execute("SELECT dcd_check('b1', %s)", [json.dumps([event])])
        with pytest.raises(psycopg.Error, match=why):
            connection.execute("SELECT dcd_check('b1', %s)", [json.dumps([event | named])])


def test_the_events_of_a_build_have_room_in_memory(
    farm: Postgresql, here: EventLog, submission: Any, append: Append
) -> None:
    append(here, "b1", 0, submission())
    change = "DO $$ BEGIN EXECUTE replace(pg_get_functiondef('dcd.dcd_write'::regproc), '{}', '{}'); END $$"
    farm.run(change.format("268435456", "1048576"))
    with pytest.raises(DcdError, match="events of build b1 have more than"):
        append(here, "b1", 1, PauseRequested("c" * (1 << 20)))
    append(here, "b1", 1, PauseRequested("c1"))
    # Now the build has too many.
    farm.run(
        change.format("new_events::text) > 1048576", "new_events::text) > 1"),
        change.format("> 1048576 THEN", "> 1 THEN"),
    )
    with pytest.raises(DcdError, match="events of build b1 have more than"):
        append(here, "b1", 2, PauseRequested("c2"))
    append(here, "b1", 2, CancelRequested())


def test_events_are_read_a_few_at_once_when_they_are_large(
    farm: Postgresql,
    here: EventLog,
    submission: Any,
    append: Append,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number in range(1, 6):
        append(here, f"b{number}", 0, submission())
    farm.forge("UPDATE events SET data = '{' WHERE position IN (2, 3)")
    assert [event.position for event in here.read()] == [1, 4, 5]
    monkeypatch.setattr(of_farm, "PAGE_BYTES", 1)
    found, after = [], 0
    while events := here.read(after=after):
        assert len(events) == 1
        found.append(after := events[-1].position)
    assert found == [1, 4, 5], "those that cannot be read hold nothing up"
    assert [event.position for event in here.read("b5")] == [5]
