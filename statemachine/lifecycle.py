"""The lifecycle of a build as one table: the events possible in each state, and their destinations.

`statemachine.fold` takes the destination of an event from here, and `statemachine.machine` builds its
transitions from the table. Pure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from statemachine import guards
from statemachine.build import BuildState, Lifecycle
from statemachine.events import (
    ArtifactPublished,
    BuildCancelled,
    BuildCompleted,
    BuildFailed,
    BuildPaused,
    BuildRemoved,
    BuildResumed,
    BuildRewound,
    BuildStarted,
    CancelRequested,
    CheckpointCompleted,
    CheckpointFailed,
    CheckpointInterrupted,
    CheckpointReused,
    CheckpointStarted,
    PauseRequested,
    PauseWithdrawn,
    Payload,
    ResourceClaimed,
)

P = TypeVar("P", bound=Payload)


@dataclass(frozen=True, slots=True)
class Transition:
    """An event that is possible in `sources` and leads to `destination`; None keeps the state. `when`
    distinguishes transitions of the same event by its payload; `guard` raises Refused when a condition
    beyond the state is not met."""

    event: type[Payload]
    sources: tuple[Lifecycle, ...]
    destination: Lifecycle | None
    guard: Callable[[BuildState, Any], None] | None
    when: Callable[[Any], bool] | None

    def is_of(self, payload: Payload) -> bool:
        """Whether this transition applies to the event."""
        return type(payload) is self.event and (self.when is None or self.when(payload))


def _on(
    event: type[P],
    sources: tuple[Lifecycle, ...],
    destination: Lifecycle | None,
    guard: Callable[[BuildState, P], None] | None = None,
    when: Callable[[P], bool] | None = None,
) -> Transition:
    return Transition(event, sources, destination, guard, when)


def _at_once(payload: PauseRequested) -> bool:
    return payload.before is None


def _later(payload: PauseRequested) -> bool:
    return payload.before is not None


QUEUED, RUNNING, PAUSING, PAUSED = (
    Lifecycle.QUEUED,
    Lifecycle.RUNNING,
    Lifecycle.PAUSING,
    Lifecycle.PAUSED,
)
FAILED, CANCELLING, CANCELLED, COMPLETED = (
    Lifecycle.FAILED,
    Lifecycle.CANCELLING,
    Lifecycle.CANCELLED,
    Lifecycle.COMPLETED,
)
_AT_WORK = (RUNNING, PAUSING, CANCELLING)
_BEFORE_END = (QUEUED, RUNNING, PAUSING, PAUSED, FAILED)

TRANSITIONS = (
    _on(BuildStarted, (QUEUED,), RUNNING),
    _on(CheckpointStarted, (RUNNING,), None, guards.starts_next),
    _on(ResourceClaimed, _AT_WORK, None, guards.in_attempt),
    _on(CheckpointReused, (RUNNING,), None, guards.reuses_next),
    _on(CheckpointCompleted, _AT_WORK, None, guards.completes_attempt),
    _on(CheckpointFailed, _AT_WORK, None, guards.in_attempt),
    _on(CheckpointInterrupted, _AT_WORK, None, guards.in_attempt),
    _on(PauseRequested, (QUEUED, RUNNING), PAUSING, when=_at_once),
    _on(PauseRequested, (QUEUED, RUNNING), None, guards.pauses_later, when=_later),
    _on(PauseWithdrawn, (PAUSING,), RUNNING),
    _on(PauseWithdrawn, (QUEUED, RUNNING, FAILED), None, guards.has_pause_ahead),
    _on(BuildPaused, (RUNNING, PAUSING), PAUSED, guards.pauses),
    _on(BuildPaused, (PAUSED,), None, guards.pauses),
    _on(BuildRewound, (PAUSED, FAILED), None, guards.rewinds_completed),
    _on(BuildRewound, (RUNNING,), None, guards.rewinds_lost),
    _on(BuildResumed, (PAUSED, FAILED), QUEUED, guards.resumes),
    _on(BuildResumed, (PAUSING,), RUNNING, guards.withdraws_pause),
    _on(CancelRequested, _BEFORE_END, CANCELLING),
    _on(BuildCancelled, (CANCELLING,), CANCELLED, guards.no_attempt),
    _on(ArtifactPublished, (RUNNING, PAUSING), None, guards.all_completed),
    _on(BuildCompleted, (RUNNING,), COMPLETED, guards.all_published),
    _on(BuildFailed, (RUNNING, PAUSING), FAILED, guards.fails_next),
    _on(BuildRemoved, (CANCELLED, COMPLETED), None, guards.not_removed),
)
"""Every event that can follow BuildSubmitted, which begins the lifecycle as `queued`."""


def destination(present: Lifecycle, payload: Payload) -> Lifecycle:
    """The state after an event. The fold does not validate: an event that is impossible in the present
    state leads where it leads from other states."""
    possible = [transition for transition in TRANSITIONS if transition.is_of(payload)]
    fitting = [transition for transition in possible if present in transition.sources]
    return next((t.destination for t in fitting or possible if t.destination), present)
