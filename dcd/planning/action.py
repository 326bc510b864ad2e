"""Run or reuse: the decision about a checkpoint that `dcctl plan` prints and the engine carries out."""

from collections.abc import Callable
from dataclasses import dataclass

from statemachine.plan import PlannedCheckpoint
from store.layers import Layer, Layers


@dataclass(frozen=True, slots=True)
class Action:
    """The next action for a checkpoint, and its reason for people: use `layer` as the result, or run it
    (None)."""

    reason: str
    layer: Layer | None = None

    @property
    def kind(self) -> str:
        """`reuse` or `run`."""
        return "run" if self.layer is None else "reuse"


NO_LAYER = "no build made it yet"
"""The reason for a run when nothing is known of earlier builds."""


def decide_action(
    planned: PlannedCheckpoint,
    layers: Layers,
    declined: bool = False,
    why: Callable[[], str] = lambda: NO_LAYER,
) -> Action:
    """Decide by the existing layers. `declined`: run it in any case; `why` returns the reason for the lack of
    a layer. Blocking."""
    if declined:
        return Action("no reuse is wanted")
    layer = layers.find(planned.key)
    if layer is not None:
        return Action(f"layer {planned.key[:12]} from build {layer.record.made_by}", layer)
    if layers.stale(planned.key):
        return Action("its layer is damaged, or one below it was lost or made again since")
    return Action(why())
