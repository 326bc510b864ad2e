"""What callers of a farm's log hear when answers are lost, fail, or come late."""

import os
import resource
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from statemachine.errors import DcdError
from statemachine.events import Actor, Event, PauseRequested
from store.eventlog import Conflict, LogFull
from store.eventlog.postgresql.listener import Listener
from store.eventlog.postgresql.writer import PostgresqlWriter
from store.eventlog.writer import Append as Request
from store.eventlog.writer import Part
from tests.store.eventlog.conftest import NOW, Postgresql

Append = Callable[..., list[Event]]


def test_an_append_that_arrives_after_it_was_looked_for_is_no_conflict(
    farm: Postgresql, submission: Any, append: Append, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server need not notice that a connection is lost, and carries out what it was sent."""
    with farm.open() as log:
        append(log, "b1", 0, submission())
        sent = PostgresqlWriter._sent
        lost = iter([True])

        def cut(self: PostgresqlWriter, prepared: Any) -> Any:
            if next(lost, False):
                raise psycopg.OperationalError("the connection is lost")
            sent(self, prepared)  # the first one, which arrives now
            return sent(self, prepared)

        monkeypatch.setattr(PostgresqlWriter, "_sent", cut)
        appended = append(log, "b1", 1, PauseRequested("c1"))
        assert log.read_build("b1")[1:] == appended


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (psycopg.errors.DiskFull(), LogFull),
        (psycopg.errors.DataException(), DcdError),
        (KeyError("a defect"), KeyError),
    ],
)
def test_a_failure_beside_a_conflict_answers_each_caller(
    farm: Postgresql,
    submission: Any,
    append: Append,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    answer: type[Exception],
) -> None:
    """Answered twice, the first ended the writer's thread, and no append was answered any more."""
    with farm.open() as log:

        def fail(*_: Any) -> Any:
            raise error

        stale = Request((Part("b1", 7, (PauseRequested("c1"),)),), Actor(), NOW)
        fine = Request((Part("b2", 0, (submission(),)),), Actor(), NOW)
        with monkeypatch.context() as patch:
            patch.setattr(PostgresqlWriter, "_sent", fail)
            log._writer._commit([stale, fine])
        assert isinstance(stale.future.exception(), Conflict)
        assert isinstance(fine.future.exception(), answer)
        append(log, "b2", 0, submission())


def test_what_others_wrote_during_an_outage_is_announced_whoever_sees_it_first(
    farm: Postgresql, submission: Any, append: Append, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    with farm.open() as other:
        monkeypatch.setattr(Listener, "_run", lambda self: None)  # it is late
        with farm.open(lambda position, seconds: seen.append(position)) as log:
            append(other, "b1", 0, submission())
            log._writer._disconnect()
            log._writer._look()
            assert (log.position, seen) == (1, [1])


def test_a_daemon_with_many_open_files_hears_of_others(
    farm: Postgresql, submission: Any, append: Append
) -> None:
    """select() takes descriptors below 1024 only."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(4096, limits[0]), limits[1]))
    heard = threading.Event()
    null = os.open(os.devnull, os.O_RDONLY)
    opened = [os.dup(null) for _ in range(1100)]
    try:
        with farm.open(lambda *_: heard.set()) as log, farm.open() as other:
            append(other, "b1", 0, submission())
            assert heard.wait(timeout=60)
            assert log.position == 1
    finally:
        for descriptor in (*opened, null):
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
