"""Following a build, or all: a server-sent event stream of events, changing views and progress.

A follower is only a cursor over the log's positions, without a queue: a slow client uses no extra
memory and gets the newest progress when it reads again. Events are never skipped.
Source: the HTML standard, section "Server-sent events".
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import BinaryIO

import msgspec
import structlog
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from dcd.api.schemas import BuildSummary, BuildView
from dcd.engine.broadcast import Broadcast
from statemachine.errors import DcdError
from statemachine.events import Event

logger = structlog.get_logger()

KEEP_ALIVE_SECONDS = 15.0
PAGE = 500
PIECE_BYTES = 64 * 1024

ReadPage = Callable[[str, int, int], Awaitable[Sequence[Event]]]
View = Callable[[str], Awaitable[BuildView]]
ReadAll = Callable[[int, int], Awaitable[Sequence[Event]]]
Summary = Callable[[str], Awaitable[BuildSummary]]
Settled = Callable[[str, int], Awaitable[bool]]
"""Whether a build has stopped and has no event after a position."""


async def follow(
    read: ReadPage, view: View, settled: Settled, broadcast: Broadcast, build: str, after: int
) -> AsyncGenerator[bytes, None]:
    """Yield SSE messages of `build` for events after position `after`, the build's view before they
    are sent, and progress in between, until the build stops (paused, failed or ended)."""
    progress_seen = 0
    with broadcast.listen(build) as listener:
        while True:
            while events := await read(build, after, PAGE):
                yield _message("build", msgspec.json.encode(await view(build)))
                for event in events:
                    yield _message("event", msgspec.json.encode(event), event.position)
                after = events[-1].position
            if await settled(build, after):
                return
            progress = broadcast.progress(build)
            if progress is not None and progress.number > progress_seen:
                progress_seen = progress.number
                yield _message("progress", msgspec.json.encode(progress.data))
            try:
                await asyncio.wait_for(listener.wait(), KEEP_ALIVE_SECONDS)
            except TimeoutError:
                yield b": keep-alive\n\n"


async def follow_all(
    read: ReadAll, summary: Summary, broadcast: Broadcast, after: int
) -> AsyncGenerator[bytes, None]:
    """Yield SSE messages of all builds without end: as `follow`, with the summaries of builds in place of
    views, and with the member `build` in progress."""
    progress_seen = 0
    with broadcast.listen(None) as listener:
        yield b": from %d\n\n" % after  # the response begins at once
        while True:
            while events := await read(after, PAGE):
                for build in dict.fromkeys(event.build for event in events):
                    yield _message("build", msgspec.json.encode(await summary(build)))
                for event in events:
                    yield _message("event", msgspec.json.encode(event), event.position)
                after = events[-1].position
            for build, progress in broadcast.newer(progress_seen):
                progress_seen = progress.number
                data = {"build": build, **msgspec.to_builtins(progress.data)}
                yield _message("progress", msgspec.json.encode(data))
            try:
                await asyncio.wait_for(listener.wait(), KEEP_ALIVE_SECONDS)
            except TimeoutError:
                yield b": keep-alive\n\n"


def _message(kind: str, data: bytes, position: int | None = None) -> bytes:
    identity = b"" if position is None else b"id: %d\n" % position
    return b"event: " + kind.encode() + b"\n" + identity + b"data: " + data + b"\n\n"


class Streamed(StreamingResponse):
    """Sends the output of a generator, and always closes it: after a disconnect it would otherwise stay
    suspended, with its open file or listener. A DcdError of the generator ends the connection."""

    def __init__(
        self,
        content: AsyncGenerator[bytes, None],
        media_type: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(content, media_type=media_type, headers=headers)
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except DcdError as error:
            # The response has begun. It gets no end, so its client knows that it is not whole.
            logger.warning("a response breaks off", reason=str(error))
        finally:
            await self._content.aclose()


def file_response(
    file: BinaryIO, size_bytes: int, media_type: str, headers: Mapping[str, str] | None = None
) -> Response:
    """A response with the next `size_bytes` of an open file, which is closed afterwards. The file may
    grow meanwhile, not shrink."""
    length = {"content-length": str(size_bytes)}
    return Streamed(_pieces(file, size_bytes), media_type, {**length, **(headers or {})})


async def _pieces(file: BinaryIO, left: int) -> AsyncGenerator[bytes, None]:
    with file:
        while piece := await asyncio.to_thread(file.read, min(left, PIECE_BYTES)):
            left -= len(piece)
            yield piece
