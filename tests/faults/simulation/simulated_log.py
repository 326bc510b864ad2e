"""The log of a farm over the simulated database: the real one, but without threads.

`PostgresqlLog` and its writer are the product's. What the writer's thread would do is a job of its host; what
the listener's thread would do happens when the host says so.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import datetime
from types import SimpleNamespace
from typing import Any, Protocol

import pytest
import sqlalchemy as sa
from simulated_database import Database

import store.eventlog.writer
from dcd.farm import member as farm_member
from dcd.farm import queue as farm_queue
from statemachine.events import Actor, Event
from store.eventlog.postgresql import log, members, writer
from store.eventlog.postgresql.connection import explain, explained
from store.eventlog.postgresql.members import Member, Placement
from store.eventlog.postgresql.writer import PostgresqlWriter
from store.eventlog.queries import no_build
from store.eventlog.writer import Append, Part


class Threads(Protocol):
    """Where the threads of a log would run."""

    def job(self, work: Callable[[], Any]) -> "Future[Any]": ...

    def reaches(self) -> bool: ...


class SimulatedWriter(PostgresqlWriter):
    """See the module. Without its host (`threads`) it has its thread."""

    def __init__(self, threads: Threads | None, *arguments: Any) -> None:
        self.threads = threads
        self._held: list[tuple[list[Append], Exception]] = []
        super().__init__(*arguments)

    def _queued(
        self, parts: tuple[Part, ...], actor: Actor, time: datetime
    ) -> "Future[list[Event]]":
        future = super()._queued(parts, actor, time)
        if self.threads is not None:
            self.threads.job(self._step)
        return future

    def _step(self) -> None:
        """Do what the thread does with the appends that wait."""
        if self._held:
            self._refuse_queued()
        elif not self._queue.empty():
            self._queue.put(None)
            self._run()

    def _recover(self, requests: list[Append], error: Exception) -> None:
        if self.threads is None or self.threads.reaches():
            super()._recover(requests, error)
            return
        self._disconnect()
        self.trouble = explain(error)
        self._held.append((requests, error))

    def back(self) -> None:
        """The database can be reached again."""
        held, self._held = self._held, []
        before = self.position
        for requests, error in held:
            super()._recover(requests, error)
        if self.position > before:
            self._committed()
            self._announce(0.0)


class SimulatedLog(log.PostgresqlLog):
    """See the module."""

    database: Database
    """Set by `patched`."""

    @property
    def writer(self) -> SimulatedWriter:
        assert isinstance(self._writer, SimulatedWriter)
        return self._writer

    def read(self, build: str | None = None, after: int = 0, limit: int = 1000) -> list[Event]:
        with self._database() as database:
            if build is None:
                return database.events[after : after + limit]
            found = database.builds.get(build)
            later = [event for event in found.events if event.position > after] if found else []
            return later[:limit]

    def read_build(self, build: str) -> list[Event]:
        with self._database() as database:
            if build not in database.builds:
                raise no_build(build)
            return list(database.builds[build].events)

    def members(self) -> list[Member]:
        with self._database() as database:
            return database.all_members("")

    def placements(self) -> list[Placement]:
        with self._database() as database:
            return database.placements()

    @contextmanager
    def _database(self) -> Iterator[Database]:
        with explained():
            self.database.connect(self._dsn)
            with self.database.lock:
                yield self.database

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._database() as database, database.mirror().engine.connect() as connection:
            yield connection


class _NoThread:
    def __init__(self, **_: Any) -> None: ...

    def start(self) -> None: ...

    def join(self) -> None: ...


class _Listener:
    """Hears when the host says so; without one, at once."""

    def __init__(self, database: Database, writer: SimulatedWriter) -> None:
        self._database = database
        self._writer = writer
        if writer.threads is None:
            database.listeners.append(self._hear)

    def _hear(self) -> None:
        self._writer.reached(len(self._database.events))

    def close(self) -> None:
        if self._hear in self._database.listeners:
            self._database.listeners.remove(self._hear)


def patched(
    patch: pytest.MonkeyPatch, database: Database, threads: Callable[[str], Threads] | None = None
) -> None:
    """Let the product's code find this database; `threads` is the host of a connection string, None for real
    threads."""

    def written(dsn: str, *arguments: Any) -> SimulatedWriter:
        return SimulatedWriter(threads and threads(dsn), dsn, *arguments)

    for module in (log, writer, members, farm_member, farm_queue):
        for name, stands_in in (
            ("connect", database.connect),
            ("connect_to", lambda dsn, farm: database.connect(dsn)),
            ("check", lambda connection: "farm"),
        ):
            patch.setattr(module, name, stands_in, raising=False)
    patch.setattr(log, "PostgresqlWriter", written)
    patch.setattr(log, "reading_engine", lambda *_: SimpleNamespace(dispose=lambda: None))
    patch.setattr(log, "Listener", lambda dsn, farm, writer: _Listener(database, writer))
    patch.setattr(SimulatedLog, "database", database, raising=False)
    if threads is not None:
        fake = SimpleNamespace(Lock=threading.Lock, Thread=_NoThread)
        patch.setattr(store.eventlog.writer, "threading", fake)
