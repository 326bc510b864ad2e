"""The machine: what is legal in each state, refusals that help, and names that do not get in the way."""

from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from typing import Any

import pytest

from statemachine import machine
from statemachine.build import BuildState, Lifecycle
from statemachine.commands import (
    Pause,
    Remove,
    RequestCancel,
    RequestPause,
    Resume,
    Start,
    decide,
)
from statemachine.errors import DcdError, NotFound, Refused
from statemachine.events import (
    ArtifactPublished,
    BuildCancelled,
    BuildCompleted,
    BuildFailed,
    BuildPaused,
    BuildPlaced,
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
    LayerDamaged,
    MoveRequested,
    PauseRequested,
    PauseWithdrawn,
    Payload,
    ResourceClaimed,
)
from statemachine.fold import evolve
from statemachine.machine import BuildMachine, legal
from statemachine.plan import Plan
from statemachine.results import Artifact, ErrorInfo

ERROR = ErrorInfo("no")
ARTIFACT = Artifact("a.iso", "/a.iso", "iso", 1, "0")


def driven(begin: Callable[..., Any], state: str) -> Any:
    """A build of a, b, c in `state`, with a completed and, where it runs, an attempt at b open."""
    build = begin()
    if state == "queued":
        return build
    build.run_to(1)
    match state:
        case "running" | "pausing" | "cancelling":
            build.start_next()
        case "paused":
            build.do(Pause("because"))
        case "failed":
            build.do(BuildFailed(None, ERROR))
        case "cancelled":
            build.do(RequestCancel())
            build.do(BuildCancelled())
        case "completed":
            build.run_to(3)
            build.do(BuildCompleted())
    if state == "pausing":
        build.do(RequestPause())
    if state == "cancelling":
        build.do(RequestCancel())
    assert build.state.lifecycle == state
    return build


def payloads(build: Any) -> dict[str, Payload]:
    """One of every event about the build, as right for its checkpoints as can be."""
    b = build.state.checkpoints[1]
    return {
        type(payload).__name__: payload
        for payload in (
            BuildPlaced("a", 1),
            MoveRequested(),
            BuildStarted(),
            CheckpointStarted("b", b.attempts + 1, b.key, "log"),
            ResourceClaimed("b", b.attempts, "target", "one"),
            CheckpointReused("b", b.key, "b0"),
            LayerDamaged("b", b.key, "b0", "file: sha256"),
            CheckpointCompleted("b", b.attempts, b.key, 1.0),
            CheckpointFailed("b", b.attempts, ERROR),
            CheckpointInterrupted("b", b.attempts, "shutdown"),
            PauseRequested(),
            PauseWithdrawn(),
            BuildPaused("because"),
            BuildResumed(),
            BuildRewound("a"),
            CancelRequested(),
            BuildCancelled(),
            ArtifactPublished(ARTIFACT),
            BuildCompleted(),
            BuildFailed(None, ERROR),
            BuildRemoved(),
        )
    }


IN_ATTEMPT = {
    "ResourceClaimed",
    "CheckpointCompleted",
    "CheckpointFailed",
    "CheckpointInterrupted",
}

LEGAL = {
    "queued": {"BuildPlaced", "MoveRequested", "BuildStarted", "PauseRequested", "CancelRequested"},
    "running": {"BuildPlaced", "MoveRequested", "PauseRequested", "CancelRequested"} | IN_ATTEMPT,
    "pausing": {"BuildPlaced", "CancelRequested", "BuildResumed", "PauseWithdrawn"} | IN_ATTEMPT,
    "paused": {"BuildPlaced", "BuildPaused", "BuildResumed", "BuildRewound", "CancelRequested"},
    "failed": {"BuildPlaced", "BuildResumed", "BuildRewound", "CancelRequested"},
    "cancelling": {"BuildPlaced"} | IN_ATTEMPT,
    "cancelled": {"BuildRemoved"},
    "completed": {"BuildRemoved"},
}


