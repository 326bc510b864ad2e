"""What would happen to each checkpoint of a plan if it were submitted now, and why.

Reuse is decided by layers alone. Why something runs is found by comparison with earlier builds of the same
distribution: what became of the layer, if one of them had that very result, else what differs from the build
that is most alike (`dcd.planning.history`). Blocking.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from dcd.planning.action import decide_action, no_layer
from dcd.planning.readiness import Prospect
from statemachine.build import BuildState, CheckpointRecord
from statemachine.keys import changes, without_salt
from statemachine.plan import Plan, PlannedCheckpoint
from store.layers import LayerStore


@dataclass(frozen=True, slots=True)
class Intention:
    """What would happen to one checkpoint, and why: `run`, `reuse`, nothing because it is `unavailable` here,
    or `unknown` because its repository cannot be asked. `key` is empty where it cannot be known: for the
    first of the latter two, and all after it."""

    name: str
    description: str
    action: str
    reason: str
    key: str
    estimate_seconds: float


def intentions(
    plan: Plan,
    alike: BuildState | None,
    layers: LayerStore,
    fresh: bool,
    others: Sequence[BuildState] = (),
    fresh_from: str | None = None,
) -> tuple[Intention, ...]:
    """What would happen to the checkpoints of `plan`, in order. `alike` is the build to compare it with,
    `others` are further builds of the same distribution, newest first; `fresh` declines all reuse,
    `fresh_from` that from a checkpoint on."""
    found = []
    earlier = _Earlier.of(alike)
    made_by = _made_by(others)
    for planned in plan.checkpoints:
        fresh = fresh or planned.name == fresh_from
        action = decide_action(planned, layers, fresh, partial(_why, planned, earlier, made_by))
        found.append(
            Intention(
                planned.name,
                planned.description,
                action.kind,
                action.reason,
                planned.key,
                0.0 if action.layer else planned.estimate_seconds,
            )
        )
    return tuple(found)


def beyond(rest: Sequence[Prospect]) -> tuple[Intention, ...]:
    """What would happen from the first checkpoint on that cannot run here, or whose repository cannot be
    asked."""
    found = []
    for prospect in rest:
        action, reason = _beyond(prospect, rest[0])
        estimate = prospect.estimate_seconds if action == "run" else 0.0
        found.append(
            Intention(prospect.spec.name, prospect.description, action, reason, "", estimate)
        )
    return tuple(found)


def _beyond(prospect: Prospect, first: Prospect) -> tuple[str, str]:
    if prospect.obstacle:
        return "unavailable", prospect.obstacle
    if prospect.unasked:
        return "unknown", prospect.unasked
    if first.unasked:
        return "run", f"it comes after {first.spec.name}, whose key is not known"
    return "run", f"it comes after {first.spec.name}, which cannot run here"


@dataclass(frozen=True, slots=True)
class _Earlier:
    """The checkpoints of an earlier build by name: as planned, had no reuse been declined, and what became
    of them."""

    build: str
    planned: Mapping[str, PlannedCheckpoint]
    records: Mapping[str, CheckpointRecord]

    @classmethod
    def of(cls, build: BuildState | None) -> "_Earlier | None":
        """Those of a build, or None without one."""
        if build is None:
            return None
        return cls(
            build.id,
            {planned.name: planned for planned in without_salt(build.plan).checkpoints},
            {record.name: record for record in build.checkpoints},
        )


def _made_by(builds: Sequence[BuildState]) -> dict[str, str]:
    """The newest build that had a result, by its key."""
    return {
        record.key: build.id
        for build in reversed(builds)
        for record in build.checkpoints
        if record.done
    }


def _why(planned: PlannedCheckpoint, earlier: _Earlier | None, made_by: Mapping[str, str]) -> str:
    """Why there is no layer for a checkpoint."""
    if planned.key in made_by:
        return f"its layer was removed since build {made_by[planned.key]}"
    if earlier is None:
        return no_layer()
    if differences := changes(earlier.planned.get(planned.name), planned):
        return "; ".join(differences)
    record = earlier.records[planned.name]
    if not record.done:
        return no_layer()
    if record.key == planned.key:
        return f"its layer was removed since build {earlier.build}"
    return f"build {earlier.build} made it for itself alone (fresh or rewound)"


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
