"""The simulated database is like the real one: the log's own suites run on it, and both get the same
questions."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import procrastinate
import psycopg
import pytest
from procrastinate.types import JobToDefer
from simulated_database import Build, Database, Owner
from simulated_log import SimulatedLog, patched
from simulated_queue import QUERIES, Jobs

from dcd.farm.install import create_queue
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
