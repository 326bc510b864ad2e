"""The state machine of a build, generated from its plan. The only module that knows `transitions`.

A build is in two regions at once. The *lifecycle* (queued, running, ...) is the same for every build.
The *position* has one state for the start and one after each checkpoint; every checkpoint is the
transition named for it, from the state after its predecessor to its own, and has one back. A rewind over
several checkpoints takes one such step for each. An event fires the transition of its type in the lifecycle
and, when a checkpoint gets or loses its result, the one of its name in the position. Guards on transitions
say what the states alone do not. What no transition allows is refused here and nowhere else, as `Refused`
with what is possible instead.

There are no effects: no callback does anything but judge. So `accept` tries events on a copy before
they are appended, `apply` moves after they are on disk, and rehydration is `apply` of all events.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Self

from transitions import Machine

from statemachine import guards
from statemachine.build import BuildState, Lifecycle, advance, evolve
from statemachine.errors import DcdError, Refused
from statemachine.events import (
    BuildResumed,
    BuildRewound,
    CheckpointCompleted,
    CheckpointReused,
    Event,
    Payload,
)
from statemachine.plan import Plan

# It reports every step of every transition, also of those that are only tried.
logging.getLogger("transitions").setLevel(logging.WARNING)

Guard = Callable[[BuildState, Payload], bool]

QUEUED, RUNNING, PAUSING, PAUSED = "queued", "running", "pausing", "paused"
FAILED, CANCELLING, CANCELLED, COMPLETED = "failed", "cancelling", "cancelled", "completed"

_LIFECYCLE: tuple[tuple[str, tuple[str, ...], str | None, Guard | None], ...] = (
    # event, from, to (None: stays), guard
    ("BuildStarted", (QUEUED,), RUNNING, None),
    ("CheckpointStarted", (RUNNING,), None, guards.starts_next),
    ("ResourceClaimed", (RUNNING, PAUSING, CANCELLING), None, guards.claims_in_attempt),
    ("CheckpointReused", (RUNNING,), None, guards.reuses_next),
    ("CheckpointCompleted", (RUNNING, PAUSING, CANCELLING), None, guards.completes_attempt),
    ("CheckpointFailed", (RUNNING, PAUSING, CANCELLING), None, guards.ends_attempt),
    ("CheckpointInterrupted", (RUNNING, PAUSING, CANCELLING), None, guards.ends_attempt),
    ("PauseRequested", (QUEUED, RUNNING), PAUSING, guards.pauses_soon),
    ("PauseRequested", (QUEUED, RUNNING), None, guards.pauses_later),
    ("BuildPaused", (RUNNING, PAUSING), PAUSED, guards.stands_still),
    ("BuildPaused", (PAUSED,), None, guards.stands_still),
    ("BuildRewound", (PAUSED, FAILED), None, guards.rewinds_completed),
    ("BuildRewound", (RUNNING,), None, guards.rewinds_lost),
    ("BuildResumed", (PAUSED, FAILED), QUEUED, guards.resumes),
    ("BuildResumed", (PAUSING,), RUNNING, guards.takes_pause_back),
    ("CancelRequested", (QUEUED, RUNNING, PAUSING, PAUSED, FAILED), CANCELLING, None),
    ("BuildCancelled", (CANCELLING,), CANCELLED, guards.stands_still),
    ("ArtifactPublished", (RUNNING, PAUSING), None, guards.all_completed),
    ("BuildCompleted", (RUNNING,), COMPLETED, guards.all_published),
    ("BuildFailed", (RUNNING, PAUSING), FAILED, guards.fails_next),
    ("BuildRemoved", (CANCELLED, COMPLETED), None, guards.not_removed),
)

COMMANDS = {
    "PauseRequested": "pause",
    "BuildResumed": "resume",
    "BuildRewound": "rewind",
    "CancelRequested": "cancel",
    "BuildRemoved": "rm",
}
"""Event types that a person asks for, and the word for it."""


@dataclass(slots=True)
class _Place:
    """Where a build is in both regions: what `transitions` calls the model."""

    lifecycle: str
    position: str


@dataclass(frozen=True, slots=True)
class Edge:
    """One transition, for drawing. `region` is `lifecycle` or `position`."""

    region: str
    name: str
    source: str
    dest: str


def _region(
    attribute: str,
    states: list[str],
    transitions: Iterable[tuple[str, tuple[str, ...], str | None, Guard | None]],
) -> Any:
    machine = Machine(
        model=None,
        states=states,
        initial=states[0],
        auto_transitions=False,
        model_attribute=attribute,
    )
    for trigger, sources, dest, guard in transitions:
        machine.add_transition(trigger, list(sources), dest, conditions=guard)
    return machine


def _after(checkpoint: str | None) -> str:
    """The position state after a checkpoint; of None, the start."""
    return "start" if checkpoint is None else f"after {checkpoint}"


@lru_cache(maxsize=64)
def _position_region(checkpoints: tuple[str, ...]) -> Any:
    """The position region of a plan. Names carry a verb before them, and no model is ever decorated with
    them, so that a checkpoint may be called anything, `state` and `may_trigger` included."""
    states = [_after(None), *map(_after, checkpoints)]
    forward = [
        (f"run {name}", (states[index],), states[index + 1], None)
        for index, name in enumerate(checkpoints)
    ]
    # One step each: from every later state to every earlier one would be the square of their number.
    back = [
        (f"rewind {name}", (states[index + 1],), states[index], None)
        for index, name in enumerate(checkpoints)
    ]
    return _region("position", states, [*forward, *back])


_lifecycle_region = _region("lifecycle", [str(state) for state in Lifecycle], _LIFECYCLE)


class BuildMachine:
    """The machine of one build: born of BuildSubmitted, moved by events, gone with the process."""

    def __init__(self, submitted: Event) -> None:
        """Begin with the event of the submission. Raises DcdError for any other."""
        self._state = evolve(None, submitted)
        self._place = _Place(QUEUED, _after(None))

    @classmethod
    def rehydrate(cls, events: Iterable[Event]) -> Self:
        """The machine after `events`, all of one build, in order. Raises DcdError for a history that
        the machine does not allow: the log is damaged or a defect let it happen."""
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

    @property
    def lifecycle(self) -> Lifecycle:
        """Where the machine stands in its lifecycle; always the fold's `state`."""
        return Lifecycle(self._place.lifecycle)

    @property
    def position(self) -> str | None:
        """The last completed checkpoint by the machine; None at the start."""
        names = [None, *(record.name for record in self._state.checkpoints)]
        return next(name for name in names if _after(name) == self._place.position)

    def accept(self, *payloads: Payload) -> BuildState:
        """Check that these payloads may follow, one after another. Raises Refused (or NotFound for a
        checkpoint that does not exist) and changes nothing. Returns the state that would be."""
        place, state = self._place, self._state
        for payload in payloads:
            place = _moved(place, state, payload)
            state = advance(state, payload)
        return state

    def apply(self, event: Event) -> BuildState:
        """Move by an event that is in the log. Raises Refused, and has not moved then."""
        state = evolve(self._state, event)
        self._place = _moved(self._place, self._state, event.data)
        self._state = state
        return state

    def legal(self) -> list[str]:
        """What a person may ask for in the present state."""
        return _legal(self._place, self._state)

    def edges(self) -> Iterator[Edge]:
        """All transitions of both regions; those that stay where they are left out."""
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
        """The present state of each region, by the names that `edges` uses."""
        return {"lifecycle": self._place.lifecycle, "position": self._place.position}


