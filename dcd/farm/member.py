"""This daemon as a member of a farm: its log, its builds, its queue.

Only a daemon with the table `[farm]` in its configuration imports this; it needs the extra `dcd[farm]`.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import structlog
from psycopg import OperationalError
from psycopg.pq import Conninfo

from dcd.configuration import Configuration
from dcd.doctor import HostCheck
from dcd.engine.broadcast import Broadcast
from dcd.engine.hosts import Census
from dcd.engine.runner import Runner
from dcd.farm.builds import FarmBuilds
from dcd.farm.census import aged, census_of, host_of
from dcd.farm.examination import examine, failed
from dcd.farm.queue import WAIT_SECONDS, Queue
from dcd.farm.scheduler import FarmScheduler
from dcd.farm.takers import why_not_moved, why_queued, why_undriven
from dcd.launcher.client import Privileged
from dcd.planning.labels import code_label
from statemachine.build import BuildState, Lifecycle
from statemachine.errors import DcdError, Refused, Unavailable, UsageError
from statemachine.events import BuildResumed, BuildSubmitted, Event, MoveRequested
from store.eventlog import EventLog
from store.eventlog.postgresql.connection import connect, explained
from store.eventlog.postgresql.log import PostgresqlLog
from store.eventlog.postgresql.members import drain, no_member, own_host

logger = structlog.get_logger()

Observe = Callable[[int, float | None], None]


class FarmMember:
    """See the module. `observe` is called after each commit, as a log's `on_commit`. Blocking. Raises
    UsageError for a connection string that cannot be used, Unavailable when this host is no member of the
    farm."""

    def __init__(
        self,
        settings: Callable[[], Configuration],
        observe: Observe,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._settings = settings
        self._observe = observe
        self._dsn = _checked(settings().farm_database)
        self._loop = loop
        self._news = asyncio.Event()
        self.host = _host_of(self._dsn)
        self._scheduler: FarmScheduler | None = None
        self._queue: Queue | None = None
        self._counting = threading.Lock()
        self._counted, self._counted_at = Census(), time.monotonic()

    def open_log(self, directory: Path) -> PostgresqlLog:
        """The log of the farm; `directory` keeps what this host knows of it."""
        self._log = PostgresqlLog(self._dsn, directory, self._committed)
        return self._log

    def builds(self, log: EventLog, broadcast: Broadcast) -> FarmBuilds:
        """The builds of the farm, as this member sees them."""
        self._builds = FarmBuilds(log, broadcast, self.host, self._heard, self._submitted)
        self._builds.origin = self._log.origin
        self._builds.watch(self._recorded)
        return self._builds

    def scheduler(self, runner: Runner, privileged: Privileged) -> FarmScheduler:
        """What drives the builds that this member takes. Blocking."""
        settings, labels = self._settings(), privileged.host_labels()
        self._scheduler = FarmScheduler(self._builds, runner, self._settings, self._looked)
        self._queue = Queue(
            self._dsn,
            self._log.farm,
            self.host,
            self._scheduler,
            sorted({*labels, *settings.farm_labels, code_label()}),
            settings.farm_lost_seconds,
        )
        return self._scheduler

    def census(self) -> Census:
        """See `dcd.engine.hosts.Hosts`."""
        lost_seconds, own = self._settings().farm_lost_seconds, version("dcd")
        found = census_of(self._log.members(), self._log.placements(), lost_seconds, own)
        self._counted, self._counted_at = found, time.monotonic()
        return found

    def last_census(self) -> Census:
        """See `dcd.engine.hosts.Hosts`."""
        # One at a time: a database that is frozen answers none, and each holds a thread.
        asks = self._queue is not None and self._queue.answers and self._counting.acquire(False)
        if asks:
            try:
                with contextlib.suppress(DcdError):
                    return self.census()
            finally:
                self._counting.release()
        age_seconds = time.monotonic() - self._counted_at
        return aged(self._counted, age_seconds, self._settings().farm_lost_seconds)

    def problems(self) -> list[str]:
        """See `dcd.engine.hosts.Hosts`."""
        if self._queue is None:
            return []
        trouble, me = self._queue.trouble, self._queue.me
        found = [f"{trouble.brief}: {trouble.details}"] if trouble else []
        if me is not None:
            own = host_of(me, self._settings().farm_lost_seconds, me.version)
            found += [f"{own.host}: {what}" for what in own.warnings]
        return found

    def examine(self) -> list[HostCheck]:
        """See `dcd.engine.hosts.Hosts`."""
        found = examine(self._dsn, self._settings().farm_lost_seconds, self._log.directory)
        if self._queue is not None and (trouble := self._queue.trouble):
            found.append(failed("farm queue", "warning", trouble))
        return found

    def drain(self, host: str, *, draining: bool) -> None:
        """See `dcd.engine.hosts.Hosts`."""
        drain(self._dsn, host, draining)
        self._loop.call_soon_threadsafe(self._looked)

    def why_waits(self, build: BuildState) -> str:
        """See `dcd.engine.hosts.Hosts`."""
        if self._builds.owns(build.id):
            return ""
        members, lost_seconds = self._log.members(), self._settings().farm_lost_seconds
        labelled = self._labelled(build)
        if build.lifecycle is Lifecycle.QUEUED:
            return why_queued(labelled, members, lost_seconds)
        handed_over = build.running is None and build.next is not None
        return why_undriven(labelled, members, lost_seconds, handed_over=handed_over)

    def _labelled(self, build: BuildState) -> BuildState:
        """A build with the labels that the database has of it, and its member: an imported one has its host's
        there only."""
        if not self._log.origin:
            return build
        found = (each.requires for each in self._log.placements() if each.build == build.id)
        requires = tuple(next(found, build.requires))
        return replace(build, requires=requires, host=self._builds.named(build.host))

    def require_move(self, build: BuildState, to: str) -> None:
        """See `dcd.engine.hosts.Hosts`."""
        found = self._log.members()
        if to and to not in [each.host for each in found]:
            raise no_member(to)
        if not (to or build.host):
            raise Refused(
                f"build {build.id} has no member yet that it could leave",
                "any that has its labels may take it",
                f"name the one that is to take it: dcctl move {build.id} --to HOST",
            )
        lost_seconds = self._settings().farm_lost_seconds
        if why := why_not_moved(self._labelled(build), to, found, lost_seconds):
            raise Refused(
                f"cannot move build {build.id}: {why}",
                "",
                "`dcctl hosts` shows the members and their labels",
            )

    async def run(self) -> None:
        """Work as a member until cancelled."""
        assert self._queue is not None
        logger.info("a member of a farm", host=self.host)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._queue.run())
            tasks.create_task(self._follow())

    async def _follow(self) -> None:
        while True:
            self._news.clear()
            try:
                await self._builds.follow()
            except Unavailable as error:
                logger.warning("the log of the farm cannot be followed", reason=str(error))
                await asyncio.sleep(WAIT_SECONDS)
                continue
            await self._news.wait()

    def _committed(self, position: int, seconds: float | None) -> None:
        self._observe(position, seconds)
        self._loop.call_soon_threadsafe(self._news.set)

    def _heard(self, event: Event) -> None:
        if self._scheduler is not None:
            self._scheduler.heard(event)

    def _recorded(self, before: BuildState | None, event: Event) -> None:
        if isinstance(event.data, MoveRequested):
            self._heard(event)

    def _submitted(self, event: Event) -> None:
        match event.data:
            case BuildSubmitted(requires=requires):
                if self._queue is not None and not self._queue.knows(requires):
                    self._looked()
            case BuildResumed() | MoveRequested():
                self._looked()

    def _looked(self) -> None:
        if self._queue is not None:
            self._queue.wake()


def _checked(dsn: str) -> str:
    """The connection string. It has no password: users see the settings. libpq marks parameters that are not
    to be shown with an asterisk (PQconninfoOption.dispchar)."""
    try:
        given = Conninfo.parse(dsn.encode())
    except OperationalError as error:
        raise UsageError(
            "the setting farm_database is no connection string", str(error), _EXAMPLE
        ) from error
    secrets = [each.keyword.decode() for each in given if each.val and each.dispchar == b"*"]
    if secrets:
        raise UsageError(
            "the setting farm_database has a password, and users of the daemon see the settings",
            f"its parameters: {', '.join(secrets)}",
            "put it into a file that only the daemon's user reads, and name it: passfile=FILE; or use a "
            "client certificate",
        )
    return dsn


_EXAMPLE = 'for example: database = "host=db.example dbname=dcd sslmode=verify-full sslcert=... sslkey=..."'


def _host_of(dsn: str) -> str:
    """The name of this member, by its role in the database."""
    with explained(), connect(dsn) as connection:
        return own_host(connection)
