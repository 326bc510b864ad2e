"""Procrastinate's tables in memory, with what its functions decide, and a connector of its own to them.

The worker that uses them is the real one. As in the real tables nothing here is fenced: a member that was
frozen ends the job that another one has meanwhile. Only the queries that a member of a farm sends are known.

Source: the SQL of Procrastinate 3 (schema.sql: procrastinate_fetch_job_v2, procrastinate_finish_job_v1,
procrastinate_retry_job_v1 and the indexes on `lock` and `queueing_lock`).
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from procrastinate import exceptions, manager, sql
from procrastinate.connector import BaseAsyncConnector, Notify
from simulated_parts import START

POOL_SECONDS = 30.0
"""How long a query waits for a connection (psycopg_pool: `timeout`)."""

"""When the world begins."""

STATES = ("todo", "doing")

QUERIES = {text: name for name, text in sql.queries.items()}


@dataclass(eq=False)
class Job:
    """A row of `procrastinate_jobs`."""

    id: int
    queue_name: str
    task_name: str
    priority: int
    lock: str | None
    queueing_lock: str | None
    args: dict[str, Any]
    scheduled_at: datetime | None
    status: str = "todo"
    attempts: int = 0
    abort_requested: bool = False
    worker_id: int | None = None

    @property
    def rank(self) -> tuple[int, int]:
        return -self.priority, self.id


@dataclass
class Jobs:
    """See the module. `now` is the time of the database, in seconds since the world began."""

    now: Callable[[], float]
    rows: dict[int, Job] = field(default_factory=dict)
    workers: dict[int, float] = field(default_factory=dict)
    """The last heartbeat of each."""
    listeners: dict["Connector", tuple[frozenset[str], Notify]] = field(default_factory=dict)
    _jobs: int = 0
    _workers: int = 0

    def of(self, lock: str, *status: str) -> Job | None:
        """The job of a build, in one of these states if they are given; one that was taken before one that
        waits."""
        mine = [
            job
            for job in self.rows.values()
            if job.lock == lock and job.status in (status or STATES)
        ]
        return min(mine, key=lambda job: job.status != "doing", default=None)

    def ask(self, query: str, given: dict[str, Any]) -> list[dict[str, Any]]:
        """Carry out a query, by its name."""
        return getattr(self, query)(**given) or []

    def defer_jobs(self, jobs: Iterable[Any]) -> list[dict[str, Any]]:
        made = []
        for each in jobs:
            self._jobs += 1  # also for one that is refused
            self._check_queueing(each.queueing_lock)
            self.rows[self._jobs] = Job(
                *(self._jobs, each.queue_name, each.task_name, each.priority),
                *(each.lock, each.queueing_lock, each.args, each.scheduled_at),
            )
            made.append({"id": self._jobs})
            self._notify(each.queue_name, self._jobs)
        return made

    def _check_queueing(self, lock: str | None) -> None:
        if any(job.queueing_lock == lock and job.status == "todo" for job in self.rows.values()):
            raise exceptions.UniqueViolation(
                constraint_name=manager.QUEUEING_LOCK_CONSTRAINT, queueing_lock=lock
            )

    def _notify(self, queue: str, job: int) -> None:
        channel = f"procrastinate_queue_v1#{queue}"
        payload = json.dumps({"type": "job_inserted", "job_id": job})
        for connector, (channels, notify) in tuple(self.listeners.items()):
            if channel in channels:
                connector.notified(notify(channel=channel, payload=payload))

    def fetch_job(self, queues: Iterable[str], worker_id: int) -> list[dict[str, Any]]:
        now = self.now()
        todo = [job for job in self.rows.values() if job.status == "todo"]
        doing = {job.lock for job in self.rows.values() if job.status == "doing"}
        for job in sorted(todo, key=lambda job: job.rank):
            if (
                job.queue_name in queues
                and job.lock not in doing
                and not any(other.lock == job.lock and other.rank < job.rank for other in todo)
                and (job.scheduled_at is None or (job.scheduled_at - START).total_seconds() <= now)
            ):
                assert worker_id in self.workers, "the foreign key of worker_id"
                job.status, job.worker_id = "doing", worker_id
                return [{**vars(job)}]
        return [{"id": None}]

    def finish_job(self, job_id: int, status: str, delete_job: bool) -> None:
        assert delete_job
        if job_id not in self.rows:
            raise exceptions.ConnectorException("Job was not found")
        del self.rows[job_id]

    def retry_job(self, job_id: int, retry_at: datetime, **new: Any) -> None:
        job = self.rows.get(job_id)
        if job is None or job.status != "doing":
            raise exceptions.ConnectorException('Job was not found or not in "doing" status')
        self._check_queueing(job.queueing_lock)
        job.status, job.scheduled_at = "todo", retry_at
        job.attempts += 1

    def register_worker(self) -> list[dict[str, Any]]:
        self._workers += 1
        self.workers[self._workers] = self.now()
        return [{"worker_id": self._workers}]

    def unregister_worker(self, worker_id: int) -> None:
        self.workers.pop(worker_id, None)
        self._forget_workers()

    def prune_stalled_workers(self, seconds_since_heartbeat: float) -> list[dict[str, Any]]:
        ago = self.now() - seconds_since_heartbeat
        gone = [worker for worker, beat in self.workers.items() if beat < ago]
        for worker in gone:
            del self.workers[worker]
        self._forget_workers()
        return [{"worker_id": worker} for worker in gone]

    def _forget_workers(self) -> None:
        for job in self.rows.values():
            if job.worker_id not in self.workers:
                job.worker_id = None

    def update_heartbeat(self, worker_id: int) -> None:
        if worker_id in self.workers:
            self.workers[worker_id] = self.now()

    def list_jobs_to_abort(self, queue_name: str | None) -> None: ...


class Asking(Protocol):
    """A member that asks the database."""

    def reaches(self) -> bool: ...

    def ask(self, work: Callable[[], Any]) -> "Future[Any]": ...


class Connector(BaseAsyncConnector):
    """A pool of connections of one member. A query waits for a connection, as the real pool does."""

    def __init__(self, jobs: Jobs, member: "Asking") -> None:
        self._jobs = jobs
        self._member = member
        self._loop = asyncio.get_running_loop()
        self._broken: asyncio.Future[None] | None = None

    async def open_async(self, pool: Any = None) -> None:
        await self._connected()

    async def close_async(self) -> None: ...

    async def _connected(self) -> None:
        until = self._loop.time() + POOL_SECONDS
        while not self._member.reaches():
            if self._loop.time() >= until:
                raise exceptions.ConnectorException("couldn't get a connection after 30.00 sec")
            await asyncio.sleep(1.0)

    async def _ask(self, query: str, given: dict[str, Any]) -> list[dict[str, Any]]:
        await self._connected()
        name = QUERIES[query]
        answer: list[dict[str, Any]] = await asyncio.wrap_future(
            self._member.ask(lambda: self._jobs.ask(name, given))
        )
        return answer

    async def execute_query_async(self, query: str, **given: Any) -> None:
        await self._ask(query, given)

    async def execute_query_one_async(self, query: str, **given: Any) -> dict[str, Any]:
        return (await self._ask(query, given))[0]

    async def execute_query_all_async(self, query: str, **given: Any) -> list[dict[str, Any]]:
        return await self._ask(query, given)

    async def listen_notify(self, on_notification: Notify, channels: Iterable[str]) -> None:
        await self._connected()
        self._broken = self._loop.create_future()
        self._jobs.listeners[self] = (frozenset(channels), on_notification)
        try:
            await self._broken
        finally:
            self._jobs.listeners.pop(self, None)

    def notified(self, heard: Awaitable[None]) -> None:
        """Deliver a notification."""
        self._loop.call_soon_threadsafe(asyncio.ensure_future, heard)

    def fail(self) -> None:
        """The connection that listens is lost."""
        self._jobs.listeners.pop(self, None)
        if self._broken is not None and not self._broken.done():
            lost = exceptions.ConnectorException("server closed the connection unexpectedly")
            self._loop.call_soon_threadsafe(_fail, self._broken, lost)


def _fail(future: "asyncio.Future[None]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
