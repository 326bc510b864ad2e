"""The whole engine in one thread, with nothing left to chance: a simulated life of the daemon.

Real are the engine, the event log's database, the layers (copy back end), artifacts, manifests and plans.
Simulated is what surrounds them: the clock, the boot id, free space, and the worker of an attempt, which
ends when and how the test says. Whatever the engine hands to a thread or to the log's writer is a *job*.
Jobs run one at a time, in an order drawn from the seed, and only as many as the test allows. So a kill
comes between any two effects, and the same seed gives the same history.
"""

import asyncio
import random
import re
import selectors
import shutil
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import pytest
import simulated_mirror
import structlog
from simulated_parts import (
    EXPECTED_ERRORS,
    PLENTY,
    START,
    Attempt,
    DiskUsage,
    Jobs,
    Killed,
    SimulatedArtifacts,
    SimulatedLayers,
    run_attempt,
)

from dcd.api.schemas import BuildView
from dcd.api.stream import follow
from dcd.api.views import build_view
from dcd.configuration import Configuration
from dcd.engine import attempt, runner
from dcd.engine import builds as engine_builds
from dcd.engine.broadcast import Broadcast
from dcd.engine.builds import Builds
from dcd.engine.engine import Engine
from dcd.engine.recovery import remove_unfinished
from dcd.engine.runner import Runner
from dcd.engine.scheduler import Scheduler
from dcd.engine.stores import Stores
from dcd.engine.workspaces import kept_workspace
from dcd.launcher.orders import Bounds
from dcd.manifest import plugins
from dcd.planner.client import HERE
from dcd.planning import ingredients
from dcd.planning import plan as planning
from dcd.worker.launch import Ending
from statemachine.build import ENDED, Lifecycle
from store.blobs import Blobs
from store.eventlog import EventLog
from store.eventlog.errors import LogFull
from store.logs import AttemptLogs
from store.packages import Packages
from tests.launching import Here

STANDING = ENDED | {Lifecycle.PAUSED, Lifecycle.FAILED}


class Logs(Protocol):
    """Where the event logs of state directories are."""

    def clear(self, directory: Path) -> None:
        """Give a new state directory a log without events."""

    def open(self, directory: Path) -> EventLog:
        """Open the log of a state directory."""


