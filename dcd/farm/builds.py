"""The builds of a farm as one member sees them: it drives those that it owns, and gives commands to all.

The log decides. `take` makes this member the owner of a build and gives it an epoch; what its engine records
carries the epoch, and is refused once another member has taken the build (Fenced). Commands of people need no
owner: they are decided from the log, and decided again when the build has changed meanwhile. `follow` applies
what other members have appended, and tells this member's engine. Used from the event loop's thread only.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog

from dcd.engine.broadcast import Broadcast
from dcd.engine.builds import Builds, now
from statemachine.build import BuildState
from statemachine.commands import Change, FailCheckpoint, InterruptCheckpoint, Pause, Start
from statemachine.errors import DcdError
from statemachine.events import Actor, BuildPlaced, Event, Payload
from statemachine.machine import BuildMachine
from store.eventlog import Conflict, DuplicateSubmission, EventLog, Fenced
from store.eventlog.interface import May, whatever

logger = structlog.get_logger()

MANY_CONFLICTS = 20
"""More conflicts in a row than members and people can cause indicate a defect."""

PAGE = 1000
"""The number of events that are read at once."""

BY_OWNER = (Payload, Start, FailCheckpoint, InterruptCheckpoint, Pause)
"""The changes that only the owner of a build makes: facts, and what its engine decides."""

Heard = Callable[[Event], None]
"""Called with each event of an owned build that another member has appended, after it is applied."""


@dataclass(frozen=True, slots=True)
class Owned:
    """This member's ownership of a build: its epoch, and the sequence of its last event when it was taken."""

    epoch: int
    since: int


