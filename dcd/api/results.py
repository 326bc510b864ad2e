"""Handlers for what a build leaves: events, logs, artifacts, its DOC, the drawing of its machine.

`dcd.api.app` says what each does.
"""

import asyncio
import os
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, BinaryIO

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from dcd.api import schemas
from dcd.api.access import Action
from dcd.api.discretion import shown
from dcd.api.handling import Api, left
from dcd.api.operations import (
    QueryParameter,
    choice,
    integer,
    json_response,
    limit,
    string,
    whole_number,
)
from dcd.api.server import actor_of
from dcd.api.stream import follow
from dcd.api.streaming import Streamed, file_response
from statemachine.build import BuildState, Lifecycle
from statemachine.errors import NotFound
from statemachine.events import Event
from statemachine.graph import graph as drawing
from statemachine.machine import BuildMachine
from store.logs import AttemptLogs

MOVING = (Lifecycle.QUEUED, Lifecycle.RUNNING, Lifecycle.PAUSING, Lifecycle.CANCELLING)
"""States of a build that will go on without a command."""

MAX_LOG_BYTES = 8 * 1024 * 1024
"""The most of a log in one answer; the rest comes with a larger offset."""

_ATTEMPT = re.compile(r"[1-9][0-9]{0,6}")
CHECKPOINT_NAME = "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"

AFTER = QueryParameter("after", "a position: events after it")
OFFSET = QueryParameter("offset", "bytes to skip")
AT = QueryParameter("at", "a checkpoint: the DOC after it", str, pattern=CHECKPOINT_NAME)
PATH = QueryParameter("path", "a path string: only what it names", str)
FORMAT = QueryParameter("format", "language of the drawing", str, choices=("mermaid", "dot"))
EVENTS_LIMIT = limit(500, 5000)


async def events(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    build = await api.build(request)
    after = integer(request, AFTER, 0)
    if "text/event-stream" in request.headers.get("accept", ""):
        last = request.headers.get("last-event-id", "")
        if last:
            after = whole_number(last, "Last-Event-ID", AFTER)
        return Streamed(
            _stream(api, request, build, after),
            "text/event-stream",
            {"cache-control": "no-store"},
        )
    page = integer(request, EVENTS_LIMIT, 500)
    found = await _read(api, request, build, after, page)
    following = found[-1].position if len(found) == page else None
    return json_response(schemas.EventList(tuple(found), following))


async def verify_events(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    build = await api.build(request)
    problems = await asyncio.to_thread(api.engine.builds.log.verify, build)
    count = (await api.engine.builds.ask(api.engine.builds.log.summary, build)).sequence
    return json_response(schemas.Verification(build, count, not problems, tuple(problems)))


async def logs(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    state = await api.kept(request)
    found = await asyncio.to_thread(_log_files, api.engine.stores.logs, state)
    return json_response(schemas.LogList(found))


async def log(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    state = await api.kept(request)
    checkpoint, attempt = request.path_params["checkpoint"], request.path_params["attempt"]
    known = checkpoint in state.attempts and _ATTEMPT.fullmatch(attempt)
    path = api.engine.stores.logs.path(state.id, checkpoint, int(attempt)) if known else None
    if path is None or not path.is_file():
        raise NotFound(f"build {state.id} has no log of {checkpoint}, attempt {attempt}")
    offset = integer(request, OFFSET, 0)
    file, size_bytes = await asyncio.to_thread(_opened_at, path, offset)
    return file_response(file, size_bytes, "text/plain; charset=utf-8")


async def artifacts(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    view = await api.view(request, await api.kept(request))
    return json_response(schemas.ArtifactList(view.artifacts))


async def verify_artifacts(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    state = await api.kept(request)
    stored = api.engine.stores.artifacts
    verdicts = await asyncio.to_thread(stored.verify, state.id, state.published)
    checks = tuple(
        schemas.ArtifactCheck(
            verdict.artifact.name,
            str(stored.path(state.id, verdict.artifact)),
            verdict.ok,
            verdict.problem,
        )
        for verdict in verdicts
    )
    return json_response(schemas.ArtifactChecks(checks, all(check.ok for check in checks)))


async def doc(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    build = await api.build(request)
    at, path = string(request, AT), string(request, PATH)
    whole = api.sees_secrets(request, (await api.engine.builds.state(build)).actor)
    await request.body()  # so that what comes next is the client's leaving
    after, found = await api.engine.find(
        build, at, path, actor_of(request.scope), left(request), whole=whole
    )
    return json_response(schemas.DocView(build, after, found))


async def graph(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    build = await api.build(request)
    text_format: Any = choice(request, FORMAT, "mermaid")
    events = await api.engine.builds.ask(api.engine.builds.log.read_build, build)
    return PlainTextResponse(drawing(BuildMachine.rehydrate(events), text_format))


def _log_files(logs: AttemptLogs, state: BuildState) -> tuple[schemas.LogFile, ...]:
    found = [
        schemas.LogFile(name, attempt, str(path), path.stat().st_size)
        for name, attempts in state.attempts.items()
        for attempt in range(1, attempts + 1)
        if (path := logs.path(state.id, name, attempt)).is_file()
    ]
    return tuple(found)


def _opened_at(path: Path, offset: int) -> tuple[BinaryIO, int]:
    """The log from `offset` on: the open file, and how many bytes of it to send."""
    file = path.open("rb")
    whole_bytes = file.seek(0, os.SEEK_END)
    # No file system takes every offset that a client can write.
    begin = file.seek(min(offset, whole_bytes))
    return file, min(whole_bytes - begin, MAX_LOG_BYTES)


async def _read(api: Api, request: Request, build: str, after: int, page: int) -> list[Event]:
    found = await api.engine.builds.ask(api.engine.builds.log.read, build, after, page)
    return await shown(api, request, found)


def _stream(api: Api, request: Request, build: str, after: int) -> AsyncGenerator[bytes, None]:
    async def read(build: str, after: int, page: int) -> list[Event]:
        return await _read(api, request, build, after, page)

    async def settled(build: str, after: int) -> bool:
        state = await api.engine.builds.state(build)
        return state.lifecycle not in MOVING and state.log_position <= after

    return follow(read, settled, api.engine.builds.broadcast, build, after)
