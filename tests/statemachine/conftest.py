"""Histories without a log: plans, and a machine that is driven by commands."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from statemachine.build import BuildState
from statemachine.codec import FIRST_HASH, encode, encode_actor, encode_time, event_hash
from statemachine.commands import (
    Change,
    Start,
    decide,
    submit,
)
from statemachine.events import (
    Actor,
    BuildResumed,
    BuildSubmitted,
    CheckpointCompleted,
    CheckpointStarted,
    Event,
    Payload,
)
from statemachine.keys import chain
from statemachine.machine import BuildMachine, Place, judge
from statemachine.plan import Ingredient, Plan, PlannedCheckpoint

START = datetime(2026, 1, 1, tzinfo=UTC)


def _plan(*names: str, **code: str) -> Plan:
    """A plan of these checkpoints; `code` gives the code digest of some, `repo_NAME` external state."""
    return chain(
        PlannedCheckpoint(
            name,
            description=f"does {name}",
            mod_path="tests/none",
            checkpoint_class="None",
            key="",
            ingredients=(
                Ingredient("code", "code", code.get(name, "1")),
                *(
                    [Ingredient("external", "bookworm", code[f"repo_{name}"])]
                    if f"repo_{name}" in code
                    else []
                ),
            ),
        )
        for name in names
    )


def event(build: str, number: int, payload: Payload, previous_hash: str = FIRST_HASH) -> Event:
    time, kind, version = START + timedelta(seconds=number), type(payload).__name__, payload.VERSION
    stored = (encode_time(time), encode_actor(Actor()), encode(payload))
    digest = event_hash(previous_hash, build, number, kind, version, *stored)
    return Event(number, build, number, kind, version, time, Actor(), payload, digest)


@dataclass
class Driver:
    """A build without a daemon: decide, append to a list, apply."""

    machine: BuildMachine
    events: list[Event] = field(default_factory=list)

    @classmethod
    def begin(cls, plan: Plan, **options: object) -> "Driver":
        payload = BuildSubmitted("live", "<dc/>", "/live.xml", plan, **options)  # type: ignore[arg-type]
        (submitted,) = submit(payload)
        first = event("b1", 1, submitted)
        return cls(BuildMachine(first), [first])

    @property
    def state(self) -> BuildState:
        return self.machine.state

    @property
    def position(self) -> str | None:
        """The last completed checkpoint by the machine; None at the start."""
        names = {f"after {record.name}": record.name for record in self.state.checkpoints}
        return names.get(self.machine.places()["position"])

    def do(self, change: Change) -> list[str]:
        """The types of the events that follow from the change."""
        payloads = decide(self.machine, change)
        for payload in payloads:
            self.record(payload)
        return [type(payload).__name__ for payload in payloads]

    def record(self, payload: Payload) -> None:
        """Append and apply without a command."""
        new = event("b1", len(self.events) + 1, payload, self.events[-1].hash)
        moved = judge(self.state, payload)
        self.machine.apply(new)
        if not isinstance(payload, BuildResumed):  # a new plan has places of its own
            assert moved == Place.of(self.state), "the fold leads where the machine does"
        self.events.append(new)

    def start_next(self) -> str:
        """Open an attempt at the next checkpoint; its name."""
        record = self.state.next
        assert record is not None
        self.do(
            CheckpointStarted(
                record.name,
                self.state.next_attempt(record.name),
                record.key,
                log=f"{record.name}.log",
            )
        )
        return record.name

    def run_next(self) -> str:
        """Start and complete the next checkpoint; its name."""
        name = self.start_next()
        self.complete()
        return name

    def complete(self, seconds: float = 1.0, **result: Any) -> None:
        """Complete the open attempt."""
        running = self.state.running
        assert running is not None
        fact = CheckpointCompleted(running.name, running.attempts, running.key, seconds, **result)
        self.do(fact)

    def run_to(self, completed: int) -> "Driver":
        """Start the build unless it has started, and complete so many checkpoints."""
        self.do(Start())
        while self.state.completed < completed:
            self.run_next()
        return self


@pytest.fixture(scope="session")
def make_plan() -> Callable[..., Plan]:
    return _plan


@pytest.fixture(scope="session")
def begin() -> Callable[..., Driver]:
    """Submit a build of the given plan, or of `a`, `b`, `c`."""

    def begin(plan: Plan | None = None, **options: object) -> Driver:
        return Driver.begin(plan or _plan("a", "b", "c"), **options)

    return begin
