"""Handlers for the output of attempts: logs, and files such as the console of a guest. Both can be followed
while the attempt runs. The table in `dcd.api.app` describes each.

A user with permission to see builds may read both.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

from starlette.requests import Request
from starlette.responses import Response

from dcd.api.access import Action
from dcd.api.fairness import release_turn
from dcd.api.handling import Api
from dcd.api.operations import QueryParameter, choice, integer, json_response
from dcd.api.stream import PIECE_BYTES, Streamed, file_response
from dcd.engine.outputs import AttemptFile, LogFile, is_running, media_type_of, number_of
from statemachine.errors import NotFound

MAX_LOG_BYTES = 8 * 1024 * 1024
"""The maximum size of a log in one response; clients request the rest with a larger offset."""

SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 1.0
"""The pause before a file is read again that has not grown; it doubles."""

OFFSET = QueryParameter("offset", "bytes to skip")
FOLLOW = QueryParameter(
    "follow",
    "whether to send what is written from now on too, until the attempt ends",
    str,
    choices=("true", "false"),
)

HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}

Open = Callable[[], BinaryIO]


@dataclass(frozen=True, slots=True)
class LogList:
    """The logs of a build, oldest first."""

    logs: tuple[LogFile, ...]


@dataclass(frozen=True, slots=True)
class AttemptFiles:
    """The files of an attempt; while it is `running` they may grow or be replaced."""

    files: tuple[AttemptFile, ...]
    running: bool


async def logs(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    state = await api.kept(request)
    return json_response(LogList(await asyncio.to_thread(api.records.outputs.logs, state)))


async def log(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    state = await api.kept(request)
    checkpoint, attempt = _attempt(request)
    opened = partial(api.records.outputs.open_log, state, checkpoint, attempt)
    return await _content(api, request, state.id, opened, "text/plain; charset=utf-8")


async def attempt_files(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    state = await api.kept(request)
    checkpoint, attempt = _attempt(request)
    found = await asyncio.to_thread(api.records.outputs.files, state, checkpoint, attempt)
    return json_response(AttemptFiles(found, is_running(state, checkpoint, attempt)))


async def attempt_file(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    state = await api.kept(request)
    checkpoint, attempt = _attempt(request)
    name = request.path_params["file"]
    opened = partial(api.records.outputs.open_file, state, checkpoint, attempt, name)
    number_of(state, checkpoint, attempt)
    return await _content(api, request, state.id, opened, media_type_of(name))


def _attempt(request: Request) -> tuple[str, str]:
    return request.path_params["checkpoint"], request.path_params["attempt"]


async def _content(
    api: Api, request: Request, build: str, opened: Open, media_type: str
) -> Response:
    """The content of a file of an attempt, or a stream of it."""
    offset = integer(request, OFFSET, 0)
    checkpoint, attempt = _attempt(request)

    async def runs() -> bool:
        return is_running(await api.records.state(build), checkpoint, attempt)

    follows = choice(request, FOLLOW, "false") == "true"
    if follows and await runs():
        api.records.outputs.require_here(await api.records.state(build), checkpoint, attempt)
        release_turn(request.scope)
        return Streamed(_stream(api, build, opened, offset, runs), media_type, HEADERS)
    file = await asyncio.to_thread(opened)
    size_bytes = await asyncio.to_thread(_skip, file, offset)
    limit = size_bytes if follows else min(size_bytes, MAX_LOG_BYTES)
    return file_response(file, limit, media_type, HEADERS)


async def _stream(
    api: Api, build: str, opened: Open, offset: int, runs: Callable[[], Awaitable[bool]]
) -> AsyncGenerator[bytes, None]:
    with api.records.broadcast.listen(build) as listener:
        pieces = following(opened, offset, runs, listener.wait)
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece


async def following(
    opened: Open,
    offset: int,
    runs: Callable[[], Awaitable[bool]],
    changed: Callable[[], Awaitable[None]],
) -> AsyncGenerator[bytes, None]:
    """Yield the content of a file from `offset` on as it grows, until its attempt does not run any more. The
    file may appear later. `changed` waits for a change of the build."""
    file: BinaryIO | None = None
    pause_seconds = SHORTEST_PAUSE_SECONDS
    try:
        while True:
            # Before the last read: what was written before the end is not missed.
            running = await runs()
            if file is None:
                file = await asyncio.to_thread(_opened_at, opened, offset)
            sent = False
            while file and (piece := await asyncio.to_thread(file.read, PIECE_BYTES)):
                sent = True
                yield piece
            if not running:
                return
            pause_seconds = (
                SHORTEST_PAUSE_SECONDS if sent else min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)
            )
            with suppress(TimeoutError):
                await asyncio.wait_for(changed(), pause_seconds)
    finally:
        if file:
            file.close()


def _opened_at(opened: Open, offset: int) -> BinaryIO | None:
    """The file, to be read from `offset` on; None if it does not exist yet."""
    try:
        file = opened()
    except NotFound:
        return None
    _skip(file, offset)
    return file


def _skip(file: BinaryIO, offset: int) -> int:
    """Go to `offset`. Returns the number of bytes from there on."""
    whole_bytes = os.fstat(file.fileno()).st_size
    # A client can send an offset that no file system accepts.
    return whole_bytes - file.seek(min(offset, whole_bytes))
