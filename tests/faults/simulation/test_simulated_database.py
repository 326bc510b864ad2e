"""The simulated database is like the real one: the log's own suites run on it, and both get the same
questions."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import procrastinate
import psycopg
import pytest
from procrastinate.types import JobToDefer
from psycopg.rows import class_row
from simulated_database import Database
from simulated_log import SimulatedLog, patched
from simulated_queue import QUERIES, Job, Jobs
from simulated_rows import Build, Owner

from dcd.farm import queue
from dcd.farm.install import create_queue
from dcd.farm.jobs import Kind, Next, Situation, is_misplaced, next_for
from dcd.farm.takers import queue_of
from store.eventlog import EventLog
from store.eventlog.interface import OnCommit
from store.eventlog.postgresql import members
from store.eventlog.postgresql.connection import connect
from tests.store.eventlog import conftest as fixtures
from tests.store.eventlog import test_eventlog_append as appending
from tests.store.eventlog import test_eventlog_fence as fence
from tests.store.eventlog import test_eventlog_projection as projecting
from tests.store.eventlog.conftest import Postgresql

NOT_HERE = (
    "test_a_projection_that_differs",
    "test_a_key_of_version_0_1_0",
    "test_after_any_history",
    "test_a_defect_in_one_append",
)
"""Tests that change rows behind the log, make databases of their own, or need PostgreSQL's types."""
FENCE = ("test_a_taking_is", "test_the_epoch_of", "test_commands_of_people", "test_what_has_ended")
FIXTURES = ("append", "submission", "submit", "log", "farm", "new_farm")

# The log's own suites and their fixtures, on the database of this module.
for module, wanted in (
    (appending, ("test_", "held")),
    (projecting, ("test_",)),
    (fence, FENCE),
    (fixtures, FIXTURES),
):
    for name, value in vars(module).items():
        if name.startswith(wanted) and not name.startswith(NOT_HERE):
            globals()[name] = value


@dataclass(frozen=True)
class Simulated:
    """A log over the simulated database, with its real threads; this host is the member `here`."""

    directory: Path

    @property
    def name(self) -> str:
        return "farm"

    def open(self, on_commit: OnCommit | None = None) -> EventLog:
        return SimulatedLog(dsn_of("here"), self.directory, on_commit)


def dsn_of(host: str) -> str:
    return f"host=db dbname=farm user={members.role_of(host)}"


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Database:
    made = Database(lambda: 0.0)
    patched(monkeypatch, made)
    for host in ("here", "there"):
        made.add(host, ["amd64", "tool:*"])
    return made


@pytest.fixture
def database(simulated: Database, tmp_path: Path) -> Simulated:
    """For the suite of the log, in which facts need no epoch."""
    simulated.facts = frozenset()
    return Simulated(tmp_path)


@pytest.fixture
def here(simulated: Database, tmp_path: Path) -> Iterator[EventLog]:
    with Simulated(tmp_path).open() as log:
        yield log


@pytest.fixture
def there(simulated: Database, tmp_path: Path) -> Iterator[EventLog]:
    directory = tmp_path / "there"
    directory.mkdir()
    with SimulatedLog(dsn_of("there"), directory) as log:
        yield log


def test_both_databases_call_the_same_members_lost(
    farm: Postgresql, submission: Any, append: Any
) -> None:
    """Heartbeats and owners of builds are random."""
    chance = random.Random(0)
    hosts = ("here", "there", "third")
    members.add(farm.administrator, "third", ["amd64"])
    real: dict[str, Any] = {}
    with farm.open() as log, psycopg.connect(farm.administrator, autocommit=True) as administrator:
        for host in hosts:
            append(log, f"b-{host}", 0, submission())
            real[host] = connect(farm.cluster.dsn(farm.name, f"dcd-{host}"))
        for _ in range(40):
            simulated = Database(lambda: 1000.0)
            simulated.started_at = -1000.0
            for host in hosts:
                simulated.add(host, [])
                seen, unbroken = chance.choice((None, 1, 90)), chance.choice((1, 30, 90, 200))
                epoch = chance.choice((0, 1))
                member = simulated.members[members.role_of(host)]
                if seen is not None:
                    member.seen_at, member.unbroken_since = 1000.0 - seen, 1000.0 - unbroken
                owner = Owner(epoch, host if epoch else "", [])
                simulated.unfinished[host] = Build({}, owner)
                administrator.execute(
                    "UPDATE dcd.members SET seen_at = now() - make_interval(secs => %s),"
                    " unbroken_since = now() - make_interval(secs => %s) WHERE host = %s",
                    [seen, None if seen is None else unbroken, host],
                )
                administrator.execute(
                    "UPDATE dcd.placements SET epoch = %s, host = %s WHERE build = %s",
                    [epoch, owner.host, f"b-{host}"],
                )
            for host in hosts:
                role = members.role_of(host)
                assert [row[0] for row in simulated.lost(role, {"seconds": 60.0})] == asked(
                    real[host], 60.0
                ), simulated.members
    for connection in real.values():
        connection.close()


