"""Steps: the engine's next action for a build, decided here from the build's state alone.

A build that waits (in the queue, for its open attempt, for a command) or has ended has no next step.
This module decides where a build pauses, between two checkpoints; the machine enforces it by refusing to
start a checkpoint before which the build is to pause. Pure.
"""

from dataclasses import dataclass

from statemachine.build import BuildState, Lifecycle
from statemachine.commands import Pause
from statemachine.events import BuildCancelled


@dataclass(frozen=True, slots=True)
class RunCheckpoint:
    """Run or reuse checkpoint `index` of the plan, on the layer `state.parent_key`."""

    index: int


@dataclass(frozen=True, slots=True)
class Deliver:
    """Publish the artifacts, `state.unpublished` among them, then record BuildCompleted."""


Step = RunCheckpoint | Deliver | Pause | BuildCancelled


def next_step(state: BuildState) -> Step | None:
    """The engine's next step for the build: work, or a payload to record. None when it has to wait."""
    if state.running is not None:
        return None
    match state.lifecycle:
        case Lifecycle.CANCELLING:
            return BuildCancelled()
        case Lifecycle.PAUSING:
            return Pause("paused as requested", wanted=True)
        case Lifecycle.RUNNING:
            checkpoint = state.next
            if checkpoint is None:
                return Deliver()
            if checkpoint.name == state.pause_before:
                return Pause(f"paused before {checkpoint.name} as requested", wanted=True)
            return RunCheckpoint(state.completed)
    return None
