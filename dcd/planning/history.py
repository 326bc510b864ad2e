"""Earlier builds, as sources of durations of checkpoints and of differences to a plan.

The newest builds are folded from their events; the states are cached until a build has new events. Blocking;
thread-safe.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from statistics import median

from statemachine.build import BuildState, CheckpointState
from statemachine.errors import DcdError
from statemachine.fold import evolve
from statemachine.keys import kept_prefix, without_salt
from statemachine.plan import Plan, PlannedCheckpoint
from store.eventlog import EventLog

_BUILDS = 12
"""The number of builds of a distribution, and of any distribution, that are read."""

_ATTEMPTS = 5
"""The number of newest durations that count."""

_KEPT = 64
_LEAST_SECONDS = 0.1


class History:
    """The newest builds in an event log."""

    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._folded = lru_cache(maxsize=_KEPT)(self._fold)

    def of(self, distribution: str | None) -> list[BuildState]:
        """The newest builds of a distribution (None: of any) that are not removed, newest first, without
        those whose events cannot be read. Raises Unavailable when the log cannot be read."""
        found = []
        for listed in self._events.list_builds(name=distribution, limit=_BUILDS):
            with suppress(DcdError):
                found.append(self._folded(listed.id, listed.sequence))
        return found

    def _fold(self, build: str, sequence: int) -> BuildState:
        """The state of a build whose newest event has that sequence number."""
        state: BuildState | None = None
        for event in self._events.read_build(build):
            state = evolve(state, event)
        assert state is not None  # a listed build has events
        return state


def expected(plan: Plan, same: Sequence[BuildState], others: Sequence[BuildState]) -> Plan:
    """The plan with the durations of earlier builds: those of the checkpoint of that name, class and
    arguments in builds of the same distribution, else in others; else of the class and arguments; else of
    name and class; else of the class."""
    return Plan(
        tuple(
            replace(planned, estimate_seconds=_seconds(planned, same, others))
            for planned in plan.checkpoints
        )
    )


def _seconds(
    planned: PlannedCheckpoint, same: Sequence[BuildState], others: Sequence[BuildState]
) -> float:
    of_class = [
        [
            (earlier.name == planned.name, _arguments(earlier) == _arguments(planned), seconds)
            for earlier, seconds in _durations(builds)
            if (earlier.mod_path, earlier.checkpoint_class)
            == (planned.mod_path, planned.checkpoint_class)
        ]
        for builds in (same, others)
    ]
    for named, alike in ((True, True), (False, True), (True, False), (False, False)):
        for found in of_class:
            durations = [each[2] for each in found if each[0] >= named and each[1] >= alike]
            if durations:
                return max(_LEAST_SECONDS, median(durations[:_ATTEMPTS]))
    return planned.estimate_seconds


def _arguments(planned: PlannedCheckpoint) -> tuple[object, ...]:
    """What a checkpoint was given."""
    return (planned.args, planned.kwargs)


def _durations(builds: Iterable[BuildState]) -> Iterator[tuple[PlannedCheckpoint, float]]:
    """Completed checkpoints of builds, each with its duration."""
    for build in builds:
        for planned, record in zip(build.plan.checkpoints, build.checkpoints, strict=True):
            if record.state is CheckpointState.COMPLETED and record.seconds is not None:
                yield planned, record.seconds


def most_alike(plan: Plan, manifest_path: str, builds: Sequence[BuildState]) -> BuildState | None:
    """The build to compare a plan with, from builds of the same distribution, newest first: one of the same
    manifest, then with the longest common beginning, then the newest."""
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
