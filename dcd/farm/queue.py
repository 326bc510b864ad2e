"""The queue of a farm: a worker of Procrastinate in this daemon's event loop, and the reconciler.

A job names a build; its queue is named by the labels that the build requires, and where it moves
(`dcd.farm.takers.queue_of`), so a member listens to the queues whose builds it is to take. The
worker ends when its connection does, and is started again; builds that are driven do not end with it. Every
`LOOK_SECONDS`, and when there is news, this member says that it lives, makes the jobs that are missing, and
continues the builds that it drove before it started again (`dcd.farm.jobs`). While it stops it only says that
it lives. Without the database everything here waits.

Source: https://procrastinate.readthedocs.io (workers, `lock`, `queueing_lock`, stalled jobs).
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

import procrastinate
import psycopg
import structlog
from procrastinate import exceptions
from procrastinate.jobs import Status
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import class_row

from dcd.engine.hosts import Census
from dcd.farm.census import aged, census_of
from dcd.farm.jobs import Next, Situation, may_take, next_for
from dcd.farm.scheduler import FarmScheduler
from dcd.farm.takers import Placed, queue_of, takers
from dcd.platform.host_labels import of_slots
from statemachine.errors import DcdError, Unavailable
from store.eventlog.postgresql.connection import (
    DEFAULTS,
    Connection,
    check,
    connect_to,
    explain,
    explained,
)
from store.eventlog.postgresql.members import Member, heartbeat, lost, members_by

logger = structlog.get_logger()

# It logs lost connections and refused jobs with tracebacks.
logging.getLogger("procrastinate").setLevel(logging.CRITICAL)

LOOK_SECONDS = 10.0
"""The longest interval between two looks."""

LOOKS = 12
"""The least number of looks within the time after which a member is lost."""

SETTLE_SECONDS = 0.05
"""News that come together cause one look."""

WAIT_SECONDS = 1.0
"""The delay before trying a database again that does not answer."""

END_SECONDS = 10.0
"""The time for a worker to end that is cancelled, before it is cancelled again."""

TASK = "drive"

SCHEMA = "queue"
"""Of Procrastinate's tables and functions."""

NEVER_SECONDS = 10.0 * 365 * 86400
"""Procrastinate forgets workers that were silent for so long, and their jobs look lost then: after an outage
of the database all of them. `store.eventlog.postgresql.members.lost` is more careful."""


@dataclass(frozen=True, slots=True)
class Found:
    """What one look at the database found: this member, all members, the time after which a silent one is
    gone as far as this one may judge, the queues of unfinished builds and whether this member is to take
    them, the builds that need a job, those that this member continues without one, and what people see of
    it."""

    me: Member
    members: Sequence[Member] = ()
    gone_seconds: float = math.inf
    queues: Mapping[str, bool] = field(default_factory=dict)
    missing: tuple[Situation, ...] = ()
    left: tuple[Situation, ...] = ()
    census: Census | None = None

    def may_take(self, build: Placed) -> bool:
        """Whether this member is to take a build."""
        return self.me in takers(build, self.members, self.gone_seconds)


def application(dsn: str) -> procrastinate.App:
    """An application on at most two connections, of which one listens."""
    given = conninfo_to_dict(dsn)
    extra = {name: value for name, value in DEFAULTS.items() if name not in given}
    extra["options"] = f"{given.get('options') or ''} -c search_path={SCHEMA}".strip()
    connector = procrastinate.PsycopgConnector(
        conninfo=make_conninfo(dsn, **extra), min_size=1, max_size=2
    )
    return procrastinate.App(connector=connector)


