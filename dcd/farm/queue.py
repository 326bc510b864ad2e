"""The queue of a farm: a worker of Procrastinate in this daemon's event loop, and the reconciler.

A job names a build; its queue is named by the labels that the build requires, and where it moves
(`dcd.farm.takers.queue_of`), so a member listens to the queues whose builds it is to take. The
worker ends when its connection does, and is started again; builds that are driven do not end with it. Every
`LOOK_SECONDS`, and when there is news, this member says that it lives, makes the jobs that are missing, and
continues the builds that it drove before it started again (`dcd.farm.jobs`). While it stops it only says that
it lives. Without the database everything here waits.

A look reads what this member decides with, so that its cost does not grow with the number of members: itself,
the members that come before it for a build (`dcd.farm.takers.rivals`), the kinds of builds that there are,
and the builds that may need a job.

Source: https://procrastinate.readthedocs.io (workers, `lock`, `queueing_lock`, stalled jobs).
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from typing import Any, TypeVar

import procrastinate
import psycopg
import structlog
from procrastinate import exceptions
from procrastinate.jobs import Status
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import class_row

from dcd.farm.jobs import ENDING, Kind, Next, Situation, is_misplaced, may_take, next_for
from dcd.farm.placing import queue_name
from dcd.farm.scheduler import FarmScheduler
from dcd.farm.takers import Placed, queue_of, rivals, takers
from dcd.platform.host_labels import of_slots
from statemachine.build import ENDED, RUNNABLE
from statemachine.errors import DcdError, Unavailable
from store.eventlog.postgresql.connection import (
    DEFAULTS,
    Connection,
    check,
    connect_to,
    explain,
    explained,
)
from store.eventlog.postgresql.members import Member, among, heartbeat, lost, members_by, some_by

logger = structlog.get_logger()

# It logs lost connections and refused jobs with tracebacks.
logging.getLogger("procrastinate").setLevel(logging.CRITICAL)

LOOK_SECONDS = 10.0
"""The longest interval between two looks."""

LOOKS = 12
"""The least number of looks within the time after which a member is lost."""

MOST_JOBS = 50
"""The number of jobs that are made after a look, since what it has found becomes old. The next look comes at
once."""

SETTLE_SECONDS = 0.05
"""News that come together cause one look."""

WAIT_SECONDS = 1.0
"""The delay before trying a database again that does not answer."""

END_SECONDS = 10.0
"""The time for a worker to end that is cancelled, before it is cancelled again."""

Answer = TypeVar("Answer")

TASK = "drive"

VERSION = version("dcd")

SCHEMA = "queue"
"""Of Procrastinate's tables and functions."""

NEVER_SECONDS = 10.0 * 365 * 86400
"""Procrastinate forgets workers that were silent for so long, and their jobs look lost then: after an outage
of the database all of them. `store.eventlog.postgresql.members.lost` is more careful."""


