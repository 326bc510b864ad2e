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
from statemachine.errors import DcdError
from statemachine.events import BuildPlaced, CancelRequested, Event

logger = structlog.get_logger()


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
        self.draining = False
        """Whether this member takes no builds, and hands over those that it has."""

    def wake(self) -> None:
        super().wake()
        self._news()

    @property
    def driving(self) -> frozenset[str]:
        """The builds that this member drives."""
        return frozenset(self._tasks)

    @property
    def has_room(self) -> bool:
        """Whether this member may take one more build."""
        room = len(self._tasks) < self._settings().max_running_builds
        return room and not (self._stopping or self.draining)

    async def drive(self, build: str) -> None:
        """Take a build and drive it until it stops; the task continues when the caller is cancelled."""
        if build not in self._tasks and self.has_room:
            try:
                state = await self._farm.take(build)
            except DcdError as error:
                logger.info("the build is not taken", build=build, reason=str(error))
                return
            self._start(state)
        if task := self._tasks.get(build):
            await asyncio.shield(asyncio.wait([task]))

    def heard(self, event: Event) -> None:
        """Act upon an event of an owned build that another member has appended."""
        match event.data:
            case CancelRequested():
                self._runner.stop(event.build, "cancelled")
            case BuildPlaced():
                self._runner.stop(event.build, "host-lost")
                if event.build in self._tasks:
                    self._runner.leave(event.build)
        self._runner.locks.recall(event.build)

    def hand_over(self, build: str) -> None:
        """Drive the build no longer than to the end of its running checkpoint."""
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
            self._farm.forget(build)