@pytest.mark.parametrize("state", LEGAL)
def test_exactly_the_legal_events_are_accepted(begin: Callable[..., Any], state: str) -> None:
    build = driven(begin, state)
    accepted = set()
    for name, payload in payloads(build).items():
        before = (build.state, build.machine.places())
        try:
            build.machine.accept(payload)
            accepted.add(name)
        except Refused:
            pass
        assert (build.state, build.machine.places()) == before
    assert accepted == LEGAL[state]


def test_between_checkpoints_a_running_build_can_start_reuse_pause_and_fail(
    begin: Callable[..., Any],
) -> None:
    build = begin().run_to(1)
    accepted = {
        name for name, payload in payloads(build).items() if not refused(build.machine, payload)
    }
    assert accepted == {
        "BuildPlaced", "MoveRequested", "CheckpointStarted", "CheckpointReused", "LayerDamaged",
        "PauseRequested", "BuildPaused", "BuildFailed", "CancelRequested",
    }  # fmt: skip


def refused(machine: BuildMachine, payload: Payload) -> bool:
    try:
        machine.accept(payload)
    except Refused:
        return True
    return False


def test_a_refusal_names_state_command_reason_and_what_is_possible(
    begin: Callable[..., Any],
) -> None:
    build = driven(begin, "completed")
    with pytest.raises(Refused) as caught:
        decide(build.machine, RequestPause())
    assert caught.value.brief == "cannot pause build b1: it is completed"
    assert caught.value.resolution == "possible now: rm"

    build = begin().run_to(2)
    with pytest.raises(Refused) as caught:
        decide(build.machine, RequestPause(before="a"))
    assert caught.value.brief == "cannot pause build b1: it is running"
    assert caught.value.details == "a has completed already"
    assert caught.value.resolution == "possible now: pause, cancel"


@pytest.mark.parametrize(
    ("state", "advice"),
    [
        ("cancelling", "wait until it is cancelled"),
        ("cancelled", "possible now: rm"),
        ("paused", "possible now: resume, cancel"),
    ],
)
def test_a_refusal_says_what_to_do_instead(
    begin: Callable[..., Any], state: str, advice: str
) -> None:
    with pytest.raises(Refused) as caught:
        driven(begin, state).record(BuildStarted())
    assert caught.value.resolution == advice


@pytest.mark.parametrize(
    ("state", "possible"),
    [
        ("queued", ["pause", "cancel"]),
        ("running", ["pause", "cancel"]),
        ("pausing", ["resume", "cancel"]),
        ("paused", ["resume", "cancel"]),
        ("failed", ["resume", "cancel"]),
        ("cancelling", []),
        ("cancelled", ["rm"]),
        ("completed", ["rm"]),
    ],
)
def test_legal_lists_what_a_person_may_ask_for(
    begin: Callable[..., Any], state: str, possible: list[str]
) -> None:
    assert legal(driven(begin, state).machine.state) == possible


def test_a_build_is_taken_in_a_later_epoch_only(begin: Callable[..., Any]) -> None:
    build = driven(begin, "running")
    assert (build.state.host, build.state.epoch) == ("", 0)
    build.do(BuildPlaced("a", 1))
    build.do(BuildPlaced("b", 3))
    assert (build.state.host, build.state.epoch) == ("b", 3)
    assert build.state.lifecycle == "running"
    for late in (1, 3):
        with pytest.raises(Refused) as caught:
            build.machine.accept(BuildPlaced("a", late))
        assert caught.value.details == f"epoch {late} is over: b took it in epoch 3"


def test_nothing_is_possible_with_a_removed_build(begin: Callable[..., Any]) -> None:
    build = driven(begin, "completed")
    build.do(Remove())
    assert legal(build.machine.state) == []
    with pytest.raises(Refused) as caught:
        build.record(BuildRemoved())
    assert caught.value.details == "it is removed already"
    assert caught.value.resolution == "no further command is possible"
    assert build.state.removed


