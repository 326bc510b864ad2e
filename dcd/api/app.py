"""The application: every operation of the API, in one table.

A handler checks the peer's right, reads the request, asks the engine and answers; it decides nothing.
Each `DcdError` becomes a problem; anything else is logged and becomes problem `internal`.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, cast

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from dcd import doctor
from dcd.access import Action, host_code, require
from dcd.api import openapi, schemas
from dcd.api.operations import (
    Operation,
    QueryParameter,
    body_of,
    choice,
    integer,
    json_response,
    problem_response,
    routes,
)
from dcd.api.server import Limits, actor_of
from dcd.api.stream import follow
from dcd.api.views import build_view, summary_view
from dcd.configuration import Configuration
from dcd.engine.engine import Engine, ManifestSource, Options
from dcd.manifest.diagnostics import ManifestError
from statemachine.build import BuildState, Lifecycle
from statemachine.errors import DcdError, NotFound, UsageError
from statemachine.events import Event
from statemachine.graph import graph
from statemachine.machine import BuildMachine
from statemachine.plan import Plan

log = structlog.get_logger()

API = "v1"
MOVING = (Lifecycle.QUEUED, Lifecycle.RUNNING, Lifecycle.PAUSING, Lifecycle.CANCELLING)
"""States of a build that will go on without a command."""

MAX_LOG_BYTES = 8 * 1024 * 1024
"""The most of a log in one answer; the rest comes with a larger offset."""

AFTER = QueryParameter("after", "a position: events after it")
OFFSET = QueryParameter("offset", "bytes to skip")
FORMAT = QueryParameter("format", "language of the drawing", str, choices=("mermaid", "dot"))
STATE = QueryParameter(
    "state", "only builds in these states, separated by commas", str, pattern="^[a-z]+(,[a-z]+)*$"
)


def limit(default: int, maximum: int) -> QueryParameter:
    """The query parameter `limit` of a list."""
    return QueryParameter("limit", f"at most so many (default {default})", int, 1, maximum)


BUILDS_LIMIT = limit(50, 1000)
EVENTS_LIMIT = limit(500, 5000)
BEFORE = QueryParameter("before", "`next` of the page before")


@dataclass(frozen=True, slots=True)
class Api:
    """The handlers, and what they ask."""

    engine: Engine
    settings: Callable[[], Configuration]
    started_at: datetime

    # The daemon and its host

    async def version(self, request: Request) -> Response:
        return json_response(
            schemas.VersionView(
                version("dcd"), API, os.getpid(), str(self.settings().state_dir), self.started_at
            )
        )

    async def health(self, request: Request) -> Response:
        if trouble := self.engine.builds.log.trouble:
            return problem_response(trouble)
        return json_response(schemas.Health("ok"))

    async def doctor(self, request: Request) -> Response:
        self._require(request, Action.SEE)
        checks = await asyncio.to_thread(doctor.examine, self.settings().state_dir)
        return json_response(schemas.HostChecks(tuple(checks)))

    async def openapi(self, request: Request) -> Response:
        return json_response(openapi.document(self.operations(), version("dcd")))

    # Manifests and builds

    async def put_blob(self, request: Request) -> Response:
        self._require(request, Action.SUBMIT)
        sha256 = request.path_params["sha256"]
        with SpooledTemporaryFile(1024 * 1024, dir=str(self.settings().state_dir)) as spool:
            async for chunk in request.stream():
                await asyncio.to_thread(spool.write, chunk)
            spool.seek(0)
            new = await asyncio.to_thread(
                self.engine.stores.blobs.put, cast(BinaryIO, spool), sha256
            )
        return json_response({"sha256": sha256}, 201 if new else 200)

    async def validate(self, request: Request) -> Response:
        self._require(request, Action.SUBMIT)
        body = await body_of(request, schemas.ManifestRequest)
        try:
            loaded = await self.engine.load(_source(body.manifest, body.files, body.parameters))
        except ManifestError as error:
            return json_response(schemas.ValidationResult(False, error.diagnostics))
        return json_response(schemas.ValidationResult(True, loaded.diagnostics))

    async def plan(self, request: Request) -> Response:
        self._require(request, Action.SUBMIT)
        body = await body_of(request, schemas.ManifestRequest)
        source = _source(body.manifest, body.files, body.parameters)
        name, intentions = await self.engine.plan(source, body.fresh)
        return json_response(schemas.PlanView(name, intentions))

    async def submit(self, request: Request) -> Response:
        self._require(request, Action.SUBMIT)
        body = await body_of(request, schemas.SubmitRequest)
        state, new = await self.engine.submit(
            _source(body.manifest, body.files, body.parameters),
            Options(body.pause_before, body.fresh, body.priority, body.idempotency_key),
            actor_of(request.scope),
            self._permit(request),
        )
        return json_response(build_view(state), 201 if new else 200)

    async def list_builds(self, request: Request) -> Response:
        self._require(request, Action.SEE)
        page = integer(request, BUILDS_LIMIT, 50)
        before = integer(request, BEFORE, -1)
        found = await asyncio.to_thread(
            self.engine.builds.log.list_builds,
            _states(request),
            page,
            None if before < 0 else before,
        )
        following = found[-1].submitted_position if len(found) == page else None
        return json_response(schemas.BuildList(tuple(map(summary_view, found)), following))

    async def show(self, request: Request) -> Response:
        self._require(request, Action.SEE)
        return json_response(build_view(await self._state(request)))

    async def pause(self, request: Request) -> Response:
        build = await self._controlled(request)
        body = await body_of(request, schemas.PauseRequest)
        state = await self.engine.pause(build, body.before, actor_of(request.scope))
        return json_response(build_view(state))

    async def resume(self, request: Request) -> Response:
        build = await self._controlled(request)
        body = await body_of(request, schemas.ResumeRequest)
        parameters = body.parameters
        if parameters is None:
            parameters = dict((await self.engine.builds.state(build)).parameters)
        source = None
        if body.manifest is not None:
            source = _source(body.manifest, body.files, parameters)
        state, kept, rerun = await self.engine.resume(
            build,
            body.rewind_to,
            body.pause_before,
            source,
            actor_of(request.scope),
            self._permit(request),
        )
        reruns = tuple(schemas.Rerun(name, reason) for name, reason in rerun)
        return json_response(schemas.ResumedView(build_view(state), tuple(kept), reruns))

    async def cancel(self, request: Request) -> Response:
        build = await self._controlled(request)
        return json_response(build_view(await self.engine.cancel(build, actor_of(request.scope))))

    async def remove(self, request: Request) -> Response:
        build = await self._controlled(request)
        return json_response(build_view(await self.engine.remove(build, actor_of(request.scope))))

    # What a build leaves

    async def events(self, request: Request) -> Response:
        self._require(request, Action.SEE)
        build = await self._build(request)
        after = integer(request, AFTER, 0)
        if "text/event-stream" in request.headers.get("accept", ""):
            last = request.headers.get("last-event-id", "")
            if last and not last.isdecimal():
                raise UsageError("Last-Event-ID must be a position", f"got {last[:100]!r}")
            return StreamingResponse(
                self._stream(build, int(last) if last else after),
                media_type="text/event-stream",
                headers={"cache-control": "no-store"},
            )
        page = integer(request, EVENTS_LIMIT, 500)
        found = await self._read(build, after, page)
        following = found[-1].position if len(found) == page else None
        return json_response(schemas.EventList(tuple(found), following))

    async def verify_events(self, request: Request) -> Response:
        self._require(request, Action.SEE)
        build = await self._build(request)
        problems = await asyncio.to_thread(self.engine.builds.log.verify, build)
        count = (await asyncio.to_thread(self.engine.builds.log.summary, build)).sequence
        return json_response(schemas.Verification(build, count, not problems, tuple(problems)))

    async def logs(self, request: Request) -> Response:
        self._require(request, Action.SEE)
        state = await self._state(request)
        directory = self.engine.stores.logs / state.id
        found = await asyncio.to_thread(_log_files, directory, state)
        return json_response(schemas.LogList(found))

    async def log(self, request: Request) -> Response:
        self._require(request, Action.SEE)
        state = await self._state(request)
        checkpoint, attempt = request.path_params["checkpoint"], request.path_params["attempt"]
        path = self.engine.stores.logs / state.id / f"{checkpoint}.{attempt}.log"
        if checkpoint not in state.attempts or not attempt.isdecimal() or not path.is_file():
            raise NotFound(f"build {state.id} has no log of {checkpoint}, attempt {attempt}")
        content = await asyncio.to_thread(_tail_of, path, integer(request, OFFSET, 0))
        return Response(content, media_type="text/plain; charset=utf-8")

    async def artifacts(self, request: Request) -> Response:
        self._require(request, Action.SEE)
        return json_response(schemas.ArtifactList((await self._state(request)).published))

    async def verify_artifacts(self, request: Request) -> Response:
        self._require(request, Action.SEE)
        published = (await self._state(request)).published
        verdicts = await asyncio.to_thread(self.engine.stores.artifacts.verify, published)
        checks = tuple(
            schemas.ArtifactCheck(v.artifact.name, v.artifact.path, v.ok, v.problem)
            for v in verdicts
        )
        return json_response(schemas.ArtifactChecks(checks, all(check.ok for check in checks)))

    async def graph(self, request: Request) -> Response:
        self._require(request, Action.SEE)
        build = await self._build(request)
        text_format: Any = choice(request, FORMAT, "mermaid")
        events = await asyncio.to_thread(self.engine.builds.log.read_build, build)
        return PlainTextResponse(graph(BuildMachine.rehydrate(events), text_format))

    # What handlers share

    def _require(self, request: Request, action: Action, owner: int | None = None) -> None:
        require(self.settings(), actor_of(request.scope), action, owner=owner)

    def _permit(self, request: Request) -> Callable[[Plan], None]:
        def permit(plan: Plan) -> None:
            if host_code(plan):
                self._require(request, Action.RUN_HOST_CODE)

        return permit

    async def _build(self, request: Request) -> str:
        prefix = request.path_params["id"]
        return await asyncio.to_thread(self.engine.builds.log.resolve_prefix, prefix)

    async def _state(self, request: Request) -> BuildState:
        return await self.engine.builds.state(await self._build(request))

    async def _controlled(self, request: Request) -> str:
        """The build's id, if the peer may control it."""
        self._require(request, Action.SEE)
        state = await self._state(request)
        self._require(request, Action.CONTROL, owner=state.actor.uid)
        return state.id

    async def _read(self, build: str, after: int, page: int) -> list[Event]:
        return await asyncio.to_thread(self.engine.builds.log.read, build, after, page)

    async def _settled(self, build: str, after: int) -> bool:
        state = await self.engine.builds.state(build)
        return state.state not in MOVING and state.log_position <= after

    def _stream(self, build: str, after: int) -> AsyncIterator[bytes]:
        return follow(self._read, self._settled, self.engine.builds.broadcast, build, after)

    def operations(self) -> tuple[Operation, ...]:
        """The table."""
        build, view = "/v1/builds/{id}", schemas.BuildView
        return (
            Operation(
                "GET", "/v1/version", "version", "Which daemon this is",
                self.version, schemas.VersionView,
            ),
            Operation(
                "GET", "/v1/health", "health", "Whether the daemon can serve",
                self.health, schemas.Health,
            ),
            Operation(
                "GET", "/v1/doctor", "doctor", "Examine the host",
                self.doctor, schemas.HostChecks,
            ),
            Operation(
                "GET", "/v1/openapi.json", "openapi", "This document", self.openapi, dict,
            ),
            Operation(
                "PUT", "/v1/blobs/{sha256}", "put_blob", "Upload a captured input",
                self.put_blob, dict, raw_request=True, status=201, also=(200,),
            ),
            Operation(
                "POST", "/v1/validate", "validate", "Check a manifest",
                self.validate, schemas.ValidationResult, schemas.ManifestRequest,
                problems=(404, 422),
            ),
            Operation(
                "POST", "/v1/plan", "plan", "Plan a manifest",
                self.plan, schemas.PlanView, schemas.ManifestRequest, problems=(404, 422, 424),
            ),
            Operation(
                "POST", "/v1/builds", "submit", "Submit a manifest",
                self.submit, view, schemas.SubmitRequest, status=201, also=(200,),
                problems=(404, 409, 422, 424),
            ),
            Operation(
                "GET", "/v1/builds", "list_builds", "List builds, newest first",
                self.list_builds, schemas.BuildList, query=(STATE, BUILDS_LIMIT, BEFORE),
            ),
            Operation("GET", build, "show", "Show a build", self.show, view, problems=(404,)),
            Operation(
                "POST", f"{build}/pause", "pause", "Stop before a checkpoint, or soon",
                self.pause, view, schemas.PauseRequest, problems=(404, 409),
            ),
            Operation(
                "POST", f"{build}/resume", "resume", "Go on",
                self.resume, schemas.ResumedView, schemas.ResumeRequest,
                problems=(404, 409, 422, 424),
            ),
            Operation(
                "POST", f"{build}/cancel", "cancel", "Give a build up",
                self.cancel, view, problems=(404, 409),
            ),
            Operation(
                "DELETE", build, "remove", "Drop the artifacts and logs of an ended build",
                self.remove, view, problems=(404, 409),
            ),
            Operation(
                "GET", f"{build}/events", "events", "The events of a build, or a stream of them",
                self.events, schemas.EventList, query=(AFTER, EVENTS_LIMIT), problems=(404,),
                streams=True,
            ),
            Operation(
                "GET", f"{build}/events/verify", "verify_events", "Recompute the hash chain",
                self.verify_events, schemas.Verification, problems=(404,),
            ),
            Operation(
                "GET", f"{build}/logs", "logs", "The logs of all attempts",
                self.logs, schemas.LogList, problems=(404,),
            ),
            Operation(
                "GET", f"{build}/logs/{{checkpoint}}/{{attempt}}", "log", "The log of an attempt",
                self.log, None, query=(OFFSET,), media_type="text/plain", problems=(404,),
            ),
            Operation(
                "GET", f"{build}/artifacts", "artifacts", "What the build delivered",
                self.artifacts, schemas.ArtifactList, problems=(404,),
            ),
            Operation(
                "POST", f"{build}/artifacts/verify", "verify_artifacts", "Digest them again",
                self.verify_artifacts, schemas.ArtifactChecks, problems=(404,),
            ),
            Operation(
                "GET", f"{build}/graph", "graph", "The state machine, present state marked",
                self.graph, None, query=(FORMAT,), media_type="text/plain", problems=(404,),
            ),
        )  # fmt: skip