class Queue:
    """See the module. `farm` is the id of the farm, `labels` are those that this host has, `lost_seconds` how
    long a member may be silent before others take its builds."""

    def __init__(
        self,
        dsn: str,
        farm: str,
        host: str,
        scheduler: FarmScheduler,
        labels: Sequence[str],
        lost_seconds: float,
    ) -> None:
        self._dsn = dsn
        self._farm = farm
        self._host = host
        self._scheduler = scheduler
        self._labels = labels
        self._lost_seconds = lost_seconds
        self._news = asyncio.Event()
        self._looking = ThreadPoolExecutor(1, "farm-look")
        """Apart from the daemon's threads: while those wait for others, this member still says that it
        lives."""
        self._queues: tuple[str, ...] = ()
        self._room = 0
        """The number of jobs that the worker was started for."""
        self._changed = asyncio.Event()
        """Set when the worker is to be started again: for other queues, or another number of jobs."""
        self._answers = asyncio.Event()
        """Set while the database answers."""
        self._connection: Connection | None = None
        self._census, self._looked_at = Census(), time.monotonic()
        self._troubles: dict[str, DcdError] = {}
        """Why a part of the work waits at present, by the part."""

    def census(self) -> Census:
        """What the last look at the database has found."""
        age = time.monotonic() - self._looked_at
        found = (self._troubles.get(part) for part in ("look", "database", "work"))
        trouble = next(filter(None, found), None)
        return replace(aged(self._census, age, self._lost_seconds), trouble=trouble)

    def wake(self) -> None:
        """Look now: a build is new, or has stopped here."""
        self._news.set()

    async def run(self) -> None:
        """Work until cancelled."""
        asyncio.get_running_loop().set_exception_handler(_forgive_jobs)
        app = application(self._dsn)
        app.task(name=TASK)(self._drive)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._supervised("look", self._look_always))
            tasks.create_task(self._supervised("work", lambda: self._work(app)))

    async def _supervised(self, part: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work again and again: it ends with its connection."""
        complained = ""
        while True:
            try:
                await work()
                complained = ""
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # A library has cancelled a part of the work. Nobody would notice the end of this task.
            except Exception as error:  # noqa: BLE001 - the last resort: a member that takes no builds says why
                reason = str(error.__cause__ or error).strip()
                self._troubles[part] = _trouble(error)
                if reason != complained:
                    complained = reason
                    logger.warning("the queue of the farm waits", reason=complained)
                await asyncio.sleep(WAIT_SECONDS)

    async def _drive(self, build: str, epoch: int, maker: str) -> None:
        """The task of a job: see `may_take` for its arguments."""
        if build in self._scheduler.driving or await asyncio.to_thread(
            self._may_take, build, epoch, maker
        ):
            await self._scheduler.drive(build)
        else:
            logger.info("the job is over", build=build, epoch=epoch, maker=maker)

    def _may_take(self, build: str, epoch: int, maker: str) -> bool:
        with explained(), connect_to(self._dsn, self._farm) as connection:
            found = self._runnable(connection, build)
            lost_hosts = lost(connection, self._lost_seconds)
        return may_take(found[0] if found else None, self._host, epoch, maker, lost_hosts)

    async def _work(self, app: procrastinate.App) -> None:
        """Take jobs, until the queues or the room have changed or the connection is lost."""
        await self._answers.wait()
        self._changed.clear()
        self._room = self._scheduler.room
        if not (self._queues and self._room):
            await self._changed.wait()
            return
        async with app.open_async():
            self._troubles.pop("work", None)
            working = asyncio.ensure_future(
                app.run_worker_async(
                    name=self._host,
                    queues=list(self._queues),
                    concurrency=self._room,
                    install_signal_handlers=False,
                    delete_jobs="always",
                    shutdown_graceful_timeout=0,
                    stalled_worker_timeout=NEVER_SECONDS,
                    update_heartbeat_interval=self._interval,
                )
            )
            changed = asyncio.ensure_future(self._changed.wait())
            try:
                await asyncio.wait({working, changed}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
                while not working.done():
                    working.cancel()
                    await asyncio.wait({working}, timeout=END_SECONDS)
            if not working.cancelled():
                working.result()

    @property
    def _interval(self) -> float:
        return min(LOOK_SECONDS, self._lost_seconds / LOOKS)

    async def _look_always(self) -> None:
        """Look again and again, until the connection is lost."""
        try:
            # A member that lives says so before anything else: a pool may take long to connect again.
            await self._look_once()
            async with application(self._dsn).open_async() as putting:
                while True:
                    self._news.clear()
                    found = await self._look_once()
                    for missing in found.missing:
                        if await self._scheduler.can_continue(missing.build):
                            await _put(putting, missing, self._host)
                    for left in found.left:
                        if await self._scheduler.can_continue(left.build):
                            await self._scheduler.resume(left.build)
                        await _drop_job(putting, left)
                    self._troubles.pop("look", None)
                    settled = asyncio.create_task(asyncio.sleep(SETTLE_SECONDS))
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._news.wait(), self._interval)
                    await settled
        finally:
            self._answers.clear()

    async def _look_once(self) -> Found:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._looking, self._look, self._scheduler.driving)
        if self._scheduler.draining != found.me.draining:
            self._scheduler.draining = found.me.draining
            self._scheduler.wake()
        self._scheduler.may_take = found.may_take
        self._listen_to(found)
        self._answers.set()
        if found.census is not None:
            self._census, self._looked_at = found.census, time.monotonic()
        return found

    def _listen_to(self, found: Found) -> None:
        able = {queue for queue, may in found.queues.items() if may}
        # Those that occur no more stay, so that the worker is seldom started again.
        stay = {each for each in self._queues if each not in found.queues}
        idle = found.me.draining or self._scheduler.stopping
        wanted = () if idle else tuple(sorted({*stay, *able}))
        if (wanted, self._scheduler.room) != (self._queues, self._room):
            self._queues = wanted
            self._changed.set()

    def _look(self, driving: frozenset[str]) -> Found:
        """Say that this member lives, and look at the builds; it drives `driving`. Blocking. Raises
        DcdError."""
        try:
            with explained():
                if self._connection is None:
                    self._connection = connect_to(self._dsn, self._farm)
                    # The triggers of Procrastinate's tables name its tables without their schema.
                    self._connection.execute(f"SET search_path = dcd, {SCHEMA}")
                return self._seen(self._connection, driving)
        except DcdError:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            raise

    def _seen(self, connection: Connection, driving: frozenset[str]) -> Found:
        # A shorter gap than this makes nobody look lost.
        labels = [*self._labels, of_slots(self._scheduler.slots)]
        heartbeat(connection, self._lost_seconds / 2, labels, version("dcd"))
        everybody = members_by(connection)
        me = next((each for each in everybody if each.host == self._host), None)
        try:
            check(connection)  # a newer dcd may have renewed it
            self._troubles.pop("database", None)
        except DcdError as error:
            self._troubles["database"] = error
        if me is None:
            raise Unavailable(f"{self._host} is no member of the farm any more")
        if self._scheduler.stopping:
            return Found(me)
        # After an outage of the database everybody looks gone.
        gone_seconds = self._lost_seconds if me.unbroken_seconds >= self._lost_seconds else math.inf
        found = Found(me, everybody, gone_seconds)
        lost_hosts = lost(connection, self._lost_seconds)
        connection.execute(_REMOVE_OVER, {"seconds": self._lost_seconds})
        rows = self._runnable(connection)
        queues = {queue_of(row): row for row in rows}
        may = {queue: found.may_take(row) for queue, row in queues.items()}
        decided = [
            (row, next_for(row, self._host, driving, lost_hosts, keeps=may[queue_of(row)]))
            for row in rows
        ]
        return replace(
            found,
            queues=may,
            missing=tuple(row for row, then in decided if then is Next.MAKE_JOB),
            left=tuple(row for row, then in decided if then is Next.CONTINUE),
            census=census_of(everybody, rows, self._lost_seconds, version("dcd")),
        )

    def _runnable(self, connection: Connection, build: str | None = None) -> list[Situation]:
        """The builds that some member is to drive, or of them the one with this id."""
        given = {"seconds": self._lost_seconds, "build": build}
        with connection.cursor(row_factory=class_row(Situation)) as cursor:
            return cursor.execute(_RUNNABLE, given).fetchall()


def _forgive_jobs(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The handler of errors of tasks that nobody waits for: the end of a job that cannot be recorded, since
    the database is away or another member has taken the job back, is none."""
    task = context.get("future")
    if not (isinstance(task, asyncio.Task) and task.get_name().startswith("process job")):
        loop.default_exception_handler(context)


async def _put(app: procrastinate.App, missing: Situation, maker: str) -> None:
    """Make the job of a build, in place of a lost one."""
    await _drop_job(app, missing)
    put = app.configure_task(
        TASK,
        queue=queue_of(missing),
        lock=missing.build,
        queueing_lock=missing.build,
        priority=missing.priority,
    )
    with contextlib.suppress(exceptions.AlreadyEnqueued):  # another member was faster
        await put.defer_async(build=missing.build, epoch=missing.epoch, maker=maker)
        logger.info("queued", build=missing.build)


async def _drop_job(app: procrastinate.App, found: Situation) -> None:
    """Remove the job of a build, if it has one."""
    if found.job is not None:
        with contextlib.suppress(exceptions.ConnectorException):  # another member was faster
            await app.job_manager.finish_job_by_id_async(found.job, Status.ABORTED, delete_job=True)


def _trouble(error: Exception) -> DcdError:
    cause = error if isinstance(error, DcdError) else error.__cause__ or error
    if isinstance(cause, DcdError | psycopg.Error):
        return explain(cause)
    return Unavailable("this member takes no builds", str(cause), "report it: this is a defect")


_RUNNABLE = f"""
    SELECT b.id AS build, b.state, p.host, p.epoch, b.priority, p.requires, p.moves_to,
        j.id AS job, j.queue_name AS queue,
        coalesce(j.status = 'doing', false) AS fetched,
        j.status = 'doing' AND (w.id IS NULL OR w.last_heartbeat < now() - make_interval(secs => %(seconds)s))
            AND pg_postmaster_start_time() < now() - make_interval(secs => %(seconds)s) IS TRUE AS worker_lost
    FROM dcd.builds b JOIN dcd.placements p ON p.build = b.id
    LEFT JOIN LATERAL (
        SELECT * FROM {SCHEMA}.procrastinate_jobs q WHERE q.lock = b.id AND q.status IN ('todo', 'doing')
        ORDER BY q.status = 'doing' DESC LIMIT 1
    ) j ON true
    LEFT JOIN {SCHEMA}.procrastinate_workers w ON w.id = j.worker_id
    WHERE b.state IN ('queued', 'running', 'pausing', 'cancelling')
        AND b.id = coalesce(%(build)s::text, b.id)
    ORDER BY b.priority DESC, b.submitted_position
"""
_REMOVE_OVER = f"""
    DELETE FROM {SCHEMA}.procrastinate_jobs j USING dcd.builds b
    WHERE b.id = j.lock AND b.state IN ('completed', 'cancelled') AND NOT EXISTS (
        SELECT FROM {SCHEMA}.procrastinate_workers w
        WHERE w.id = j.worker_id AND w.last_heartbeat > now() - make_interval(secs => %(seconds)s))
"""
"""Jobs of builds that have ended which no worker removes: of one that was cancelled while it waited for a
member, or whose worker died."""
