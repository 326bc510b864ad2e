"""A member of a simulated farm: a host, its event loop, and the daemon that lives there now."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import procrastinate
import simulated_mirror
from psycopg import OperationalError
from simulated_log import SimulatedLog
from simulated_parts import (
    PLENTY,
    START,
    Attempt,
    Jobs,
    Killed,
    SimulatedArtifacts,
    SimulatedLayers,
    run_attempt,
)
from simulated_queue import Connector

from dcd.configuration import Configuration
from dcd.engine.broadcast import Broadcast
from dcd.engine.engine import Engine
from dcd.engine.recovery import recover
from dcd.engine.runner import Runner
from dcd.engine.sharing import NOT_SHARED
from dcd.engine.stores import Stores
from dcd.farm.builds import FarmBuilds
from dcd.farm.member import FarmMember
from dcd.farm.scheduler import FarmScheduler
from dcd.joining import shared_layers
from dcd.launcher.orders import Bounds
from dcd.planner.client import HERE
from dcd.worker.launch import Ending
from statemachine.errors import DcdError, Unavailable
from store.blobs import Blobs
from store.eventlog.postgresql.connection import explain
from store.eventlog.postgresql.members import role_of
from store.logs import AttemptLogs
from store.packages import Packages
from tests.launching import Here

if TYPE_CHECKING:
    from simulated_farm import Farm

RESTART_SECONDS = 5.0
"""The delay before a service manager restarts a daemon that failed to start."""


class Privileged(Here):
    """What the engine uses as its launcher, on a host with these labels."""

    labels: Sequence[str] = ()

    def host_labels(self) -> list[str]:
        return list(self.labels)


class Loop(asyncio.BaseEventLoop):
    """An event loop of a member on the world's clock; it returns when it would have to wait."""

    def __init__(self, member: "Member") -> None:
        self.member = member
        self.tasks: set[asyncio.Task[Any]] = set()
        super().__init__()
        self._selector = self
        self.set_task_factory(self._remembered)

    def _remembered(self, loop: Any, work: Any, **named: Any) -> "asyncio.Task[Any]":
        """`asyncio.all_tasks` looks at the tasks of all members."""
        task: asyncio.Task[Any] = asyncio.Task(work, loop=self, **named)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def time(self) -> float:
        return self.member.seconds

    def select(self, timeout: float | None) -> Sequence[Any]:
        if timeout is None or timeout > 0:
            self.stop()
        return ()

    def _process_events(self, events: object) -> None: ...

    def _write_to_self(self) -> None:
        self.member.farm.awake[self.member] = None

    @property
    def next_timer(self) -> float | None:
        timers: Any = self._scheduled  # type: ignore[attr-defined]
        return timers[0].when() if timers else None

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        if not (self.is_closed() or self.member.dead):
            self.member.farm.problems.append(f"{self.member.host}: {context}")


