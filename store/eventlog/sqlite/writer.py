"""The writer of a log in SQLite: one connection.

When a write fails, the state of the disk is unknown (after a failed fsync the kernel may drop dirty
pages), so nothing is appended until the log is reopened. A full disk is less severe: SQLite rolls back
cleanly. The reserve is released once; after that each append fails until there is space.
"""

import sqlite3
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from statemachine.build import BuildState
from statemachine.codec import FIRST_HASH
from statemachine.errors import DcdError, Unavailable
from statemachine.events import Event
from statemachine.fold import evolve
from store.eventlog import projection
from store.eventlog.errors import DuplicateSubmission, LogFailed, LogFull, fenced
from store.eventlog.high_water import HighWater
from store.eventlog.interface import OnCommit
from store.eventlog.sqlite import projections
from store.eventlog.sqlite.database import primary_code
from store.eventlog.sqlite.reserve import Reserve
from store.eventlog.tables import builds, events
from store.eventlog.writer import (
    Append,
    Writer,
    conflict,
    event_and_row,
    refuse,
    refused_event,
)

EPOCH = 1
"""The only one: the daemon's lock on its state directory leaves no other owner."""

PROBE_SECONDS = 2.0
"""The interval at which a writer whose disk was full checks for space."""


@dataclass(slots=True)
class _Group:
    """The changes of one transaction so far; discarded when it rolls back."""

    position: int
    states: dict[str, BuildState] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)


class SqliteWriter(Writer):
    """See the module."""

    def __init__(
        self,
        connection: sa.Connection,
        reserve: Reserve,
        high_water: HighWater,
        on_commit: OnCommit | None,
    ) -> None:
        super().__init__(_last_position(connection), on_commit)
        self._connection = connection
        self._reserve = reserve
        self._high_water = high_water
        self._look()
        self._thread.start()

    def _committed(self) -> None:
        self._high_water.write(self.position)

    def _waits(self) -> float | None:
        return PROBE_SECONDS if isinstance(self.trouble, LogFull) else None

    def _look(self) -> None:
        try:
            kept_back = self._reserve.take()
        except OSError as error:
            self.trouble = _failed(error)
            return
        if kept_back:
            self.trouble = None
        elif self.trouble is None:
            self.trouble = LogFull(
                "the disk of the event log is nearly full",
                "there is not enough space for the log's reserve",
                "free some space",
            )

    def _commit(self, requests: list[Append]) -> None:
        if isinstance(self.trouble, LogFailed):
            refuse(requests, self.trouble)
            return
        try:
            group, outcomes = self._transact(requests)
        except sa.exc.DBAPIError as error:
            self._fail(requests, error)
        except OSError as error:
            self.trouble = _failed(error)
            refuse(requests, self.trouble)
        except Exception as error:  # noqa: BLE001 - a defect, not a failing log: the caller gets it
            if not self._committed_singly(requests):
                requests[0].future.set_exception(error)
        else:
            self._move(group)
            for request, outcome in outcomes:
                if isinstance(outcome, DcdError):
                    request.future.set_exception(outcome)
                else:
                    request.future.set_result(outcome)

    def _transact(
        self, requests: list[Append]
    ) -> tuple[_Group, list[tuple[Append, list[Event] | DcdError]]]:
        group = _Group(self.position)
        outcomes: list[tuple[Append, list[Event] | DcdError]] = []
        with self._connection.begin():
            for request in requests:
                try:
                    outcomes.append((request, self._insert(group, request)))
                except DcdError as error:
                    outcomes.append((request, error))
            projections.store(self._connection, group.states.values(), group.events)
        return group, outcomes

    def _insert(self, group: _Group, request: Append) -> list[Event]:
        """Insert the events of one append. Raises DcdError before anything is written."""
        rows: list[dict[str, Any]] = []
        appended: list[Event] = []
        states: dict[str, BuildState] = {}
        for part in request.parts:
            state = group.states.get(part.build) or self._state(part.build)
            sequence = state.sequence if state else 0
            if sequence != part.expected_sequence:
                raise conflict(part.build, sequence, part.expected_sequence)
            if part.epoch not in (None, EPOCH):
                raise fenced(part.build, part.epoch, EPOCH)
            for number, payload in enumerate(part.payloads, start=1):
                event, row = event_and_row(
                    request,
                    part.build,
                    payload,
                    position=group.position + len(rows) + 1,
                    sequence=sequence + number,
                    previous_hash=state.hash if state else FIRST_HASH,
                )
                state = evolve(state, event)
                rows.append(row)
                appended.append(event)
            if state is None or not part.payloads:
                continue
            if sequence == 0 and state.submission_key is not None:
                self._check_unused(group, state, state.submission_key)
            states[part.build] = state
        if not rows:
            return []
        self._connection.execute(events.insert(), rows)
        group.position += len(rows)
        group.states |= states
        group.events += appended
        return appended

    def _state(self, build: str) -> BuildState | None:
        state = self._states.get(build) or projection.fold(self._connection, build)
        if state is not None:
            self._states[build] = state
            self._states.move_to_end(build)
        return state

    def _check_unused(self, group: _Group, submitted: BuildState, key: str) -> None:
        query = sa.select(builds.c.id).where(builds.c.idempotency_key == key)
        taken = self._connection.execute(query).scalar()
        for state in group.states.values():
            if state.submission_key == key:
                taken = state.id
        if taken is not None:
            raise DuplicateSubmission(str(submitted.idempotency_key), taken)

    def _move(self, group: _Group) -> None:
        self.position = group.position
        for state in group.states.values():
            self._remember(state)
        if not self._reserve.held:
            self._look()

    def _fail(self, requests: list[Append], error: sa.exc.DBAPIError) -> None:
        """Handle a failed transaction, of which nothing was acknowledged."""
        code, why = primary_code(error), str(error.orig)
        refusal: DcdError
        if code == sqlite3.SQLITE_FULL and self._release_reserve():
            self.trouble = _full("the space reserved for it is in use")
            self._commit(requests)
            return
        if code == sqlite3.SQLITE_CONSTRAINT:
            if self._committed_singly(requests):
                return
            refusal = refused_event(requests[0].parts[0].build, why)
        elif code == sqlite3.SQLITE_BUSY:
            refusal = Unavailable(
                "another program locks the event log", why, "end that program, then try again"
            )
        else:
            full = code == sqlite3.SQLITE_FULL
            self.trouble = refusal = _full(why) if full else _failed(error.orig or error)
        refuse(requests, refusal)

    def _release_reserve(self) -> bool:
        try:
            return self._reserve.release()
        except OSError:
            return False  # The disk is still full, and the callers get that error.


def _full(why: str) -> LogFull:
    return LogFull("the disk of the event log is full", why, "free some space")


def _failed(cause: BaseException) -> LogFailed:
    return LogFailed(
        "a write to the event log failed; nothing is appended until dcd is restarted",
        f"{type(cause).__name__}: {cause}",
        "look for the cause in the kernel's log, fix it, then restart dcd",
    )


def _last_position(connection: sa.Connection) -> int:
    with connection.begin():
        return int(connection.execute(sa.select(sa.func.max(events.c.position))).scalar() or 0)
