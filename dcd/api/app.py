"""The application: every operation of the API, in one table.

Each `DcdError` becomes a problem; anything else is logged and becomes problem `internal`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import cache
from importlib.metadata import version

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from dcd.api import builds, host, openapi, results, schemas, shell
from dcd.api.fairness import Fair, Turns
from dcd.api.handling import Api
from dcd.api.identity import Identified
from dcd.api.limits import Counted, Limits
from dcd.api.metrics import CONTENT_TYPE, Metrics
from dcd.api.operations import Operation, routes
from dcd.api.problems import problem_response
from dcd.api.server import API
from dcd.configuration import Live, Reloaded
from dcd.engine.engine import Engine
from dcd.engine.garbage import Collected
from dcd.engine.usage import DiskUsage
from statemachine.errors import DcdError, UsageError
from store.host.durable import is_full

logger = structlog.get_logger()

BUILD = "/v1/builds/{id}"


async def _openapi(api: Api, request: Request) -> Response:
    return Response(_document(), media_type="application/json")


@cache
def _document() -> bytes:
    """The OpenAPI document, created once: it takes as long as dozens of other responses."""
    return msgspec.json.encode(openapi.document(OPERATIONS, version("dcd")))


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "GET", "/v1/version", "version", "The version and process of the daemon",
        host.version, schemas.VersionView,
    ),
    Operation(
        "GET", "/v1/health", "health", "Whether the daemon can serve now: readiness",
        host.health, schemas.Health,
    ),
    Operation(
        "GET", "/v1/health/live", "live", "Whether the daemon answers at all: liveness",
        host.live, schemas.Health,
    ),
    Operation(
        "GET", "/metrics", "metrics", "The daemon's metrics for Prometheus",
        host.metrics, None, media_type=CONTENT_TYPE,
    ),
    Operation(
        "GET", "/v1/config", "configuration", "The effective settings, each with its origin",
        host.configuration, schemas.ConfigurationView,
    ),
    Operation(
        "POST", "/v1/reload", "reload", "Read the settings again",
        host.reload, Reloaded,
    ),
    Operation(
        "GET", "/v1/doctor", "doctor", "Examine the host",
        host.doctor, schemas.HostChecks,
    ),
    Operation(
        "GET", "/v1/checkpoint-types", "checkpoint_types", "The checkpoints that a manifest may use",
        host.checkpoint_types, schemas.CheckpointTypes,
    ),
    Operation(
        "GET", "/v1/df", "disk_usage", "The use of space in the state directory",
        host.disk_usage, DiskUsage,
    ),
    Operation(
        "POST", "/v1/gc", "collect", "Remove layers and captured inputs that no build needs",
        host.collect, Collected, schemas.CollectRequest,
    ),
    Operation(
        "GET", "/v1/backup", "backup", "A copy of the event log",
        host.backup, None, media_type="application/octet-stream",
    ),
    Operation(
        "GET", "/v1/openapi.json", "openapi", "This document", _openapi, dict,
    ),
    Operation(
        "PUT", "/v1/blobs/{sha256}", "put_blob", "Upload a captured input",
        builds.put_blob, dict, raw_request=True, status=201, also=(200,),
    ),
    Operation(
        "POST", "/v1/validate", "validate", "Check a manifest",
        builds.validate, schemas.ValidationResult, schemas.ManifestRequest,
        problems=(404, 422, 424),
    ),
    Operation(
        "POST", "/v1/migrate", "migrate", "Convert a manifest from before the redesign",
        builds.migrate, schemas.MigratedView, schemas.MigrateRequest, problems=(422,),
    ),
    Operation(
        "POST", "/v1/plan", "plan", "Plan a manifest",
        builds.plan, schemas.PlanView, schemas.ManifestRequest, problems=(404, 422, 424),
    ),
    Operation(
        "POST", "/v1/builds", "submit", "Submit a manifest",
        builds.submit, schemas.BuildView, schemas.SubmitRequest, status=201, also=(200,),
        problems=(404, 409, 422, 424),
    ),
    Operation(
        "GET", "/v1/builds", "list_builds", "List builds, newest first",
        builds.list_builds, schemas.BuildList, query=(builds.STATE, builds.BUILDS_LIMIT, builds.BEFORE),
    ),
    Operation("GET", BUILD, "show", "Show a build", builds.show, schemas.BuildView, problems=(404,)),
    Operation(
        "POST", f"{BUILD}/pause", "pause", "Pause before a checkpoint, or after the running one",
        builds.pause, schemas.BuildView, schemas.PauseRequest, problems=(404, 409, 410),
    ),
    Operation(
        "POST", f"{BUILD}/resume", "resume", "Resume a build",
        builds.resume, schemas.ResumedView, schemas.ResumeRequest,
        problems=(404, 409, 410, 422, 424),
    ),
    Operation(
        "POST", f"{BUILD}/retry", "retry", "Continue a failed build",
        builds.retry, schemas.BuildView, problems=(404, 409, 410),
    ),
    Operation(
        "GET", f"{BUILD}/checkpoints", "checkpoints", "The checkpoints from which a build can be resumed",
        builds.checkpoints, schemas.CheckpointList, problems=(404,),
    ),
    Operation(
        "POST", f"{BUILD}/shell", "shell", "Create a throw-away workspace for the life of the connection",
        shell.shell, schemas.ShellView, schemas.ShellRequest, media_type="application/x-ndjson",
        problems=(404, 409, 410, 424),
    ),
    Operation(
        "POST", f"{BUILD}/cancel", "cancel", "Cancel a build",
        builds.cancel, schemas.BuildView, problems=(404, 409, 410),
    ),
    Operation(
        "DELETE", BUILD, "remove", "Remove the artifacts and logs of an ended build",
        builds.remove, schemas.BuildView, problems=(404, 409),
    ),
    Operation(
        "GET", f"{BUILD}/events", "events", "The events of a build, or a stream of them",
        results.events, schemas.EventList, query=(results.AFTER, results.EVENTS_LIMIT), problems=(404,),
        streams=True,
    ),
    Operation(
        "GET", f"{BUILD}/events/verify", "verify_events", "Recompute the hash chain",
        results.verify_events, schemas.Verification, problems=(404,),
    ),
    Operation(
        "GET", f"{BUILD}/logs", "logs", "The logs of all attempts",
        results.logs, schemas.LogList, problems=(404, 410),
    ),
    Operation(
        "GET", f"{BUILD}/logs/{{checkpoint}}/{{attempt}}", "log", "The log of an attempt",
        results.log, None, query=(results.OFFSET,), media_type="text/plain", problems=(404, 410),
    ),
    Operation(
        "GET", f"{BUILD}/artifacts", "artifacts", "The artifacts of a build",
        results.artifacts, schemas.ArtifactList, problems=(404, 410),
    ),
    Operation(
        "POST", f"{BUILD}/artifacts/verify", "verify_artifacts", "Verify the artifacts against their digests",
        results.verify_artifacts, schemas.ArtifactChecks, problems=(404, 410),
    ),
    Operation(
        "GET", f"{BUILD}/doc", "doc", "The DOC of a build, or the parts that a path string selects",
        results.doc, schemas.DocView, query=(results.AT, results.PATH), problems=(404, 409, 422, 424),
    ),
    Operation(
        "GET", f"{BUILD}/graph", "graph", "The state machine, present state marked",
        results.graph, None, query=(results.FORMAT,), media_type="text/plain", problems=(404,),
    ),
)  # fmt: skip
"""The table."""


def make_app(engine: Engine, settings: Live, started_at: datetime, metrics: Metrics) -> Starlette:
    """The ASGI application."""
    limits = settings()
    return Starlette(
        routes=routes(OPERATIONS, Api(engine, settings, started_at, metrics)),
        middleware=[
            Middleware(Counted, count=metrics.request),
            Middleware(
                Identified,
                settings=settings,
                seconds=limits.request_timeout_seconds,
                refuse=problem_response,
            ),
            Middleware(
                Fair,
                turns=Turns(limits.requests_per_client, limits.request_timeout_seconds),
                refuse=problem_response,
            ),
            Middleware(
                Limits,
                body_bytes=limits.body_limit_bytes,
                blob_bytes=limits.blob_limit_bytes,
                request_seconds=limits.request_timeout_seconds,
                send_seconds=limits.send_timeout_seconds,
                refuse=problem_response,
            ),
        ],
        exception_handlers={
            DcdError: _on_error,
            HTTPException: _on_http_exception,
            OSError: _store_failed(engine),
            Exception: _on_defect,
        },
    )


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, DcdError)
    return problem_response(error)


def _store_failed(engine: Engine) -> Callable[[Request, Exception], Awaitable[Response]]:
    """The response when the state directory cannot be read or written."""

    async def on_os_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, OSError)
        if is_full(error):
            return problem_response(engine.disk_full(f"answering {request.url.path}", error))
        if trouble := await asyncio.to_thread(engine.trouble):
            logger.error(trouble.brief, path=request.url.path, error=str(error))
            return problem_response(trouble)
        return await _on_defect(request, error)

    return on_os_error


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    unknown = UsageError(
        f"there is no operation {request.method} {request.url.path}",
        f"this is dcd {version('dcd')} with API {API}",
        "GET /v1/openapi.json describes every operation",
    )
    response = problem_response(unknown, error.status_code)
    response.headers.update(error.headers or {})
    return response


async def _on_defect(request: Request, error: Exception) -> Response:
    logger.error(
        "a request failed because of a defect in dcd", path=request.url.path, exc_info=error
    )
    return problem_response(
        DcdError("a defect in dcd", type(error).__name__, "see the daemon's log; please report it")
    )
