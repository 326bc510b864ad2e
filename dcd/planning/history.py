"""Earlier builds, for what they tell about a plan: how long checkpoints took, and what has changed since.

The newest builds are folded from their events, those that have ended once: their states do not change.
Blocking; for several threads.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from statistics import median

from statemachine.build import BuildState, CheckpointState
from statemachine.errors import DcdError
from statemachine.fold import evolve
from statemachine.keys import kept_prefix, without_salt
from statemachine.plan import Plan, PlannedCheckpoint
from store.eventlog import EventLog

_BUILDS = 12
"""So many builds of a distribution, and as many of any, are looked at."""

_ATTEMPTS = 5
"""The newest so many durations count."""

_KEPT = 64
_LEAST_SECONDS = 0.1


class History:
    """The newest builds in an event log."""

    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._folded: OrderedDict[str, BuildState] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, distribution: str | None) -> list[BuildState]:
        """The newest builds of a distribution (None: of any) that are not removed, newest first; those
        whose events cannot be read are left out. Raises Unavailable when the log cannot be."""
        found = []
        for listed in self._events.list_builds(name=distribution, limit=_BUILDS):
            with self._lock:
                known = self._folded.get(listed.id)
            if known is None or known.sequence != listed.sequence:
                known = self._fold(listed.id)
            if known is not None:
                found.append(known)
        return found

    def _fold(self, build: str) -> BuildState | None:
        state: BuildState | None = None
        try:
            for event in self._events.read_build(build):
                state = evolve(state, event)
        except DcdError:
            return None
        if state is not None:
            with self._lock:
                self._folded[build] = state
                self._folded.move_to_end(build)
                while len(self._folded) > _KEPT:
                    self._folded.popitem(last=False)
        return state


def expected(plan: Plan, same: Sequence[BuildState], others: Sequence[BuildState]) -> Plan:
    """The plan with the durations that earlier builds show, where they show any: of the checkpoint of that
    name and class in builds of the same distribution, else in others, else of the class."""
    return Plan(
        tuple(
            replace(planned, estimate_seconds=_seconds(planned, same, others))
            for planned in plan.checkpoints
        )
    )


def _seconds(
    planned: PlannedCheckpoint, same: Sequence[BuildState], others: Sequence[BuildState]
) -> float:
    for builds, named in ((same, True), (others, True), (same, False), (others, False)):
        durations = [
            seconds
            for earlier, seconds in _durations(builds)
            if (earlier.mod_path, earlier.checkpoint_class)
            == (planned.mod_path, planned.checkpoint_class)
            and (earlier.name == planned.name or not named)
        ]
        if durations:
            return max(_LEAST_SECONDS, median(durations[:_ATTEMPTS]))
    return planned.estimate_seconds


def _durations(builds: Iterable[BuildState]) -> Iterator[tuple[PlannedCheckpoint, float]]:
    """Completed checkpoints of builds, each with how long it took."""
    for build in builds:
        for planned, record in zip(build.plan.checkpoints, build.checkpoints, strict=True):
            if record.state is CheckpointState.COMPLETED and record.seconds is not None:
                yield planned, record.seconds


def most_alike(plan: Plan, manifest_path: str, builds: Sequence[BuildState]) -> BuildState | None:
    """The build to compare a plan with, of builds of the same distribution, newest first: of the same
    manifest, then with the longest beginning in common, then the newest."""
    return max(
        builds,
        key=lambda build: (
            build.manifest_path == manifest_path,
            kept_prefix(without_salt(build.plan), plan),
            _names_in_common(plan, build.plan),
        ),
        default=None,
    )


def _names_in_common(one: Plan, other: Plan) -> int:
    names = {(each.name, each.checkpoint_class) for each in one.checkpoints}
    return sum((each.name, each.checkpoint_class) in names for each in other.checkpoints)