@dataclass(frozen=True, slots=True)
class Found:
    """What one look at the database found: this member, the time after which a silent one is gone as far as
    this one may judge, the queues of unfinished builds and whether this member is to take them, the builds
    that need a job, and those that this member continues without one."""

    me: Member
    gone_seconds: float = math.inf
    queues: Mapping[str, bool] = field(default_factory=dict)
    missing: tuple[Situation, ...] = ()
    left: tuple[Situation, ...] = ()

    def takes(self, build: Placed, others: Sequence[Member]) -> bool:
        """Whether this member is to take a build; `others` are its rivals for it."""
        return self.me in takers(build, [self.me, *others], self.gone_seconds)


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
        self._beaten_at = 0.0
        """When this member has said that it lives, by the loop's clock."""
        self._remove_at = 0.0
        """When jobs of builds that have ended are removed next, by the loop's clock."""
        self._known: Mapping[str, bool] = {}
        """The queues of the last look."""
        self.me: Member | None = None
        """This member, as its last look has found it."""
        self._troubles: dict[str, DcdError] = {}
        """Why a part of the work waits at present, by the part."""

    @property
    def answers(self) -> bool:
        """Whether the database has answered when this member looked last."""
        return self._answers.is_set()

    @property
    def trouble(self) -> DcdError | None:
        """Why this member does not look at the farm, or takes no builds; None when all is well."""
        found = (self._troubles.get(part) for part in ("look", "database", "work"))
        return next(filter(None, found), None)

    def knows(self, requires: Sequence[str]) -> bool:
        """Whether this member has decided about builds that require these labels. Of a new one it hears by
        its job, then."""
        return queue_name(requires) in self._known

    def wake(self) -> None:
        """Look now: a build is new, or has stopped here."""
        self._news.set()

    async def run(self) -> None:
        """Work until cancelled."""
        asyncio.get_running_loop().set_exception_handler(self._forgive_jobs)
        app = application(self._dsn)
        app.task(name=TASK)(self._drive)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._supervised("look", self._look_always))
            tasks.create_task(self._supervised("beat", self._beat_always))
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

    def _forgive_jobs(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The handler of errors of tasks that nobody waits for: the end of a job that cannot be recorded,
        since the database is away or another member has taken the job back, is none. The job may be that of
        a living worker for ever, so this one ends, and another one is started."""
        task = context.get("future")
        if isinstance(task, asyncio.Task) and task.get_name().startswith("process job"):
            self._changed.set()
        else:
            loop.default_exception_handler(context)

    async def _drive(self, build: str, epoch: int, maker: str) -> None:
        """The task of a job: see `may_take` for its arguments."""
        if build in self._scheduler.driving or await asyncio.to_thread(
            self._may_take, build, epoch, maker
        ):
            await self._scheduler.drive(build, epoch)
        else:
            logger.info("the job is over", build=build, epoch=epoch, maker=maker)

    def _may_take(self, build: str, epoch: int, maker: str) -> bool:
        with explained(), connect_to(self._dsn, self._farm) as connection:
            found = self._situations(connection, _RUNNABLE_ONE, {"build": build})
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
        loop = asyncio.get_running_loop()
        try:
            # A member that lives says so before anything else: a pool may take long to connect again.
            await self._look_once()
            async with application(self._dsn).open_async() as putting:
                while True:
                    self._news.clear()
                    settled_at = loop.time() + SETTLE_SECONDS
                    found = await self._look_once()
                    for left in found.left:
                        if await self._scheduler.can_continue(left.build):
                            ends = left.state in ENDING
                            await self._scheduler.resume(left.build, left.epoch, ends=ends)
                        await _drop_job(putting, left)
                    await self._put_jobs(putting, found.missing)
                    self._troubles.pop("look", None)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._news.wait(), self._interval)
                    await asyncio.sleep(settled_at - loop.time())
        finally:
            self._answers.clear()

    async def _put_jobs(self, app: procrastinate.App, missing: Iterable[Situation]) -> None:
        put = 0
        for each in missing:
            if await self._scheduler.can_continue(each.build):
                await _put(app, each, self._host)
                put += 1
            if put == MOST_JOBS:
                self._news.set()
                break

    async def _beat_always(self) -> None:
        """Say that this member lives while a look has much to do, or waits for others."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._interval)
            if self.answers and loop.time() - self._beaten_at > self._interval:
                await loop.run_in_executor(self._looking, self._asked, self._beat)
                self._beaten_at = loop.time()

    async def _look_once(self) -> Found:
        loop = asyncio.get_running_loop()
        removes = loop.time() >= self._remove_at
        look = partial(self._seen, driving=self._scheduler.driving, removes=removes)
        found = await loop.run_in_executor(self._looking, self._asked, look)
        self._beaten_at = loop.time()
        if removes:
            self._remove_at = loop.time() + self._lost_seconds / 2
        if self._scheduler.draining != found.me.draining:
            self._scheduler.drain(draining=found.me.draining)
        self._scheduler.may_take = partial(self._is_for_this, found)
        self._listen_to(found)
        self._answers.set()
        self.me, self._known = found.me, found.queues
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

    def _asked(self, ask: Callable[[Connection], Answer]) -> Answer:
        """Ask the database over the connection of the looks. Blocking. Raises DcdError."""
        try:
            with explained():
                if self._connection is None:
                    self._connection = connect_to(self._dsn, self._farm)
                    # The triggers of Procrastinate's tables name its tables without their schema.
                    self._connection.execute(f"SET search_path = dcd, {SCHEMA}")
                return ask(self._connection)
        except DcdError:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            raise

    def _beat(self, connection: Connection) -> None:
        labels = [*self._labels, of_slots(self._scheduler.slots)]
        # A shorter gap than this makes nobody look lost.
        heartbeat(connection, self._lost_seconds / 2, labels, VERSION)

    def _seen(self, connection: Connection, driving: frozenset[str], removes: bool) -> Found:
        """Say that this member lives, and look at the builds; it drives `driving`. With `removes` the jobs of
        those that have ended go."""
        self._beat(connection)
        kinds = self._kinds(connection)
        me, others = self._rivals(connection, kinds)
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
        found = Found(me, gone_seconds)
        lost_hosts = lost(connection, self._lost_seconds)
        if removes:
            connection.execute(_REMOVE_OVER, {"seconds": self._lost_seconds})
        decided = [
            (row, next_for(row, self._host, driving, lost_hosts, keeps=found.takes(row, others)))
            for row in self._undecided(connection, kinds, lost_hosts)
        ]
        return replace(
            found,
            queues={queue_of(kind): found.takes(kind, others) for kind in kinds},
            missing=tuple(row for row, then in decided if then is Next.MAKE_JOB),
            left=tuple(row for row, then in decided if then is Next.CONTINUE),
        )

    def _is_for_this(self, found: Found, build: Placed) -> bool:
        """Whether this member is to take a build, which may have changed since it has looked. Blocking.
        Raises DcdError."""
        if not rivals([build], self._host, found.me.announced):
            return found.takes(build, ())
        with explained(), connect_to(self._dsn, self._farm) as connection:
            return found.takes(build, self._rivals(connection, [build])[1])

    def _rivals(
        self, connection: Connection, builds: Iterable[Placed]
    ) -> tuple[Member | None, list[Member]]:
        """This member, and those that could come before it for one of these builds."""
        named = rivals(builds, self._host, self._labels)
        some = some_by(connection, {self._host, *named.hosts}, named.announcing)
        everybody = members_by(connection) if named.everybody else some
        me = next((each for each in some if each.host == self._host), None)
        return me, [each for each in everybody if each.host != self._host]

    def _kinds(self, connection: Connection) -> list[Kind]:
        with connection.cursor(row_factory=class_row(Kind)) as cursor:
            return cursor.execute(_KINDS).fetchall()

    def _undecided(
        self, connection: Connection, kinds: Iterable[Kind], lost_hosts: Sequence[str]
    ) -> list[Situation]:
        """The builds for which `next_for` may say that something is to be done, by priority and age."""
        misplaced = [each.queue for each in kinds if is_misplaced(each)]
        given = {"here": self._host, "lost": lost_hosts, "misplaced": misplaced}
        return self._situations(connection, _UNDECIDED, given)

    def _situations(
        self, connection: Connection, statement: str, given: Mapping[str, object]
    ) -> list[Situation]:
        with connection.cursor(row_factory=class_row(Situation)) as cursor:
            return cursor.execute(statement, {"seconds": self._lost_seconds, **given}).fetchall()


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


_RUNNABLE = f"b.state IN {among(RUNNABLE)}"
_KINDS = f"""
    SELECT DISTINCT p.requires, p.moves_to, CASE WHEN p.moves_to = '' THEN p.host ELSE '' END AS host,
        j.queue_name AS queue
    FROM dcd.builds b JOIN dcd.placements p ON p.build = b.id
    LEFT JOIN {SCHEMA}.procrastinate_jobs j ON j.lock = b.id AND j.status = 'todo'
    WHERE {_RUNNABLE}
"""
_SITUATIONS = f"""
    SELECT b.id AS build, b.state, p.host, p.epoch, b.priority, p.requires, p.moves_to,
        j.id AS job, j.queue_name AS queue,
        coalesce(j.status = 'doing', false) AS fetched,
        coalesce(j.status = 'doing', false)
            AND (w.id IS NULL OR w.last_heartbeat < now() - make_interval(secs => %(seconds)s))
            AND pg_postmaster_start_time() < now() - make_interval(secs => %(seconds)s) AS worker_lost
    FROM dcd.builds b JOIN dcd.placements p ON p.build = b.id
    LEFT JOIN LATERAL (
        SELECT * FROM {SCHEMA}.procrastinate_jobs q WHERE q.lock = b.id AND q.status IN ('todo', 'doing')
        ORDER BY q.status = 'doing' DESC LIMIT 1
    ) j ON true
    LEFT JOIN {SCHEMA}.procrastinate_workers w ON w.id = j.worker_id
    WHERE {_RUNNABLE} AND
"""
_RUNNABLE_ONE = f"{_SITUATIONS} b.id = %(build)s"
_UNDECIDED = f"""
    {_SITUATIONS} (
        p.host = %(here)s
        OR (b.state = 'queued' OR p.host = '' OR p.host = ANY(%(lost)s))
            AND (j.status IS DISTINCT FROM 'todo' OR j.queue_name = ANY(%(misplaced)s)))
    ORDER BY b.priority DESC, b.submitted_position
"""
"""Not those that members drive which are not lost, and those whose job waits where it should."""
_REMOVE_OVER = f"""
    DELETE FROM {SCHEMA}.procrastinate_jobs j USING dcd.builds b
    WHERE b.id = j.lock AND b.state IN {among(ENDED)} AND NOT EXISTS (
        SELECT FROM {SCHEMA}.procrastinate_workers w
        WHERE w.id = j.worker_id AND w.last_heartbeat > now() - make_interval(secs => %(seconds)s))
"""
"""Jobs of builds that have ended which no worker removes: of one that was cancelled while it waited for a
member, or whose worker died."""
