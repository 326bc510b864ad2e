"""Steps: what the engine has to do next for a build, decided in one place, from its state alone.

A build that waits (in the queue, for its open attempt, for a command) or has ended has no next step.
Where a build is to pause is decided here, between two checkpoints, and the machine agrees: it refuses to
start a checkpoint before which the build is to pause. Pure.
"""

from dataclasses import dataclass

from statemachine.build import BuildState, Lifecycle


@dataclass(frozen=True, slots=True)
class RunCheckpoint:
    """Run or reuse checkpoint `index` of the plan, on the layer `state.parent_key`."""

    index: int


@dataclass(frozen=True, slots=True)
class PauseNow:
    """Decide `Pause(reason, cause)`."""

    reason: str
    cause: str


@dataclass(frozen=True, slots=True)
class CancelNow:
    """Decide `FinishCancel()`."""


@dataclass(frozen=True, slots=True)
class Finish:
    """Publish the artifacts, `state.unpublished` among them, then decide `Complete`."""


Step = RunCheckpoint | PauseNow | CancelNow | Finish


def next_step(state: BuildState) -> Step | None:
    """The engine's next step for the build, or None when it has to wait."""
    if state.running is not None:
        return None
    match state.state:
        case Lifecycle.CANCELLING:
            return CancelNow()
        case Lifecycle.PAUSING:
            return PauseNow("paused as requested", "requested")
        case Lifecycle.RUNNING:
            checkpoint = state.next
            if checkpoint is None:
                return Finish()
            if checkpoint.name == state.pause_before:
                return PauseNow(f"paused before {checkpoint.name} as requested", "requested")
            return RunCheckpoint(state.completed)
    return None
