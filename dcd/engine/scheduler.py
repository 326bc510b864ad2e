"""The order in which builds run.

The queue is the event log: a queued build stays in the queue across restarts of the daemon. Builds run
by priority, then by age; at most `max_running_builds` at once. A build that was running when the daemon
died keeps its slot. Builds paused for lack of space are queued again when more space is free than
before, or when another build has ended, which may have freed some.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace

import structlog

from dcd.configuration import Configuration
from dcd.engine.builds import Builds
from dcd.engine.runner import Runner
from statemachine.build import BuildState, Lifecycle
from statemachine.commands import Resume
from statemachine.errors import DcdError, Unavailable
from statemachine.lifecycle import AT_WORK
from store.host import space
from store.host.conversation import Gone

logger = structlog.get_logger()

SPACE_CHECK_SECONDS = 10.0

GONE_SECONDS = 10.0
"""The time for the daemon to end after its launcher."""


class Scheduler:
    """Starts builds, with one task per running build."""

    def __init__(
        self, builds: Builds, runner: Runner, settings: Callable[[], Configuration]
    ) -> None:
        self._builds = builds
        self._runner = runner
        self._settings = settings
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._stopping = False
        self._room_when_starved: dict[str, space.Room] = {}
        """The free space after a build ran out of space although its stated need was met."""

    def wake(self) -> None:
        """Check the queue: a build was queued, or a slot may be free."""
        self._wake.set()

    async def run(self) -> None:
        """Start builds until cancelled."""
        while True:
            self._wake.clear()
            self._start_builds()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), SPACE_CHECK_SECONDS)
            await self._resume_starved()

    async def stop(self, grace_seconds: float) -> None:
        """Start no more builds; wait `grace_seconds` for attempts to end, then interrupt them."""
        self._stopping = True
        self._runner.stopping = True
        tasks = set(self._tasks.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace_seconds)
            if late:
                self._runner.stop_all("shutdown")
                await asyncio.wait(late)

    def _start_builds(self) -> None:
        states = self._builds.unfinished()
        for state in states:
            if state.lifecycle in AT_WORK:
                self._start(state)
        queued = [s for s in states if s.lifecycle is Lifecycle.QUEUED and s.id not in self._tasks]
        queued.sort(key=lambda state: (-state.priority, state.submitted_position))
        for state in queued[: max(0, self._settings().max_running_builds - len(self._tasks))]:
            self._start(state)

    def _start(self, state: BuildState) -> None:
        if self._stopping or state.id in self._tasks:
            return
        task = asyncio.create_task(self._run(state.id), name=f"build {state.id}")
        self._tasks[state.id] = task
        task.add_done_callback(lambda _: self._ended(state.id))

    def _ended(self, build: str) -> None:
        self._tasks.pop(build, None)
        self.wake()

    async def _run(self, build: str) -> None:
        try:
            await self._runner.run(build)
        except Gone as error:
            # The daemon ends with the launcher, and the next one continues the build as it is.
            await asyncio.sleep(GONE_SECONDS)
            await self._defect(build, error)
        except Unavailable as error:
            # The runner waits for a log that accepts no events, until the daemon stops.
            if self._stopping:
                logger.error(
                    "the event log accepted no events before the stop",
                    build=build,
                    error=str(error),
                )
            else:
                await self._unavailable(build, error)
        except Exception as error:  # noqa: BLE001 - the last resort
            await self._defect(build, error)
        self._note_space(build)

    async def _unavailable(self, build: str, error: Unavailable) -> None:
        """The log cannot be read."""
        await self._defect(build, error)

    async def _defect(self, build: str, error: Exception) -> None:
        """The last resort: a defect in one build must be reported, and must not stop the others."""
        logger.error("a build stopped because of a defect in dcd", build=build, exc_info=error)
        await self._runner.give_up(build, error)

    def _note_space(self, build: str) -> None:
        starved = [state for state in self._starved() if state.id == build]
        if not starved:
            self._room_when_starved.clear()
            return
        with contextlib.suppress(OSError):  # the state directory is gone, which health reports
            room = space.room(self._settings().state_dir)
            if room.suffices(self._stated_need(starved[0])):
                self._room_when_starved[build] = room

    def _starved(self) -> list[BuildState]:
        return [
            state
            for state in self._builds.unfinished_here()
            if state.lifecycle is Lifecycle.PAUSED and state.cause == "no-space"
        ]

    def _stated_need(self, state: BuildState) -> space.Room:
        """The stated need of space of the next checkpoint."""
        planned = state.plan.checkpoints[state.completed : state.completed + 1]
        return space.needed(planned, self._settings().min_free_bytes)

    async def _resume_starved(self) -> None:
        # A build whose attempt is still being cleaned up has not freed its space yet.
        starved = [state for state in self._starved() if state.id not in self._tasks]
        if not starved:
            return
        try:
            room = space.room(self._settings().state_dir)
        except OSError:
            return
        for state in starved:
            if self._has_room(state, room):
                logger.info("there is space again; the build continues", build=state.id)
                with contextlib.suppress(DcdError):
                    await self._builds.command(state.id, Resume())
                self.wake()

    def _has_room(self, state: BuildState, room: space.Room) -> bool:
        need = self._stated_need(state)
        if not room.suffices(replace(need, free_bytes=need.free_bytes + space.MARGIN_BYTES)):
            return False
        earlier = self._room_when_starved.get(state.id)
        return earlier is None or room.exceeds(earlier)
