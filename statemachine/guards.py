"""Guards: the conditions of a transition beyond its source state.

Each guard checks one event against the build's state and raises `Refused` for an illegal one. The table in
`statemachine.lifecycle` names them; only `statemachine.machine` calls them, and completes the refusal with
the command and the possible alternatives. Pure.
"""

from statemachine import events
from statemachine.build import BuildState
from statemachine.errors import Refused
from statemachine.keys import kept_prefix, with_external, with_grown

InAttempt = (
    events.ResourceClaimed
    | events.CheckpointCompleted
    | events.CheckpointFailed
    | events.CheckpointInterrupted
)


def is_newer_epoch(state: BuildState, payload: events.BuildPlaced) -> None:
    """Epochs of a build only grow."""
    if payload.epoch <= state.epoch:
        raise Refused(f"epoch {payload.epoch} is over: {state.host} took it in epoch {state.epoch}")


def moves(state: BuildState, payload: events.MoveRequested) -> None:
    """A build goes to another member than the one that drives it, unless it is leaving that one."""
    working = state.lifecycle == "running" and state.moves_to is None
    if working and payload.to and payload.to == state.host:
        raise Refused(f"{state.host} drives it already")


def starts_next(state: BuildState, payload: events.CheckpointStarted) -> None:
    """An attempt starts at the first checkpoint that is not completed, under the next number."""
    is_next(state, payload)
    attempt = state.next_attempt(payload.checkpoint)
    if payload.attempt != attempt:
        raise Refused(f"attempt {payload.attempt} is out of turn: {attempt} is next")


def is_next(state: BuildState, payload: events.CheckpointStarted | events.CheckpointReused) -> None:
    """No attempt is open, the checkpoint is the first one that is not completed, no pause is requested before
    it, and its key follows from the plan."""
    index = state.index(payload.checkpoint)
    no_attempt(state, payload)
    if index != state.completed:
        expected = state.next.name if state.next else "nothing"
        raise Refused(f"{payload.checkpoint} is out of turn: {expected} is next")
    if payload.checkpoint == state.pause_before:
        raise Refused(f"the build is to pause before {payload.checkpoint}")
    plan = with_external(state.plan, index, payload.external) if payload.external else state.plan
    plan = with_grown(plan, index, payload.grown)
    if payload.key != plan.checkpoints[index].key:
        raise Refused(f"key {payload.key} does not follow from the plan")


def names_checkpoint(state: BuildState, payload: events.LayerDamaged) -> None:
    """The checkpoint is in the plan, and no attempt is open."""
    state.index(payload.checkpoint)
    no_attempt(state, payload)


def in_attempt(state: BuildState, payload: InAttempt) -> None:
    """Only the open attempt claims a resource or ends."""
    running = state.running
    if running is None:
        raise Refused("no attempt is open")
    if (payload.checkpoint, payload.attempt) != (running.name, running.attempts):
        raise Refused(f"the open attempt is number {running.attempts} at {running.name}")


def completes_attempt(state: BuildState, payload: events.CheckpointCompleted) -> None:
    """Only the open attempt completes, with the planned key."""
    in_attempt(state, payload)
    planned = state.checkpoints[state.index(payload.checkpoint)].key
    if payload.key != planned:
        raise Refused(f"the result has key {payload.key}, the plan says {planned}")


def pauses_later(state: BuildState, payload: events.PauseRequested) -> None:
    """The requested pause is before a checkpoint that is still to come."""
    assert payload.before is not None
    _is_to_come(state, payload.before)
    if state.running is not None and state.running.name == payload.before:
        raise Refused(f"{payload.before} is running already: pause without naming a checkpoint")


def has_pause_ahead(state: BuildState, payload: events.PauseWithdrawn) -> None:
    """The build is to pause before a checkpoint that is still to come."""
    if state.pause_before is None:
        raise Refused("no pause is requested that it has not reached")


def no_attempt(state: BuildState, payload: events.Payload) -> None:
    """No attempt is open."""
    if state.running is not None:
        raise Refused(f"attempt {state.running.attempts} at {state.running.name} is open")


def pauses(state: BuildState, payload: events.BuildPaused) -> None:
    """No attempt is open, and the pause has a reason."""
    no_attempt(state, payload)
    if not payload.reason:
        raise Refused("a pause needs a reason")


def fails_next(state: BuildState, payload: events.BuildFailed) -> None:
    """No attempt is open, and the failed checkpoint, if named, is the next one."""
    no_attempt(state, payload)
    if payload.checkpoint is not None and state.index(payload.checkpoint) != state.completed:
        raise Refused(f"{payload.checkpoint} is not the next checkpoint")


def rewinds_completed(state: BuildState, payload: events.BuildRewound) -> None:
    """Only a completed checkpoint can be rewound."""
    if state.index(payload.checkpoint) >= state.completed:
        raise Refused(f"{payload.checkpoint} has not completed yet")


def rewinds_lost(state: BuildState, payload: events.BuildRewound) -> None:
    """A running build is rewound only for a missing layer, and only between attempts."""
    if payload.cause != "layer-missing":
        raise Refused("it is running")
    no_attempt(state, payload)
    rewinds_completed(state, payload)


def resumes(state: BuildState, payload: events.BuildResumed) -> None:
    """A new plan keeps exactly the completed checkpoints whose keys it shares; a requested pause is
    before a checkpoint that is still to come."""
    position, names = state.completed, [record.name for record in state.checkpoints]
    if payload.plan is not None:
        names = [checkpoint.name for checkpoint in payload.plan.checkpoints]
        position = min(kept_prefix(state.plan, payload.plan), position)
        if payload.kept != position:
            raise Refused(f"the new plan keeps {position} checkpoints, not {payload.kept}")
    for name in (payload.pause_before, payload.declines):
        if name is not None and name not in names[position:]:
            raise Refused(f"{name} is not among the checkpoints still to come")


def withdraws_pause(state: BuildState, payload: events.BuildResumed) -> None:
    """The running checkpoint continues, so only the next pause can change."""
    if payload.plan is not None or payload.declines is not None:
        raise Refused("its checkpoint is still running")
    if payload.pause_before is not None:
        _is_to_come(state, payload.pause_before)
        if state.running is not None and state.running.name == payload.pause_before:
            raise Refused(f"{payload.pause_before} is running already")


def all_completed(state: BuildState, payload: events.Payload) -> None:
    """Every checkpoint has completed."""
    if state.next is not None:
        raise Refused(f"{state.next.name} has not completed yet")


def all_published(state: BuildState, payload: events.Payload) -> None:
    """Every checkpoint has completed and every declared artifact is published."""
    all_completed(state, payload)
    if state.unpublished:
        raise Refused(f"artifact {state.unpublished[0].name} is not published yet")


def not_removed(state: BuildState, payload: events.Payload) -> None:
    """The build is not removed yet."""
    if state.removed:
        raise Refused("it is removed already")


def _is_to_come(state: BuildState, checkpoint: str) -> None:
    if state.index(checkpoint) < state.completed:
        raise Refused(f"{checkpoint} has completed already")
