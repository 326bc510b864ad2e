"""The writer of a log in PostgreSQL: one statement a transaction, so a member that freezes holds no lock.

Other members write too: a cached state counts only while its sequence is the expected one, and the database
decides. When the connection is lost, what was under way may be on disk: the writer connects again and reads
what is there before it answers or sends it again. Until then only these callers wait; others are refused.
"""

import contextlib
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import psycopg
from psycopg.rows import namedtuple_row

from statemachine.build import BuildState
from statemachine.codec import FIRST_HASH
from statemachine.errors import DcdError, Refused
from statemachine.events import Event
from statemachine.fold import evolve
from store.eventlog.errors import DuplicateSubmission, Fenced, LogDamaged
from store.eventlog.high_water import HighWater
from store.eventlog.interface import OnCommit
from store.eventlog.postgresql.connection import (
    Connection,
    another_farm,
    check,
    connect,
    explain,
    is_lost,
)
from store.eventlog.projection import event_of, keys_of, row_of
from store.eventlog.writer import (
    Append,
    Part,
    Writer,
    conflict,
    event_and_row,
    refuse,
    refused_event,
)

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.1, 2.0
"""Between attempts to connect again."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A part as it goes to the database: positions are not known yet."""

    part: Part
    before: BuildState | None
    events: list[Event]
    sent: dict[str, Any]

    @property
    def last_sequence(self) -> int:
        return self.part.expected_sequence + len(self.events)


