"""Commands and steps: resume, rewind, cancel, park, replace the manifest; each safe to send twice."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from statemachine.build import CheckpointState, Claim, Lifecycle
from statemachine.commands import (
    PARK_AFTER,
    FailCheckpoint,
    InterruptCheckpoint,
    Pause,
    Remove,
    RequestCancel,
    RequestMove,
    RequestPause,
    Resume,
    Retry,
    Start,
    submit,
)
from statemachine.errors import NotFound, Refused, UsageError
from statemachine.events import (
    ArtifactPublished,
    BuildCancelled,
    BuildCompleted,
    BuildFailed,
    BuildPlaced,
    BuildSubmitted,
    CheckpointReused,
    CheckpointStarted,
    ResourceClaimed,
)
from statemachine.keys import with_external
from statemachine.plan import Plan
from statemachine.results import Artifact, ErrorInfo
from statemachine.steps import Deliver, RunCheckpoint, next_step

Begin = Callable[..., Any]
MakePlan = Callable[..., Plan]
ERROR = ErrorInfo("mirror answers 503")


def states(build: Any) -> list[str]:
    return [str(record.state) for record in build.state.checkpoints]


def pause(build: Any) -> None:
    build.do(RequestPause())
    if build.state.lifecycle is not Lifecycle.PAUSED:
        build.do(Pause("paused as requested"))


# Submitting


def test_a_plan_without_checkpoints_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one"):
        submit(BuildSubmitted("n", "", "", Plan(())))


def test_names_are_unique(make_plan: MakePlan) -> None:
    with pytest.raises(UsageError, match="not unique: a"):
        submit(BuildSubmitted("n", "", "", make_plan("a", "b", "a")))


def test_keys_follow_from_ingredients(make_plan: MakePlan) -> None:
    plan = make_plan("a")
    forged = Plan((replace(plan.checkpoints[0], key="forged"),))
    with pytest.raises(UsageError, match="do not follow"):
        submit(BuildSubmitted("n", "", "", forged))


def test_a_build_pauses_only_before_a_checkpoint_it_has(make_plan: MakePlan) -> None:
    with pytest.raises(NotFound, match="no checkpoint z"):
        submit(BuildSubmitted("n", "", "", make_plan("a"), pause_before="z"))


# Steps


def test_the_steps_of_a_whole_build(begin: Begin) -> None:
    build = begin()
    assert next_step(build.state) is None
    build.do(Start())
    for index in range(3):
        assert next_step(build.state) == RunCheckpoint(index)
        build.start_next()
        assert next_step(build.state) is None
        build.complete(2.0, size_bytes=7)
    assert next_step(build.state) == Deliver()
    build.do(BuildCompleted(6.0))
    assert next_step(build.state) is None
    assert build.state.lifecycle is Lifecycle.COMPLETED
    assert states(build) == ["completed"] * 3
    assert build.state.checkpoints[0].seconds == 2.0
    assert build.state.checkpoints[0].size_bytes == 7


def test_a_layer_stands_on_the_one_before(begin: Begin) -> None:
    build = begin()
    assert build.state.parent_key is None
    build.run_to(1)
    assert build.state.parent_key == build.state.checkpoints[0].key


def test_artifacts_are_published_once_declared(begin: Begin) -> None:
    build = begin().run_to(2)
    build.start_next()
    build.complete(artifacts=(Artifact("x.iso", "media/x.iso", "iso", 1, "0"),))
    assert [artifact.name for artifact in build.state.unpublished] == ["x.iso"]
    build.do(ArtifactPublished(Artifact("x.iso", "/artifacts/x.iso", "iso", 1, "0")))
    assert build.state.unpublished == ()
    assert build.state.published[0].path == "/artifacts/x.iso"


# Failing and resuming


def test_a_failed_checkpoint_fails_the_build_and_keeps_the_earlier_ones(begin: Begin) -> None:
    build = begin().run_to(1)
    build.start_next()
    build.do(FailCheckpoint("b", ERROR, seconds=3.0))
    assert states(build) == ["completed", "failed", "pending"]
    assert build.state.reason == "mirror answers 503"
    assert build.state.error == build.state.checkpoints[1].error == ERROR


def test_a_checkpoint_can_fail_before_its_attempt_begins(begin: Begin) -> None:
    build = begin().run_to(1)
    assert build.do(FailCheckpoint("b", ERROR)) == ["BuildFailed"]
    assert states(build) == ["completed", "failed", "pending"]
    assert build.state.checkpoints[1].attempts == 0


def test_a_build_can_fail_through_no_fault_of_a_checkpoint(begin: Begin) -> None:
    build = begin().run_to(3)
    build.do(BuildFailed(None, ErrorInfo("artifact directory is gone")))
    assert build.state.lifecycle is Lifecycle.FAILED
    assert states(build) == ["completed"] * 3


def test_resume_of_a_failed_build_is_a_retry(begin: Begin) -> None:
    build = begin().run_to(1)
    build.start_next()
    build.do(FailCheckpoint("b", ERROR))
    assert build.do(Resume()) == ["BuildResumed"]
    assert (build.state.lifecycle, build.state.error) == (Lifecycle.QUEUED, None)
    assert states(build) == ["completed", "pending", "pending"]
    build.run_to(2)
    assert build.state.checkpoints[1].attempts == 2


def test_retry_lets_a_failed_build_go_on_and_no_other(begin: Begin) -> None:
    build = begin().run_to(1)
    build.start_next()
    build.do(FailCheckpoint("b", ERROR))
    assert build.do(Retry()) == ["BuildResumed"]
    assert build.do(Retry()) == []
    build.run_to(2)
    pause(build)
    with pytest.raises(Refused, match="it is paused, not failed"):
        build.do(Retry())
    build.do(RequestCancel())
    with pytest.raises(Refused, match="it is cancelled"):
        build.do(Retry())


def test_resuming_twice_is_resuming_once(begin: Begin) -> None:
    build = begin().run_to(2)
    pause(build)
    wish = Resume(from_checkpoint="b", pause_before="c")
    assert build.do(wish) == ["BuildRewound", "BuildResumed"]
    assert build.do(wish) == []
    build.do(Start())
    assert build.do(wish) == []
    build.start_next()
    assert build.do(wish) == []
    assert build.do(Resume()) == []


def test_resuming_otherwise_while_it_runs_is_refused(begin: Begin) -> None:
    build = begin().run_to(2)
    with pytest.raises(Refused, match="cannot rewind build b1: it is running"):
        build.do(Resume(from_checkpoint="a"))
    with pytest.raises(Refused, match="cannot resume"):
        build.do(Resume(pause_before="c"))


def test_a_build_can_be_resumed_only_as_far_as_its_plan_goes(begin: Begin) -> None:
    build = begin().run_to(2)
    pause(build)
    with pytest.raises(Refused) as caught:
        build.do(Resume(pause_before="a"))
    assert caught.value.details == "a is not among the checkpoints still to come"


# Rewinding


def interrupt(build: Any, cause: str, details: str = "") -> list[str]:
    build.do(Start())
    name = build.start_next()
    return build.do(InterruptCheckpoint(name, cause, details))  # type: ignore[no-any-return]


def test_an_interrupted_checkpoint_runs_again_on_the_layer_before_it(begin: Begin) -> None:
    build = begin().run_to(1)
    assert interrupt(build, "daemon-died") == ["CheckpointInterrupted"]
    assert states(build) == ["completed", "interrupted", "pending"]
    assert next_step(build.state) == RunCheckpoint(1)


def test_three_interruptions_in_a_row_park_the_build(begin: Begin) -> None:
    build = begin().run_to(1)
    for cause in ("daemon-died", "machine-rebooted"):
        assert interrupt(build, cause) == ["CheckpointInterrupted"]
    assert interrupt(build, "worker-died") == ["CheckpointInterrupted", "BuildPaused"]
    assert build.state.cause == "interrupted"
    assert "b was interrupted 3 times in a row" in build.state.reason
    assert "worker-died" in build.state.reason


def test_a_build_that_costs_three_hosts_in_a_row_is_parked(begin: Begin) -> None:
    build = begin()
    for epoch, host in enumerate(("a", "b", "c"), start=1):
        build.do(BuildPlaced(host, epoch))
        told = interrupt(build, "host-lost")
    assert told == ["CheckpointInterrupted", "BuildPaused"]
    assert "most recently by host-lost" in build.state.reason


def test_a_move_is_requested_once_and_fulfilled_by_the_next_taking(begin: Begin) -> None:
    build = begin().run_to(1)
    build.do(BuildPlaced("a", 1))
    build.start_next()
    assert build.do(RequestMove("b")) == ["MoveRequested"]
    assert build.do(RequestMove("b")) == []
    assert (build.state.moves_to, build.state.reason) == ("b", "a move to b was requested")
    assert build.do(RequestMove()) == ["MoveRequested"]
    assert build.state.reason == "a move to another member was requested"
    build.do(BuildPlaced("c", 2))
    assert (build.state.moves_to, build.state.reason) == (None, "")


def test_a_move_may_be_taken_back_while_the_checkpoint_runs(begin: Begin) -> None:
    build = begin().run_to(1)
    build.do(BuildPlaced("a", 1))
    with pytest.raises(Refused, match="cannot move build b1: it is running") as caught:
        build.do(RequestMove("a"))
    assert caught.value.details == "a drives it already"
    build.do(RequestMove("b"))
    assert build.do(RequestMove("a")) == ["MoveRequested"]


@pytest.mark.parametrize(
    ("stop", "state", "advice"),
    [
        (Pause("because"), "paused", "continue it: dcctl resume b1"),
        (BuildFailed(None, ErrorInfo("x")), "failed", "continue it: dcctl retry b1"),
        (RequestPause(), "pausing", "wait until it is paused, and resume it"),
        (RequestCancel(), "cancelling", "wait until it is cancelled"),
    ],
)
def test_only_a_build_that_goes_on_by_itself_moves(
    begin: Begin, stop: Any, state: str, advice: str
) -> None:
    build = begin().run_to(1)
    build.do(stop)
    with pytest.raises(Refused, match=f"cannot move build b1: it is {state}") as caught:
        build.do(RequestMove())
    assert caught.value.resolution == advice


def test_a_resumed_build_gets_as_many_interruptions_again(begin: Begin) -> None:
    build = begin()
    for _ in range(PARK_AFTER):
        interrupt(build, "worker-died")
    build.do(Resume())
    for _ in range(PARK_AFTER - 1):
        assert interrupt(build, "worker-died") == ["CheckpointInterrupted"]
    assert interrupt(build, "worker-died") == ["CheckpointInterrupted", "BuildPaused"]


def test_interruptions_of_different_checkpoints_do_not_add_up(begin: Begin) -> None:
    build = begin()
    for _ in range(3):
        for _ in range(PARK_AFTER - 1):
            assert interrupt(build, "daemon-died") == ["CheckpointInterrupted"]
        build.run_next()
    assert next_step(build.state) == Deliver()


def test_shutdowns_do_not_park(begin: Begin) -> None:
    build = begin()
    for _ in range(PARK_AFTER * 2):
        assert interrupt(build, "shutdown") == ["CheckpointInterrupted"]


def test_want_of_space_pauses_at_once_and_says_so(begin: Begin) -> None:
    build = begin().run_to(1)
    details = "no space left while writing layers"
    assert interrupt(build, "no-space", details) == ["CheckpointInterrupted", "BuildPaused"]
    assert (build.state.cause, build.state.lifecycle) == ("no-space", Lifecycle.PAUSED)
    assert details in build.state.reason


def test_what_a_person_paused_does_not_wait_for_space(begin: Begin) -> None:
    """There may soon be space again, and then it would go on by itself."""
    lacking = begin().run_to(1)
    interrupt(lacking, "no-space")
    assert lacking.do(RequestPause()) == ["BuildPaused"]
    assert lacking.state.cause == "requested"
    assert lacking.do(RequestPause()) == []

    asked_before = begin()
    asked_before.do(Start())
    asked_before.start_next()
    asked_before.do(RequestPause())
    asked_before.do(InterruptCheckpoint("a", "no-space", "no space left"))
    assert asked_before.state.cause == "requested"
    assert "no space left" in asked_before.state.reason

    asked_between = begin()
    asked_between.do(Start())
    asked_between.do(RequestPause())
    asked_between.do(Pause("a needs 1.0 GiB", "no-space"))
    assert asked_between.state.cause == "requested"


# Cancelling and removing


@pytest.mark.parametrize("where", ["queued", "paused", "failed"])
def test_a_build_at_rest_is_cancelled_at_once(begin: Begin, where: str) -> None:
    build = begin()
    if where == "paused":
        pause(build)
    if where == "failed":
        build.do(Start())
        build.do(BuildFailed(None, ERROR))
    assert build.do(RequestCancel()) == ["CancelRequested", "BuildCancelled"]
    assert build.do(RequestCancel()) == []


def test_a_running_attempt_ends_before_the_build_is_cancelled(begin: Begin) -> None:
    build = begin().run_to(1)
    build.start_next()
    assert build.do(RequestCancel()) == ["CancelRequested"]
    assert build.do(RequestCancel()) == []
    assert next_step(build.state) is None
    assert build.do(InterruptCheckpoint("b", "cancelled")) == ["CheckpointInterrupted"]
    assert next_step(build.state) == BuildCancelled()
    build.do(BuildCancelled())
    assert build.state.lifecycle is Lifecycle.CANCELLED


def test_an_attempt_may_complete_while_it_is_being_cancelled(begin: Begin) -> None:
    build = begin().run_to(1)
    build.start_next()
    build.do(RequestCancel())
    build.complete(1.0)
    assert states(build) == ["completed", "completed", "pending"]
    assert next_step(build.state) == BuildCancelled()


def test_a_failure_while_cancelling_does_not_fail_the_build(begin: Begin) -> None:
    build = begin().run_to(1)
    build.do(RequestCancel())
    assert build.do(FailCheckpoint("b", ERROR)) == []
    build = begin().run_to(1)
    build.start_next()
    build.do(RequestCancel())
    assert build.do(FailCheckpoint("b", ERROR)) == ["CheckpointFailed"]
    assert next_step(build.state) == BuildCancelled()


def test_a_build_is_removed_once_and_only_when_it_has_ended(begin: Begin) -> None:
    build = begin()
    with pytest.raises(Refused, match="cannot rm build b1: it is queued"):
        build.do(Remove())
    build.do(RequestCancel())
    assert build.do(Remove()) == ["BuildRemoved"]
    assert build.do(Remove()) == []


# The world outside


def test_a_repository_that_moved_changes_the_keys_from_its_checkpoint_on(
    begin: Begin, make_plan: MakePlan
) -> None:
    plan = make_plan("a", "b", "c", repo_b="old")
    build = begin(plan).run_to(1)
    found = with_external(plan, 1, {"bookworm": "new"})
    build.do(
        CheckpointStarted("b", 1, found.checkpoints[1].key, "log", "boot", {"bookworm": "new"})
    )
    assert build.state.plan == found
    assert [c.key for c in build.state.checkpoints] == [c.key for c in found.checkpoints]
    build.complete(1.0)
    assert build.events[-1].data.key == found.checkpoints[1].key


def test_a_layer_found_under_the_key_with_the_world_as_it_is_now_is_reused(
    begin: Begin, make_plan: MakePlan
) -> None:
    plan = make_plan("a", "b", repo_a="old")
    build = begin(plan)
    build.do(Start())
    found = with_external(plan, 0, {"bookworm": "new"})
    key = found.checkpoints[0].key
    build.do(CheckpointReused("a", key, "b0", external={"bookworm": "new"}))
    record = build.state.checkpoints[0]
    assert (record.state, record.reused_from, record.key) == (CheckpointState.REUSED, "b0", key)
    with pytest.raises(Refused, match="does not follow"):
        build.do(CheckpointReused("b", plan.checkpoints[1].key, "b0"))


# Resources


def test_a_claim_belongs_to_the_open_attempt_and_ends_with_it(begin: Begin) -> None:
    build = begin()
    build.do(Start())
    build.start_next()
    build.do(ResourceClaimed("a", 1, "target", "one"))
    assert build.state.running.claims == (Claim("target", "one"),)
    build.do(InterruptCheckpoint("a", "daemon-died"))
    assert [record.claims for record in build.state.checkpoints] == [(), (), ()]


def test_nothing_is_claimed_without_an_attempt(begin: Begin) -> None:
    build = begin().run_to(1)
    with pytest.raises(Refused, match="no attempt is open"):
        build.do(ResourceClaimed("a", 1, "target", "one"))
