"""Run or reuse: the one decision about a checkpoint, which `dcctl plan` prints and the engine carries out."""

from collections.abc import Callable
from dataclasses import dataclass

from statemachine.plan import PlannedCheckpoint
from store.layers import Layer, LayerStore


@dataclass(frozen=True, slots=True)
class Action:
    """What is to be done for a checkpoint, and why, for people: take `layer` as its result, or, where there
    is none, run it."""

    reason: str
    layer: Layer | None = None

    @property
    def kind(self) -> str:
        """`reuse` or `run`."""
        return "run" if self.layer is None else "reuse"


def no_layer() -> str:
    """Why a checkpoint runs when nothing more is known of the builds before."""
    return "no build made it yet"


def decide_action(
    planned: PlannedCheckpoint,
    layers: LayerStore,
    declined: bool = False,
    why: Callable[[], str] = no_layer,
) -> Action:
    """Decide by the layers that there are. `declined`: whatever there is, it is to run; `why` says why there
    is no layer. Blocking."""
    if declined:
        return Action("no reuse is wanted")
    layer = layers.find(planned.key)
    if layer is not None:
        return Action(f"layer {planned.key[:12]} from build {layer.record.made_by}", layer)
    if layers.stale(planned.key):
        return Action("a layer below it was lost, or has been made again since")
    return Action(why())
