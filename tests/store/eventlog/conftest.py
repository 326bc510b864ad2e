"""Real logs on disk, plans to submit, and a build that is driven through its log."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import psycopg
import pytest

from statemachine.build import BuildState
from statemachine.commands import (
    Change,
    Start,
    decide,
)
from statemachine.events import (
    Actor,
    BuildCompleted,
    BuildSubmitted,
    CheckpointCompleted,
    CheckpointStarted,
    Event,
    Payload,
)
from statemachine.keys import chain
from statemachine.machine import BuildMachine
from statemachine.plan import Ingredient, PlannedCheckpoint
from store.eventlog import EventLog, SqliteLog
from store.eventlog.interface import OnCommit
from store.eventlog.postgresql.log import PostgresqlLog
from tests.postgresql import Cluster

TRIGGERS = ("events_are_in_order", "events_are_never_changed", "events_are_never_removed")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
FUNCTIONS = files("store.eventlog.postgresql").joinpath("functions.sql").read_text()
"""The functions of a farm's database, of which controls take parts away."""
ACTOR = Actor(1000, 1000, 4711, "ada")


def _submission(name: str = "live", checkpoints: int = 3, **options: Any) -> BuildSubmitted:
    plan = chain(
        PlannedCheckpoint(f"c{n}", "", "m", "C", "", (Ingredient("code", name, str(n)),))
        for n in range(checkpoints)
    )
    return BuildSubmitted(name, "<dc/>", "/live.xml", plan, **options)


@dataclass
class Build:
    """One build in a log, driven by commands as the engine does."""

    log: EventLog
    machine: BuildMachine

    @property
    def state(self) -> BuildState:
        return self.machine.state

    def do(self, *changes: Change) -> "Build":
        for change in changes:
            payloads = decide(self.machine, change)
            state = self.state
            future = self.log.append(state.id, state.sequence, payloads, ACTOR, NOW)
            for event in future.result():
                self.machine.apply(event)
        return self

    def run(self, count: int) -> "Build":
        """Start it and complete so many checkpoints, or as many as there are."""
        self.do(Start())
        for record in self.state.checkpoints[self.state.completed :][:count]:
            attempt = self.state.next_attempt(record.name)
            self.do(CheckpointStarted(record.name, attempt, record.key, f"{record.name}.log"))
            key = self.state.checkpoints[self.state.index(record.name)].key
            self.do(CheckpointCompleted(record.name, attempt, key, 1.0))
        return self

    def complete(self) -> "Build":
        return self.run(len(self.state.checkpoints)).do(BuildCompleted())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


def until(holds: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@dataclass(frozen=True)
class Sqlite:
    """A log in a file."""

    path: Path

    def open(self, on_commit: OnCommit | None = None) -> EventLog:
        return SqliteLog(self.path, on_commit)

    def forge(self, statement: str) -> None:
        """Run SQL as somebody who knows the triggers."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
            triggers = rows.fetchall()
            for name, _ in triggers:
                connection.execute(f"DROP TRIGGER {name}")
            connection.execute(statement)
            for _, sql in triggers:
                connection.execute(sql)


@dataclass(frozen=True)
class Postgresql:
    """A log in a database of a server; this host is the member `here`."""

    cluster: Cluster
    name: str
    directory: Path

    @property
    def dsn(self) -> str:
        return self.cluster.dsn(self.name, "dcd-here")

    @property
    def administrator(self) -> str:
        return self.cluster.dsn(self.name)

    def open(self, on_commit: OnCommit | None = None) -> EventLog:
        return PostgresqlLog(self.dsn, self.directory, on_commit)

    def run(self, *statements: str) -> None:
        """Run SQL as the administrator."""
        with psycopg.connect(self.administrator, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    def forge(self, statement: str) -> None:
        """Run SQL as somebody who knows the triggers."""
        with psycopg.connect(self.administrator, options="-c search_path=dcd") as connection:
            connection.execute("ALTER TABLE events DISABLE TRIGGER ALL")
            connection.execute(statement)
            for name in TRIGGERS:
                connection.execute(f"ALTER TABLE events ENABLE ALWAYS TRIGGER {name}")


Database = Sqlite | Postgresql


@pytest.fixture
def farm(server: Cluster, new_farm: Callable[[], str], tmp_path: Path) -> Postgresql:
    """An empty log in PostgreSQL, with the rules of a farm."""
    return Postgresql(server, new_farm(), tmp_path)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def database(request: pytest.FixtureRequest, path: Path) -> Database:
    """An empty log, on each database. In PostgreSQL facts need no epoch, so that both suites can append them
    as people's commands; test_eventlog_fence.py has the rules of a farm."""
    if request.param == "sqlite":
        return Sqlite(path)
    farm: Postgresql = request.getfixturevalue("farm")
    with psycopg.connect(farm.administrator) as connection:
        connection.execute("DELETE FROM dcd.facts")
    return farm


@pytest.fixture
def log(database: Database) -> Iterator[EventLog]:
    with database.open() as opened:
        yield opened


@pytest.fixture(scope="session")
def submission() -> Callable[..., BuildSubmitted]:
    return _submission


@pytest.fixture(scope="session")
def append() -> Callable[..., list[Event]]:
    """Append payloads to a build and wait until they are on disk."""

    def append(log: EventLog, build: str, expected: int, *payloads: Payload) -> list[Event]:
        return log.append(build, expected, payloads, ACTOR, NOW).result(timeout=120)

    return append


@pytest.fixture(scope="session")
def submit() -> Callable[..., Build]:
    """Submit a build; `options` go into its submission."""

    def submit(log: EventLog, build: str = "b1", **options: Any) -> Build:
        payloads = [_submission(**options)]
        events = log.append(build, 0, payloads, ACTOR, NOW).result(timeout=120)
        return Build(log, BuildMachine.rehydrate(events))

    return submit


@pytest.fixture(scope="session")
def execute() -> Callable[..., list[Any]]:
    """SQL on the file behind the log's back, as a person with a shell would."""

    def execute(path: Path, *statements: str) -> list[Any]:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            rows: list[Any] = []
            for statement in statements:
                rows = connection.execute(statement).fetchall()
            return rows

    return execute