def make_app(
    engine: Engine, settings: Callable[[], Configuration], started_at: datetime
) -> Starlette:
    """The ASGI application."""
    api = Api(engine, settings, started_at)
    limits = settings()
    return Starlette(
        routes=routes(api.operations()),
        middleware=[
            Middleware(
                Limits,
                body_bytes=limits.body_limit_bytes,
                blob_bytes=limits.blob_limit_bytes,
                request_seconds=limits.request_timeout_seconds,
                send_seconds=limits.send_timeout_seconds,
            )
        ],
        exception_handlers={
            DcdError: _on_error,
            HTTPException: _on_http_exception,
            Exception: _on_defect,
        },
    )


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, DcdError)
    return problem_response(error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    problem = NotFound if error.status_code == 404 else UsageError
    response = problem_response(problem(error.detail, f"{request.method} {request.url.path}"))
    response.status_code = error.status_code
    response.headers.update(error.headers or {})
    return response


async def _on_defect(request: Request, error: Exception) -> Response:
    log.error("a request failed because of a defect in dcd", path=request.url.path, exc_info=error)
    return problem_response(
        DcdError("a defect in dcd", type(error).__name__, "see the daemon's log; please report it")
    )


def _source(
    manifest: schemas.ManifestText, files: schemas.Files, parameters: schemas.Parameters
) -> ManifestSource:
    return ManifestSource(
        manifest.text,
        manifest.path,
        {path: None if file is None else (file.sha256, file.mode) for path, file in files.items()},
        parameters,
    )


def _states(request: Request) -> tuple[Lifecycle, ...] | None:
    text = request.query_params.get(STATE.name)
    if text is None:
        return None
    try:
        return tuple(Lifecycle(word) for word in text.split(","))
    except ValueError:
        raise UsageError(
            f"query parameter state: {text[:100]!r} names no states",
            f"the states are {', '.join(Lifecycle)}",
        ) from None


def _log_files(directory: Path, state: BuildState) -> tuple[schemas.LogFile, ...]:
    found = [
        schemas.LogFile(name, attempt, str(path), path.stat().st_size)
        for name, attempts in state.attempts.items()
        for attempt in range(1, attempts + 1)
        if (path := directory / f"{name}.{attempt}.log").is_file()
    ]
    return tuple(found)


def _tail_of(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(MAX_LOG_BYTES)


def described_operations() -> tuple[Operation, ...]:
    """The table without a daemon behind it, for the OpenAPI document."""
    return Api.operations(Api.__new__(Api))
