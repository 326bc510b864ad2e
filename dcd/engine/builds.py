"""The loaded builds, and the only way to change a build.

Every change has the same order: the machine checks the command, its events are appended and on disk,
the machine moves. `command` ensures this order, handles one command per build at a time, and completes
even if the caller disconnects. This module has no effects outside the log. Used from the event loop's
thread only; the log's blocking reads run in threads.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import structlog

from dcd.engine.broadcast import Broadcast
from statemachine.build import BuildState
from statemachine.commands import Change, decide, submit
from statemachine.errors import DcdError
from statemachine.events import Actor, BuildSubmitted, Event, Payload
from statemachine.machine import BuildMachine
from store.eventlog import Conflict, EventLog, is_outage

logger = structlog.get_logger()

DAEMON = Actor()
"""The actor of the daemon's own changes."""

ID_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
"""The alphabet of ids, without similar letters and digits, since people read ids aloud."""

ID_LENGTH = 10


READERS = 4
"""The number of threads that read the log for queries."""

Answer = TypeVar("Answer")


def new_id() -> str:
    """A random id for a build; about 50 bits."""
    return "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_LENGTH))


def now() -> datetime:
    """The present time, aware, in UTC."""
    return datetime.now(UTC)


class Builds:
    """Machines of the builds that have not ended, and the log behind all builds."""

    def __init__(
        self, log: EventLog, broadcast: Broadcast, clock: Callable[[], datetime] = now
    ) -> None:
        self.log = log
        self.broadcast = broadcast
        self.host = ""
        """The name of this member of a farm; "" on a single machine."""
        self.origin = ""
        """The member whose log a farm began with; "" if it began with an empty one."""
        self._clock = clock
        self._readers = ThreadPoolExecutor(READERS, "log-reader")
        self.ended = asyncio.Event()
        """Set whenever a build ends; the garbage collector waits for it and clears it."""
        self._watching: list[Callable[[BuildState | None, Event], None]] = []
        self.left: Callable[[BuildState], Awaitable[None]] | None = None
        """Called when a build that rests on this host continues or ends by a command to another member of a
        farm, with the state before it."""
        self._machines: dict[str, BuildMachine] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def watch(self, happened: Callable[[BuildState | None, Event], None]) -> None:
        """Register `happened`, to be called for each new event of any build with the previous state
        (None: the build is new)."""
        self._watching.append(happened)

    async def load_unfinished(self) -> list[BuildState]:
        """Rehydrate every build that has not ended. Returns them, oldest first.

        A build whose events are damaged, or newer than this version, does not continue, and requests
        for it get that error; other builds are not affected. Raises Unavailable when the log cannot be
        read.
        """
        self._machines.update(await asyncio.to_thread(self._load))
        return self.unfinished()

    async def ask(self, read: Callable[..., Answer], *arguments: Any) -> Answer:
        """Run a short read of the log in the dedicated reader pool: queries work even while other
        threads are busy (slow mirrors, large trees)."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, read, *arguments)

    def unfinished(self) -> list[BuildState]:
        """The builds that have not ended, in order of submission."""
        return [machine.state for machine in self._machines.values()]

    def is_here(self, host: str) -> bool:
        """Whether events and states that name this host are of this one."""
        return self.named(host) == self.host

    def named(self, host: str) -> str:
        """The host that an event or a state names: without a name it is of a single machine."""
        return host or self.origin

    def unfinished_here(self) -> list[BuildState]:
        """Those of them whose layers, and kept workspaces, are on this host."""
        return self.unfinished()

    async def create(self, submitted: BuildSubmitted, actor: Actor) -> BuildState:
        """Create a build. Raises the log's Conflict when the idempotency key was taken in the
        meantime."""
        build = new_id()
        return await self._finish(self._append(build, None, submit(submitted), actor))

    async def create_together(
        self, submitted: Mapping[str, BuildSubmitted], actor: Actor
    ) -> list[BuildState]:
        """Create builds with these ids, all of them or none. Raises as `create`."""
        return await self._finish(self._append_together(submitted, actor))

    async def _append_together(
        self, submitted: Mapping[str, BuildSubmitted], actor: Actor
    ) -> list[BuildState]:
        first = {build: submit(payload) for build, payload in submitted.items()}
        appended = await asyncio.wrap_future(self.log.append_together(first, actor, self._clock()))
        return [self._move(event.build, None, [event]) for event in appended]

    async def state(self, build: str) -> BuildState:
        """The state of a build. Raises NotFound."""
        if machine := self._machines.get(build):
            return machine.state
        return (await self._rehydrate(build)).state

    async def events(self, build: str) -> Sequence[Event]:
        """All events of a build, oldest first. Raises NotFound."""
        return await self.ask(self.log.read_build, build)

    async def command(self, build: str, change: Change, actor: Actor = DAEMON) -> BuildState:
        """Carry out a command, or record a fact: check, append, move. Returns the state after it.

        Raises Refused, NotFound, and Unavailable when the log accepts no events, without changing the
        build.
        """
        _, after = await self.transition(build, change, actor)
        return after

    async def transition(
        self, build: str, change: Change, actor: Actor = DAEMON
    ) -> tuple[BuildState, BuildState]:
        """Like `command`. Returns the states immediately before and after it."""
        return await self._finish(self._locked(build, change, actor))

    async def _finish(self, change: Coroutine[Any, Any, Answer]) -> Answer:
        # After a client disconnects, no event may be on disk that the machine has not applied.
        return await asyncio.shield(asyncio.ensure_future(change))

    async def _locked(
        self, build: str, change: Change, actor: Actor
    ) -> tuple[BuildState, BuildState]:
        async with self._lock(build):
            return await self._change(build, change, actor)

    def _lock(self, build: str) -> asyncio.Lock:
        return self._locks.setdefault(build, asyncio.Lock())

    async def _change(
        self, build: str, change: Change, actor: Actor, epoch: int | None = None
    ) -> tuple[BuildState, BuildState]:
        """The states before and after a change, with the build's lock held."""
        machine = self._machines.get(build) or await self._rehydrate(build)
        before = machine.state
        payloads = decide(machine, change)
        if not payloads:
            return before, before
        return before, await self._append(build, machine, payloads, actor, epoch)

    async def _append(
        self,
        build: str,
        machine: BuildMachine | None,
        payloads: Sequence[Payload],
        actor: Actor,
        epoch: int | None = None,
    ) -> BuildState:
        sequence = machine.state.sequence if machine else 0
        try:
            events = await asyncio.wrap_future(
                self.log.append(build, sequence, payloads, actor, self._clock(), epoch)
            )
        except Conflict:
            self._machines.pop(build, None)
            raise
        return self._move(build, machine, events)

    def _move(
        self, build: str, machine: BuildMachine | None, events: Sequence[Event]
    ) -> BuildState:
        before = None if machine is None else machine.state
        for event in events:
            if machine is None:
                machine = BuildMachine(event)
            else:
                machine.apply(event)
            for tell in self._watching:
                tell(before, event)
            before = machine.state
        assert machine is not None
        if machine.state.ended:
            self.ended.set()
            self._machines.pop(build, None)
            self.broadcast.clear(build)
        else:
            self._machines[build] = machine
        self.broadcast.changed(build)
        return machine.state

    def _load(self) -> dict[str, BuildMachine]:
        """The machines of the builds that have not ended, read in one thread: for a thousand builds,
        thread switches would take longer than reading."""
        machines = {}
        for summary in self.log.unfinished():
            try:
                machines[summary.id] = BuildMachine.rehydrate(self.log.read_build(summary.id))
            except DcdError as error:
                if is_outage(error):
                    raise
                logger.error("a build cannot continue", build=summary.id, error=str(error))
        return machines

    async def _rehydrate(self, build: str) -> BuildMachine:
        return BuildMachine.rehydrate(await self.ask(self.log.read_build, build))
