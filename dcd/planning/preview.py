"""The preview of a plan: the action for each checkpoint if it were submitted now, and the reason.

Layers alone decide about reuse. The reason for a run comes from earlier builds of the same distribution: the
loss of the layer, if one of them had that result, else the differences to the most similar build
(`dcd.planning.history`). Blocking.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from dcd.planning.action import NO_LAYER, decide_action
from dcd.planning.ground import (
    NOTHING_GROWS,
    Ground,
    Rule,
    added,
    choose_ground,
    same_results,
)
from dcd.planning.readiness import Prospect
from statemachine.build import BuildState, CheckpointRecord
from statemachine.keys import changes, grown_from, without_salt
from statemachine.plan import Plan, PlannedCheckpoint, Variance
from store.layers import Layer, Layers


@dataclass(frozen=True, slots=True)
class Intention:
    """The action for one checkpoint, and its reason: `run`, `reuse`, `unavailable` (it cannot run here) or
    `unknown` (its repository cannot be queried). `key` is empty if it is unknown: from the first of the
    latter two on."""

    name: str
    description: str
    action: str
    reason: str
    key: str
    estimate_seconds: float
    variances: tuple[Variance, ...] = ()
    """Why its result may differ each time; empty if it is reproducible."""
    grown_from: str = ""
    """The key of the result of an earlier build to which it would add."""


def intentions(
    plan: Plan,
    alike: BuildState | None,
    layers: Layers,
    fresh: bool,
    others: Sequence[BuildState] = (),
    fresh_from: str | None = None,
    rule: Rule = NOTHING_GROWS,
) -> tuple[Intention, ...]:
    """The intentions for the checkpoints of `plan`, in order. `alike` is the build to compare it with,
    `others` are further builds of the same distribution, newest first; `fresh` declines all reuse,
    `fresh_from` that from a checkpoint on; `rule` is the daemon's about what results stand on."""
    found = []
    made_by = {
        record.key: build.id
        for build in reversed(others)
        for record in build.checkpoints
        if record.done
    }
    earlier: dict[str, _Earlier] = {}
    if alike is not None:
        pairs = zip(without_salt(alike.plan).checkpoints, alike.checkpoints, strict=True)
        earlier = {planned.name: (planned, record, alike.id) for planned, record in pairs}
    for index, each in enumerate(plan.checkpoints):
        fresh = fresh or each.name == fresh_from
        ground = choose_ground(plan, index, layers, NOTHING_GROWS if fresh else rule)
        plan = ground.plan
        planned = plan.checkpoints[index]
        action = decide_action(planned, layers, fresh, partial(_why, planned, earlier, made_by))
        reason = action.reason
        if not (action.layer or fresh):
            reason = "; ".join(filter(None, (reason, _standing(index, ground, layers))))
        found.append(
            Intention(
                planned.name,
                planned.description,
                action.kind,
                reason,
                planned.key,
                0.0 if action.layer else planned.estimate_seconds,
                planned.variances,
                grown_from(planned),
            )
        )
    return tuple(found)


def _standing(index: int, ground: Ground, layers: Layers) -> str:
    """What a run begins with or may be spared by, for people."""
    planned = ground.plan.checkpoints[index]
    if ground.grown is not None:
        more = ", ".join(added(planned, ground.grown)) or "nothing"
        return f"it grows: it adds {more} to {_named(ground.grown)}"
    below = layers.find(ground.base) if ground.base else None
    if below is not None:
        return f"its base is {_named(below)}"
    if same := same_results(ground.plan, index, layers):
        return f"{_named(same[0])} is taken over if what it reads is the same"
    return ""


def _named(layer: Layer) -> str:
    return f"layer {layer.record.key[:12]} from build {layer.record.made_by}"


def beyond(rest: Sequence[Prospect]) -> tuple[Intention, ...]:
    """The intentions from the first checkpoint on that cannot run here, or whose repository cannot be
    queried."""
    found = []
    for prospect in rest:
        estimate = 0.0
        if prospect.obstacle:
            action, reason = "unavailable", prospect.obstacle
        elif prospect.unasked:
            action, reason = "unknown", prospect.unasked
        else:
            fate = "whose key is not known" if rest[0].unasked else "which cannot run here"
            action, reason = "run", f"it comes after {rest[0].spec.name}, {fate}"
            estimate = prospect.estimate_seconds
        found.append(
            Intention(
                prospect.spec.name,
                prospect.description,
                action,
                reason,
                "",
                estimate,
                prospect.variances,
            )
        )
    return tuple(found)


_Earlier = tuple[PlannedCheckpoint, CheckpointRecord, str]
"""A checkpoint of an earlier build, as planned without a declined reuse, and the build."""


def _why(
    planned: PlannedCheckpoint, earlier: Mapping[str, _Earlier], made_by: Mapping[str, str]
) -> str:
    """The reason for the lack of a layer."""
    if planned.key in made_by:
        return f"its layer was removed since build {made_by[planned.key]}"
    if not earlier:
        return NO_LAYER
    before, record, build = earlier.get(planned.name, (None, None, ""))
    if differences := changes(before, planned):
        return "; ".join(differences)
    if record is None or not record.done:
        return NO_LAYER
    if record.key == planned.key:
        return f"its layer was removed since build {build}"
    return f"build {build} made it for itself alone (fresh, rewound or grown)"


def compared(before: BuildState, after: BuildState) -> tuple[list[str], list[tuple[str, str]]]:
    """For a build with a new manifest: the kept checkpoints, and the others with the reason for their run."""
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
