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

from dcd.api import (
    attempts,
    builds,
    comparisons,
    farm,
    groups,
    host,
    layers,
    rebuilds,
    results,
    schemas,
    shell,
    webhooks,
)
from dcd.api.fairness import Fair, Turns
from dcd.api.handling import Api
from dcd.api.identity import Identified
from dcd.api.limits import Counted, Limits
from dcd.api.metrics import CONTENT_TYPE, Metrics
from dcd.api.openapi import document
from dcd.api.operations import Operation, routes
from dcd.api.problems import problem_response
from dcd.api.server import API
from dcd.configuration import Live, Reloaded
from dcd.engine.differences import Differences
from dcd.engine.engine import Engine
from dcd.engine.garbage import Collected
from dcd.engine.rebuilds import Judged
from dcd.engine.reproductions import Comparison
from dcd.engine.usage import DiskUsage
from dcd.manifest.lock import Lock
from dcd.notify.notifier import Tested
from statemachine.errors import DcdError, UsageError
from store.host.durable import is_full

logger = structlog.get_logger()

BUILD = "/v1/builds/{id}"
ATTEMPT = f"{BUILD}/logs/{{checkpoint}}/{{attempt}}"


async def openapi(api: Api, request: Request) -> Response:
    return Response(_document(), media_type="application/json")


@cache
def _document() -> bytes:
    """The OpenAPI document, created once: it takes as long as dozens of other responses."""
    return msgspec.json.encode(document(OPERATIONS, version("dcd")))


