"""Handlers for the results of a build: events, artifacts, its DOC, the diagram of its machine.

The table in `dcd.api.app` describes each.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response

from dcd.api import schemas
from dcd.api.access import Action, require_readable
from dcd.api.handling import Api, client_left
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
from dcd.api.stream import Streamed, follow, follow_all
from dcd.api.views import summary_view
from dcd.planner.tasks import WithSecrets
from statemachine.errors import NotFound
from statemachine.events import Event
from statemachine.graph import graph as drawing
from statemachine.results import Artifact

CHECKPOINT_NAME = "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"

AFTER = QueryParameter("after", "a position: events after it")
AT = QueryParameter("at", "a checkpoint: the DOC after it", str, pattern=CHECKPOINT_NAME)
PATH = QueryParameter("path", "a path string: only the parts that it selects", str)
ABOUT = QueryParameter("about", "what is stated", str, choices=("provenance", "boot"))
FORMAT = QueryParameter("format", "language of the diagram", str, choices=("mermaid", "dot"))
EVENTS_LIMIT = limit(500, 5000)

NOT_STORED = {"cache-control": "no-store"}
BYTES = "application/octet-stream"
STATEMENT_TYPE = "application/vnd.in-toto+json"


@dataclass(frozen=True, slots=True)
class ArtifactList:
    """The published artifacts of a build."""

    artifacts: tuple[Artifact, ...]


@dataclass(frozen=True, slots=True)
class ArtifactCheck:
    """The verification of one artifact. `problem` is empty when it is unchanged."""

    name: str
    path: str
    ok: bool
    problem: str


@dataclass(frozen=True, slots=True)
class ArtifactChecks:
    """The verification of all artifacts of a build."""

    artifacts: tuple[ArtifactCheck, ...]
    ok: bool


async def events(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    build = await api.build(request)
    after = _position(request)
    if _wants_stream(request):
        return Streamed(_stream(api, request, build, after), "text/event-stream", NOT_STORED)
    return await _page_of_events(api, request, build, after)


async def all_events(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    after = _position(request)
    if _wants_stream(request):
        return Streamed(_stream_of_all(api, request, after), "text/event-stream", NOT_STORED)
    return await _page_of_events(api, request, None, after)


async def verify_events(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    build = await api.build(request)
    count, problems = await api.records.verify(build)
    return json_response(schemas.Verification(build, count, not problems, tuple(problems)))


async def artifacts(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    view = await api.view(request, await api.kept(request))
    return json_response(ArtifactList(view.artifacts))


async def artifact(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    state = await api.kept(request)
    name, actor = request.path_params["artifact"], actor_of(request.scope)
    found, content = await asyncio.to_thread(api.records.artifact, state, name)
    like = content if isinstance(content, Path) else api.records.artifacts
    await asyncio.to_thread(require_readable, actor, like, owner=state.actor.uid)
    headers = {"etag": f'"{found.sha256}"', "cache-control": "private, no-cache"}
    if isinstance(content, Path):
        return FileResponse(content, headers=headers, media_type=BYTES, filename=found.name)
    length = {"content-length": str(found.size_bytes)}
    return Streamed(_pieces(content), BYTES, headers | length)


async def _pieces(content: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    while piece := await asyncio.to_thread(next, content, b""):
        yield piece


async def verify_artifacts(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    state = await api.kept(request)
    verdicts = await api.records.verify_artifacts(state)
    checks = tuple(
        ArtifactCheck(
            verdict.artifact.name,
            str(api.records.artifact_path(state.id, verdict.artifact)),
            verdict.ok,
            verdict.problem,
        )
        for verdict in verdicts
    )
    return json_response(ArtifactChecks(checks, all(check.ok for check in checks)))


async def provenance(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    build = await api.build(request)
    state = await api.records.state(build)
    if choice(request, ABOUT, "provenance") == "boot":
        text = await api.records.boot_proof(build)
        if text is None:
            raise NotFound(
                f"no checkpoint of build {build} has booted its products",
                resolution="add a checkpoint VerifyBoot to the manifest",
            )
    else:
        secret = WithSecrets(state.manifest, state.parameters)
        without = await api.manifests.without_secrets(secret, actor_of(request.scope))
        text = await api.records.provenance(build, without.parameters)
    return Response(text, media_type=STATEMENT_TYPE)


async def doc(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    build = await api.build(request)
    at, path = string(request, AT), string(request, PATH)
    state = await api.records.state(build)
    whole = api.sees_secrets(request, state.actor)
    await request.body()  # so that the next message is the client's disconnect
    after, found = await api.manifests.find(
        state, at, path, actor_of(request.scope), client_left(request), whole=whole
    )
    return json_response(schemas.DocView(build, after, found))


async def graph(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    build = await api.build(request)
    text_format: Any = choice(request, FORMAT, "mermaid")
    return PlainTextResponse(drawing(await api.records.machine(build), text_format))


def _wants_stream(request: Request) -> bool:
    return "text/event-stream" in request.headers.get("accept", "")


def _position(request: Request) -> int:
    """The position after which events are wanted; in a stream the header Last-Event-ID comes first."""
    after = integer(request, AFTER, 0)
    last = request.headers.get("last-event-id", "")
    if last and _wants_stream(request):
        return whole_number(last, "Last-Event-ID", AFTER)
    return after


async def _page_of_events(api: Api, request: Request, build: str | None, after: int) -> Response:
    page = integer(request, EVENTS_LIMIT, 500)
    found = await _read(api, request, build, after, page)
    # A log gives large events a few at once: fewer than asked for need not be the last ones.
    more = len(found) == page or (
        found and await api.records.events(build, found[-1].position, limit=1)
    )
    following = found[-1].position if more else None
    return json_response(schemas.EventList(tuple(found), following))


async def _read(
    api: Api, request: Request, build: str | None, after: int, page: int
) -> list[Event]:
    return await api.visible(request, await api.records.events(build, after, page))


def _stream_of_all(api: Api, request: Request, after: int) -> AsyncGenerator[bytes, None]:
    async def summary(build: str) -> schemas.BuildSummary:
        stored = await api.records.summary(build)
        outlooks = await api.records.outlooks([stored])
        return summary_view(stored, outlooks[stored.id])

    return follow_all(partial(_read, api, request, None), summary, api.records.broadcast, after)


def _stream(api: Api, request: Request, build: str, after: int) -> AsyncGenerator[bytes, None]:
    async def view(build: str) -> schemas.BuildView:
        return await api.view(request, await api.records.state(build))

    read = partial(_read, api, request)
    return follow(read, view, api.records.settled, api.records.broadcast, build, after)
