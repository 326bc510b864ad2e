"""Handlers for groups of builds, and their bodies. The table in `dcd.api.app` describes each."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from dcd.api.access import Action
from dcd.api.builds import options_of, plan_view, source_of
from dcd.api.handling import Api
from dcd.api.operations import body_of, json_response
from dcd.api.schemas import ManifestRequest, PlanView, ShortText, ValidationResult
from dcd.api.schemas import Request as RequestBody
from dcd.api.server import actor_of
from dcd.engine.groups import Axis, checked_group, for_cells
from dcd.engine.manifests import ManifestSource
from dcd.manifest.diagnostics import ManifestError
from statemachine.errors import UsageError
from statemachine.events import Actor


class MatrixAxis(RequestBody, frozen=True):
    """A parameter of the manifest, or `profile`, and the values that it takes."""

    name: Annotated[str, Meta(max_length=255)]
    values: Annotated[tuple[ShortText, ...], Meta(max_length=1000)]


class GroupRequest(ManifestRequest, frozen=True, kw_only=True):
    """Body of `POST /v1/groups`, and of its check and its plan: as ManifestRequest, and the axes of the
    matrix: there is a build for each combination of their values, all of them or none."""

    matrix: Annotated[tuple[MatrixAxis, ...], Meta(max_length=16)]


@dataclass(frozen=True, slots=True)
class CellPlan:
    """The preview of a cell's build."""

    cell: dict[str, str]
    plan: PlanView


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """The preview of a group, in the order of its cells. Checkpoints with the same key run once."""

    cells: tuple[CellPlan, ...]


@dataclass(frozen=True, slots=True)
class GroupMember:
    """A build of a group. `cell` is what distinguishes it, `running` the running checkpoint."""

    id: str
    cell: dict[str, str]
    name: str
    state: str
    reason: str
    submitted_at: datetime
    updated_at: datetime
    actor: Actor
    completed_checkpoints: int
    total_checkpoints: int
    running: str = ""
    removed: bool = False


@dataclass(frozen=True, slots=True)
class GroupView:
    """A group of builds, in the order of its cells."""

    id: str
    builds: tuple[GroupMember, ...] = field(default_factory=tuple)


async def submit(api: Api, request: Request) -> Response:
    api.require(request, Action.SUBMIT)
    body = await body_of(request, GroupRequest)
    source = await source_of(api, request, body.manifest, body)
    group, new = await api.engine.submit_group(
        source, axes_of(body), options_of(body), actor_of(request.scope), api.permit(request)
    )
    return json_response(await _view(api, group), 201 if new else 200)


async def validate(api: Api, request: Request) -> Response:
    api.require(request, Action.SUBMIT)
    body = await body_of(request, GroupRequest)
    actor = actor_of(request.scope)
    try:
        source = await source_of(api, request, body.manifest, body)
        warnings = await checked_group(
            api.manifests, source, axes_of(body), body.pause_before, actor
        )
    except ManifestError as error:
        return json_response(ValidationResult(False, error.diagnostics, error.missing))
    return json_response(ValidationResult(True, warnings))


async def plan(api: Api, request: Request) -> Response:
    api.require(request, Action.SUBMIT)
    body = await body_of(request, GroupRequest)
    source = await source_of(api, request, body.manifest, body)
    options, actor, permit = options_of(body), actor_of(request.scope), api.permit(request)

    async def preview(of: ManifestSource, _: dict[str, str]) -> PlanView:
        return plan_view(await api.manifests.preview(of, options, actor, permit))

    found = await for_cells(source, axes_of(body), preview)
    return json_response(GroupPlan(tuple(CellPlan(cell, shown) for cell, shown in found)))


def axes_of(body: GroupRequest) -> list[Axis]:
    """The axes of a request. Raises UsageError for one with a lock."""
    if body.lock is not None or body.offline:
        raise UsageError(
            "a lock is for one build, not for a group",
            "",
            "submit the builds of the matrix one by one, each with its lock",
        )
    return [Axis(each.name, each.values) for each in body.matrix]


async def show(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    return json_response(await _view(api, request.path_params["id"]))


async def _view(api: Api, prefix: str) -> GroupView:
    group, members = await api.records.group(prefix)
    running = {state.id: state.running.name for state in api.records.unfinished() if state.running}
    return GroupView(
        group,
        tuple(
            GroupMember(
                id=each.id,
                cell=cell,
                name=each.name,
                state=each.state,
                reason=each.reason,
                submitted_at=each.submitted_at,
                updated_at=each.updated_at,
                actor=each.actor,
                completed_checkpoints=each.completed_checkpoints,
                total_checkpoints=each.total_checkpoints,
                running=running.get(each.id, ""),
                removed=each.removed,
            )
            for each, cell in members
        ),
    )
