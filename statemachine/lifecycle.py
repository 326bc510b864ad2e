"""The lifecycle of a build as one table: the events possible in each state, and their destinations.

`statemachine.fold` takes the destination of an event from here, and `statemachine.machine` builds its
transitions from the table. Pure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from statemachine import events, guards
from statemachine.build import BuildState, Lifecycle

P = TypeVar("P", bound=events.Payload)


@dataclass(frozen=True, slots=True)
class Transition(Generic[P]):
    """An event that is possible in `sources` and leads to `destination`; None keeps the state. `when`
    distinguishes transitions of the same event by its payload; `guard` raises Refused when a condition
    beyond the state is not met."""

    event: type[P]
    sources: tuple[Lifecycle, ...]
    destination: Lifecycle | None
    guard: Callable[[BuildState, P], None] | None = None
    when: Callable[[P], bool] | None = None

    def is_of(self, payload: events.Payload) -> bool:
        """Whether this transition applies to the event."""
        return type(payload) is self.event and (self.when is None or self.when(payload))


QUEUED, RUNNING, PAUSING, PAUSED, FAILED, CANCELLING, CANCELLED, COMPLETED = Lifecycle
AT_WORK = (RUNNING, PAUSING, CANCELLING)
"""States in which the engine may be working on a build."""

_BEFORE_END = (QUEUED, RUNNING, PAUSING, PAUSED, FAILED)

TRANSITIONS: tuple[Transition[Any], ...] = (
    Transition(events.BuildPlaced, (*_BEFORE_END, CANCELLING), None, guards.is_newer_epoch),
    Transition(events.MoveRequested, (QUEUED, RUNNING), None, guards.moves),
    Transition(events.BuildStarted, (QUEUED,), RUNNING),
    Transition(events.CheckpointStarted, (RUNNING,), None, guards.starts_next),
    Transition(events.ResourceClaimed, AT_WORK, None, guards.in_attempt),
    Transition(events.CheckpointReused, (RUNNING,), None, guards.is_next),
    Transition(events.CheckpointCompleted, AT_WORK, None, guards.completes_attempt),
    Transition(events.LayerDamaged, (RUNNING,), None, guards.names_checkpoint),
    Transition(events.CheckpointFailed, AT_WORK, None, guards.in_attempt),
    Transition(events.CheckpointInterrupted, AT_WORK, None, guards.in_attempt),
    Transition(
        events.PauseRequested, (QUEUED, RUNNING), PAUSING, when=lambda pause: pause.before is None
    ),
    Transition(
        events.PauseRequested,
        (QUEUED, RUNNING),
        None,
        guards.pauses_later,
        when=lambda pause: pause.before is not None,
    ),
    Transition(events.PauseWithdrawn, (PAUSING,), RUNNING),
    Transition(events.PauseWithdrawn, (QUEUED, RUNNING, FAILED), None, guards.has_pause_ahead),
    Transition(events.BuildPaused, (RUNNING, PAUSING), PAUSED, guards.pauses),
    Transition(events.BuildPaused, (PAUSED,), None, guards.pauses),
    Transition(events.BuildRewound, (PAUSED, FAILED), None, guards.rewinds_completed),
    Transition(events.BuildRewound, (RUNNING,), None, guards.rewinds_lost),
    Transition(events.BuildResumed, (PAUSED, FAILED), QUEUED, guards.resumes),
    Transition(events.BuildResumed, (PAUSING,), RUNNING, guards.withdraws_pause),
    Transition(events.CancelRequested, _BEFORE_END, CANCELLING),
    Transition(events.BuildCancelled, (CANCELLING,), CANCELLED, guards.no_attempt),
    Transition(events.ArtifactPublished, (RUNNING, PAUSING), None, guards.all_completed),
    Transition(events.BuildCompleted, (RUNNING,), COMPLETED, guards.all_published),
    Transition(events.BuildFailed, (RUNNING, PAUSING), FAILED, guards.fails_next),
    Transition(events.BuildRemoved, (CANCELLED, COMPLETED), None, guards.not_removed),
)
"""Every event that can follow BuildSubmitted, which begins the lifecycle as `queued`."""


def destination(present: Lifecycle, payload: events.Payload) -> Lifecycle:
    """The state after an event. The fold does not validate: an event that is impossible in the present
    state leads where it leads from other states."""
    possible = [transition for transition in TRANSITIONS if transition.is_of(payload)]
    fitting = [transition for transition in possible if present in transition.sources]
    return next((t.destination for t in fitting or possible if t.destination), present)