class PostgresqlWriter(Writer):
    """See the module. `farm` is the id that the database must have."""

    def __init__(
        self,
        dsn: str,
        farm: str,
        connection: Connection,
        high_water: HighWater,
        on_commit: OnCommit | None,
    ) -> None:
        super().__init__(position_of(connection), on_commit)
        self._dsn = dsn
        self._farm = farm
        self._connection: Connection | None = connection
        self._high_water = high_water
        self._moving = threading.Lock()
        self._ends = threading.Event()
        self._unseen: DcdError | None = None
        self._thread.start()

    def close(self) -> None:
        self._ends.set()
        super().close()
        self._disconnect()

    def reached(self, position: int) -> None:
        """Another connection has seen the log at a position. From any thread."""
        if self._moved(position):
            self._announce(None)

    def _moved(self, position: int) -> bool:
        with self._moving:
            before, self.position = self.position, max(self.position, position)
        return self.position > before

    def _committed(self) -> None:
        self._high_water.write(self.position)

    def _waits(self) -> float | None:
        return None if self.trouble is None else LONGEST_WAIT_SECONDS

    def _look(self) -> None:
        before = self.position
        if self._probe():
            self.trouble = None  # The next append shows whether it is over.
        if self.position > before:  # others wrote meanwhile, and the listener need not have seen it
            self._committed()
            self._announce(None)

    def lost_sight(self, error: DcdError) -> None:
        """Another thread cannot reach the database: appends will fail too."""
        if self.trouble is None or self.trouble is self._unseen:
            self.trouble = self._unseen = error

    def in_sight(self) -> None:
        """Another thread can reach the database again."""
        if self.trouble is self._unseen:
            self.trouble = None

    def _probe(self) -> bool:
        """Whether there is a connection that can be used, before anything is sent on it."""
        if self._connection is None:
            return self._reconnect()
        try:
            check(self._connection)
        except (psycopg.Error, LogDamaged):
            # The session of a role that was removed, and added again, sees no tables.
            self._disconnect()
            return self._reconnect()
        except DcdError as error:
            self.trouble = error
            return False
        return True

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _reconnect(self) -> bool:
        """Connect, and check that it is the same farm. Returns whether it did."""
        try:
            connection = connect(self._dsn)
        except psycopg.Error as error:
            self.trouble = explain(error)
            return False
        try:
            if (farm := check(connection)) != self._farm:
                raise another_farm(farm, self._farm)
            position = position_of(connection)
        except (psycopg.Error, DcdError) as error:
            connection.close()
            self.trouble = error if isinstance(error, DcdError) else explain(error)
            return False
        self._connection = connection
        self._states.clear()
        self._moved(position)
        self.trouble = None
        return True

    def _commit(self, requests: list[Append]) -> None:
        if (self.trouble is not None or self._connection is None) and not self._probe():
            assert self.trouble is not None
            refuse(requests, self.trouble)
            return
        assert self._connection is not None
        try:
            prepared = self._prepared(requests)
            if not prepared:
                return
            answers = self._sent(prepared)
        except (psycopg.Error, OSError) as error:
            self._fail(_unanswered(requests), error)
        except Exception as error:  # noqa: BLE001 - a defect, not a failing log: the caller gets it
            waiting = _unanswered(requests)
            if not self._committed_singly(waiting):
                waiting[0].future.set_exception(error)
        else:
            self.trouble = None
            for (request, parts), answer in zip(prepared, answers, strict=True):
                self._answer(request, parts, answer)

    def _prepared(self, requests: Sequence[Append]) -> list[tuple[Append, list[_Prepared]]]:
        """What is sent for each request; those that cannot be are answered."""
        prepared = []
        ahead: dict[str, BuildState] = {}
        for request in requests:
            try:
                parts = [self._part(request, part, ahead) for part in request.parts]
            except DcdError as error:
                request.future.set_exception(error)
                continue
            if filled := [part for part in parts if part.events]:
                prepared.append((request, filled))
                ahead |= {part.part.build: _after(part.before, part.events) for part in filled}
            else:
                request.future.set_result([])
        return prepared

    def _part(self, request: Append, part: Part, ahead: dict[str, BuildState]) -> _Prepared:
        before = ahead.get(part.build) or self._state(part.build, part.expected_sequence)
        sequence = before.sequence if before else 0
        if sequence != part.expected_sequence:
            raise conflict(part.build, sequence, part.expected_sequence)
        return prepare(request, part, before)

    def _state(self, build: str, expected: int) -> BuildState | None:
        """The present state of a build, from the cache if it is as old as the caller's."""
        cached = self._states.get(build)
        if expected == 0 or (cached and cached.sequence == expected):
            return cached
        assert self._connection is not None
        return fold(self._connection, build)

    def _sent(self, prepared: Sequence[tuple[Append, list[_Prepared]]]) -> list[dict[str, Any]]:
        """The answers of the database."""
        assert self._connection is not None
        requests = [[part.sent for part in parts] for _, parts in prepared]
        text = msgspec.json.encode(requests).decode()
        row = self._connection.execute("SELECT dcd_append_all(%s::json)", [text]).fetchone()
        assert row is not None
        return list(row[0])

    def _answer(self, request: Append, parts: list[_Prepared], answer: dict[str, Any]) -> None:
        if "error" in answer:
            build = answer["build"]
            self._states.pop(build, None)
            # The server may have carried out what was sent on a lost connection only after it was looked for.
            with contextlib.suppress(psycopg.Error, DcdError):
                if answer["error"] == "DC002" and self._was_committed(request):
                    return
            part = next(each for each in parts if each.part.build == build)
            request.future.set_exception(_refusal(part.part, answer["error"], answer["why"]))
            return
        appended = []
        for part, first in zip(parts, answer["positions"], strict=True):
            appended += self._placed(part, first)
        request.future.set_result(appended)

    def _placed(self, part: _Prepared, first: int) -> list[Event]:
        """The events of a part that is on disk, with their positions; remembers the state after them."""
        events = [
            replace(event, position=first + number) for number, event in enumerate(part.events)
        ]
        self._remember(_after(part.before, events))
        self._moved(events[-1].position)
        return events

    def _fail(self, requests: list[Append], error: Exception) -> None:
        """Answer requests of which nothing is acknowledged."""
        if is_lost(error):
            self._recover(requests, error)
            return
        refusal = explain(error)
        state = getattr(error, "sqlstate", None) or ""
        if state.startswith(("22", "23", "DC004", "54")):
            if self._committed_singly(requests):
                return
            refusal = refused_event(requests[0].parts[0].build, str(error))
        elif not state.startswith(("55P03", "40")):
            self.trouble = refusal
        refuse(requests, refusal)

    def _recover(self, requests: list[Append], error: Exception) -> None:
        """Connect again, then answer what is on disk, and send the rest again."""
        self._disconnect()
        self.trouble = explain(error)
        wait = FIRST_WAIT_SECONDS
        while not self._reconnect():
            self._refuse_queued()
            if self._ends.wait(wait):
                refuse(requests, self.trouble)
                return
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)
        rest = []
        for number, request in enumerate(requests):
            try:
                if not self._was_committed(request):
                    rest.append(request)
            except psycopg.Error as again:
                self._fail([*rest, *requests[number:]], again)
                return
            except DcdError as damage:  # what others have appended cannot be read
                request.future.set_exception(damage)
        if rest:
            self._commit(rest)

    def _refuse_queued(self) -> None:
        """Refuse what came meanwhile: nothing of it was sent."""
        assert self.trouble is not None
        with contextlib.suppress(queue.Empty):
            while (request := self._queue.get_nowait()) is not None:
                if request.future.set_running_or_notify_cancel():
                    request.future.set_exception(self.trouble)
            self._queue.put(None)
            self._ends.set()

    def _was_committed(self, request: Append) -> bool:
        """Answer a request whose events are on disk."""
        assert self._connection is not None
        found: list[Event] = []
        for part in request.parts:
            last = part.expected_sequence + len(part.payloads)
            history = read_build(self._connection, part.build)[:last]
            if len(history) < last or not _is_of(request, part, history):
                return False
            found += history[part.expected_sequence :]
        request.future.set_result(found)
        return True


