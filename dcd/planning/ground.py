"""The ground of an attempt: the layer on which it makes its result, other than that of the checkpoint before.

A checkpoint with a base has two layers. The base layer is made once and shared. A checkpoint that may grow
adds instead to the result of an earlier build with the same base, the one that has the most of what is
listed. A grown result of the same list that exists already is preferred. When reuse is declined, nothing
grows.

A checkpoint that declares what it reads need not run if it has a result on another layer in which these
inputs are the same. For both, only layers that were made here count: nothing vouches for what the record of
one that was brought says of its making.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from statemachine.keys import base_key, is_declined, own_digest, with_grown
from statemachine.plan import Plan, PlannedCheckpoint
from store.layers import Layer, Layers


@dataclass(frozen=True, slots=True)
class Ground:
    """The plan as the checkpoint then is in it, the key of its base ("" for none), and the layer to which it
    adds (None: it does not grow)."""

    plan: Plan
    base: str = ""
    grown: Layer | None = None

    @property
    def key(self) -> str:
        """The key of the layer on which the result is made, if it is not that of the checkpoint before; else
        ""."""
        return self.base if self.grown is None else self.grown.record.key


@dataclass(frozen=True, slots=True)
class Rule:
    """What the daemon's settings say: whether builds may grow, and what is kept of packages."""

    may_grow: bool = False
    capture: str = ""


NOTHING_GROWS = Rule()


def choose_ground(plan: Plan, index: int, layers: Layers, rule: Rule) -> Ground:
    """The ground of checkpoint `index` of a plan. Blocking."""
    plain = with_grown(plan, index, "")
    planned, base = plain.checkpoints[index], base_key(plain, index, rule.capture)
    if not (base and planned.grow and rule.may_grow) or layers.find(planned.key) is not None:
        return Ground(plain, base)
    if is_declined(plain, index):
        return Ground(plain, base)
    fitting = _fitting(planned, base, layers.layers())
    if not fitting:
        return Ground(plain, base)
    grown = {layer.record.key: with_grown(plain, index, layer.record.key) for layer in fitting}
    made = {key for key, each in grown.items() if layers.find(each.checkpoints[index].key)}
    nearest = next((each for each in fitting if each.record.key in made), fitting[0])
    return Ground(grown[nearest.record.key], base, nearest)


def _fitting(planned: PlannedCheckpoint, base: str, layers: Iterable[Layer]) -> list[Layer]:
    """The layers with the same base that have a part of what is listed, and nothing else: those with the most
    first, of several the one used last."""
    listed = set(planned.listed)
    fitting = [
        layer
        for layer in layers
        if layer.record.base == base != layer.record.key
        and listed.issuperset(layer.record.listed)
        and not layer.record.brought
    ]
    fitting.sort(key=lambda layer: (len(layer.record.listed), layer.used_at), reverse=True)
    return fitting


def added(planned: PlannedCheckpoint, layer: Layer) -> list[str]:
    """What a checkpoint adds to the layer from which it grows, in the order of the manifest."""
    return [name for name in planned.listed if name not in layer.record.listed]


TRIED = 3
"""How many earlier results are tried, newest first."""


def same_results(plan: Plan, index: int, layers: Layers) -> list[Layer]:
    """The results of the same checkpoint on other layers, those used last first. Blocking."""
    planned = plan.checkpoints[index]
    if planned.inputs is None or is_declined(plan, index):
        return []
    own = own_digest(plan, index)
    found = [
        layer
        for layer in layers.layers()
        if layer.record.own == own and layer.record.key != planned.key and not layer.record.brought
    ]
    found.sort(key=lambda layer: layer.used_at, reverse=True)
    return found[:TRIED]