def asked(connection: Any, seconds: float) -> list[str]:
    """As `members.lost` on a server that has been up for long."""
    statement = members._LOST.replace(
        "pg_postmaster_start_time()", "(now() - make_interval(days => 1))"
    )
    return [str(row[0]) for row in connection.execute(statement, {"seconds": seconds})]


def test_both_databases_find_the_same_builds_undecided(
    farm: Postgresql, submission: Any, append: Any
) -> None:
    """Builds, their jobs and workers are random. What is left out needs nothing."""
    create_queue(farm.administrator)
    chance = random.Random(0)
    names = [f"b{number}" for number in range(8)]
    hosts = ("here", "there", "third")
    with farm.open() as log:
        for name in names:
            append(log, name, 0, submission())
    with (
        psycopg.connect(farm.administrator, autocommit=True) as administrator,
        connect(farm.cluster.dsn(farm.name, "dcd-here")) as connection,
    ):
        administrator.execute("SET search_path = dcd, queue")
        administrator.execute(
            "INSERT INTO queue.procrastinate_workers (id, last_heartbeat) OVERRIDING SYSTEM VALUE"
            " VALUES (1, now()), (2, now() - interval '1 hour')"
        )
        for number in range(40):
            simulated = Database(lambda: 5000.0)
            simulated.started_at = -100000.0
            simulated.jobs.workers = {1: 5000.0, 2: 1400.0}
            administrator.execute("DELETE FROM queue.procrastinate_jobs")
            for name in names:
                put = a_build(chance, hosts)
                simulated.unfinished[name] = Build(
                    {"state": put.state, "priority": put.priority},
                    Owner(put.epoch, put.host, list(put.requires), put.moves_to),
                )
                administrator.execute(
                    "UPDATE dcd.builds SET state = %s, priority = %s WHERE id = %s",
                    [put.state, put.priority, name],
                )
                administrator.execute(
                    "UPDATE dcd.placements SET epoch = %s, host = %s, requires = %s, moves_to = %s"
                    " WHERE build = %s",
                    [put.epoch, put.host, list(put.requires), put.moves_to, name],
                )
                if put.queue is None:
                    continue
                status, worker = ("doing", chance.choice((1, 2))) if put.fetched else ("todo", None)
                row = administrator.execute(
                    "INSERT INTO queue.procrastinate_jobs"
                    " (queue_name, task_name, lock, queueing_lock, status, worker_id)"
                    " VALUES (%s, 'drive', %s, %s, %s, %s) RETURNING id",
                    [put.queue, name, name, status, worker],
                ).fetchone()
                assert row is not None
                job = Job(row[0], put.queue, "drive", 0, name, name, {}, None, status)
                job.worker_id = worker
                simulated.jobs.rows[job.id] = job
            kinds = rows_of(connection, Kind, queue._KINDS)
            assert sorted(map(repr, kinds)) == sorted(map(repr, simulated.kinds("")))
            lost = chance.choice(([], ["there"], ["there", "third"]))
            misplaced = [each.queue for each in kinds if is_misplaced(each)]
            given = {"here": "here", "lost": lost, "misplaced": misplaced, "seconds": 60.0}
            found = rows_of(connection, Situation, queue._UNDECIDED, given)
            assert found == simulated.undecided("", given), number
            for situation in (
                each
                for name in names
                for each in rows_of(
                    connection, Situation, queue._RUNNABLE_ONE, {"build": name, "seconds": 60.0}
                )
            ):
                assert [situation] == simulated.runnable_one(
                    "", {"build": situation.build, "seconds": 60.0}
                )
                for driving, keeps in product(([], names), (True, False)):
                    then = next_for(situation, "here", driving, lost, keeps=keeps)
                    assert then is Next.NOTHING or situation in found


