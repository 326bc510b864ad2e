"""Handlers for layers: listing and verifying them. The table in `dcd.api.app` describes each."""

from itertools import chain

from starlette.requests import Request
from starlette.responses import Response

from dcd.api import schemas
from dcd.api.access import Action
from dcd.api.handling import Api
from dcd.api.operations import QueryParameter, json_response, string
from store.layers import Layer

OF_BUILD = QueryParameter("build", "only the layers with which this build was made", str)


async def layers(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    prefix = string(request, OF_BUILD)
    state = None
    if prefix is not None:
        state = await api.records.state(await api.records.find(prefix))
    valid, others = await api.engine.scrub.layers(state)
    views = (
        *(_view(layer, "valid") for layer in valid),
        *(_view(layer, "damaged" if layer.damage else "stale") for layer in others),
    )
    done = {} if state is None else {each.key for each in state.checkpoints if each.done}
    found = {layer.record.key for layer in chain(valid, others)}
    return json_response(schemas.LayerList(views, len(set(done) - found)))


async def verify_layer(api: Api, request: Request) -> Response:
    """Read all of a layer; takes as long as that."""
    api.require(request, Action.SEE)
    found = await api.engine.scrub.check(request.path_params["key"])
    return json_response(
        schemas.LayerCheck(found.key, found.made_by, found.checkpoint, found.state, found.damage)
    )


def _view(layer: Layer, state: str) -> schemas.LayerView:
    record = layer.record
    return schemas.LayerView(
        record.key,
        record.made_by,
        record.checkpoint,
        layer.size_bytes,
        record.content,
        layer.checked_at,
        state,
        layer.damage,
    )
