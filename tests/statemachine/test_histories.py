"""Any sequence of commands and faults keeps the invariants that make builds impossible to lose.

A hypothesis state machine plays people (pause, resume, rewind, replace the manifest, cancel), the
engine (start, reuse, complete, fail), and fate (interruptions, repositories that move, restarts). After every
step: sequences are contiguous, the fold equals the machine, replaying the stored events gives the same
state, and whoever has not ended goes on or stands visibly with a reason. No completed checkpoint starts again
unless its key changed or somebody rewound it. At the end, whatever happened, the build can be completed.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from statemachine import codec
from statemachine.build import BuildState, Claim, Lifecycle
from statemachine.commands import (
    Change,
    Command,
    FailCheckpoint,
    InterruptCheckpoint,
    Pause,
    Remove,
    Replacement,
    RequestCancel,
    RequestPause,
    Resume,
    Start,
    WithdrawPause,
    decide,
)
from statemachine.errors import NotFound, Refused
from statemachine.events import (
    ArtifactPublished,
    BuildCancelled,
    BuildCompleted,
    BuildFailed,
    BuildPlaced,
    BuildRewound,
    CheckpointCompleted,
    CheckpointReused,
    CheckpointStarted,
    ResourceClaimed,
)
from statemachine.keys import with_external
from statemachine.machine import BuildMachine, legal
from statemachine.plan import Plan
from statemachine.results import Artifact, ErrorInfo
from statemachine.steps import Deliver, RunCheckpoint, next_step

NAMES = ("a", "b", "c", "d")
names = st.sampled_from(NAMES)
maybe_name = st.none() | names
causes = st.sampled_from(
    ["daemon-died", "machine-rebooted", "worker-died", "host-lost", "no-space", "shutdown"]
)
some_names = st.lists(names, min_size=1, max_size=4, unique=True)
codes = st.fixed_dictionaries({}, optional={name: st.sampled_from("12") for name in NAMES})
digests = st.sampled_from(["1", "2"])
ERROR = ErrorInfo("no", "because", "mend it")


def histories(
    make_plan: Callable[..., Plan], begin: Callable[..., Any]
) -> type[RuleBasedStateMachine]:
    def plan_of(order: list[str], code: dict[str, str], repository: str) -> Plan:
        return make_plan(*order, **code, **{f"repo_{order[0]}": repository})

    class Histories(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.submit()

        @precondition(lambda self: self.build.state.ended)
        @rule()
        def submit(self) -> None:
            self.build = begin(plan_of(list(NAMES), {}, "1"))
            self.results: dict[str, str] = {}
            """Completed checkpoints and their keys, as an observer of the events knows them."""

        # People

        @rule(before=maybe_name)
        def pause(self, before: str | None) -> None:
            self.ask(RequestPause(before))

        @rule()
        def withdraw_pause(self) -> None:
            self.ask(WithdrawPause())
            if self.build.state.lifecycle in (Lifecycle.QUEUED, Lifecycle.RUNNING):
                assert self.build.state.pause_before is None

        @precondition(lambda self: self.stands)
        @rule(start=maybe_name, before=maybe_name)
        def resume(self, start: str | None, before: str | None) -> None:
            self.ask(Resume(start, before))

        @precondition(lambda self: self.stands)
        @rule(order=some_names, code=codes, repository=digests, before=maybe_name)
        def resume_with_another_manifest(
            self, order: list[str], code: dict[str, str], repository: str, before: str | None
        ) -> None:
            plan = plan_of(order, code, repository)
            self.ask(Resume(None, before, Replacement(f"{order}{code}{repository}", "/m", plan)))

        @precondition(lambda self: not self.stands)
        @rule(start=maybe_name, before=maybe_name)
        def resume_what_goes_on(self, start: str | None, before: str | None) -> None:
            self.ask(Resume(start, before))

        @rule(rarely=st.integers(0, 19))
        def cancel(self, rarely: int) -> None:
            if rarely == 0:
                self.ask(RequestCancel())

        @precondition(lambda self: self.build.state.ended)
        @rule()
        def remove(self) -> None:
            self.ask(Remove())

        @property
        def stands(self) -> bool:
            return self.build.state.lifecycle in (Lifecycle.PAUSED, Lifecycle.FAILED)

        def ask(self, command: Command) -> None:
            """A person's command: done or refused, and nothing if it is sent again."""
            before = self.build.state
            try:
                self.do(command)
            except (Refused, NotFound):
                assert self.build.state == before
                return
            assert decide(self.build.machine, command) == ()

        # The engine

        @precondition(lambda self: not self.build.state.ended and not self.stands)
        @rule(count=st.integers(1, 4), repository=digests, reuse=st.booleans())
        def work(self, count: int, repository: str, reuse: bool) -> None:
            for _ in range(count):
                self.step(repository, reuse)

        @precondition(lambda self: self.build.state.running is not None)
        @rule()
        def fail(self) -> None:
            self.do(FailCheckpoint(self.build.state.running.name, ERROR))

        @precondition(lambda self: self.build.state.running is not None)
        @rule(resource=st.sampled_from(["one", "two"]))
        def claim(self, resource: str) -> None:
            running = self.build.state.running
            self.do(ResourceClaimed(running.name, running.attempts, "target", resource))
            assert self.build.state.running.claims[-1] == Claim("target", resource)

        @precondition(lambda self: isinstance(next_step(self.build.state), RunCheckpoint | Deliver))
        @rule(named=st.booleans())
        def fail_between_checkpoints(self, named: bool) -> None:
            record = self.build.state.next
            self.do(
                FailCheckpoint(record.name, ERROR) if named and record else BuildFailed(None, ERROR)
            )

        @precondition(lambda self: isinstance(next_step(self.build.state), RunCheckpoint | Deliver))
        @rule(data=st.data())
        def lose_a_layer(self, data: st.DataObject) -> None:
            done = [record.name for record in self.build.state.checkpoints if record.done]
            if done:
                lost = data.draw(st.sampled_from(done))
                self.do(BuildRewound(lost, "its layer is missing", "layer-missing"))

        def step(self, repository: str, reuse: bool = False) -> None:
            state = self.build.state
            if state.lifecycle is Lifecycle.QUEUED:
                self.do(Start())
            elif state.running is not None:
                self.end_attempt()
            match next_step(state):
                case RunCheckpoint(index):
                    self.run(index, repository, reuse)
                case Pause() | BuildCancelled() as change:
                    self.do(change)
                case Deliver():
                    for artifact in self.build.state.unpublished:
                        self.do(ArtifactPublished(replace(artifact, path="/artifacts/x")))
                    self.do(BuildCompleted())

        def run(self, index: int, repository: str, reuse: bool) -> None:
            state = self.build.state
            planned = state.plan.checkpoints[index]
            has_external = any(part.kind == "external" for part in planned.ingredients)
            external = {"bookworm": repository} if has_external else {}
            key = with_external(state.plan, index, external).checkpoints[index].key
            assert self.results.get(planned.name) != key, "completed, not rewound, and runs again"
            if reuse:
                self.do(CheckpointReused(planned.name, key, "b0", external=external))
            else:
                attempt = state.next_attempt(planned.name)
                self.do(CheckpointStarted(planned.name, attempt, key, "log", "boot", external))

        def end_attempt(self) -> None:
            name = self.build.state.running.name
            made = Artifact(f"{name}.txt", f"media/{name}.txt", "text", 1, "0")
            running = self.build.state.running
            self.do(CheckpointCompleted(name, running.attempts, running.key, 1.0, (made,)))

        # Fate

        @precondition(lambda self: self.build.state.running is not None)
        @rule(cause=causes)
        def interrupt(self, cause: str) -> None:
            self.do(InterruptCheckpoint(self.build.state.running.name, cause, "details"))

        @precondition(lambda self: not self.build.state.ended)
        @rule(host=st.sampled_from("xyz"), later=st.integers(0, 2))
        def take(self, host: str, later: int) -> None:
            before = self.build.state
            try:
                self.do(BuildPlaced(host, before.epoch + later))
            except Refused:
                assert later == 0
                return
            after = self.build.state
            assert (after.host, after.epoch) == (host, before.epoch + later)
            assert (after.lifecycle, after.checkpoints) == (before.lifecycle, before.checkpoints)

        @rule()
        def restart(self) -> None:
            self.build.machine = BuildMachine.rehydrate(self.build.events)

        def do(self, change: Change) -> None:
            seen = len(self.build.events)
            self.build.do(change)
            for event in self.build.events[seen:]:
                self.observe(event.type, event.data)

        def observe(self, kind: str, data: Any) -> None:
            match kind:
                case "CheckpointCompleted" | "CheckpointReused":
                    self.results[data.checkpoint] = data.key
                case "BuildRewound" | "BuildResumed":
                    kept = {record.name for record in self.build.state.checkpoints if record.done}
                    if kind == "BuildResumed":
                        planned = {c.name: c.key for c in self.build.state.plan.checkpoints}
                        for name in self.results.keys() - kept:
                            assert planned.get(name) != self.results[name], "dropped, key unchanged"
                    self.results = {n: key for n, key in self.results.items() if n in kept}

        # What always holds

        @invariant()
        def sequences_are_contiguous(self) -> None:
            sequences = [event.sequence for event in self.build.events]
            assert sequences == list(range(1, len(sequences) + 1))

        @invariant()
        def the_fold_equals_the_machine(self) -> None:
            machine, state = self.build.machine, self.build.state
            done = [record.name for record in state.checkpoints if record.done]
            place = f"after {done[-1]}" if done else "start"
            assert machine.places() == {"lifecycle": state.lifecycle, "position": place}
            assert len(done) == state.completed
            assert [r.key for r in state.checkpoints] == [c.key for c in state.plan.checkpoints]
            assert [r.name for r in state.checkpoints] == [c.name for c in state.plan.checkpoints]

        @invariant()
        def replay_gives_the_same_state(self) -> None:
            stored = [
                replace(e, data=codec.decode(e.type, e.version, codec.encode(e.data)))
                for e in self.build.events
            ]
            again = BuildMachine.rehydrate(stored)
            assert again.state == self.build.state
            assert again.places() == self.build.machine.places()

        @invariant()
        def it_goes_on_or_stands_with_a_reason(self) -> None:
            state: BuildState = self.build.state
            if state.lifecycle in (Lifecycle.PAUSED, Lifecycle.FAILED):
                assert state.reason
                assert "resume" in legal(self.build.machine.state)
            elif state.lifecycle in (Lifecycle.RUNNING, Lifecycle.PAUSING, Lifecycle.CANCELLING):
                assert next_step(state) is not None or state.running is not None
            assert state.running is None or not state.ended

        @invariant()
        def only_an_open_attempt_holds_claims(self) -> None:
            state = self.build.state
            holding = [record for record in state.checkpoints if record.claims]
            assert holding == ([state.running] if holding else [])

        @invariant()
        def attempts_have_numbers_of_their_own(self) -> None:
            attempts = [
                (event.data.checkpoint, event.data.attempt)
                for event in self.build.events
                if event.type == "CheckpointStarted"
            ]
            assert len(attempts) == len(set(attempts))

        def teardown(self) -> None:
            """Whatever happened, it can be brought to its end."""
            for _ in range(60):
                state = self.build.state
                if state.ended:
                    return
                if state.lifecycle in (Lifecycle.PAUSED, Lifecycle.FAILED):
                    self.do(Resume())
                else:
                    self.step("1")
            pytest.fail(f"the build does not end: {self.build.state.lifecycle}")

    return Histories


@pytest.mark.slow
def test_any_history_keeps_the_invariants(
    make_plan: Callable[..., Plan], begin: Callable[..., Any]
) -> None:
    run_state_machine_as_test(
        histories(make_plan, begin),
        settings=settings(max_examples=60, stateful_step_count=40, deadline=None),
    )
