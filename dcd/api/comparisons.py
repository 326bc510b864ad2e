"""Handlers for two builds at once: their differences, and builds between them.

The table in `dcd.api.app` describes each.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from dcd.api import schemas
from dcd.api.access import Action
from dcd.api.handling import Api, client_left
from dcd.api.operations import body_of, json_response
from dcd.api.server import actor_of
from dcd.planner.tasks import WithSecrets
from statemachine.build import BuildState


async def diff(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    first = await api.state(request)
    second = await api.records.state(await api.records.find(request.path_params["other"]))
    shown = [await _shown(api, request, state) for state in (first, second)]
    manifests, parameters = zip(*shown, strict=True)
    compare = api.engine.differences.between
    return json_response(await compare(first, second, manifests, parameters))


async def bisect(api: Api, request: Request) -> Response:
    api.require(request, Action.SUBMIT)
    body = await body_of(request, schemas.BisectRequest)
    good, bad = await api.build(request), await api.records.find(body.bad)
    for state in (await api.records.state(good), await api.records.state(bad)):
        await api.require_source(request, state)
    actor = actor_of(request.scope)
    bisection = await api.engine.bisections.between(good, bad, body.test, actor)
    view = None
    if body.take is not None:
        source, options = await api.engine.bisections.candidate(bisection, body.take, actor)
        source = replace(
            source,
            host_code=api.may(request, Action.RUN_HOST_CODE),
            # Queries the user database, which may be slow.
            borrower=await asyncio.to_thread(api.borrower, request),
            left=client_left(request),
        )
        permit = api.permit(request, bisection.bad.actor)
        state, _ = await api.engine.submit(source, options, actor, permit)
        view = await api.view(request, state)
    answer = schemas.BisectionView(
        bisection.good.id, bisection.bad.id, bisection.test, bisection.changes, view
    )
    return json_response(answer)


async def _shown(api: Api, request: Request, state: BuildState) -> tuple[str, Mapping[str, str]]:
    """The manifest and the parameters as the peer may see them."""
    if api.sees_secrets(request, state.actor):
        return state.manifest, state.parameters
    secret = WithSecrets(state.manifest, state.parameters)
    without = await api.manifests.without_secrets(secret, actor_of(request.scope))
    return without.manifest, without.parameters