OPERATIONS: tuple[Operation, ...] = (
    Operation("GET", "/v1/version", host.version, "The version and process of the daemon",
        schemas.VersionView),
    Operation("GET", "/v1/whoami", host.who_am_i, "The user behind the socket and its roles",
        schemas.PeerView),
    Operation("GET", "/v1/health", host.health, "Whether the daemon can serve now: readiness",
        schemas.Health),
    Operation("GET", "/v1/health/live", host.live, "Whether the daemon answers at all: liveness",
        schemas.Health),
    Operation("GET", "/metrics", host.metrics, "The daemon's metrics for Prometheus",
        None, media_type=CONTENT_TYPE),
    Operation("GET", "/v1/config", host.configuration, "The effective settings, each with its origin",
        schemas.ConfigurationView),
    Operation("POST", "/v1/reload", host.reload, "Read the settings again", Reloaded),
    Operation("GET", "/v1/doctor", host.doctor, "Examine the host", schemas.HostChecks),
    Operation("GET", "/v1/hosts", farm.hosts, "The members of the farm", farm.HostList),
    Operation("POST", "/v1/hosts/{host}/drain", farm.drain_host,
        "Let a member of the farm take no more builds, and hand over its own after their checkpoints",
        farm.HostList, problems=(404,)),
    Operation("POST", "/v1/hosts/{host}/resume", farm.resume_host,
        "Let a member of the farm take builds again", farm.HostList, problems=(404,)),
    Operation("GET", "/v1/webhooks", webhooks.webhooks, "The state of each webhook", webhooks.WebhookList),
    Operation("POST", "/v1/webhooks/{name}/test", webhooks.test_webhook,
        "Send a test delivery to a webhook, outside the order of events", Tested, problems=(404,)),
    Operation("GET", "/v1/checkpoint-types", host.checkpoint_types, "The checkpoints that a manifest may use",
        schemas.CheckpointTypes),
    Operation("GET", "/v1/df", host.disk_usage, "The use of space in the state directory", DiskUsage),
    Operation("POST", "/v1/gc", host.collect, "Remove layers and captured inputs that no build needs",
        Collected, schemas.CollectRequest),
    Operation("GET", "/v1/layers", layers.layers, "The layers, or those of a build",
        layers.LayerList, query=(layers.OF_BUILD,), problems=(404,)),
    Operation("POST", "/v1/layers/{key}/verify", layers.verify_layer,
        "Read a layer and compare it with its content manifest",
        layers.LayerCheck, problems=(404,)),
    Operation("GET", "/v1/backup", host.backup, "A copy of the event log",
        None, media_type="application/octet-stream"),
    Operation("GET", "/v1/openapi.json", openapi, "This document", dict),
    Operation("PUT", "/v1/blobs/{sha256}", builds.put_blob, "Upload a captured input",
        dict, raw_request=True, status=201, also=(200,)),
    Operation("POST", "/v1/validate", builds.validate, "Check a manifest",
        schemas.ValidationResult, schemas.ManifestRequest, problems=(404, 422, 424)),
    Operation("POST", "/v1/migrate", builds.migrate, "Convert a manifest from before the redesign",
        schemas.MigratedView, schemas.MigrateRequest, problems=(422,)),
    Operation("POST", "/v1/plan", builds.plan, "Plan a manifest",
        schemas.PlanView, schemas.ManifestRequest, problems=(404, 422, 424)),
    Operation("POST", "/v1/builds", builds.submit, "Submit a manifest",
        schemas.BuildView, schemas.SubmitRequest, status=201, also=(200,), problems=(404, 409, 422, 424)),
    Operation("GET", "/v1/builds", builds.list_builds, "List builds, newest first",
        schemas.BuildList, query=(builds.STATE, builds.GROUP, builds.BUILDS_LIMIT, builds.BEFORE),
        problems=(404,)),
    Operation("GET", "/v1/events", results.all_events, "The events of all builds, or a stream of them",
        schemas.EventList, query=(results.AFTER, results.EVENTS_LIMIT), streams=True),
    Operation("POST", "/v1/groups", groups.submit, "Submit a manifest once for each cell of a matrix",
        groups.GroupView, groups.GroupRequest, status=201, also=(200,), problems=(404, 409, 422, 424)),
    Operation("POST", "/v1/locks", builds.lock,
        "Submit a build that pauses after its transfers, for a lock of their packages",
        schemas.BuildView, schemas.ManifestRequest, status=201, also=(200,), problems=(404, 409, 422, 424)),
    Operation("POST", "/v1/groups/validate", groups.validate, "Check a manifest for each cell of a matrix",
        schemas.ValidationResult, groups.GroupRequest, problems=(404, 422, 424)),
    Operation("POST", "/v1/groups/plan", groups.plan, "Plan a manifest for each cell of a matrix",
        groups.GroupPlan, groups.GroupRequest, problems=(404, 422, 424)),
    Operation("GET", "/v1/groups/{id}", groups.show, "Show a group of builds",
        groups.GroupView, problems=(404,)),
    Operation("GET", BUILD, builds.show, "Show a build", schemas.BuildView, problems=(404,)),
    Operation("POST", f"{BUILD}/pause", builds.pause, "Pause before a checkpoint, or after the running one",
        schemas.BuildView, schemas.PauseRequest, problems=(404, 409, 410)),
    Operation("POST", f"{BUILD}/resume", builds.resume, "Resume a build",
        schemas.ResumedView, schemas.ResumeRequest, problems=(404, 409, 410, 422, 424)),
    Operation("POST", f"{BUILD}/retry", builds.retry, "Continue a failed build",
        schemas.BuildView, problems=(404, 409, 410)),
    Operation("GET", f"{BUILD}/checkpoints", builds.checkpoints,
        "The checkpoints from which a build can be resumed",
        schemas.CheckpointList, problems=(404,)),
    Operation("POST", f"{BUILD}/shell", shell.shell,
        "Create a throw-away workspace for the life of the connection",
        schemas.ShellView, schemas.ShellRequest, media_type="application/x-ndjson",
        problems=(404, 409, 410, 424)),
    Operation("GET", f"{BUILD}/diff/{{other}}", comparisons.diff, "The differences between two builds",
        Differences, problems=(404,)),
    Operation("POST", f"{BUILD}/bisect", comparisons.bisect,
        "The changes from a good build to a bad one, and a build with some of them",
        schemas.BisectionView, schemas.BisectRequest, problems=(403, 404, 409, 422, 424)),
    Operation("POST", f"{BUILD}/reproduce", builds.reproduce,
        "Repeat a completed build in varied surroundings",
        schemas.BuildView, schemas.ReproduceRequest, status=201, also=(200,), problems=(404, 409, 410, 424)),
    Operation("GET", f"{BUILD}/comparison", builds.comparison,
        "Compare a repetition with the build that it repeats", Comparison, problems=(404, 409, 410)),
    Operation("POST", f"{BUILD}/cancel", builds.cancel, "Cancel a build",
        schemas.BuildView, problems=(404, 409, 410)),
    Operation("POST", f"{BUILD}/move", builds.move,
        "Have another member of the farm drive a build, after its running checkpoint",
        schemas.BuildView, schemas.MoveRequest, problems=(404, 409, 410)),
    Operation("DELETE", BUILD, builds.remove, "Remove the artifacts and logs of an ended build",
        schemas.BuildView, problems=(404, 409)),
    Operation("GET", f"{BUILD}/events", results.events, "The events of a build, or a stream of them",
        schemas.EventList, query=(results.AFTER, results.EVENTS_LIMIT), problems=(404,), streams=True),
    Operation("GET", f"{BUILD}/events/verify", results.verify_events, "Recompute the hash chain",
        schemas.Verification, problems=(404,)),
    Operation("GET", f"{BUILD}/logs", attempts.logs, "The logs of all attempts",
        attempts.LogList, problems=(404, 410)),
    Operation("GET", ATTEMPT, attempts.log, "The log of an attempt, or a stream of it",
        None, query=(attempts.OFFSET, attempts.FOLLOW), media_type="text/plain", problems=(404, 410)),
    Operation("GET", f"{ATTEMPT}/files", attempts.attempt_files,
        "The files of an attempt, such as the serial console and the screen of a guest; also while it runs",
        attempts.AttemptFiles, problems=(404, 410)),
    Operation("GET", f"{ATTEMPT}/files/{{file}}", attempts.attempt_file,
        "The content of a file of an attempt, or a stream of it",
        None, query=(attempts.OFFSET, attempts.FOLLOW), media_type="application/octet-stream",
        problems=(404, 410)),
    Operation("GET", f"{BUILD}/artifacts", results.artifacts, "The artifacts of a build",
        results.ArtifactList, problems=(404, 410)),
    Operation("GET", f"{BUILD}/artifacts/{{artifact}}", results.artifact,
        "The content of an artifact, or the part in the header Range; the header ETag has its sha256",
        None, media_type="application/octet-stream", also=(206,), problems=(404, 410)),
    Operation("POST", f"{BUILD}/artifacts/verify", results.verify_artifacts,
        "Verify the artifacts against their digests",
        results.ArtifactChecks, problems=(404, 410)),
    Operation("GET", f"{BUILD}/provenance", results.provenance,
        "The provenance of a completed build, as an in-toto statement",
        None, query=(results.ABOUT,), media_type=results.STATEMENT_TYPE, problems=(404, 409)),
    Operation("POST", f"{BUILD}/rebuild", rebuilds.rebuild,
        "Rebuild a completed build from what it captured, without network",
        schemas.BuildView, status=201, problems=(404, 409, 424)),
    Operation("GET", f"{BUILD}/export", rebuilds.export,
        "All that a completed build was made from, as a tar archive",
        None, media_type="application/x-tar", problems=(404, 409, 410, 424)),
    Operation("GET", f"{BUILD}/verdict", rebuilds.verdict, "The verdict of a completed rebuild",
        Judged, problems=(404, 409)),
    Operation("GET", f"{BUILD}/doc", results.doc,
        "The DOC of a build, or the parts that a path string selects",
        schemas.DocView, query=(results.AT, results.PATH), problems=(404, 409, 422, 424)),
    Operation("GET", f"{BUILD}/lock", builds.lock_of,
        "The lock of a build's packages, once its transfers are done", Lock, problems=(404, 409, 410)),
    Operation("GET", f"{BUILD}/graph", results.graph, "The state machine, present state marked",
        None, query=(results.FORMAT,), media_type="text/plain", problems=(404,)),
)  # fmt: skip
"""The table."""


def make_app(engine: Engine, settings: Live, started_at: datetime, metrics: Metrics) -> Starlette:
    """The ASGI application."""
    limits = settings()
    return Starlette(
        routes=routes(OPERATIONS, Api(engine, settings, started_at, metrics)),
        middleware=[
            Middleware(Counted, count=metrics.request),
            Middleware(Identified, settings=settings, seconds=limits.request_timeout_seconds),
            Middleware(
                Fair, turns=Turns(limits.requests_per_client, limits.request_timeout_seconds)
            ),
            Middleware(
                Limits,
                body_bytes=limits.body_limit_bytes,
                blob_bytes=limits.blob_limit_bytes,
                request_seconds=limits.request_timeout_seconds,
                send_seconds=limits.send_timeout_seconds,
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