class FarmBuilds(Builds):
    """See the module. `host` is the name of this member; `news` is called with each event that another one
    has appended."""

    def __init__(
        self,
        log: EventLog,
        broadcast: Broadcast,
        host: str,
        heard: Heard,
        news: Heard = lambda event: None,
        clock: Callable[[], datetime] = now,
    ) -> None:
        super().__init__(log, broadcast, clock)
        self.host = host
        self._heard = heard
        self._news = news
        self._owned: dict[str, Owned] = {}
        self._resting: dict[str, BuildMachine] = {}
        """The machines of builds that this member drove last, and does not drive now: their layers, and the
        workspaces of failed ones, are here."""
        self._followed = log.position
        self._own: set[int] = set()
        """The positions of own events that `follow` has not read yet."""
        self._following = asyncio.Lock()
        self._cleaning: set[asyncio.Task[None]] = set()

    async def load_unfinished(self) -> list[BuildState]:
        """The builds that this member drove last, and whose workspaces it may need. It has taken none yet."""
        machines = await asyncio.to_thread(self._load)
        self._resting = {
            build: machine for build, machine in machines.items() if self._rests_here(machine.state)
        }
        return self.unfinished_here()

    def unfinished_here(self) -> list[BuildState]:
        return [machine.state for machine in {**self._resting, **self._machines}.values()]

    def _rests_here(self, state: BuildState) -> bool:
        return self.is_here(state.host) and not state.ended

    def owns(self, build: str) -> bool:
        """Whether this member may drive the build, as far as it knows."""
        return build in self._owned

    async def take(self, build: str, may: May = whatever) -> BuildState:
        """Make this member the owner of a build. Raises as `EventLog.take`."""
        return await self._finish(self._take(build, may))

    async def _take(self, build: str, may: May) -> BuildState:
        async with self._lock(build):
            epoch = await self.ask(self.log.take, build, self.host, may)
            machine = await self._rehydrate(build)
            rested = self._resting.pop(build, None)
            self._machines[build] = machine
            self._owned[build] = Owned(epoch, machine.state.sequence)
            # By a command to another member, of which this one has not heard yet.
            if rested and rested.state.lifecycle is not machine.state.lifecycle:
                self._clean_later(rested.state)
        self.broadcast.changed(build)
        return machine.state

    def rest(self, build: str) -> None:
        """Drive the build no more. Its layers stay here until another member takes it, or it ends."""
        machine = self._machines.get(build)
        self.forget(build)
        if machine is not None and self._rests_here(machine.state):
            self._resting[build] = machine

    def forget(self, build: str) -> None:
        """Drive the build no more: another member has it, or it has ended."""
        self._owned.pop(build, None)
        self._machines.pop(build, None)
        self.broadcast.clear(build)

    async def follow(self) -> None:
        """Apply what other members have appended since the last call. Raises Unavailable."""
        async with self._following:
            while events := await self.ask(self.log.read, None, self._followed, PAGE):
                for event in events:
                    # An append of this member holds the lock until its events are known to be its own.
                    async with self._lock(event.build):
                        before = self._apply(event)
                    self._followed = event.position
                    if before is not None:
                        self._clean_later(before)

    def _clean_later(self, before: BuildState) -> None:
        """Remove what a build has left here that was in this state. To remove a workspace may take long, and
        others wait for the next event."""
        if self.left is not None:
            cleaning = asyncio.create_task(self._clean(self.left, before))
            self._cleaning.add(cleaning)
            cleaning.add_done_callback(self._cleaning.discard)

    async def _clean(
        self, left: Callable[[BuildState], Awaitable[None]], before: BuildState
    ) -> None:
        try:
            await left(before)
        except (DcdError, OSError) as error:
            logger.error("not cleaned up", build=before.id, reason=str(error))

    def _apply(self, event: Event) -> BuildState | None:
        """Apply an event. Returns the state before it of a build that rests here and continues, or ends."""
        if event.position in self._own:
            self._own.discard(event.position)
            return None
        self.broadcast.changed(event.build)
        self._news(event)
        owned = self._owned.get(event.build)
        if owned is None:
            return self._apply_at_rest(event)
        if event.sequence <= owned.since:
            return None
        machine = self._machines.get(event.build)
        if machine is not None and not _applied(machine, event):
            self._machines.pop(event.build)
        ended = machine is not None and machine.state.ended
        if ended or isinstance(event.data, BuildPlaced):
            self.forget(event.build)
        self._heard(event)
        return None

    def _apply_at_rest(self, event: Event) -> BuildState | None:
        machine = self._resting.get(event.build)
        if machine is None or event.sequence <= machine.state.sequence:
            return None
        before = machine.state
        _applied(machine, event)
        if not self._rests_here(machine.state):
            self._resting.pop(event.build)
        return before if machine.state.lifecycle is not before.lifecycle else None

    async def _change(
        self, build: str, change: Change, actor: Actor, epoch: int | None = None
    ) -> tuple[BuildState, BuildState]:
        if isinstance(change, BY_OWNER):
            if build not in self._owned:
                raise Fenced(f"build {build} belongs to another member")
            epoch = self._owned[build].epoch
        for _ in range(MANY_CONFLICTS):
            try:
                return await super()._change(build, change, actor, epoch)
            except Fenced:
                self.forget(build)
                raise
            except DuplicateSubmission:
                raise
            except Conflict as error:
                conflict = error  # it is read again
        raise conflict

    def _move(
        self, build: str, machine: BuildMachine | None, events: Sequence[Event]
    ) -> BuildState:
        # A new build has no lock: `follow` may have read it first.
        self._own.update(each.position for each in events if each.position > self._followed)
        # A command to another member came before this one, and `follow` has not read it yet.
        rested = self._resting.get(build)
        if rested and machine and rested.state.lifecycle is not machine.state.lifecycle:
            self._clean_later(rested.state)
        state = super()._move(build, machine, events)
        if state.ended or not self.owns(build):
            self._resting.pop(build, None)
            self.rest(build)
        return state


def _applied(machine: BuildMachine, event: Event) -> bool:
    """Apply an event unless that is done. Whether it can be: otherwise the build's next use reads all of it,
    and fails."""
    if event.sequence > machine.state.sequence:
        try:
            machine.apply(event)
        except DcdError as error:
            logger.error("a build cannot continue", build=event.build, reason=str(error))
            return False
    return True
