"""Handlers for rebuilds. The table in `dcd.api.app` describes each."""

from starlette.requests import Request
from starlette.responses import Response

from dcd.api.access import Action
from dcd.api.handling import Api
from dcd.api.operations import json_response
from dcd.api.server import actor_of
from dcd.api.stream import Streamed
from dcd.engine.exports import make_export
from dcd.planner.tasks import WithSecrets
from statemachine.build import BuildState
from statemachine.errors import PermissionDenied


async def rebuild(api: Api, request: Request) -> Response:
    api.require(request, Action.SUBMIT)
    first = await api.state(request)
    await require_no_secrets_of_others(api, request, first)
    permit = api.permit(request, first.actor)
    state = await api.engine.rebuilds.begin(first.id, actor_of(request.scope), permit)
    return json_response(await api.view(request, state), 201)


async def export(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    state = await api.kept(request)
    if not api.sees_secrets(request, state.actor):
        raise PermissionDenied(
            f"build {state.id} belongs to {state.actor.user}",
            "an export has the captured files of the build, which only its submitter may read",
            f"have {state.actor.user} or root export it",
        )
    size_bytes, pieces = await make_export(api.engine.rebuilds, api.engine.planner, state)
    return Streamed(pieces, "application/x-tar", {"content-length": str(size_bytes)})


async def verdict(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    return json_response(await api.engine.rebuilds.verdict(await api.build(request)))


async def require_no_secrets_of_others(api: Api, request: Request, first: BuildState) -> None:
    """Raise PermissionDenied when the manifest of a build has secrets that are not the peer's: the submitter
    of a build may see its manifest."""
    if api.sees_secrets(request, first.actor):
        return
    secret = WithSecrets(first.manifest, first.parameters)
    if (await api.manifests.without_secrets(secret, actor_of(request.scope))).had_any:
        raise PermissionDenied(
            f"the manifest of build {first.id} has secrets of {first.actor.user}",
            "the user who rebuilds it may read its manifest",
            f"have {first.actor.user} or root do it",
        )
