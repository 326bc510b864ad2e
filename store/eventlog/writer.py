"""The writer: one thread, one connection, all writes.

Appends that arrive during a commit share the next transaction and its fsync; each is still all or
nothing, and is acknowledged only after the commit. The writer caches the states of recent builds: they
give the next sequence, the previous hash and the projection's row, and make it impossible to append an
event that cannot be folded.

When a write fails, the state of the disk is unknown (after a failed fsync the kernel may drop dirty
pages), so nothing is appended until the log is reopened. A full disk is less severe: SQLite rolls back
cleanly. The reserve is released once; after that each append fails until there is space.
"""

import contextlib
import queue
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from statemachine.build import BuildState
from statemachine.codec import FIRST_HASH, HASHED, encode, encode_actor, encode_time, event_hash
from statemachine.errors import DcdError, Unavailable
from statemachine.events import Actor, Event, Payload
from statemachine.fold import evolve
from store.eventlog import projection
from store.eventlog.database import primary_code
from store.eventlog.errors import Conflict, DuplicateSubmission, LogFailed, LogFull
from store.eventlog.high_water import HighWater
from store.eventlog.reserve import Reserve
from store.eventlog.schema import builds, events

GROUP = 256
"""The maximum number of appends in a transaction."""

STATES = 1024
"""The number of build states in the cache."""

PROBE_SECONDS = 2.0
"""The interval at which a writer whose disk was full checks for space."""


@dataclass(frozen=True, slots=True)
class _Part:
    build: str
    expected_sequence: int
    payloads: tuple[Payload, ...]


@dataclass(frozen=True, slots=True)
class _Append:
    parts: tuple[_Part, ...]
    actor: Actor
    time: datetime
    future: "Future[list[Event]]" = field(default_factory=Future)


@dataclass(slots=True)
class _Group:
    """The changes of one transaction so far; discarded when it rolls back."""

    position: int
    states: dict[str, BuildState] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)


