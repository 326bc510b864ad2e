"""Handlers for layers: listing and verifying them. The table in `dcd.api.app` describes each."""

from dataclasses import dataclass
from itertools import chain

from starlette.requests import Request
from starlette.responses import Response

from dcd.api.access import Action
from dcd.api.handling import Api
from dcd.api.operations import QueryParameter, json_response, string
from store.layers import Layer

OF_BUILD = QueryParameter("build", "only the layers with which this build was made", str)


@dataclass(frozen=True, slots=True)
class LayerView:
    """A layer. `content` is the digest of its manifest ("" without one), `checked_at` the Unix time when
    all of it was read last (0: never). `state` is `valid`, `damaged`, or `stale`: a layer below it is
    damaged, was lost or made again. `damage` names the first differences."""

    key: str
    build: str
    checkpoint: str
    size_bytes: int
    content: str
    checked_at: float
    state: str
    damage: str


@dataclass(frozen=True, slots=True)
class LayerList:
    """All layers, or those with which a build was made; those of it that do not exist any more are only
    counted."""

    layers: tuple[LayerView, ...]
    missing: int


@dataclass(frozen=True, slots=True)
class LayerCheck:
    """The verification of a layer. `state` is `unchanged`, `damaged`, or `unrecorded`: an earlier version
    made it without a manifest. `damage` names the first differences."""

    key: str
    build: str
    checkpoint: str
    state: str
    damage: str


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
    return json_response(LayerList(views, len(set(done) - found)))


async def verify_layer(api: Api, request: Request) -> Response:
    """Read all of a layer; takes as long as that."""
    api.require(request, Action.SEE)
    found = await api.engine.scrub.check(request.path_params["key"])
    return json_response(
        LayerCheck(found.key, found.made_by, found.checkpoint, found.state, found.damage)
    )


def _view(layer: Layer, state: str) -> LayerView:
    record = layer.record
    return LayerView(
        record.key,
        record.made_by,
        record.checkpoint,
        layer.size_bytes,
        record.content,
        layer.checked_at,
        state,
        layer.damage,
    )
