"""Which build runs when.

The queue is the event log: a build that is queued there is in the queue, whatever happened to the
daemon. Higher priority first, then the older build; at most `max_running_builds` at once. A build
that was running when the daemon died has its place already and keeps it. Builds paused for want of
space are queued again when there is space: more than when they ran out of it, or another build has
ended since, which may have held what they lacked.
"""

import asyncio
import contextlib
import shutil
from collections.abc import Callable

import structlog

from dcd.configuration import Configuration
from dcd.engine.builds import Builds
from dcd.engine.runner import Runner
from statemachine.build import BuildState, Lifecycle
from statemachine.commands import HAS_PLACE, FailBuild, FailCheckpoint, Resume
from statemachine.errors import Refused, Unavailable
from statemachine.events import ErrorInfo

log = structlog.get_logger()

SPACE_CHECK_SECONDS = 10.0

RESUME_MARGIN_BYTES = 64 * 1024**2
"""Free space beyond what a starved build needs, so that it does not stop again at once."""


class Scheduler:
    """Starts builds; one task a running build."""

    def __init__(
        self, builds: Builds, runner: Runner, settings: Callable[[], Configuration]
    ) -> None:
        self._builds = builds
        self._runner = runner
        self._settings = settings
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._stopping = False
        self._free_when_starved: dict[str, int] = {}
        """Free bytes just after a build ran out of space although its checkpoint had said that so much
        would do: not enough for it."""

    def wake(self) -> None:
        """Something was queued, or a place may be free."""
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
        """Start nothing more; let attempts end for `grace_seconds`, then interrupt them."""
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
            if state.state in HAS_PLACE:
                self._start(state)
        queued = [s for s in states if s.state is Lifecycle.QUEUED and s.id not in self._tasks]
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
        except Unavailable as error:
            log.error("the log took no events before the stop", build=build, error=str(error))
        except Exception as error:
            # The last resort: one build's defect must not stop the others, nor be silent.
            log.exception("a build stopped because of a defect in dcd", build=build)
            await self._give_up(build, error)
        self._note_space(build)

    async def _give_up(self, build: str, error: Exception) -> None:
        details = f"{type(error).__name__}: {error}"
        info = ErrorInfo("a defect in dcd stopped the build", details, "report it, then resume")
        state = await self._builds.state(build)
        running = state.running
        command = FailCheckpoint(running.name, info) if running else FailBuild(info)
        with contextlib.suppress(Refused, Unavailable):
            await self._builds.command(build, command)

    def _note_space(self, build: str) -> None:
        starved = [state for state in self._starved() if state.id == build]
        if not starved:
            self._free_when_starved.clear()
        elif (free := self._free_bytes()) >= self._stated_need(starved[0]):
            self._free_when_starved[build] = free

    def _starved(self) -> list[BuildState]:
        return [
            state
            for state in self._builds.unfinished()
            if state.state is Lifecycle.PAUSED and state.cause == "no-space"
        ]

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self._settings().state_dir).free

    def _stated_need(self, state: BuildState) -> int:
        """Free bytes with which the next checkpoint says that it can do."""
        planned = state.plan.checkpoints[state.completed : state.completed + 1]
        return self._settings().min_free_bytes + sum(p.disk_bytes for p in planned)

    async def _resume_starved(self) -> None:
        for state in self._starved():
            needed = max(self._stated_need(state), self._free_when_starved.get(state.id, 0))
            if self._free_bytes() >= needed + RESUME_MARGIN_BYTES:
                log.info("there is space again; the build goes on", build=state.id)
                with contextlib.suppress(Refused, Unavailable):
                    await self._builds.command(state.id, Resume())
                self.wake()
