"""The builds that a member of a farm drives: those that its queue hands to it.

The queue decides which build is next; here it becomes a task, as on a single machine, after this member has
taken it. A build that another member took, or that is handed over, ends its task and leaves nothing in the
log.
"""

import asyncio
from collections.abc import Callable

import structlog

from dcd.configuration import Configuration
from dcd.engine.runner import Runner
from dcd.engine.scheduler import Scheduler
from dcd.farm.builds import FarmBuilds
from statemachine.build import Lifecycle
from statemachine.errors import DcdError, Unavailable
from statemachine.events import BuildPlaced, CancelRequested, Event, MoveRequested
from store.eventlog import is_outage
from store.eventlog.interface import May, whatever

logger = structlog.get_logger()

UNREADABLE_SECONDS = 60.0
"""How long a build is left alone whose events could not be read."""


class FarmScheduler(Scheduler):
    """See the module. `news` is called when a build may need a member."""

    def __init__(
        self,
        builds: FarmBuilds,
        runner: Runner,
        settings: Callable[[], Configuration],
        news: Callable[[], None],
    ) -> None:
        super().__init__(builds, runner, settings)
        self._farm = builds
        self._news = news
        self._unreadable: dict[str, float] = {}
        """The builds whose events could not be read, and when they are read again, by the loop's clock."""
        self.draining = False
        """Whether this member takes no builds, and hands over those that it has."""
        self._taking: set[str] = set()
        self._handed: set[str] = set()
        """The builds of jobs that this member has."""
        self.may_take: May = whatever
        """Whether this member is to take a build."""

    def wake(self) -> None:
        super().wake()
        self._news()

    def drain(self, *, draining: bool) -> None:
        """Take no builds, and hand over those that this member has; or take builds again."""
        self.draining = draining
        logger.info("draining" if draining else "takes builds again", host=self._farm.host)
        self.wake()

    @property
    def driving(self) -> frozenset[str]:
        """The builds that this member drives."""
        return frozenset(self._tasks)

    @property
    def stopping(self) -> bool:
        """Whether the daemon stops."""
        return self._stopping

    @property
    def slots(self) -> int:
        """The number of builds that this member drives at once."""
        return self._settings().max_running_builds

    @property
    def room(self) -> int:
        """The number of jobs that this member may have at once: without the builds that it drives without
        one, since they were there before it began to listen to its queues."""
        return max(0, self.slots - len(self.driving - self._handed))

    async def can_continue(self, build: str) -> bool:
        """Whether some member can drive a build: its events are a history. Raises Unavailable."""
        now = asyncio.get_running_loop().time()
        if self._unreadable.get(build, now) > now:
            return False
        try:
            await self._farm.state(build)
        except DcdError as error:
            if is_outage(error):
                raise
            if build not in self._unreadable:
                logger.error("a build cannot continue", build=build, error=str(error))
            self._unreadable[build] = now + UNREADABLE_SECONDS
            return False
        self._unreadable.pop(build, None)
        return True

    async def drive(self, build: str, epoch: int) -> None:
        """Take a build in this epoch and drive it until it stops; the task continues when the caller is
        cancelled."""
        self._handed.add(build)
        try:
            if len(self._tasks) < self.slots:
                await self.resume(build, epoch)
            if task := self._tasks.get(build):
                await asyncio.shield(asyncio.wait([task]))
        finally:
            self._handed.discard(build)

    async def resume(self, build: str, epoch: int, *, ends: bool = False) -> None:
        """Take a build in this epoch and drive it, in a task of its own, whatever room there is: it has had
        its slot. One that `ends`, since it is to be cancelled or paused, also while this member hands its
        builds over. One that another member has taken meanwhile is left to that."""
        # When the caller is cancelled, no build may be taken that nobody drives.
        await asyncio.shield(asyncio.ensure_future(self._resume(build, epoch, ends)))

    async def _resume(self, build: str, epoch: int, ends: bool) -> None:
        # A build that this member continues may have a job too: it is taken once.
        drained = self.draining and not ends
        if build in self._tasks or build in self._taking or self._stopping or drained:
            return
        self._taking.add(build)
        may = whatever if ends else self.may_take
        try:
            state = await self._farm.take(build, lambda state: state.epoch == epoch and may(state))
        except DcdError as error:
            logger.info("the build is not taken", build=build, reason=str(error))
        else:
            self._start(state)
            if state.moves_to is not None or self.draining:  # by a command that came between
                self.hand_over(build)
        finally:
            self._taking.discard(build)

    async def _unavailable(self, build: str, error: Unavailable) -> None:
        """An outage of the database: when this member looks again, it continues the build."""
        if is_outage(error):
            logger.warning("the build waits for the database", build=build, reason=str(error))
        else:
            await super()._unavailable(build, error)

    async def stop(self, grace_seconds: float) -> None:
        self._stopping = True
        self._news()
        await super().stop(grace_seconds)

    def heard(self, event: Event) -> None:
        """Act upon an event of an owned build that this engine has not caused."""
        match event.data:
            case CancelRequested():
                self._runner.stop(event.build, "cancelled")
            case BuildPlaced():
                self._runner.stop(event.build, "host-lost")
                if event.build in self._tasks:
                    self._runner.leave(event.build)
            case MoveRequested():
                self.hand_over(event.build)
        self._runner.locks.recall(event.build)

    def hand_over(self, build: str) -> None:
        """Drive the build no longer than to the end of its running checkpoint."""
        if build in self._tasks:
            self._runner.leave(build)

    def _start_builds(self) -> None:
        """The queue starts builds. Those that this member is to hand over go after their checkpoints."""
        if self.draining:
            for build in self._tasks:
                self.hand_over(build)

    def _ended(self, build: str) -> None:
        super()._ended(build)
        state = next((each for each in self._farm.unfinished() if each.id == build), None)
        # One that waits for space continues here, where the space was too small, or anywhere by a command.
        if state is not None and not (
            state.lifecycle is Lifecycle.PAUSED and state.cause == "no-space"
        ):
            self._farm.rest(build)
