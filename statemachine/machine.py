"""The state machine of a build, generated from its plan. The only module that uses `transitions`.

A build is in two regions at once. The *lifecycle* (queued, running, ...) is the same for every build.
The *position* has one state for the start and one after each checkpoint. Every checkpoint is a transition
with its name, from the state after its predecessor to the state after itself, with one transition back. A
rewind over several checkpoints takes one step back for each. An event fires the transition of its type in
the lifecycle and, when a checkpoint gains or loses its result, the transition of its name in the position.
Guards add conditions beyond the states. Only this module refuses an event that no transition allows, with
`Refused` and the possible alternatives.

The present place in both regions follows from the build's state, which is folded from its events
(`statemachine.fold`); the machine only decides which event may follow. So `accept` tries events before they
are appended, `apply` moves after they are on disk, and rehydration is `apply` of all events.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from typing import Any, Self

from transitions import Machine

from statemachine.build import BuildState, Lifecycle
from statemachine.errors import DcdError, Refused
from statemachine.events import (
    BuildRewound,
    CheckpointCompleted,
    CheckpointReused,
    Event,
    Payload,
)
from statemachine.fold import advance, evolve
from statemachine.lifecycle import TRANSITIONS, Transition

# It logs every step of every transition, including transitions that are only tried.
logging.getLogger("transitions").setLevel(logging.WARNING)

COMMANDS = {
    "PauseRequested": "pause",
    "PauseWithdrawn": "withdraw a pause of",
    "BuildResumed": "resume",
    "BuildRewound": "rewind",
    "MoveRequested": "move",
    "CancelRequested": "cancel",
    "BuildRemoved": "rm",
}
"""Event types that a person requests, with the name of the command."""

_UNLISTED = ("BuildRewound", "PauseWithdrawn", "MoveRequested")
"""Those of these events that an option of another command requests (`resume --from`, `pause
--withdraw`), or that are possible in a farm only."""


@dataclass(slots=True)
class Place:
    """The present state in both regions, the model of `transitions`."""

    lifecycle: str
    position: str

    @classmethod
    def of(cls, state: BuildState) -> Self:
        """The place of a build in this state."""
        completed = state.completed
        last = state.checkpoints[completed - 1].name if completed else None
        return cls(str(state.lifecycle), _after(last))


@dataclass(frozen=True, slots=True)
class Edge:
    """One transition, for drawing. `region` is `lifecycle` or `position`."""

    region: str
    name: str
    source: str
    dest: str


def _region(attribute: str, states: list[str]) -> Any:
    return Machine(
        model=None,
        states=states,
        initial=states[0],
        auto_transitions=False,
        model_attribute=attribute,
    )


def _after(checkpoint: str | None) -> str:
    """The position state after a checkpoint; the start for None."""
    return "start" if checkpoint is None else f"after {checkpoint}"


@lru_cache(maxsize=64)
def _position_region(checkpoints: tuple[str, ...]) -> Any:
    """The position region of a plan. Each transition name has a verb as prefix, and no model is decorated
    with it, so that a checkpoint may have any name, even `state` or `may_trigger`."""
    states = [_after(None), *map(_after, checkpoints)]
    region = _region("position", states)
    for before, name, after in zip(states, checkpoints, states[1:], strict=False):
        region.add_transition(f"run {name}", before, after)
        # Single steps: a transition between every pair of states would be quadratic in number.
        region.add_transition(f"rewind {name}", after, before)
    return region


def _lifecycle() -> Any:
    region = _region("lifecycle", [str(state) for state in Lifecycle])
    for transition in TRANSITIONS:
        region.add_transition(
            transition.event.__name__,
            [str(source) for source in transition.sources],
            None if transition.destination is None else str(transition.destination),
            conditions=partial(_allows, transition),
        )
    return region


def _allows(transition: Transition[Any], state: BuildState, payload: Payload) -> bool:
    """False: try the next transition of this event. Raises Refused when none is possible."""
    if not transition.is_of(payload):
        return False
    if transition.guard is not None:
        transition.guard(state, payload)
    return True


_lifecycle_region = _lifecycle()


class BuildMachine:
    """The machine of one build: created from BuildSubmitted, moved by events, never stored."""

    def __init__(self, submitted: Event) -> None:
        """Begin with the event of the submission. Raises DcdError for any other."""
        self._state = evolve(None, submitted)

    @classmethod
    def rehydrate(cls, events: Iterable[Event]) -> Self:
        """The machine after `events`, all of one build, in order. Raises DcdError for an illegal history:
        the log is damaged or was written by a defective dcd."""
        history = iter(events)
        first = next(history, None)
        if first is None:
            raise DcdError("a build without events cannot be rehydrated")
        machine = cls(first)
        for event in history:
            try:
                machine.apply(event)
            except Refused as error:
                raise DcdError(
                    f"the history of build {event.build} is not legal at event {event.sequence}",
                    f"{event.type}: {error}",
                    f"verify it with `dcctl events {event.build} --verify`",
                ) from error
        return machine

    @property
    def state(self) -> BuildState:
        """The state of the build, folded from the events."""
        return self._state

    def accept(self, *payloads: Payload) -> BuildState:
        """The state after these payloads, in order; the machine itself does not change. Raises Refused
        when one may not follow, NotFound for a checkpoint that does not exist."""
        state = self._state
        for payload in payloads:
            judge(state, payload)
            state = advance(state, payload)
        return state

    def apply(self, event: Event) -> BuildState:
        """Move by an event that is in the log. Raises Refused without moving."""
        state = evolve(self._state, event)
        judge(self._state, event.data)
        self._state = state
        return state

    def edges(self) -> Iterator[Edge]:
        """All transitions of both regions except those that keep the state."""
        regions = {
            "lifecycle": _lifecycle_region,
            "position": _position_region(_names(self._state)),
        }
        for region, machine in regions.items():
            for name, trigger in machine.events.items():
                for transitions in trigger.transitions.values():
                    for transition in transitions:
                        if transition.dest is not None:
                            yield Edge(region, name, transition.source, transition.dest)

    def places(self) -> dict[str, str]:
        """The present state of each region, by the region's name in `edges`."""
        return asdict(Place.of(self._state))


