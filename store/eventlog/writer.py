"""The writer: one thread, all writes of this process, whatever the database.

Appends that arrive during a commit share the next transaction and its fsync; each is still all or
nothing, and is acknowledged only after the commit. The writer caches the states of recent builds: they
give the next sequence, the previous hash and the projection's row, and make it impossible to append an
event that cannot be folded.
"""

import contextlib
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from statemachine.build import BuildState
from statemachine.codec import HASHED, encode, encode_actor, encode_time, event_hash
from statemachine.errors import DcdError, Unavailable
from statemachine.events import Actor, Event, Payload
from store.eventlog.errors import Conflict
from store.eventlog.interface import OnCommit

GROUP = 256
"""The maximum number of appends in a transaction."""

STATES = 1024
"""The number of build states in the cache."""


@dataclass(frozen=True, slots=True)
class Part:
    """The payloads of one build in an append."""

    build: str
    expected_sequence: int
    payloads: tuple[Payload, ...]
    epoch: int | None = None


@dataclass(frozen=True, slots=True)
class Append:
    """What is appended together or not at all."""

    parts: tuple[Part, ...]
    actor: Actor
    time: datetime
    future: "Future[list[Event]]" = field(default_factory=Future)


class Writer(ABC):
    """The writing end of a log; `close` ends the thread after all queued work."""

    def __init__(self, position: int, on_commit: OnCommit | None) -> None:
        self._on_commit = on_commit
        self._queue: queue.SimpleQueue[Append | None] = queue.SimpleQueue()
        self._states: OrderedDict[str, BuildState] = OrderedDict()
        self._closing = threading.Lock()
        self._closed = False
        self.position = position
        """Position of the last event on disk."""
        self.trouble: DcdError | None = None
        """The reason why appends fail or soon will; None when healthy."""
        # A daemon thread: the log survives a process that ends without `close`.
        self._thread = threading.Thread(target=self._run, name="event-log", daemon=True)

    def append(
        self,
        build: str,
        expected_sequence: int,
        payloads: Sequence[Payload],
        actor: Actor,
        time: datetime,
        epoch: int | None = None,
    ) -> "Future[list[Event]]":
        """See `interface`."""
        part = Part(build, expected_sequence, tuple(payloads), epoch)
        return self._queued((part,), actor, time)

    def append_together(
        self, first: Mapping[str, Sequence[Payload]], actor: Actor, time: datetime
    ) -> "Future[list[Event]]":
        """See `interface`."""
        parts = tuple(Part(build, 0, tuple(payloads)) for build, payloads in first.items())
        return self._queued(parts, actor, time)

    def _queued(
        self, parts: tuple[Part, ...], actor: Actor, time: datetime
    ) -> "Future[list[Event]]":
        request = Append(parts, actor, time)
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

    @abstractmethod
    def _commit(self, requests: list[Append]) -> None:
        """Write the requests in one transaction, move `position` and answer them."""

    def _committed(self) -> None:
        """Called after a commit, before followers hear of it."""

    def _waits(self) -> float | None:
        """How many seconds to wait for appends before `_look`; None: for ever."""
        return None

    def _look(self) -> None:
        """Look whether the trouble is over."""

    def _run(self) -> None:
        while (group := self._next()) is not None:
            before, began = self.position, time.monotonic()
            if waiting := [r for r in group if r.future.set_running_or_notify_cancel()]:
                self._commit(waiting)
            if self.position > before:
                self._committed()
                self._announce(time.monotonic() - began)

    def _announce(self, seconds: float | None) -> None:
        if self._on_commit is None:
            return
        try:
            self._on_commit(self.position, seconds)
        except RuntimeError:
            self._on_commit = None  # its event loop is closed: there are no followers

    def _next(self) -> list[Append] | None:
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

    def _get(self) -> Append | None:
        while True:
            try:
                return self._queue.get(timeout=self._waits())
            except queue.Empty:
                self._look()

    def _committed_singly(self, requests: list[Append]) -> bool:
        """Append several requests one by one after a rollback, so that only the bad one fails. Returns False
        for a single request."""
        if len(requests) == 1:
            return False
        for request in requests:
            self._commit([request])
        return True

    def _remember(self, state: BuildState) -> None:
        """Cache a state, unless the build has ended."""
        if state.ended:
            self._states.pop(state.id, None)
            return
        self._states[state.id] = state
        self._states.move_to_end(state.id)
        while len(self._states) > STATES:
            self._states.popitem(last=False)


def refuse(requests: Sequence[Append], refusal: DcdError) -> None:
    """Answer requests with an error."""
    for request in requests:
        request.future.set_exception(refusal)


def conflict(build: str, sequence: int, expected: int) -> Conflict:
    """The answer to an append after an event that is not the last one."""
    return Conflict(
        f"build {build} has changed in the meantime",
        f"its last event is {sequence}, not {expected}",
        "check its state and repeat the command if you still want it",
    )


def refused_event(build: str, why: str) -> DcdError:
    """The answer to an event that the database itself does not accept."""
    return DcdError(
        f"the event log refuses an event of build {build}",
        why,
        f"verify it with `dcctl events {build} --verify`",
    )


def event_and_row(
    request: Append,
    build: str,
    payload: Payload,
    *,
    position: int,
    sequence: int,
    previous_hash: str,
) -> tuple[Event, dict[str, Any]]:
    """The event of `payload`, and its row in `events`."""
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