def a_build(chance: random.Random, hosts: Sequence[str]) -> Situation:
    moves_to = chance.choice((None, None, "", *hosts))
    requires = [*chance.choice((("amd64",), ("amd64", "kvm")))]
    host = chance.choice(("", *hosts))
    right = queue_of(Kind(requires, moves_to, host))
    return Situation(
        build="",
        state=chance.choice(("queued", "running", "pausing", "cancelling", "paused")),
        host=host,
        epoch=1 if host else 0,
        fetched=chance.random() < 0.5,
        priority=chance.randrange(3),
        requires=requires,
        moves_to=moves_to,
        queue=chance.choice((None, right, right, "amd64")),
    )


def rows_of(connection: Any, row: type, statement: str, given: Any = None) -> list[Any]:
    """As on a server that has been up for long."""
    old = statement.replace("pg_postmaster_start_time()", "(now() - make_interval(days => 1))")
    with connection.cursor(row_factory=class_row(row)) as cursor:
        return list(cursor.execute(old, given).fetchall())


def test_both_databases_know_the_same_members(farm: Postgresql) -> None:
    members.add(farm.administrator, "third", ["amd64"])
    simulated = Database(lambda: 1000.0)
    for host in ("here", "there", "third"):
        simulated.add(host, ["amd64", "tool:*"] if host != "third" else ["amd64"])
    with connect(farm.cluster.dsn(farm.name, "dcd-here")) as connection:
        members.heartbeat(connection, 10.0, ["amd64", "dcd:x"], "1")
        simulated.heartbeat("dcd-here", 10.0, ["amd64", "dcd:x"], "1", 0.0)
        for hosts, announcing in product(([], ["third"], ["third", "moon"]), ([], ["dcd:x"])):
            real = members.some_by(connection, hosts, announcing)
            given = {"hosts": hosts, "announcing": announcing}
            made = simulated.some_members("", given)
            assert [(each.host, each.announced) for each in real] == [
                (each.host, each.announced) for each in made
            ]


def test_both_queues_hand_out_the_same_jobs(farm: Postgresql) -> None:
    """Random calls of Procrastinate's own functions: any member defers, fetches and ends jobs."""
    create_queue(farm.administrator)
    chance = random.Random(0)
    jobs = Jobs(lambda: 0.0)
    where = f"{farm.dsn} options='-c search_path=queue'"
    connector = procrastinate.SyncPsycopgConnector(conninfo=where)
    names = {name: text for text, name in QUERIES.items()}

    def both(name: str, **given: Any) -> None:
        answers = []
        for ask in (
            lambda: connector.execute_query_all(names[name], **given),
            lambda: jobs.ask(name, given),
        ):
            try:
                rows = [row for row in ask() if {"id", "worker_id"} & {*row}]
                answers.append([row.get("id", row.get("worker_id")) for row in rows])
            except procrastinate.exceptions.ConnectorException:
                answers.append(["refused"])
        assert answers[0] == answers[1], (name, given)

    with procrastinate.App(connector=connector).open():
        both("register_worker")
        both("register_worker")
        for _ in range(300):
            build = f"b{chance.randrange(4)}"
            match chance.choice(("defer", "defer", "fetch", "fetch", "finish")):
                case "defer":
                    job = JobToDefer(
                        *(chance.choice(("q1", "q2")), "drive", chance.choice((0, 0, 1))),
                        *(build, build, {}, None),
                    )
                    both("defer_jobs", jobs=[job])
                case "fetch":
                    queues = chance.choice((["q1"], ["q2"], ["q1", "q2"]))
                    both("fetch_job", queues=queues, worker_id=chance.choice((1, 2)))
                case "finish":
                    number = chance.randrange(1, jobs._jobs + 2)
                    both("finish_job", job_id=number, status="aborted", delete_job=True)