class Writer:
    """The writing end of the log; `close` ends the thread after all queued work."""

    def __init__(
        self,
        connection: sa.Connection,
        reserve: Reserve,
        high_water: HighWater,
        on_commit: Callable[[int, float], None] | None,
    ) -> None:
        self._connection = connection
        self._reserve = reserve
        self._high_water = high_water
        self._on_commit = on_commit
        self._queue: queue.SimpleQueue[_Append | None] = queue.SimpleQueue()
        self._states: OrderedDict[str, BuildState] = OrderedDict()
        self._closing = threading.Lock()
        self._closed = False
        self.position = _last_position(connection)
        """Position of the last event on disk."""
        self.trouble: DcdError | None = None
        """The reason why appends fail or soon will; None when healthy."""
        self._look_for_space()
        # A daemon thread: the log survives a process that ends without `close`.
        self._thread = threading.Thread(target=self._run, name="event-log", daemon=True)
        self._thread.start()

    def append(
        self,
        build: str,
        expected_sequence: int,
        payloads: Sequence[Payload],
        actor: Actor,
        time: datetime,
    ) -> "Future[list[Event]]":
        """Append the payloads to the build, together or not at all.

        `expected_sequence` is the sequence of the last event that the caller has seen (0: the build is
        new), `time` is aware. The future returns the events once they are on disk, or raises Conflict
        (the build has changed), DuplicateSubmission (the idempotency key is taken), LogFull, LogFailed,
        or DcdError for payloads that cannot follow. On an error nothing is appended, except that after
        LogFailed this is unknown. A future cancelled before its commit appends nothing.
        """
        return self._queued((_Part(build, expected_sequence, tuple(payloads)),), actor, time)

    def append_together(
        self, first: Mapping[str, Sequence[Payload]], actor: Actor, time: datetime
    ) -> "Future[list[Event]]":
        """Append the first payloads of several new builds, by their ids: all of them or nothing. As
        `append`."""
        parts = tuple(_Part(build, 0, tuple(payloads)) for build, payloads in first.items())
        return self._queued(parts, actor, time)

    def _queued(
        self, parts: tuple[_Part, ...], actor: Actor, time: datetime
    ) -> "Future[list[Event]]":
        request = _Append(parts, actor, time)
        with self._closing:
            if self._closed:
                closed = Unavailable(
                    "the event log is closed", "", "wait for the daemon to restart"
                )
                request.future.set_exception(closed)
            else:
                self._queue.put(request)
        return request.future

    def close(self) -> None:
        """Finish all queued work and end the thread. Idempotent."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (group := self._next()) is not None:
            before, began = self.position, time.monotonic()
            if waiting := [r for r in group if r.future.set_running_or_notify_cancel()]:
                self._commit(waiting)
            if self.position > before:
                self._high_water.write(self.position)
                self._announce(time.monotonic() - began)

    def _announce(self, seconds: float) -> None:
        if self._on_commit is None:
            return
        try:
            self._on_commit(self.position, seconds)
        except RuntimeError:
            self._on_commit = None  # its event loop is closed: there are no followers

    def _next(self) -> list[_Append] | None:
        """Wait for appends, and return those that share a transaction; None at the end."""
        if (first := self._get()) is None:
            return None
        group = [first]
        with contextlib.suppress(queue.Empty):
            while len(group) < GROUP:
                request = self._queue.get_nowait()
                if request is None:
                    self._queue.put(None)
                    break
                group.append(request)
        return group

    def _get(self) -> _Append | None:
        while True:
            waits = PROBE_SECONDS if isinstance(self.trouble, LogFull) else None
            try:
                return self._queue.get(timeout=waits)
            except queue.Empty:
                self._look_for_space()

    def _look_for_space(self) -> None:
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

    def _commit(self, requests: list[_Append]) -> None:
        if isinstance(self.trouble, LogFailed):
            self._refuse(requests, self.trouble)
            return
        try:
            group, outcomes = self._transact(requests)
        except sa.exc.DBAPIError as error:
            self._fail(requests, error)
        except OSError as error:
            self.trouble = _failed(error)
            self._refuse(requests, self.trouble)
        except Exception as error:  # noqa: BLE001 - a defect, not a failing log: the caller gets it
            if not self._committed_singly(requests):
                requests[0].future.set_exception(error)
        else:
            self._remember(group)
            for request, outcome in outcomes:
                if isinstance(outcome, DcdError):
                    request.future.set_exception(outcome)
                else:
                    request.future.set_result(outcome)

    def _committed_singly(self, requests: list[_Append]) -> bool:
        """Append several requests one by one after a rollback, so that only the bad one fails. Returns False
        for a single request."""
        if len(requests) == 1:
            return False
        for request in requests:
            self._commit([request])
        return True

    def _transact(
        self, requests: list[_Append]
    ) -> tuple[_Group, list[tuple[_Append, list[Event] | DcdError]]]:
        group = _Group(self.position)
        outcomes: list[tuple[_Append, list[Event] | DcdError]] = []
        with self._connection.begin():
            for request in requests:
                try:
                    outcomes.append((request, self._insert(group, request)))
                except DcdError as error:
                    outcomes.append((request, error))
            projection.store(self._connection, group.states.values(), group.events)
        return group, outcomes

    def _insert(self, group: _Group, request: _Append) -> list[Event]:
        """Insert the events of one append. Raises DcdError before anything is written."""
        rows: list[dict[str, Any]] = []
        appended: list[Event] = []
        states: dict[str, BuildState] = {}
        for part in request.parts:
            state = group.states.get(part.build) or self._state(part.build)
            sequence = state.sequence if state else 0
            if sequence != part.expected_sequence:
                raise Conflict(
                    f"build {part.build} has changed in the meantime",
                    f"its last event is {sequence}, not {part.expected_sequence}",
                    "check its state and repeat the command if you still want it",
                )
            for number, payload in enumerate(part.payloads, start=1):
                event, row = _event(
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

    def _remember(self, group: _Group) -> None:
        self.position = group.position
        for build, state in group.states.items():
            if state.ended:
                self._states.pop(build, None)
            else:
                self._states[build] = state
                self._states.move_to_end(build)
        while len(self._states) > STATES:
            self._states.popitem(last=False)
        if not self._reserve.held:
            self._look_for_space()

    def _fail(self, requests: list[_Append], error: sa.exc.DBAPIError) -> None:
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
            build = requests[0].parts[0].build
            refusal = DcdError(
                f"the event log refuses an event of build {build}",
                why,
                f"verify it with `dcctl events {build} --verify`",
            )
        elif code == sqlite3.SQLITE_BUSY:
            refusal = Unavailable(
                "another program locks the event log", why, "end that program, then try again"
            )
        else:
            full = code == sqlite3.SQLITE_FULL
            self.trouble = refusal = _full(why) if full else _failed(error.orig or error)
        self._refuse(requests, refusal)

    def _release_reserve(self) -> bool:
        try:
            return self._reserve.release()
        except OSError:
            return False  # The disk is still full, and the callers get that error.

    @staticmethod
    def _refuse(requests: list[_Append], refusal: DcdError) -> None:
        for request in requests:
            request.future.set_exception(refusal)


def _full(why: str) -> LogFull:
    return LogFull("the disk of the event log is full", why, "free some space")


def _failed(cause: BaseException) -> LogFailed:
    return LogFailed(
        "a write to the event log failed; nothing is appended until dcd is restarted",
        f"{type(cause).__name__}: {cause}",
        "look for the cause in the kernel's log, fix it, then restart dcd",
    )


def _event(
    request: _Append,
    build: str,
    payload: Payload,
    *,
    position: int,
    sequence: int,
    previous_hash: str,
) -> tuple[Event, dict[str, Any]]:
    """The event of `payload`, and its row."""
    kind = type(payload).__name__
    time, actor, data = encode_time(request.time), encode_actor(request.actor), encode(payload)
    stored = (build, sequence, kind, payload.VERSION, time, actor, data)
    digest = event_hash(previous_hash, *stored)
    row = {"position": position, **dict(zip(HASHED, stored, strict=True)), "hash": digest}
    event = Event(
        position=position,
        build=build,
        sequence=sequence,
        type=kind,
        version=payload.VERSION,
        time=request.time,
        actor=request.actor,
        data=payload,
        hash=digest,
    )
    return event, row


def _last_position(connection: sa.Connection) -> int:
    with connection.begin():
        return int(connection.execute(sa.select(sa.func.max(events.c.position))).scalar() or 0)
