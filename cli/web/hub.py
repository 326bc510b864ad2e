"""One stream of events from the daemon for all open pages.

However many pages are open, the daemon has one follower: the hub keeps the newest events, and each page is
a position in them. A page that was away longer catches up with a stream of its own, then continues here. No
event is lost or repeated, also across restarts of the daemon. Pages get two messages in addition to those
of `GET /v1/events`: `away`, with the problem as data, and `back`; and `reset` when the daemon's log is
another one, so that positions have lost their meaning. Used from one event loop only.
"""

import asyncio
import json
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from cli.client import ClientError
from cli.web.guard import STATUS, problem
from cli.web.upstream import Answer, exchange

KEPT_EVENTS = 5000
KEEP_ALIVE_SECONDS = 15.0
SILENCE_SECONDS = 60.0
"""A stream without data for this long is dead: the daemon keeps idle streams alive with comments."""

SHORTEST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.1, 2.0
CATCHING_UP = 8
"""The number of pages that catch up at once."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An event as it is sent, after the summaries of builds that came before it."""

    position: int
    text: bytes


class Hub:
    """See the module. `follow` starts the hub's task, which ends with the last page."""

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path
        self._events: deque[Kept] = deque()
        self._floor = 0
        """All events after this position that the daemon has sent are kept."""
        self._position: int | None = None
        self._progress: dict[str, tuple[int, bytes]] = {}
        self._count = 0
        self._lost: bytes | None = None
        self._log = 0
        """Increases when the daemon's log is another one."""
        self._pages: set[asyncio.Event] = set()
        self._task: asyncio.Task[None] | None = None
        self._catching_up = asyncio.Semaphore(CATCHING_UP)

    async def follow(self, after: int) -> AsyncGenerator[bytes, None]:
        """Yield messages for events after position `after`, without end."""
        changed = asyncio.Event()
        self._pages.add(changed)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._listen())
        log, lost, progress_seen = self._log, None, 0
        try:
            yield b": welcome\n\n"
            while True:
                changed.clear()
                if log != self._log:
                    log, after = self._log, self._floor
                    yield b"event: reset\nid: %d\ndata: {}\n\n" % after
                if lost != self._lost:
                    lost = self._lost
                    kind = b"back" if lost is None else b"away"
                    yield b"event: " + kind + b"\ndata: " + (lost or b"{}") + b"\n\n"
                if self._position is not None and after < self._floor and lost is None:
                    async with aclosing(self._missed(after, self._floor)) as missed:
                        async for position, text in missed:
                            after = position or after
                            yield text
                for kept in self._after(after):
                    after = kept.position
                    yield kept.text
                for number, text in sorted(self._progress.values()):
                    if number > progress_seen:
                        progress_seen = number
                        yield text
                try:
                    await asyncio.wait_for(changed.wait(), KEEP_ALIVE_SECONDS)
                except TimeoutError:
                    yield b": keep-alive\n\n"
        finally:
            self._pages.discard(changed)
            if not self._pages:
                self._stop()

    def _after(self, position: int) -> list[Kept]:
        if position < self._floor:
            return []
        begin = bisect_right(self._events, position, key=lambda kept: kept.position)
        return [self._events[index] for index in range(begin, len(self._events))]

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._task = self._position = self._lost = None
        self._events.clear()
        self._progress.clear()

    def _wake(self) -> None:
        for page in self._pages:
            page.set()

    async def _listen(self) -> None:
        wait_seconds = SHORTEST_WAIT_SECONDS
        while True:
            try:
                await self._begin()
                assert self._position is not None
                stream = _messages(self._socket_path, self._position)
                async with aclosing(stream):
                    summaries = b""
                    async for kind, position, text in stream:
                        wait_seconds = SHORTEST_WAIT_SECONDS
                        if kind == "build":
                            summaries += text
                        elif kind == "event":
                            self._keep(Kept(position, summaries + text))
                            summaries = b""
                            # Of a checkpoint that is past.
                            self._progress.pop(json.loads(_data(text))["build"], None)
                        elif kind == "progress":
                            self._count += 1
                            build = json.loads(_data(text))["build"]
                            self._progress[build] = (self._count, text)
                        self._wake()
                lost = ClientError("unavailable", "the daemon has stopped")
            except ClientError as error:
                lost = error
            self._lost = problem(lost, STATUS.get(lost.kind, 503))
            self._progress.clear()
            self._wake()
            await asyncio.sleep(wait_seconds)
            wait_seconds = min(wait_seconds * 2, LONGEST_WAIT_SECONDS)

    async def _begin(self) -> None:
        """Ask where the log is now; raises ClientError."""
        async with exchange(self._socket_path, "GET", "/v1/builds?limit=1") as answer:
            newest = json.loads(await _successful(answer))["position"]
        if self._position is None:
            self._position = self._floor = newest
        elif newest < self._position:
            self._events.clear()
            self._position = self._floor = newest
            self._log += 1
        self._lost = None
        self._wake()

    def _keep(self, kept: Kept) -> None:
        self._position = kept.position
        self._events.append(kept)
        if len(self._events) > KEPT_EVENTS:
            self._floor = self._events.popleft().position

    async def _missed(self, after: int, floor: int) -> AsyncGenerator[tuple[int, bytes], None]:
        """The messages between two positions, with the positions of events (0: none); none any more when the
        daemon is lost."""
        async with self._catching_up, aclosing(_messages(self._socket_path, after)) as stream:
            try:
                async for kind, position, text in stream:
                    if kind in ("build", "event"):
                        yield position, text
                    if position >= floor:
                        return
            except ClientError:
                return


async def _messages(socket_path: str, after: int) -> AsyncGenerator[tuple[str, int, bytes], None]:
    """The messages of the daemon's stream: kind, position (0: none) and text. Raises ClientError."""
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
    async with exchange(socket_path, "GET", "/v1/events", headers=headers) as answer:
        if answer.status != 200:
            await _successful(answer)
        pieces, rest = answer.pieces(), b""
        while (piece := await _in_time(pieces)) is not None:
            *messages, rest = (rest + piece).split(b"\n\n")
            for message in messages:
                fields = dict(line.partition(b": ")[::2] for line in message.split(b"\n"))
                if kind := fields.get(b"event", b"").decode():
                    yield kind, int(fields.get(b"id", b"0")), message + b"\n\n"


async def _in_time(pieces: AsyncIterator[bytes]) -> bytes | None:
    try:
        return await asyncio.wait_for(anext(pieces, None), SILENCE_SECONDS)
    except TimeoutError:
        raise ClientError("unavailable", "the daemon does not answer") from None


def _data(message: bytes) -> bytes:
    return next(line for line in message.split(b"\n") if line.startswith(b"data: "))[6:]


async def _successful(answer: Answer) -> bytes:
    """The body. Raises ClientError with the problem of a response that is none."""
    text = await answer.whole()
    if answer.status < 400:
        return text
    try:
        found = json.loads(text)
        kind = str(found["type"]).rpartition(":")[2]
        title, detail, resolution = (
            str(found.get(name, "")) for name in ("title", "detail", "resolution")
        )
    except (ValueError, KeyError, TypeError):
        raise ClientError("internal", f"the daemon answered {answer.status}") from None
    raise ClientError(kind, title, detail, resolution)