def test_a_checkpoint_that_is_not_in_the_plan_is_not_found(begin: Callable[..., Any]) -> None:
    with pytest.raises(NotFound, match="no checkpoint nope"):
        decide(begin().machine, RequestPause(before="nope"))


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (CheckpointStarted("b", 2, "KEY", "log"), "attempt 2 is out of turn: 1 is next"),
        (CheckpointStarted("b", 1, "other", "log"), "key other does not follow from the plan"),
        (CheckpointStarted("c", 1, "KEY", "log"), "c is out of turn: b is next"),
        (CheckpointStarted("a", 2, "KEY", "log"), "a is out of turn: b is next"),
        (CheckpointCompleted("b", 1, "KEY", 1.0), "no attempt is open"),
        (BuildCompleted(), "b has not completed yet"),
        (BuildPaused(""), "a pause needs a reason"),
        (BuildFailed("c", ERROR), "c is not the next checkpoint"),
    ],
)
def test_guards_say_why(begin: Callable[..., Any], payload: Payload, why: str) -> None:
    build = begin().run_to(1)
    key = build.state.checkpoints[1].key
    if getattr(payload, "key", None) == "KEY":
        payload = type(payload)(*(
            key if value == "KEY" else value
            for value in (getattr(payload, name) for name in type(payload).__match_args__)
        ))  # fmt: skip
    with pytest.raises(Refused) as caught:
        build.machine.accept(payload)
    assert caught.value.details == why


def test_a_build_is_not_completed_before_its_artifacts_are_published(
    begin: Callable[..., Any],
) -> None:
    build = begin().run_to(2)
    build.start_next()
    c = build.state.checkpoints[2]
    build.record(CheckpointCompleted("c", 1, c.key, 1.0, (ARTIFACT,)))
    with pytest.raises(Refused) as caught:
        build.do(BuildCompleted())
    assert caught.value.details == "artifact a.iso is not published yet"
    build.record(ArtifactPublished(ARTIFACT))
    build.do(BuildCompleted())
    assert build.state.lifecycle is Lifecycle.COMPLETED


def test_the_machine_itself_refuses_to_start_what_the_build_is_to_pause_before(
    begin: Callable[..., Any],
) -> None:
    build = begin(pause_before="b").run_to(1)
    b = build.state.checkpoints[1]
    with pytest.raises(Refused) as caught:
        build.do(CheckpointStarted("b", 1, b.key, "log"))
    assert caught.value.details == "the build is to pause before b"


@pytest.mark.parametrize(
    "names",
    [
        ("state", "trigger", "may_trigger", "lifecycle", "position", "model"),
        ("*", "=", "self", "to_queued", "is_queued", "start"),
        ("pkg-img.mod", "run x", "x", "after x", "rewind x", "BuildStarted"),
    ],
)
def test_a_checkpoint_may_have_any_name(
    begin: Callable[..., Any], make_plan: Callable[..., Plan], names: tuple[str, ...]
) -> None:
    build = begin(make_plan(*names)).run_to(3)
    assert build.position == names[2]
    build.do(Pause("because"))
    build.do(Resume(from_checkpoint=names[1]))
    assert build.position == names[0]
    build.run_to(len(names))
    build.do(BuildCompleted())
    assert build.state.lifecycle is Lifecycle.COMPLETED
    assert BuildMachine.rehydrate(build.events).state == build.state


def test_accept_tries_several_events_one_after_another(begin: Callable[..., Any]) -> None:
    build = begin()
    after = build.machine.accept(CancelRequested(), BuildCancelled())
    assert after.lifecycle is Lifecycle.CANCELLED
    with pytest.raises(Refused):
        build.machine.accept(CancelRequested(), BuildStarted())
    assert build.state.lifecycle is Lifecycle.QUEUED