def _unanswered(requests: Sequence[Append]) -> list[Append]:
    return [request for request in requests if not request.future.done()]


def prepare(request: Append, part: Part, before: BuildState | None) -> _Prepared:
    """What is sent of a part, of which the state before is known. Raises DcdError for payloads that cannot
    follow."""
    events: list[Event] = []
    rows = []
    state = before
    for number, payload in enumerate(part.payloads, start=1):
        event, row = event_and_row(
            request,
            part.build,
            payload,
            position=0,
            sequence=part.expected_sequence + number,
            previous_hash=state.hash if state else FIRST_HASH,
        )
        state = evolve(state, event)
        events.append(event)
        rows.append({name: row[name] for name in _SENT})
    sent = {
        "build": part.build,
        "epoch": part.epoch,
        "expected": part.expected_sequence,
        "events": rows,
        "row": None if state is None else as_stored(row_of(state)),
        "keys": [entry["key"] for entry in keys_of(events)],
    }
    return _Prepared(part, before, events, sent)


_SENT = ("type", "version", "time", "actor", "data", "hash")


def as_stored(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `builds` as PostgreSQL has it: its text cannot contain NUL."""
    return {
        name: value.replace("\0", "\N{REPLACEMENT CHARACTER}") if isinstance(value, str) else value
        for name, value in row.items()
    }


def read_build(connection: Connection, build: str) -> list[Event]:
    """The events of a build, in order, not verified."""
    return [event_of(row) for row in read_rows(connection, build)]


def read_rows(connection: Connection, build: str) -> list[Any]:
    """The rows of the events of a build, in order."""
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        statement = "SELECT * FROM events WHERE build = %s ORDER BY sequence"
        return list(cursor.execute(statement, [build]))


def fold(connection: Connection, build: str) -> BuildState | None:
    """The state of a build; None when it does not exist."""
    history = read_build(connection, build)
    return _after(None, history) if history else None


def _after(state: BuildState | None, events: Sequence[Event]) -> BuildState:
    for event in events:
        state = evolve(state, event)
    assert state is not None
    return state


def _is_of(request: Append, part: Part, history: Sequence[Event]) -> bool:
    """Whether a build's history ends with the events of a part: the chain of hashes says so."""
    before = _after(None, history[: part.expected_sequence]) if part.expected_sequence else None
    wanted = prepare(request, part, before).events
    return [event.hash for event in wanted] == [
        event.hash for event in history[part.expected_sequence :]
    ]


def _refusal(part: Part, code: str, why: str) -> DcdError:
    if code == "DC001":
        return Fenced(
            f"epoch {part.epoch} of build {part.build} is over",
            why,
            "nothing: the member that took the build continues it",
        )
    if code == "DC002":
        return conflict(part.build, int(why), part.expected_sequence)
    if code == "DC003":
        (payload,) = part.payloads[:1]
        return DuplicateSubmission(str(getattr(payload, "idempotency_key", "")), why)
    return Refused(
        f"the farm refuses an event of build {part.build}", why, "see `dcctl hosts`: who owns it"
    )


def position_of(connection: Connection) -> int:
    """The position of the last event."""
    row = connection.execute("SELECT position FROM head").fetchone()
    assert row is not None
    return int(row[0])