def judge(state: BuildState, payload: Payload) -> Place:
    """The place of the machine after `payload`. Raises Refused when it may not follow, NotFound for a
    checkpoint that does not exist."""
    moved = Place.of(state)
    try:
        _fire(_lifecycle_region, type(payload).__name__, moved, state, payload)
        match payload:
            case CheckpointCompleted() | CheckpointReused():
                name = f"run {payload.checkpoint}"
                _fire(_position_region(_names(state)), name, moved, state, payload)
            case BuildRewound():
                names = _names(state)
                for name in reversed(names[state.index(payload.checkpoint) : state.completed]):
                    _fire(_position_region(names), f"rewind {name}", moved, state, payload)
    except Refused as refusal:
        raise _explained(refusal, state, payload) from None
    return moved


def _names(state: BuildState) -> tuple[str, ...]:
    return tuple(record.name for record in state.checkpoints)


def legal(state: BuildState) -> list[str]:
    """The commands that are possible in the present state."""
    if state.removed:
        return []
    triggers = _lifecycle_region.get_triggers(str(state.lifecycle))
    return [word for kind, word in COMMANDS.items() if kind in triggers and kind not in _UNLISTED]


def _fire(region: Any, trigger: str, place: Place, state: BuildState, payload: Payload) -> None:
    event = region.events.get(trigger)
    source = getattr(place, region.model_attribute)
    # Looked up before it fires, so that an error in a guard is never mistaken for a refusal.
    if event is None or source not in event.transitions:
        raise Refused("")
    if not event.trigger(place, state, payload):
        raise Refused("")


def _explained(refusal: Refused, state: BuildState, payload: Payload) -> Refused:
    kind = type(payload).__name__
    action = COMMANDS.get(kind, f"record {kind} for")
    if possible := legal(state):
        resolution = f"possible now: {', '.join(possible)}"
    elif state.ended:
        resolution = "no further command is possible"
    else:
        resolution = "wait until it is cancelled"
    return Refused(
        f"cannot {action} build {state.id}: it is {state.lifecycle}", refusal.brief, resolution
    )
