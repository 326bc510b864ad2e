"""Handlers for manifests, builds and commands to builds. The table in `dcd.api.app` describes each."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

from starlette.requests import Request
from starlette.responses import Response

from dcd.api import schemas
from dcd.api.access import Action
from dcd.api.handling import Api, client_left
from dcd.api.operations import QueryParameter, body_of, integer, json_response, limit
from dcd.api.server import actor_of
from dcd.api.views import summary_view
from dcd.engine.manifests import ManifestSource, Options
from dcd.manifest.diagnostics import ManifestError
from dcd.planner.tasks import OldManifest
from dcd.planning.epoch import BuildTime
from dcd.planning.preview import Intention
from statemachine.build import BuildState, Lifecycle
from statemachine.errors import Refused, UsageError
from statemachine.events import Actor
from statemachine.plan import Locked

STATE = QueryParameter(
    "state", "only builds in these states, separated by commas", str, pattern="^[a-z]+(,[a-z]+)*$"
)
BUILDS_LIMIT = limit(50, 1000)
BEFORE = QueryParameter("before", "`next` of the previous page")
GROUP = QueryParameter("group", "only the builds of the group with this id or prefix", str)


async def put_blob(api: Api, request: Request) -> Response:
    api.require(request, Action.SUBMIT)
    sha256 = request.path_params["sha256"]
    with SpooledTemporaryFile(1024 * 1024, dir=str(api.settings().state_dir / "blobs")) as spool:
        async for chunk in request.stream():
            await asyncio.to_thread(spool.write, chunk)
        spool.seek(0)
        content = cast(BinaryIO, spool)
        new = await api.records.keep_blob(content, sha256, api.owner(request))
    return json_response({"sha256": sha256}, 201 if new else 200)


async def validate(api: Api, request: Request) -> Response:
    api.require(request, Action.SUBMIT)
    body = await body_of(request, schemas.ManifestRequest)
    try:
        source = await source_of(api, request, body.manifest, body)
        warnings = await api.manifests.check(source, body.pause_before, actor_of(request.scope))
    except ManifestError as error:
        return json_response(schemas.ValidationResult(False, error.diagnostics, error.missing))
    return json_response(schemas.ValidationResult(True, warnings))


async def migrate(api: Api, request: Request) -> Response:
    api.require(request, Action.SUBMIT)
    body = await body_of(request, schemas.MigrateRequest)
    defaults = None if body.defaults is None else body.defaults.text
    old = OldManifest(body.manifest.text, body.manifest.path, defaults)
    migrated = await api.manifests.migrate(old, actor_of(request.scope), client_left(request))
    return json_response(schemas.MigratedView(migrated.text, migrated.left))


async def plan(api: Api, request: Request) -> Response:
    api.require(request, Action.SUBMIT)
    body = await body_of(request, schemas.ManifestRequest)
    source = await source_of(api, request, body.manifest, body)
    preview = await api.manifests.preview(
        await api.engine.locks.for_plan(source),
        options_of(body),
        actor_of(request.scope),
        api.permit(request),
    )
    return json_response(plan_view(preview))


async def submit(api: Api, request: Request) -> Response:
    api.require(request, Action.SUBMIT)
    body = await body_of(request, schemas.SubmitRequest)
    source = await source_of(api, request, body.manifest, body)
    options = replace(
        options_of(body),
        locked=await _locked(api, body),
        rebuild=body.rebuild,
        signature=body.signature,
    )
    state, new = await api.engine.submit(
        source, options, actor_of(request.scope), api.permit(request)
    )
    return json_response(await api.view(request, state), 201 if new else 200)


async def lock(api: Api, request: Request) -> Response:
    api.require(request, Action.SUBMIT)
    body = await body_of(request, schemas.ManifestRequest)
    if body.lock is not None or body.offline or body.pause_before is not None:
        raise UsageError("a build that makes a lock has neither a lock nor a pause of its own")
    source = await source_of(api, request, body.manifest, body)
    state, new = await api.engine.lock(
        source, options_of(body), actor_of(request.scope), api.permit(request)
    )
    return json_response(await api.view(request, state), 201 if new else 200)


async def lock_of(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    found = await api.engine.locks.of_build(await api.kept(request), actor_of(request.scope))
    return json_response(found)


async def list_builds(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    page = integer(request, BUILDS_LIMIT, 50)
    before = integer(request, BEFORE, -1)
    position = api.records.position
    group = request.query_params.get(GROUP.name)
    found = await api.records.page(_states(request), page, None if before < 0 else before, group)
    following = found[-1].submitted_position if len(found) == page else None
    superseding = await api.records.superseding(found)
    outlooks = await api.records.outlooks(found)
    shown = tuple(summary_view(each, outlooks[each.id], superseding.get(each.id)) for each in found)
    return json_response(schemas.BuildList(shown, following, position))


async def show(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    return json_response(await api.view(request, await api.state(request)))


async def pause(api: Api, request: Request) -> Response:
    build = await api.controlled(request)
    body = await body_of(request, schemas.PauseRequest)
    actor = actor_of(request.scope)
    if body.withdraw and body.before is not None:
        raise UsageError("`before` requests a pause and `withdraw` withdraws it: send one of them")
    if body.withdraw:
        state = await api.engine.withdraw_pause(build, actor)
    else:
        state = await api.engine.pause(build, body.before, actor)
    return json_response(await api.view(request, state))


async def resume(api: Api, request: Request) -> Response:
    build = await api.controlled(request)
    body = await body_of(request, schemas.ResumeRequest)
    source = None
    earlier = await api.records.state(build)
    if body.manifest is not None:
        source = await source_of(api, request, body.manifest, body)
        profiles = () if body.profiles is not None else earlier.profiles
        source = replace(source, inherited=earlier.parameters, inherited_profiles=profiles)
    state, kept, rerun = await api.engine.resume(
        build,
        body.rewind_to,
        body.pause_before,
        source,
        actor_of(request.scope),
        # The submitter of a build may see its inputs.
        api.permit(request, earlier.actor),
    )
    reruns = tuple(schemas.Rerun(name, reason) for name, reason in rerun)
    return json_response(schemas.ResumedView(await api.view(request, state), tuple(kept), reruns))


async def retry(api: Api, request: Request) -> Response:
    return await _commanded(api, request, api.engine.retry)


async def checkpoints(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    state, resumable = await api.engine.checkpoints(await api.build(request))
    views = (
        schemas.ResumableCheckpoint(record.name, planned.description, record.state, can)
        for planned, record, can in zip(
            state.plan.checkpoints, state.checkpoints, resumable, strict=True
        )
    )
    return json_response(schemas.CheckpointList(tuple(views)))


async def reproduce(api: Api, request: Request) -> Response:
    api.require(request, Action.SUBMIT)
    build = await api.controlled(request)
    body = await body_of(request, schemas.ReproduceRequest)
    first = await api.records.state(build)
    await api.require_source(request, first)
    state, new = await api.engine.reproductions.begin(
        build, body.first, actor_of(request.scope), api.permit(request, first.actor)
    )
    return json_response(await api.view(request, state), 201 if new else 200)


async def comparison(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    return json_response(await api.engine.reproductions.compare(await api.build(request)))


async def cancel(api: Api, request: Request) -> Response:
    return await _commanded(api, request, api.engine.cancel)


async def move(api: Api, request: Request) -> Response:
    build = await api.controlled(request)
    body = await body_of(request, schemas.MoveRequest)
    state = await api.engine.move(build, body.to or "", actor_of(request.scope))
    return json_response(await api.view(request, state))


async def remove(api: Api, request: Request) -> Response:
    return await _commanded(api, request, api.engine.remove)


async def _commanded(
    api: Api, request: Request, carry_out: Callable[[str, Actor], Awaitable[BuildState]]
) -> Response:
    """The response to a command without a body."""
    state = await carry_out(await api.controlled(request), actor_of(request.scope))
    return json_response(await api.view(request, state))


async def _locked(api: Api, body: schemas.SubmitRequest) -> Locked | None:
    if (body.lock is not None or body.offline) and (body.rebuild or body.packages_of):
        raise UsageError(
            "a lock and the packages of other builds exclude each other", "", "send one of them"
        )
    if body.rebuild is not None:
        return Locked(body.lists) if body.lists else None
    if not body.packages_of:
        if body.versions:
            raise UsageError(
                "`versions` chooses among the packages of `packages_of`: send that too"
            )
        return None
    # Everybody may name a build of everybody. Its lists tell no more than the SBOM among its artifacts, and
    # of their packages the store has only those that all users can download: neither those of repositories
    # with a login nor those beside the manifest, which the submitter has to bring.
    lists: dict[str, None] = {}
    for prefix in body.packages_of:
        state = await api.records.state(await api.records.find(prefix))
        if not state.resolved:
            raise Refused(
                f"build {state.id} has no captured packages",
                "it has transferred none, or the setting capture was none",
            )
        lists |= dict.fromkeys(state.resolved)
    return Locked(tuple(lists), body.versions)


def plan_view(
    preview: tuple[str, BuildTime, tuple[Intention, ...], str],
) -> schemas.PlanView:
    """The response for a preview of a build."""
    name, time, intentions, choice = preview
    return schemas.PlanView(name, intentions, time.seconds, time.origin, choice)


def options_of(body: schemas.ManifestRequest) -> Options:
    return Options(
        body.pause_before,
        body.fresh,
        body.priority,
        body.idempotency_key,
        body.fresh_from,
        body.grow,
    )


async def source_of(
    api: Api,
    request: Request,
    manifest: schemas.ManifestText,
    body: schemas.ManifestRequest | schemas.ResumeRequest,
) -> ManifestSource:
    files = {path: (file.sha256, file.mode) if file else None for path, file in body.files.items()}
    return ManifestSource(
        manifest.text,
        manifest.path,
        files,
        body.parameters or {},
        profiles=tuple(sorted(set(body.profiles or ()))),
        source_date_epoch=getattr(body, "source_date_epoch", None),
        lock=getattr(body, "lock", None),
        offline=getattr(body, "offline", False),
        require=tuple(sorted(set(getattr(body, "require", ())))),
        host_code=api.may(request, Action.RUN_HOST_CODE),
        # Queries the user database, which may be slow.
        borrower=await asyncio.to_thread(api.borrower, request),
        owner=api.owner(request),
        left=client_left(request),
    )


def _states(request: Request) -> tuple[Lifecycle, ...] | None:
    text = request.query_params.get(STATE.name)
    if text is None:
        return None
    try:
        return tuple(Lifecycle(word) for word in text.split(","))
    except ValueError:
        raise UsageError(
            f"query parameter state: {text[:100]!r} has unknown states",
            f"the states are {', '.join(Lifecycle)}",
        ) from None