def test_a_refused_event_does_not_move_the_machine(begin: Callable[..., Any]) -> None:
    build = begin().run_to(1)
    before = (build.state, build.machine.places())
    with pytest.raises(Refused):
        build.record(BuildCompleted())
    assert (build.state, build.machine.places()) == before


def test_an_illegal_history_is_not_rehydrated(begin: Callable[..., Any]) -> None:
    build = begin().run_to(1)
    with pytest.raises(DcdError, match="not contiguous"):
        BuildMachine.rehydrate([build.events[0], *build.events[2:]])
    with pytest.raises(DcdError, match="begins with BuildStarted"):
        BuildMachine.rehydrate([replace(build.events[1], sequence=1)])
    with pytest.raises(DcdError, match="without events"):
        BuildMachine.rehydrate([])


def test_a_history_that_the_machine_does_not_allow_is_not_rehydrated(
    begin: Callable[..., Any],
) -> None:
    build = begin().run_to(1)
    started = build.events[1]
    history = [*build.events, replace(started, sequence=len(build.events) + 1)]
    with pytest.raises(DcdError, match="not legal at event 5") as caught:
        BuildMachine.rehydrate(history)
    assert not isinstance(caught.value, Refused)


def test_a_history_that_is_about_another_plan_is_not_rehydrated(
    begin: Callable[..., Any], make_plan: Callable[..., Plan]
) -> None:
    """As a stolen member of a farm can write it."""
    first = begin().events[0]
    payloads = (BuildResumed(plan=make_plan("a"), kept=-1), BuildRewound("a"))
    forged = [
        replace(first, sequence=number, type=type(payload).__name__, data=payload)
        for number, payload in enumerate(payloads, start=2)
    ]
    with pytest.raises(DcdError, match="cannot follow"):
        reduce(evolve, [first, *forged], None)
    with pytest.raises(DcdError):
        BuildMachine.rehydrate([first, *forged])


def test_starting_twice_is_one_start(begin: Callable[..., Any]) -> None:
    build = begin()
    assert build.do(Start()) == ["BuildStarted"]
    assert build.do(Start()) == []


def test_a_defect_in_a_guard_comes_out_as_what_it_is(
    begin: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(state: BuildState, payload: object) -> bool:
        raise KeyError("a defect")

    event = machine._lifecycle_region.events["PauseRequested"]
    for transition in event.transitions["queued"]:
        for condition in transition.conditions:
            monkeypatch.setattr(condition, "func", broken)
    with pytest.raises(KeyError, match="a defect"):
        begin().machine.accept(PauseRequested())


def test_the_machine_of_a_long_plan_grows_with_its_checkpoints(
    begin: Callable[..., Any], make_plan: Callable[..., Plan]
) -> None:
    few, many = (
        sum(1 for _ in begin(make_plan(*map(str, range(count)))).machine.edges())
        for count in (10, 100)
    )
    lifecycle = few - 2 * 10
    assert many == lifecycle + 2 * 100


def test_a_rewind_goes_back_over_several_checkpoints(
    begin: Callable[..., Any], make_plan: Callable[..., Plan]
) -> None:
    build = begin(make_plan("a", "b", "c", "d")).run_to(3)
    build.do(Pause("because"))
    build.do(Resume(from_checkpoint="a"))
    assert build.position is None
    assert build.state.completed == 0


def test_a_damaged_layer_is_told_between_attempts_and_stays_told(begin: Callable[..., Any]) -> None:
    build = begin().run_to(0)
    build.do(LayerDamaged("a", "1" * 64, "b0", "etc/passwd: sha256"))
    build.do(LayerDamaged("a", "2" * 64, "b1", "file: removed"))
    first = build.state.checkpoints[0]
    assert first.damaged == (
        f"layer {'1' * 12} of build b0 is damaged and not used: etc/passwd: sha256",
        f"layer {'2' * 12} of build b1 is damaged and not used: file: removed",
    )
    with pytest.raises(NotFound):
        build.do(LayerDamaged("other", "1" * 64, "b0", "file: removed"))