class Member:
    """A host, and the daemon that lives there now."""

    def __init__(self, farm: "Farm", host: str, labels: Sequence[str]) -> None:
        self.farm = farm
        self.host = host
        self.role = role_of(host)
        self.state_dir = farm.directory / host
        (self.state_dir / "layers").mkdir(parents=True)
        self.labels = labels
        farm.database.add(host, labels)
        self.line = farm.database.lines[self.role]
        self.settings = Configuration(
            state_dir=self.state_dir,
            min_free_bytes=0,
            checkpoint_modules=(simulated_mirror.__name__,),
            farm_database=f"host=db dbname=farm user={self.role}",
            farm_lost_seconds=farm.lost_seconds,
            farm_registry="http://registry/dcd" if farm.shares else "",
            max_running_builds=2,
        )
        self.free_bytes = PLENTY
        self.boot = f"{host}-0"
        self.skew_seconds = 0.0
        self.frozen = False
        self.dead = True
        self.well_since = 0.0
        """When it last became well: alive, not frozen, not cut off."""
        self.attempts: list[Attempt] = []
        self.engine: Engine | None = None
        self._held: list[tuple[Future[Any], Callable[[], Any]]] = []
        """Jobs of a frozen daemon."""
        self._alarm = float("inf")
        self._hears = False
        self._connectors: list[Connector] = []

    # Its life

    def start(self) -> None:
        """Begin a new life."""
        self.dead, self.frozen = False, False
        self.well_since = self.seconds
        self._alarm = float("inf")
        self.loop = Loop(self)
        self.loop.set_default_executor(Jobs(self.job))
        self.log: SimulatedLog | None = None
        self.engine = None
        self.life: list[asyncio.Task[Any]] = []
        self.start_task(self._begin())

    async def _begin(self) -> None:
        """What dcd.serve does, again and again until the database answers."""
        while True:
            try:
                return await self._serve(await self._as_member())
            except Unavailable:
                await asyncio.sleep(RESTART_SECONDS)

    async def _serve(self, member: FarmMember) -> None:
        layers = SimulatedLayers(self)
        layers.prepare()
        blobs, artifacts = Blobs(self.state_dir / "blobs"), SimulatedArtifacts(self)
        logs, packages = (
            AttemptLogs(self.state_dir / "logs"),
            Packages(self.state_dir / "packages"),
        )
        logs.prepare()
        packages.prepare()
        bounds = Bounds(host_code=True, shares_layers=self.farm.shares)
        given = (layers, artifacts, logs, blobs.directory, packages, "simulated")
        self.launcher = Privileged(*given, bounds=bounds)
        self.launcher.labels = sorted({*self.labels, *self.farm.tools})
        self.stores = Stores(self.launcher, blobs, artifacts, logs, packages)
        assert self.log is not None
        builds = self.builds
        builds._clock = self.now
        unfinished = await builds.load_unfinished()
        losses = await asyncio.to_thread(recover, self.log, self.stores, unfinished)
        self.shared = shared_layers(lambda: self.settings, None, self.stores, self.log, self.host)
        sharing = self.shared or NOT_SHARED
        running = Runner(builds, self.stores, lambda: self.settings, HERE, sharing)
        self.scheduler: FarmScheduler = await asyncio.to_thread(
            member.scheduler, running, self.launcher
        )
        self.engine = Engine(
            *(builds, running, self.scheduler, self.stores, lambda: self.settings, HERE),
            losses,
            hosts=member,
            sharing=sharing,
        )
        if self.shared is not None:
            builds.watch(self.shared.happened)
        self.hosts = member
        self.life = [
            self.loop.create_task(work)
            for work in (self.scheduler.run(), self.engine.collector.run(), member.run())
        ]

    async def _as_member(self) -> FarmMember:
        while True:
            try:
                member = await asyncio.to_thread(
                    FarmMember, lambda: self.settings, lambda *_: None, self.loop
                )
                directory = self.state_dir / "events"
                directory.mkdir(exist_ok=True)
                log = member.open_log(directory)
                assert isinstance(log, SimulatedLog)
                self.log = log
                self.builds: FarmBuilds = member.builds(log, Broadcast())
            except DcdError:
                await asyncio.sleep(RESTART_SECONDS)
            else:
                return member

    def start_task(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Start a task in the daemon's event loop."""
        self.farm.awake[self] = None
        return self.loop.create_task(work)

    def turn(self) -> None:
        """Run until there is nothing to do."""
        if self.dead or self.frozen:
            return
        self.farm.current = self
        self.loop.run_forever()
        for task in self.life:
            if task.done() and not task.cancelled():
                self.farm.problems.append(task.exception() or f"{self.host} has ended")
        when = self.loop.next_timer
        if when is not None and when < self._alarm:
            self._alarm = when
            self.farm.at(when, partial(self._ring, when))

    def _ring(self, when: float) -> None:
        if when == self._alarm:
            self._alarm = float("inf")
            self.farm.awake[self] = None

    def kill(self, under_way: int = 0, *, reboots: bool = False) -> None:
        """SIGKILL. `under_way` pending jobs still run; their results are lost."""
        for _, work in self._taken(under_way):
            try:
                self._carry_out(work)
            except Exception as error:  # noqa: BLE001 - no task waits for the result
                assert not isinstance(error, AssertionError)
        self.dead = True
        self.farm.jobs = [each for each in self.farm.jobs if each[0] is not self]
        self._held.clear()
        self._fail_connectors()
        self.farm.current = self
        while self.loop.tasks:
            for task in tuple(self.loop.tasks):
                task.cancel()
            self.loop.run_forever()
        self.loop.close()
        self.attempts.clear()
        self.engine = None
        if reboots:
            self.boot = f"{self.host}-{self.seconds}"

    async def stop(self) -> None:
        """Stop the daemon in order, without ending its process."""
        life, self.life = self.life, []
        for task in life[:-1]:
            task.cancel()
        await self.scheduler.stop(self.settings.stop_grace_seconds)
        life[-1].cancel()
        if self.shared is not None:
            self.shared.close()

    def freeze(self, under_way: int = 0) -> None:
        """SIGSTOP. `under_way` pending jobs still run; the daemon sees their results after `thaw`."""
        for each in self._taken(under_way):
            self.do(*each)
        self.frozen = True
        self._held = [each[1:] for each in self.farm.jobs if each[0] is self]
        self.farm.jobs = [each for each in self.farm.jobs if each[0] is not self]

    def thaw(self) -> None:
        """SIGCONT."""
        self.frozen = False
        self.well_since = self.seconds
        self.farm.jobs += [(self, *each) for each in self._held]
        self._held.clear()
        self.farm.awake[self] = None
        self.reconnect()

    def cut_off(self, under_way: int = 0) -> None:
        """Lose the network. `under_way` pending jobs reach the database; their answers are lost."""
        self.lose_answers(under_way)
        self.line.cut = True
        self.lose_connections()

    def lose_answers(self, under_way: int) -> None:
        for each in self._taken(under_way):
            self.line.losing = 1
            self.do(*each)
        self.line.losing = 0

    def lose_connections(self) -> None:
        """The connections of this host are gone."""
        self.line.breaks += 1
        self._fail_connectors()
        if self.log is not None:
            self.log.writer.lost_sight(explain(OperationalError("the connection is lost")))

    def _fail_connectors(self) -> None:
        for connector in self._connectors:
            connector.fail()
        self._connectors.clear()

    def rejoin(self) -> None:
        """Have the network again."""
        self.line.cut = False
        self.well_since = self.seconds
        self.reconnect()

    def reconnect(self) -> None:
        """Let the threads of the log connect again, soon."""
        self.farm.at(self.seconds + self.farm.chance.uniform(0.1, 2.0), self._back)

    def _back(self) -> None:
        if self.log is not None and not (self.dead or self.frozen) and self.reaches():
            self.farm.current = self
            self.log.writer.in_sight()
            self.log.writer.back()
            self.hear()

    def news(self) -> None:
        """Schedule hearing of a commit."""
        if not self._hears:
            self._hears = True
            delay = self.farm.chance.uniform(0.0, self.farm.heard_seconds)
            self.farm.at(self.seconds + delay, self.hear)

    def hear(self) -> None:
        """What the listener's thread does."""
        self._hears = False
        if self.log is not None and not (self.dead or self.frozen) and self.reaches():
            self.log.writer.reached(len(self.farm.database.events))

    # What the engine meets

    @property
    def seconds(self) -> float:
        return self.farm.seconds

    @property
    def is_well(self) -> bool:
        """Whether it lives, is not frozen, and can reach the database when that is up."""
        return not (self.dead or self.frozen or self.line.cut)

    def now(self) -> datetime:
        """By the clock of this host."""
        return START + timedelta(seconds=self.seconds + self.skew_seconds)

    def reaches(self) -> bool:
        """Whether it can speak to the database."""
        return self.farm.database.reaches(self.role)

    def job(self, work: Callable[[], Any]) -> "Future[Any]":
        """Have something done by a thread."""
        if self.dead:
            raise Killed
        future: Future[Any] = Future()
        self.farm.jobs.append((self, future, work))
        return future

    def ask(self, work: Callable[[], Any]) -> "Future[Any]":
        """Have the database carry out a write of the queue."""
        database = self.farm.database
        carried = partial(database.carry_out, self.role, self.line.breaks, True, work)
        return self.job(partial(_as_connector, carried))

    def connector(self) -> Connector:
        connector = Connector(self.farm.database.jobs, self)
        self._connectors.append(connector)
        return connector

    def do(self, future: "Future[Any]", work: Callable[[], Any]) -> None:
        """Do a job."""
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(self._carry_out(work))
        except BaseException as error:  # noqa: BLE001 - it is the waiting task's
            future.set_exception(error)

    def _carry_out(self, work: Callable[[], Any]) -> Any:
        self.farm.current = self
        return work()

    def _taken(self, count: int) -> list[tuple["Future[Any]", Callable[[], Any]]]:
        """Remove up to `count` of its pending jobs, chosen at random."""
        mine = [each for each in self.farm.jobs if each[0] is self]
        taken = self.farm.chance.sample(mine, min(count, len(mine)))
        self.farm.jobs = [each for each in self.farm.jobs if each not in taken]
        return [each[1:] for each in taken]

    async def run_attempt(self, start: Any, *, stop: asyncio.Event, **_: Any) -> Ending:
        """See `simulated_parts.run_attempt`."""
        return await run_attempt(
            self.attempts, self.launcher.layers, self._begin_attempt, start, stop
        )

    def _begin_attempt(self, attempt: Attempt) -> None:
        attempt.begin()
        try:
            self.farm.began(self, attempt)
        except AssertionError as error:  # the engine would take it for its own
            self.farm.problems.append(error)

    def end(self, attempt: Attempt, outcome: str = "completed") -> None:
        """Let the worker of an attempt end; a frozen daemon hears of it later."""
        if attempt in self.attempts:
            attempt.end(outcome)
            self.farm.awake[self] = None


def _as_connector(work: Callable[[], Any]) -> Any:
    """With the errors that Procrastinate's connectors raise."""
    try:
        return work()
    except OperationalError as error:
        raise procrastinate.exceptions.ConnectorException from error
