"""Who may write what in a farm: the database decides it, not the members' code."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from statemachine.codec import PAYLOADS, encode, encode_time
from statemachine.errors import DcdError, NotFound, Refused, UsageError
from statemachine.events import (
    Actor,
    BuildCompleted,
    BuildPlaced,
    BuildStarted,
    CancelRequested,
    CheckpointCompleted,
    CheckpointStarted,
    Event,
    MoveRequested,
    PauseRequested,
    Payload,
)
from store.eventlog import Conflict, EventLog, Fenced
from store.eventlog.postgresql import members
from store.eventlog.postgresql.connection import connect
from store.eventlog.postgresql.log import PostgresqlLog
from store.eventlog.postgresql.writer import fold, prepare
from store.eventlog.writer import Append as Request
from store.eventlog.writer import Part
from tests.store.eventlog.conftest import NOW, Database, Postgresql

pytestmark = pytest.mark.slow

CORPUS = Path(__file__).parents[2] / "faults" / "corpus"
Append = Callable[..., list[Event]]


def facts(
    log: EventLog, build: str, expected: int, epoch: int | None, *payloads: Payload
) -> list[Event]:
    return log.append(build, expected, payloads, Actor(), NOW, epoch=epoch).result(timeout=120)


@pytest.fixture
def here(farm: Postgresql) -> Iterator[EventLog]:
    with farm.open() as log:
        yield log


@pytest.fixture
def there(farm: Postgresql) -> Iterator[EventLog]:
    directory = farm.directory / "there"
    directory.mkdir()
    with PostgresqlLog(farm.cluster.dsn(farm.name, "dcd-there"), directory) as log:
        yield log


@pytest.fixture
def stolen(farm: Postgresql, here: EventLog, submission: Any, append: Append) -> Iterator[Any]:
    """A connection of the member `there`, beside a build that `here` drives."""
    append(here, "b1", 0, submission())
    here.take("b1", "here")
    facts(here, "b1", 2, 1, BuildStarted())
    with connect(farm.cluster.dsn(farm.name, "dcd-there")) as connection:
        yield connection


def test_on_both_databases_the_first_epoch_is_1(
    database: Database, submission: Any, append: Append
) -> None:
    with database.open() as log:
        append(log, "b1", 0, submission())
        with pytest.raises(NotFound):
            log.take("b2", "here")
        assert log.take("b1", "here") == 1
        sequence = log.summary("b1").sequence
        assert facts(log, "b1", sequence, 1, BuildStarted())
        with pytest.raises(Fenced, match="epoch 7 of build b1 is over"):
            facts(log, "b1", sequence + 1, 7, PauseRequested("c1"))
        assert log.verify_all() == []


def test_a_taking_is_an_event_and_ends_the_epoch_before(
    here: EventLog, there: EventLog, submission: Any, append: Append
) -> None:
    append(here, "b1", 0, submission())
    assert here.take("b1", "here") == 1
    started = CheckpointStarted("c0", 1, "k", "c0.log")
    facts(here, "b1", 2, 1, BuildStarted(), started)
    assert there.take("b1", "there") == 2
    with pytest.raises(Fenced) as caught:
        facts(here, "b1", 5, 1, CheckpointCompleted("c0", 1, "k", 1.0))
    assert "there holds it in epoch 2" in caught.value.details
    facts(there, "b1", 5, 2, CheckpointCompleted("c0", 1, "k", 1.0))
    placed = [event.data for event in here.read_build("b1") if isinstance(event.data, BuildPlaced)]
    assert placed == [BuildPlaced("here", 1), BuildPlaced("there", 2)]
    assert here.verify_all() == []


def test_the_epoch_of_another_member_is_no_key(
    here: EventLog, there: EventLog, submission: Any, append: Append
) -> None:
    append(here, "b1", 0, submission())
    here.take("b1", "here")
    with pytest.raises(Fenced):
        facts(there, "b1", 2, 1, BuildStarted())


def test_commands_of_people_need_no_epoch_and_facts_do(
    here: EventLog, there: EventLog, submission: Any, append: Append
) -> None:
    append(here, "b1", 0, submission())
    here.take("b1", "here")
    append(there, "b1", 2, PauseRequested("c1"))
    with pytest.raises(Refused, match="refuses an event"):
        append(there, "b1", 3, BuildStarted())
    with pytest.raises(Refused, match="refuses an event"):
        facts(here, "b1", 3, 1, BuildPlaced("here", 2))
    facts(here, "b1", 3, 1, BuildStarted())
    with pytest.raises(Conflict):
        append(there, "b1", 3, CancelRequested())
    append(there, "b1", 4, CancelRequested())


def test_a_move_is_known_beside_the_owner_until_the_next_taking(
    here: EventLog, there: EventLog, farm: Postgresql, submission: Any, append: Append
) -> None:
    def goals() -> list[Any]:
        with connect(farm.administrator) as connection:
            return connection.execute("SELECT moves_to FROM placements").fetchall()

    append(here, "b1", 0, submission(requires=("dcd:0123456789ab",)))
    assert here.take("b1", "here") == 1, "nobody grants the code of checkpoints"
    assert goals() == [(None,)]
    append(there, "b1", 2, MoveRequested("there"))
    assert goals() == [("there",)]
    with pytest.raises(Refused, match="is for another member than here"):
        here.take("b1", "here", lambda state: state.moves_to == "here")
    assert there.take("b1", "there", lambda state: state.moves_to == "there") == 2
    assert goals() == [(None,)]


def test_a_member_takes_only_what_its_labels_satisfy(
    here: EventLog, farm: Postgresql, submission: Any, append: Append
) -> None:
    append(here, "b1", 0, submission(requires=("amd64", "kvm", "tool:xorriso")))
    with pytest.raises(Refused, match="here may not take build b1") as caught:
        here.take("b1", "here")
    assert "kvm" in caught.value.details and "tool" not in caught.value.details
    members.add(farm.administrator, "here", ["amd64", "kvm", "tool:*"])
    assert here.take("b1", "here") == 1


def test_what_has_ended_is_not_taken(here: EventLog, submission: Any, append: Append) -> None:
    append(here, "b1", 0, submission())
    here.take("b1", "here")
    facts(here, "b1", 2, 1, BuildStarted(), BuildCompleted())
    with pytest.raises(Refused, match="cannot be taken"):
        here.take("b1", "here")


def test_others_hear_of_a_commit(
    farm: Postgresql, there: EventLog, submission: Any, append: Append
) -> None:
    import threading

    heard, position = threading.Event(), []

    def on_commit(last: int, seconds: float | None) -> None:
        position.append((last, seconds))
        heard.set()

    with farm.open(on_commit) as here:
        append(there, "b1", 0, submission())
        assert heard.wait(timeout=60)
        assert position == [(1, None)]
        assert here.position == 1
        assert [event.build for event in here.read(after=0)] == ["b1"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET data = '{}'",
        "DELETE FROM events",
        "TRUNCATE events",
        "INSERT INTO events SELECT position + 1, build, sequence + 1, type, version, time, actor, data, hash"
        " FROM events ORDER BY position DESC LIMIT 1",
        "COPY events FROM PROGRAM 'true'",
        "SET session_replication_role = replica",
        "ALTER TABLE events DISABLE TRIGGER ALL",
        "DROP TABLE events",
        "UPDATE head SET position = 0",
        "UPDATE builds SET state = 'completed'",
        "UPDATE placements SET epoch = 9, host = 'there'",
        "UPDATE members SET labels = '{kvm}'",
        "UPDATE farm SET id = 'x'",
        "DELETE FROM facts",
        "SELECT dcd_write('b1', 3, '[]', '{}', '[]')",
        'SET ROLE "dcd-here"',
        'SET SESSION AUTHORIZATION "dcd-here"',
        "CREATE TABLE dcd.mine (a int)",
        "CREATE OR REPLACE FUNCTION dcd_lock() RETURNS void LANGUAGE sql AS 'SELECT'",
    ],
)
def test_the_role_of_a_stolen_host_can_only_call_functions(stolen: Any, statement: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        stolen.execute(statement)
    assert caught.value.sqlstate in ("42501", "42809")


def test_the_superuser_cannot_change_events_without_taking_the_triggers_away(
    farm: Postgresql, stolen: Any
) -> None:
    with psycopg.connect(farm.administrator, autocommit=True) as connection:
        connection.execute("SET search_path = dcd")
        connection.execute("SET session_replication_role = replica")
        for statement in (
            "UPDATE events SET data = '{}'",
            "DELETE FROM events",
            "TRUNCATE events",
            "INSERT INTO events SELECT 9, build, 9, type, version, time, actor, data, hash FROM events"
            " LIMIT 1",
        ):
            with pytest.raises(psycopg.Error) as caught:
                connection.execute(statement)
            assert caught.value.sqlstate == "DC004"


def called(connection: Any, build: str, epoch: int | None, expected: int, kind: str) -> str | None:
    """The error of an append by hand, in a build and an epoch."""
    payloads = (CancelRequested(), CheckpointCompleted("c0", 1, "k", 1.0))
    (data,) = (encode(payload) for payload in payloads if type(payload).__name__ == kind)
    return refused(connection, build, epoch, expected, made(kind, data))


def made(kind: str, data: str, **others: Any) -> dict[str, Any]:
    """An event by hand."""
    event = {"type": kind, "version": 1, "time": encode_time(NOW), "actor": "{}", "data": data}
    return event | {"hash": "0"} | others


def appended(
    connection: Any,
    build: str,
    epoch: int | None,
    expected: int,
    events: list[dict[str, Any]],
    row: dict[str, Any],
) -> tuple[str | None, str]:
    """The error of one append by hand (None: there is none), and what it says."""
    part = {"build": build, "epoch": epoch, "expected": expected, "events": events, "row": row}
    try:
        answer = connection.execute(
            "SELECT dcd_append_all(%s)", [json.dumps([[part | {"keys": []}]])]
        )
        ((answers,),) = answer.fetchall()
    except psycopg.Error as error:
        return error.sqlstate, str(error)
    return answers[0].get("error"), answers[0].get("why", "")


def refused(
    connection: Any, build: str, epoch: int | None, expected: int, event: dict[str, Any]
) -> str | None:
    """The error of an append of an event by hand."""
    return appended(connection, build, epoch, expected, [event], {})[0]


def test_handmade_calls_of_a_stolen_host_are_refused(stolen: Any, here: EventLog) -> None:
    assert called(stolen, "b1", 1, 3, "CheckpointCompleted") == "DC001"
    assert called(stolen, "b1", 2, 3, "CheckpointCompleted") == "DC001"
    assert called(stolen, "b1", None, 3, "CheckpointCompleted") == "DC004"
    assert called(stolen, "b1", None, 2, "CancelRequested") == "DC002"
    assert called(stolen, "b1", None, 3, "CancelRequested") == "DC004"  # a wrong hash
    taken = "SELECT dcd_take('b1', 3, %s, '{}')"
    for said, why in (
        ('{"host":"here","epoch":2}', "does not say that there takes"),
        ('{"host":"there","epoch":7}', "does not say that there takes"),
        ('{"host":"there"}', "no member could read"),
    ):
        with pytest.raises(psycopg.Error, match=why):
            stolen.execute(taken, [json.dumps([made("BuildPlaced", said)])])
    assert len(here.read_build("b1")) == 3
    assert here.verify_all() == []


PLAN = '{"checkpoints":[]}'


@pytest.mark.parametrize(
    "event",
    [
        made("BuildExploded", "{}"),
        made("CancelRequested", "{}", version=2),
        made("CancelRequested", "{}", time="today"),
        made("CancelRequested", "{}", time="2026-01-01 00:00:00Z"),
        made("CancelRequested", "{}", time="2026-02-30T00:00:00.000000Z"),
        made("CancelRequested", "{}", actor='{"uid":"root"}'),
        made("CancelRequested", "{}", actor="[]"),
        made("CancelRequested", "{"),
        made("CancelRequested", "null"),
        made("PauseRequested", '{"before":7}'),
        made("BuildRewound", "{}"),
        made("BuildResumed", '{"plan":[]}'),
        made("BuildResumed", '{"plan":{"checkpoints":[{"name":"c0"}]}}'),
        made("BuildResumed", f'{{"plan":{PLAN},"kept":1e999}}'),
        made("BuildResumed", f'{{"plan":{PLAN},"kept":1.5}}'),
        made("BuildResumed", f'{{"plan":{PLAN},"inputs":{{}}}}'),
        made("BuildResumed", '{"plan":' + "[" * 100_000 + "]" * 100_000 + "}"),
        made("CancelRequested", '{"x":"' + "x" * (16 << 20) + '"}'),
        made("BuildSubmitted", f'{{"name":"x","manifest":"","manifest_path":"","plan":{PLAN}}}'),
    ],
    ids=lambda event: f"{event['type']} {event['data'][:40]}",
)
def test_an_event_that_members_could_not_read_is_refused(
    stolen: Any, here: EventLog, event: dict[str, Any]
) -> None:
    assert refused(stolen, "b1", None, 3, event) in (
        "DC004",
        "22003",
        "22007",
        "22008",
        "22P02",
        "54001",
    )
    assert len(here.read_build("b1")) == 3


@pytest.mark.parametrize("build", ["", "../b1", "B1", "b" * 64, "b 1", "b1\n"])
def test_a_build_has_an_id_that_a_directory_can_have(stolen: Any, build: str) -> None:
    assert refused(stolen, build, None, 0, made("CancelRequested", "{}")) == "DC004"


def test_a_priority_that_the_queue_cannot_hold_is_refused(stolen: Any, submission: Any) -> None:
    """No member could make the job of the build, nor those of the builds after it."""
    part = Part("b2", 0, (submission(priority=10**12),))
    sent = prepare(Request((), Actor(), NOW), part, None).sent
    row = sent["row"] | {"idempotency_key": None}
    code, why = appended(stolen, "b2", None, 0, sent["events"], row)
    assert (code, why) == ("DC004", "a priority is between -1000 and 1000")


@pytest.mark.parametrize(
    "forged",
    [
        {"name": "other", "priority": 9, "actor": "{", "submitted_at": "x", "updated_at": "x"},
        {"idempotency_key": "x", "submitted_position": 99, "position": 99},
    ],
)
def test_what_a_row_says_of_a_submission_follows_from_the_events(
    stolen: Any, here: EventLog, submission: Any, forged: dict[str, Any]
) -> None:
    part = Part("b1", 3, (PauseRequested("c1"),))
    sent = prepare(Request((), Actor(), NOW), part, fold(stolen, "b1")).sent
    assert appended(stolen, "b1", None, 3, sent["events"], sent["row"] | forged) == (None, "")
    sent = prepare(Request((), Actor(), NOW), Part("b2", 0, (submission(priority=3),)), None).sent
    row = sent["row"] | forged | {"idempotency_key": None}
    assert appended(stolen, "b2", None, 0, sent["events"], row) == (None, "")
    assert here.verify_all() == []
    assert [(build.name, build.priority) for build in here.list_builds()] == [
        ("live", 3),
        ("live", 0),
    ]


def test_what_msgspec_reads_fits_and_every_event_of_the_corpus_does(farm: Postgresql) -> None:
    """The database knows every type, as this version writes it."""
    with psycopg.connect(farm.administrator, options="-c search_path=dcd") as connection:
        known = connection.execute("SELECT name, version FROM forms WHERE version IS NOT NULL")
        assert dict(known.fetchall()) == {
            name: payload.VERSION for name, payload in PAYLOADS.items()
        }
        for dump in CORPUS.glob("*.sql"):
            with closing(sqlite3.connect(":memory:")) as log:
                log.executescript(dump.read_text())
                rows = log.execute("SELECT type, version, time, actor, data FROM events").fetchall()
            names = ("type", "version", "time", "actor", "data")
            events = [dict(zip(names, row, strict=True)) for row in rows]
            assert events
            connection.execute("SELECT dcd_check('b1', %s)", [json.dumps(events)])


@pytest.mark.parametrize(
    "forged",
    [
        {"state": "exploded"},
        {"removed": 2},
        {"reason": "x" * 2**20},
        {"state": "completed"},
        {"state": "cancelled"},
        {"removed": 1},
    ],
)
def test_a_command_of_a_stolen_host_cannot_end_a_build_in_the_list(
    stolen: Any, here: EventLog, forged: dict[str, Any]
) -> None:
    request = Request((), Actor(), NOW)
    part = Part("b1", 3, (PauseRequested("c1"),))
    sent = prepare(request, part, fold(stolen, "b1")).sent
    code, why = appended(stolen, "b1", None, 3, sent["events"], sent["row"] | forged)
    assert (code, why) == ("DC004", "the row of build b1 is not that of its events")
    assert appended(stolen, "b1", None, 3, sent["events"], sent["row"]) == (None, "")
    assert here.verify_all() == []


def test_temporary_tables_do_not_shadow_those_of_the_farm(stolen: Any) -> None:
    try:
        stolen.execute("CREATE TEMPORARY TABLE placements (build text, epoch bigint, host text)")
    except psycopg.errors.InsufficientPrivilege:
        return
    stolen.execute("INSERT INTO pg_temp.placements VALUES ('b1', 9, 'there')")
    assert called(stolen, "b1", 9, 3, "CheckpointCompleted") == "DC001"


def test_a_stranger_is_no_member(farm: Postgresql, here: EventLog) -> None:
    members.add(farm.administrator, "gone", [])
    members.remove(farm.administrator, "gone")
    with pytest.raises(NotFound):
        members.remove(farm.administrator, "gone")
    with pytest.raises(DcdError, match="does not know the role"):
        PostgresqlLog(farm.cluster.dsn(farm.name, "dcd-gone"), farm.directory)


@pytest.mark.parametrize("host", ["", "A", "-a", "a_b", "a" * 60])
def test_a_host_has_a_name_that_a_role_can_have(farm: Postgresql, host: str) -> None:
    with pytest.raises(UsageError, match="no name of a host"):
        members.add(farm.administrator, host, [])


def test_the_longest_name_of_a_host_is_that_of_a_member(farm: Postgresql) -> None:
    added = members.add(farm.administrator, "a" * 59, [])
    with connect(farm.cluster.dsn(farm.name, added.role)) as connection:
        members.heartbeat(connection, 10, [], "1.0")
    members.remove(farm.administrator, "a" * 59)


def test_members_live_by_the_clock_of_the_database(
    farm: Postgresql, here: EventLog, submission: Any, append: Append
) -> None:
    append(here, "b1", 0, submission())
    here.take("b1", "here")
    with (
        connect(farm.dsn) as mine,
        connect(farm.cluster.dsn(farm.name, "dcd-there")) as other,
        psycopg.connect(farm.administrator, autocommit=True) as administrator,
    ):
        members.heartbeat(mine, 10, ["amd64", "zfs"], "1.0")
        members.heartbeat(other, 10, ["amd64"], "1.0")
        assert members.lost(other, 60000) == []

        def age(host: str, seen: int, unbroken: int) -> None:
            administrator.execute(
                "UPDATE dcd.members SET seen_at = now() - make_interval(secs => %s),"
                " unbroken_since = now() - make_interval(secs => %s) WHERE host = %s",
                [seen, unbroken, host],
            )

        age("here", 90000, 200000)
        age("there", 1, 30)
        assert members.lost(other, 60000) == []  # its own heartbeats are too young
        age("there", 1, 90000)
        assert members.lost(other, 60000) == []  # the server is too young
        assert members.lost(other, 0.001) in ([], ["here"])
        found = {member.host: member for member in members.members(farm.dsn)}
        assert found["here"].silent_seconds == pytest.approx(90000, abs=60)
        assert found["here"].announced == ["amd64", "zfs"]
        assert found["here"].builds == ["b1"]
        members.heartbeat(other, 10, ["amd64"], "1.0")
        assert {m.host: m for m in members.members(farm.dsn)}["there"].unbroken_seconds > 80000
        members.heartbeat(mine, 10, ["amd64"], "1.0")
        assert {m.host: m for m in members.members(farm.dsn)}["here"].unbroken_seconds < 1000
    (placement,) = members.placements(farm.dsn)
    assert (placement.build, placement.host, placement.epoch) == ("b1", "here", 1)


def test_a_member_that_is_drained_takes_no_more(
    farm: Postgresql, here: EventLog, there: EventLog, submission: Any, append: Append
) -> None:
    append(here, "b1", 0, submission())
    append(here, "b2", 0, submission())
    here.take("b1", "here")
    members.drain(farm.cluster.dsn(farm.name, "dcd-there"), "here", True)
    with pytest.raises(Refused, match="here takes no more builds"):
        here.take("b2", "here")
    assert here.take("b1", "here") == 2  # its own, after a restart
    members.drain(farm.dsn, "here", False)
    assert here.take("b2", "here") == 1
    with pytest.raises(NotFound):
        members.drain(farm.dsn, "nowhere", True)
