"""The daemon's side: questions to planners, each answered by a process forked for it.

A user has one question answered at a time, and at most one planner per processor computes at once; a
planner that waits for mirrors does not count. The daemon's own questions, for attempts, do not queue. A
planner is killed at its time limit, and when its client disconnects. Used from the event loop's thread
only.
"""

import asyncio
import contextlib
import os
import signal
import socket
from asyncio import Semaphore
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar
from weakref import WeakValueDictionary

import structlog

from dcd.configuration import Configuration
from dcd.planner.border import (
    ANSWER,
    DEFECT,
    ERROR,
    HEAD,
    QUESTION,
    WAITING,
    decode_answer,
    decode_error,
    encode_question,
    message,
    unavailable,
)
from dcd.planner.process import Child, Forker, Start, present_view
from dcd.planner.request import KILL, NEW, Order
from dcd.planner.tasks import Task, require_showable
from dcd.platform.sight import Unseen
from statemachine.errors import DcdError, TooManyRequests, Unprepared
from statemachine.events import Actor

logger = structlog.get_logger()

DAEMON = Actor()
"""The actor of the daemon's own questions."""

MOST = 32
"""The maximum number of planners, including those that wait for mirrors."""

MOST_PATHS = 64
"""The maximum number of paths of the host that one question may be about."""

_ENDING_LOOKS = 20
"""How often the end of the process that forks planners is looked for, each twentieth of a second: it may be
reported after that of its planners."""

Question = TypeVar("Question")
Answer = TypeVar("Answer")
Left = Callable[[], Awaitable[object]]


class ClientLeft(DcdError):
    """The client has disconnected; this error is never sent."""

    problem = "client-left"


class Planning(Protocol):
    """The interface through which the engine asks questions."""

    async def ask(
        self,
        task: Task[Question, Answer],
        question: Question,
        actor: Actor = DAEMON,
        left: Left | None = None,
    ) -> Answer:
        """The answer to a question of `actor`. `left` returns when the client has disconnected. Raises
        the errors of the task; Unprepared when it takes too long, TooManyRequests when the user's turn
        does not come in time, ClientLeft."""


class Here:
    """Planning in a thread of this process: without limits and with its privileges, so only for an
    engine without clients, as in tests."""

    async def ask(
        self,
        task: Task[Question, Answer],
        question: Question,
        actor: Actor = DAEMON,
        left: Left | None = None,
    ) -> Answer:
        """See `Planning.ask`."""
        return await asyncio.to_thread(task.work, question, lambda: None)


HERE = Here()


