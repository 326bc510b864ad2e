"""Handlers for rebuilds and exports. The table in `dcd.api.app` describes each."""

from starlette.requests import Request
from starlette.responses import Response

from dcd.api.access import Action
from dcd.api.handling import Api
from dcd.api.operations import json_response
from dcd.api.server import actor_of
from dcd.api.stream import Streamed
from dcd.engine.exports import make_export
from statemachine.build import BuildState
from statemachine.errors import PermissionDenied


async def rebuild(api: Api, request: Request) -> Response:
    api.require(request, Action.SUBMIT)
    first = await _own(api, request)
    permit = api.permit(request, first.actor)
    state = await api.engine.rebuilds.begin(first.id, actor_of(request.scope), permit)
    return json_response(await api.view(request, state), 201)


async def export(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    state = await _own(api, request)
    size_bytes, pieces = await make_export(api.engine.rebuilds, api.engine.planner, state)
    return Streamed(pieces, "application/x-tar", {"content-length": str(size_bytes)})


async def verdict(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    return json_response(await api.engine.rebuilds.verdict(await api.build(request)))


async def _own(api: Api, request: Request) -> BuildState:
    """The build in the path. Raises PermissionDenied unless the peer may read its captured files."""
    state = await api.kept(request)
    if not api.sees_secrets(request, state.actor):
        raise PermissionDenied(
            f"build {state.id} belongs to {state.actor.user}",
            "its manifest and its captured files are for the submitter and root",
            f"have {state.actor.user} or root do it",
        )
    return state