def _names(state: BuildState) -> tuple[str, ...]:
    return tuple(record.name for record in state.checkpoints)


def _legal(place: _Place, state: BuildState) -> list[str]:
    if state.removed:
        return []
    triggers = _lifecycle_region.get_triggers(place.lifecycle)
    # To rewind is to resume from an earlier checkpoint, no command of its own.
    return [word for kind, word in COMMANDS.items() if kind in triggers and kind != "BuildRewound"]


def _moved(place: _Place, state: BuildState, payload: Payload) -> _Place:
    """The place after `payload`. Raises Refused."""
    moved = replace(place)
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
            case BuildResumed(plan=Plan() as plan):
                kept = payload.kept or 0
                moved.position = _after(plan.checkpoints[kept - 1].name if kept else None)
    except Refused as refusal:
        raise _explained(refusal, place, state, payload) from None
    return moved


def _fire(region: Any, trigger: str, place: _Place, state: BuildState, payload: Payload) -> None:
    event = region.events.get(trigger)
    source = getattr(place, region.model_attribute)
    # Looked up before it fires, so that an error of a guard is never taken for a refusal.
    if event is None or source not in event.transitions:
        raise Refused("")
    if not event.trigger(place, state, payload):
        raise Refused("")


def _explained(refusal: Refused, place: _Place, state: BuildState, payload: Payload) -> Refused:
    kind = type(payload).__name__
    action = COMMANDS.get(kind, f"record {kind} for")
    if legal := _legal(place, state):
        resolution = f"possible now: {', '.join(legal)}"
    elif state.ended:
        resolution = "nothing more can be done with it"
    else:
        resolution = "wait until it is cancelled"
    return Refused(
        f"cannot {action} build {state.id}: it is {place.lifecycle}", refusal.brief, resolution
    )
