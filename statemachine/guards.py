"""Guards: what a transition demands beyond the state it starts from.

Each judges one event against the build's state: True lets the transition fire, False leaves the next
transition of that event to try, `Refused` says why none can. `statemachine.machine` alone calls them and
completes the refusal with the command and what is possible instead. Pure.
"""

from statemachine.build import BuildState
from statemachine.errors import Refused
from statemachine.events import (
    BuildFailed,
    BuildPaused,
    BuildResumed,
    BuildRewound,
    CheckpointCompleted,
    CheckpointFailed,
    CheckpointInterrupted,
    CheckpointReused,
    CheckpointStarted,
    PauseRequested,
    Payload,
    ResourceClaimed,
)
from statemachine.keys import kept_prefix, with_external


def starts_next(state: BuildState, payload: Payload) -> bool:
    """An attempt starts at the first checkpoint that is not completed, under the next number."""
    assert isinstance(payload, CheckpointStarted)
    _is_next(state, payload)
    attempt = state.next_attempt(payload.checkpoint)
    if payload.attempt != attempt:
        raise Refused(f"attempt {payload.attempt} is out of turn: {attempt} is next")
    return True


def reuses_next(state: BuildState, payload: Payload) -> bool:
    """A result is reused for the first checkpoint that is not completed."""
    assert isinstance(payload, CheckpointReused)
    _is_next(state, payload)
    return True


def claims_in_attempt(state: BuildState, payload: Payload) -> bool:
    """It is the open attempt that claims something."""
    assert isinstance(payload, ResourceClaimed)
    return _is_of_open_attempt(state, payload)


def ends_attempt(state: BuildState, payload: Payload) -> bool:
    """The attempt that ends is the open one."""
    assert isinstance(payload, CheckpointCompleted | CheckpointFailed | CheckpointInterrupted)
    return _is_of_open_attempt(state, payload)


def completes_attempt(state: BuildState, payload: Payload) -> bool:
    """The attempt that completes is the open one, and its result has the planned key."""
    assert isinstance(payload, CheckpointCompleted)
    ends_attempt(state, payload)
    planned = state.checkpoints[state.index(payload.checkpoint)].key
    if payload.key != planned:
        raise Refused(f"the result has key {payload.key}, the plan says {planned}")
    return True


def pauses_soon(state: BuildState, payload: Payload) -> bool:
    """The wish is to stop at once."""
    assert isinstance(payload, PauseRequested)
    return payload.before is None


def pauses_later(state: BuildState, payload: Payload) -> bool:
    """The wish is to stop before a checkpoint that is still to come."""
    assert isinstance(payload, PauseRequested) and payload.before is not None
    _is_to_come(state, payload.before)
    if state.running is not None and state.running.name == payload.before:
        raise Refused(f"{payload.before} is running already: pause without naming a checkpoint")
    return True


def stands_still(state: BuildState, payload: Payload) -> bool:
    """No attempt is open, and who pauses a build says why."""
    if state.running is not None:
        raise Refused(f"attempt {state.running.attempts} at {state.running.name} is open")
    if isinstance(payload, BuildPaused) and not payload.reason:
        raise Refused("a pause needs a reason")
    return True


def fails_next(state: BuildState, payload: Payload) -> bool:
    """No attempt is open, and a checkpoint that is to blame is the one whose turn it is."""
    assert isinstance(payload, BuildFailed)
    stands_still(state, payload)
    if payload.checkpoint is not None and state.index(payload.checkpoint) != state.completed:
        raise Refused(f"it is not the turn of {payload.checkpoint}")
    return True


def rewinds_completed(state: BuildState, payload: Payload) -> bool:
    """Only what has completed can be rewound."""
    assert isinstance(payload, BuildRewound)
    if state.index(payload.checkpoint) >= state.completed:
        raise Refused(f"{payload.checkpoint} has not completed yet")
    return True


def rewinds_lost(state: BuildState, payload: Payload) -> bool:
    """A build that runs is rewound only because a layer is missing, and between two attempts."""
    assert isinstance(payload, BuildRewound)
    if payload.cause != "layer-missing":
        return False
    stands_still(state, payload)
    return rewinds_completed(state, payload)


def resumes(state: BuildState, payload: Payload) -> bool:
    """A new plan keeps exactly the completed checkpoints whose keys it shares; a wish to pause names
    a checkpoint that is still to come."""
    assert isinstance(payload, BuildResumed)
    position, names = state.completed, [record.name for record in state.checkpoints]
    if payload.plan is not None:
        names = [checkpoint.name for checkpoint in payload.plan.checkpoints]
        position = min(kept_prefix(state.plan, payload.plan), position)
        if payload.kept != position:
            raise Refused(f"the new plan keeps {position} checkpoints, not {payload.kept}")
    if payload.pause_before is not None and payload.pause_before not in names[position:]:
        raise Refused(f"{payload.pause_before} is not among the checkpoints still to come")
    if payload.declines is not None and payload.declines not in names[position:]:
        raise Refused(f"{payload.declines} is not among the checkpoints still to come")
    return True


def takes_pause_back(state: BuildState, payload: Payload) -> bool:
    """The checkpoint that runs goes on running, so only where to pause next can change."""
    assert isinstance(payload, BuildResumed)
    if payload.plan is not None or payload.declines is not None:
        raise Refused("its checkpoint is still running")
    if payload.pause_before is not None:
        _is_to_come(state, payload.pause_before)
        if state.running is not None and state.running.name == payload.pause_before:
            raise Refused(f"{payload.pause_before} is running already")
    return True


def all_completed(state: BuildState, payload: Payload) -> bool:
    """Every checkpoint has completed."""
    if state.next is not None:
        raise Refused(f"{state.next.name} has not completed yet")
    return True


def all_published(state: BuildState, payload: Payload) -> bool:
    """Every checkpoint has completed and every artifact that they declared is published."""
    all_completed(state, payload)
    if state.unpublished:
        raise Refused(f"artifact {state.unpublished[0].name} is not published yet")
    return True


def not_removed(state: BuildState, payload: Payload) -> bool:
    """A build is removed once."""
    if state.removed:
        raise Refused("it is removed already")
    return True


def _is_next(state: BuildState, payload: CheckpointStarted | CheckpointReused) -> None:
    index = state.index(payload.checkpoint)
    if state.running is not None:
        raise Refused(f"attempt {state.running.attempts} at {state.running.name} is open")
    if index != state.completed:
        expected = state.next.name if state.next else "nothing"
        raise Refused(f"{payload.checkpoint} is out of turn: {expected} is next")
    if payload.checkpoint == state.pause_before:
        raise Refused(f"the build is to pause before {payload.checkpoint}")
    plan = with_external(state.plan, index, payload.external) if payload.external else state.plan
    if payload.key != plan.checkpoints[index].key:
        raise Refused(f"key {payload.key} does not follow from the plan")


def _is_of_open_attempt(
    state: BuildState,
    payload: ResourceClaimed | CheckpointCompleted | CheckpointFailed | CheckpointInterrupted,
) -> bool:
    running = state.running
    if running is None:
        raise Refused("no attempt is open")
    if (payload.checkpoint, payload.attempt) != (running.name, running.attempts):
        raise Refused(f"the open attempt is {running.name}, {running.attempts}")
    return True


def _is_to_come(state: BuildState, checkpoint: str) -> None:
    if state.index(checkpoint) < state.completed:
        raise Refused(f"{checkpoint} has completed already")