class Planner:
    """Planners, forked on demand from one process; a context manager for the life of that process."""

    def __init__(self, settings: Callable[[], Configuration], start: Start = Child) -> None:
        self._settings = settings
        self._start = start
        self._forker: Forker | None = None
        self._leaving: set[Forker] = set()
        """Those that end with their last planner."""
        self._numbers = 0
        self._turns: WeakValueDictionary[int, Semaphore] = WeakValueDictionary()
        self._computing = Semaphore(_processors())
        self._all = Semaphore(MOST)

    def __enter__(self) -> "Planner":
        self._forker = Forker(self._settings(), self._start)
        return self

    def __exit__(self, *_: object) -> None:
        for forker in filter(None, (self._forker, *self._leaving)):
            forker.end()
        self._forker = None
        self._leaving.clear()

    async def ask(
        self,
        task: Task[Question, Answer],
        question: Question,
        actor: Actor = DAEMON,
        left: Left | None = None,
    ) -> Answer:
        """See `Planning.ask`."""
        asking = asyncio.ensure_future(self._asked(task, question, actor))
        leaving = None if left is None else asyncio.ensure_future(left())
        try:
            await asyncio.wait(
                {asking, *([leaving] if leaving else [])}, return_when=asyncio.FIRST_COMPLETED
            )
            if not asking.done():
                raise ClientLeft("the client has disconnected")
            return asking.result()  # type: ignore[no-any-return]
        finally:
            for task_ in filter(None, (asking, leaving)):
                task_.cancel()
            # A planner killed for it has ended when this returns.
            await asyncio.wait({asking})

    async def _asked(self, task: Task[Any, Any], question: object, actor: Actor) -> Any:
        seconds = self._settings().planning_seconds
        async with contextlib.AsyncExitStack() as held, contextlib.AsyncExitStack() as computing:
            if actor.uid is not None:
                try:
                    async with asyncio.timeout(seconds):
                        turn = self._turns.setdefault(actor.uid, Semaphore(1))
                        await held.enter_async_context(turn)
                        await held.enter_async_context(self._all)
                        await computing.enter_async_context(self._computing)
                except TimeoutError:
                    raise TooManyRequests(
                        f"{actor.user} sends too many manifests at once",
                        f"one is handled at a time; this one waited {seconds:g} s for its turn",
                        "send fewer at once, or smaller ones; try again",
                    ) from None
            try:
                async with asyncio.timeout(seconds):
                    return await self._answered(task, question, computing.aclose)
            except TimeoutError:
                raise Unprepared(
                    "the manifest took too long to read and plan",
                    f"the limit is {seconds:g} s, including the response times of repositories",
                    "try again when its repositories respond; split it if it is large; or have an "
                    "administrator raise planning_seconds",
                ) from None

    async def _answered(
        self, task: Task[Any, Any], question: object, waits: Callable[[], Awaitable[None]]
    ) -> Any:
        """The answer, after the planner has been shown the paths of the host that the question is about."""
        body = encode_question(task, question)
        asked: tuple[Path, ...] = ()
        deaths = 0
        while True:
            try:
                async with self._planner(asked) as connection:
                    return await _conversation(connection, task, body, waits)
            except _ForkerDied:
                # Not the question's fault, unless it happens again.
                deaths += 1
                if deaths > 1:
                    raise _died(1) from None
            except Unseen as unseen:
                new = set(unseen.paths) - set(asked)
                if not new or len(asked) + len(new) > MOST_PATHS:
                    raise
                await asyncio.to_thread(require_showable, question, new)
                asked = (*asked, *sorted(new))

    @contextlib.asynccontextmanager
    async def _planner(self, asked: tuple[Path, ...]) -> AsyncIterator[socket.socket]:
        """A planner, which sees the paths in `asked`; killed at the end of the context."""
        try:
            mine, its = socket.socketpair()
        except OSError as error:
            raise unavailable(error) from None
        mine.setblocking(False)
        self._numbers += 1
        number = self._numbers
        settings = self._settings()
        order = Order(NEW, number, settings.planning_seconds, settings.planning_memory_bytes)
        with mine:
            with its:
                forker = self._forked(order, its, asked)
            try:
                yield mine
            except _ForkerDied:
                if not await _has_ended(forker):
                    raise _died(1) from None
                self._forget(forker)
                raise
            finally:
                self._killed(number, forker)

    def _forked(self, order: Order, connection: socket.socket, asked: tuple[Path, ...]) -> Forker:
        """Have a planner forked. Returns the process that forks it. Raises Unavailable."""
        settings = self._settings()
        if not asked and self._forker is not None and self._forker.view != present_view(settings):
            # The host's settings or the daemon's have changed.
            self._leave(self._forker)
        forker = self._started(asked)
        try:
            forker.order(order, connection)
        except OSError:
            if asked:
                raise
            self._forget(forker)
            forker = self._started(asked)
            try:
                forker.order(order, connection)
            except OSError as error:
                raise unavailable(error) from None
        forker.questions += 1
        return forker

    def _started(self, asked: tuple[Path, ...]) -> Forker:
        if asked:
            forker = Forker(self._settings(), self._start, asked)
            self._leaving.add(forker)
            return forker
        if self._forker is None:
            self._forker = Forker(self._settings(), self._start)
        return self._forker

    def _forget(self, forker: Forker) -> None:
        """Have another process forked instead of one that has died."""
        if forker is self._forker:
            logger.error("the process that forks planners died; it is being restarted")
            forker.end()
            self._forker = None

    def _killed(self, number: int, forker: Forker) -> None:
        # A planner that has already ended needs no kill; with the process that forked it, it has ended.
        with contextlib.suppress(OSError):
            forker.order(Order(KILL, number))
        forker.questions -= 1
        if forker in self._leaving:
            self._leave(forker)

    def _leave(self, forker: Forker) -> None:
        """End it, now or with its last planner."""
        if forker is self._forker:
            self._forker = None
            self._leaving.add(forker)
        if forker.questions == 0:
            self._leaving.discard(forker)
            forker.end()


def _processors() -> int:
    """The number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 2


class _ForkerDied(Exception):
    """A planner has ended without an answer and without a word of the process that forked it."""


async def _has_ended(forker: Forker) -> bool:
    """Whether that process has ended. A planner alone may end like that too, if it was taken over."""
    for _ in range(_ENDING_LOOKS):
        if forker.has_ended():
            return True
        await asyncio.sleep(0.05)
    return False


async def _conversation(
    connection: socket.socket,
    task: Task[Any, Any],
    body: bytes,
    waits: Callable[[], Awaitable[None]],
) -> Any:
    """Ask, and read all messages of the planner: its answer counts once it has exited with success."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        await loop.sock_sendall(connection, message(QUESTION, body))
    said: tuple[bytes, bytes] | None = None
    while head := await _exactly(connection, HEAD.size):
        kind, length = HEAD.unpack(head)
        content = await _exactly(connection, length)
        if kind == WAITING:
            await waits()
        elif kind == DEFECT:
            logger.error("a defect in a planner", traceback=content.decode("utf-8", "replace"))
        elif kind in (ANSWER, ERROR) and said is None:
            said = kind, content
        else:
            raise _died(int(content))
    if said is None:
        raise _ForkerDied
    kind, content = said
    if kind == ERROR:
        raise decode_error(content)
    return decode_answer(content, task)


async def _exactly(connection: socket.socket, count: int) -> bytes:
    """Exactly this number of bytes, or none at the end of the stream."""
    loop = asyncio.get_running_loop()
    content = bytearray()
    while len(content) < count:
        try:
            piece = await loop.sock_recv(connection, min(count - len(content), 1 << 20))
        except ConnectionResetError:
            return b""
        if not piece:
            return b""
        content += piece
    return bytes(content)


def _died(status: int) -> DcdError:
    if -status in (signal.SIGXCPU, signal.SIGALRM):
        return Unprepared(
            "the manifest took too long to read and plan",
            "its process exceeded its limit of CPU time",
            "split it, or have an administrator raise planning_seconds",
        )
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    return Unprepared(
        "the process that reads the manifest ended without an answer",
        f"it ended with {how}; the kernel kills processes when memory is exhausted",
        "try again; see the daemon's log",
    )
