"""Following a build: a server-sent event stream of its events, its changing view and its progress.

A follower is only a cursor over the log's positions, without a queue: a slow client uses no extra
memory and gets the newest progress when it reads again. Events are never skipped.
Source: the HTML standard, section "Server-sent events".
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

import msgspec

from dcd.api.schemas import BuildView
from dcd.engine.broadcast import Broadcast
from statemachine.events import Event

KEEP_ALIVE_SECONDS = 15.0
PAGE = 500

ReadPage = Callable[[str, int, int], Awaitable[Sequence[Event]]]
View = Callable[[str], Awaitable[BuildView]]
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


def _message(kind: str, data: bytes, position: int | None = None) -> bytes:
    identity = b"" if position is None else b"id: %d\n" % position
    return b"event: " + kind.encode() + b"\n" + identity + b"data: " + data + b"\n\n"