class World:
    """What outlives the daemon, and the daemon that lives now. A context manager."""

    def __init__(
        self,
        directory: Path,
        seed: int,
        began: Callable[[Attempt], None],
        logs: Logs,
    ) -> None:
        self.state_dir = directory
        self._logs = logs
        self.settings = Configuration(
            state_dir=directory, min_free_bytes=0, checkpoint_modules=(simulated_mirror.__name__,)
        )
        self.chance = random.Random(seed)
        self.began = began
        self.boot = "boot-0"
        self.seconds = 0.0
        self.jump_seconds = 0.0
        self.free_bytes = PLENTY
        self.log_is_full = False
        self.refusals = 0
        """How many appends the full log refused."""
        self.attempts: list[Attempt] = []
        self.seen: dict[str, list[int]] = {}
        """By build: the positions of the events that its follower was shown."""
        self.problems: list[object] = []
        self._number = 0

    def __enter__(self) -> "World":
        self._patched = pytest.MonkeyPatch()
        patch = self._patched.setattr
        patch(attempt, "run_attempt", self._run_attempt)
        for module in (attempt, runner):
            patch(module, "boot_id", lambda: self.boot)
        patch(shutil, "disk_usage", lambda _: DiskUsage(PLENTY, 0, self.free_bytes))
        patch(engine_builds, "ThreadPoolExecutor", lambda *_: Jobs(self._job))
        patch(engine_builds, "new_id", self._new_id)
        patch(planning, "new_salt", self._new_id)
        patch(simulated_mirror, "state", "1")
        # What takes time and does not change: there are no plug-ins, and code stays as it is.
        patch(plugins, "entry_points", lambda group: ())
        patch(ingredients, "code_digest", cache(ingredients.code_digest))
        structlog.configure(processors=[self._note])
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._dead:
            self.kill(0)
        structlog.reset_defaults()
        self._patched.undo()

    # The life of the daemon

    def start(self) -> None:
        """Start the daemon; nothing happens before `run`."""
        self._dead = False
        self._jobs: list[tuple[Future[Any], Callable[[], Any]]] = []
        self._allowed: float = 0
        self._until = self.seconds
        self._loop = _Loop(self)
        self._loop.set_default_executor(Jobs(self._job))
        self._loop.set_exception_handler(self._unexpected)
        self.log = self._logs.open(self.state_dir)
        self._append, self.log.append = self.log.append, self._append_later  # type: ignore[method-assign]
        self.engine: Engine | None = None
        self._life = [self._loop.create_task(self._begin())]

    async def _begin(self) -> None:
        """What dcd.serve does."""
        layers = SimulatedLayers(self)
        layers.prepare()
        blobs, artifacts = Blobs(self.state_dir / "blobs"), SimulatedArtifacts(self)
        logs = AttemptLogs(self.state_dir / "logs")
        logs.prepare()
        packages = Packages(self.state_dir / "packages")
        packages.prepare()
        self._launcher = Here(
            layers,
            artifacts,
            logs,
            blobs.directory,
            packages,
            "simulated",
            bounds=Bounds(host_code=True),
        )
        self.stores = Stores(self._launcher, blobs, artifacts, logs, packages)
        builds = Builds(self.log, Broadcast(), self.now)
        unfinished = await builds.load_unfinished()
        kept = {name for state in unfinished if (name := kept_workspace(state))}
        await asyncio.to_thread(remove_unfinished, layers, kept)
        planner = HERE
        running = Runner(builds, self.stores, lambda: self.settings, planner)
        self._scheduler = Scheduler(builds, running, lambda: self.settings)
        self.engine = Engine(
            builds, running, self._scheduler, self.stores, lambda: self.settings, planner
        )
        self._life += [
            self._loop.create_task(work)
            for work in (self._scheduler.run(), self.engine.collector.run())
        ]
        for build in list(self.seen):
            self._follow(build)

    @property
    def ready(self) -> bool:
        return self.engine is not None

    def run(self, jobs: float = float("inf"), seconds: float = 0.0) -> bool:
        """Run the daemon until `jobs` jobs are done or it waits; timers fire for `seconds`. Returns whether
        no job is left."""
        self._allowed, self._until = jobs, self.seconds + seconds
        self._loop.run_forever()
        for task in self._life:
            if task.done() and not task.cancelled() and task.exception():
                raise task.exception()
        for problem in self.problems:
            raise problem if isinstance(problem, AssertionError) else AssertionError(problem)
        return not self._jobs

    def start_task(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Start a task in the daemon's event loop."""
        return self._loop.create_task(work)

    def stop(self, seconds: float) -> None:
        """Stop the daemon in order, without ending its process. It takes at most `seconds`."""
        stopping = self.start_task(self._stop())
        self.run(seconds=seconds)
        assert stopping.done(), "the daemon does not stop"
        stopping.result()

    async def _stop(self) -> None:
        for task in self._life:
            task.cancel()
        await self._scheduler.stop(self.settings.stop_grace_seconds)

    def kill(self, jobs: int) -> None:
        """SIGKILL. `jobs` pending jobs still run; their results are lost."""
        self.chance.shuffle(self._jobs)
        for future, work in self._jobs[:jobs]:
            if not future.cancelled():
                try:
                    work()
                except Exception as error:  # noqa: BLE001 - no task waits for the result
                    assert not isinstance(error, AssertionError)
        self._end()

    def _end(self) -> None:
        self._dead = True
        self._jobs.clear()
        self._allowed, self._until = 0, self.seconds - 1
        while tasks := asyncio.all_tasks(self._loop):
            for task in tasks:
                task.cancel()
            self._loop.run_forever()
        self.log.close()
        self._loop.close()
        self.attempts.clear()

    # What the engine meets

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds + self.jump_seconds)

    def _new_id(self) -> str:
        self._number += 1
        return f"build{self._number}"

    def _job(self, work: Callable[[], Any]) -> "Future[Any]":
        if self._dead:
            raise Killed
        future: Future[Any] = Future()
        self._jobs.append((future, work))
        return future

    def would_wait(self, seconds: float | None) -> None:
        """The event loop is idle for `seconds`; None: no timer is set."""
        if self._jobs and self._allowed >= 1:
            self._allowed -= 1
            future, work = self._jobs.pop(self.chance.randrange(len(self._jobs)))
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:  # noqa: BLE001 - it is the waiting task's
                    future.set_exception(error)
        elif not self._jobs and seconds is not None and self.seconds + seconds <= self._until:
            self.seconds += seconds
        else:
            self._loop.stop()

    def _append_later(self, *arguments: Any) -> "Future[Any]":
        """Appends are jobs, and the log's disk can be full."""

        def work() -> Any:
            self.check_log()
            return self._append(*arguments).result()

        return self._job(work)

    def check_log(self) -> None:
        if self.log_is_full:
            self.refusals += 1
            raise LogFull("the disk of the event log is full")

    async def _run_attempt(self, start: Any, *, stop: asyncio.Event, **_: Any) -> Ending:
        return await run_attempt(
            self.attempts, self._launcher.layers, self._begin_attempt, start, stop
        )

    def _begin_attempt(self, attempt: Attempt) -> None:
        try:
            self.began(attempt)
        except AssertionError as error:
            self.problems.append(error)  # the engine would take it for its own
        attempt.begin()

    def follow(self, build: str) -> None:
        """Have a client follow a build from its first event on, in this life and the next ones."""
        if build not in self.seen:
            self.seen[build] = []
            if self.ready:
                self._follow(build)

    def _follow(self, build: str) -> None:
        self._life.append(self._loop.create_task(self._followed(build)))

    async def _followed(self, build: str) -> None:
        assert self.engine is not None
        records, seen = self.engine.records, self.seen[build]

        async def settled(build: str, after: int) -> bool:
            state = await records.state(build)
            return state.lifecycle in STANDING and state.log_position <= after

        async def view(build: str) -> BuildView:
            state = await records.state(build)
            ahead = records.outlook(state)
            return build_view(state, lambda build, artifact: Path(artifact.path), {}, ahead)

        with records.broadcast.listen(build) as changed:
            while True:
                after = seen[-1] if seen else 0
                async for message in follow(
                    records.events, view, settled, records.broadcast, build, after
                ):
                    if position := re.search(rb"^id: (\d+)$", message, re.MULTILINE):
                        seen.append(int(position[1]))
                await changed.wait()

    def _note(self, _: object, method: str, entry: dict[str, Any]) -> Any:
        bad = method in ("error", "exception", "critical")
        if bad and entry["event"] not in EXPECTED_ERRORS and not self._dead:
            self.problems.append(f"{entry}: {sys.exc_info()[1]!r}")
        raise structlog.DropEvent

    def _unexpected(self, loop: object, context: dict[str, Any]) -> None:
        if loop is self._loop and not self._dead:  # the dead may be buried later
            self.problems.append(str(context))


class _Selector(selectors.DefaultSelector):
    """Asks the world instead of waiting."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or timeout > 0:
            self._world.would_wait(timeout)
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    """An event loop on the world's clock."""

    def __init__(self, world: World) -> None:
        self._world = world
        super().__init__(_Selector(world))

    def time(self) -> float:
        return self._world.seconds
