"""What would happen to each checkpoint of a plan if it were submitted now, and why.

Reuse is decided by layers alone. Why something runs is told by comparison with the newest build of the
same distribution: what differs from it, or what became of its layer. Blocking.
"""

from dataclasses import dataclass

from statemachine.build import BuildState
from statemachine.keys import changes, without_salt
from statemachine.plan import Plan, PlannedCheckpoint
from store.layers import LayerStore


@dataclass(frozen=True, slots=True)
class Intention:
    """What would happen to one planned checkpoint: `run` or `reuse`, and why."""

    name: str
    description: str
    action: str
    reason: str
    key: str
    estimate_seconds: float


def intentions(
    plan: Plan, newest: BuildState | None, layers: LayerStore, fresh: bool
) -> tuple[Intention, ...]:
    """What would happen to the checkpoints of `plan`, in order. `newest` is the newest build of the same
    distribution; `fresh` declines all reuse."""
    found = []
    for planned in plan.checkpoints:
        layer = None if fresh else layers.find(planned.key)
        if layer is not None:
            action, reason = "reuse", f"layer {planned.key[:12]} from build {layer.record.made_by}"
        else:
            action, reason = "run", "no reuse is wanted" if fresh else _why(planned, newest)
        estimate = planned.estimate_seconds if action == "run" else 0.0
        found.append(
            Intention(planned.name, planned.description, action, reason, planned.key, estimate)
        )
    return tuple(found)


def _why(planned: PlannedCheckpoint, newest: BuildState | None) -> str:
    """Why there is no layer for a checkpoint."""
    if newest is None:
        return "no build made it yet"
    before = {earlier.name: earlier for earlier in without_salt(newest.plan).checkpoints}
    if differences := changes(before.get(planned.name), planned):
        return "; ".join(differences)
    record = newest.checkpoints[newest.index(planned.name)]
    if not record.done:
        return "no build made it yet"
    if record.key == planned.key:
        return f"its layer was removed since build {newest.id}"
    return f"build {newest.id} made it for itself alone (fresh or rewound)"


def compared(before: BuildState, after: BuildState) -> tuple[list[str], list[tuple[str, str]]]:
    """For a build whose manifest was replaced: the checkpoints that are kept, and the others, each with
    the reason why it runs."""
    old = {planned.name: planned for planned in before.plan.checkpoints}
    kept = after.completed
    names = [planned.name for planned in after.plan.checkpoints[:kept]]
    reruns = [
        (
            planned.name,
            "; ".join(changes(old.get(planned.name), planned)) or "it had not run yet",
        )
        for planned in after.plan.checkpoints[kept:]
    ]
    return names, reruns
