"""Pausing as commands: at once, before a checkpoint, and withdrawn; each safe to send twice."""

from collections.abc import Callable
from typing import Any

import pytest

from statemachine.build import Lifecycle
from statemachine.commands import (
    FailCheckpoint,
    Pause,
    RequestPause,
    Resume,
    Start,
    WithdrawPause,
)
from statemachine.errors import Refused
from statemachine.plan import Plan
from statemachine.results import ErrorInfo
from statemachine.steps import Deliver, RunCheckpoint, next_step

Begin = Callable[..., Any]
MakePlan = Callable[..., Plan]
ERROR = ErrorInfo("mirror answers 503")


def pause(build: Any) -> None:
    build.do(RequestPause())
    if build.state.lifecycle is not Lifecycle.PAUSED:
        build.do(Pause("paused as requested"))


def test_a_running_checkpoint_ends_before_the_build_pauses(begin: Begin) -> None:
    build = begin().run_to(1)
    build.start_next()
    assert build.do(RequestPause()) == ["PauseRequested"]
    assert build.state.lifecycle is Lifecycle.PAUSING
    assert next_step(build.state) is None
    build.complete(1.0)
    assert next_step(build.state) == Pause("paused as requested", wanted=True)
    build.do(Pause("paused as requested"))
    assert (build.state.lifecycle, build.state.completed) == (Lifecycle.PAUSED, 2)


def test_a_queued_build_pauses_at_once(begin: Begin) -> None:
    build = begin()
    assert build.do(RequestPause()) == ["PauseRequested", "BuildPaused"]
    assert build.state.reason == "paused as requested"


def test_pausing_twice_is_pausing_once(begin: Begin) -> None:
    build = begin().run_to(1)
    build.start_next()
    build.do(RequestPause())
    assert build.do(RequestPause()) == []
    build.complete(1.0)
    build.do(Pause("paused as requested"))
    assert build.do(RequestPause()) == []


def test_a_build_runs_on_until_the_checkpoint_it_pauses_before(begin: Begin) -> None:
    build = begin().run_to(0)
    assert build.do(RequestPause(before="c")) == ["PauseRequested"]
    assert build.do(RequestPause(before="c")) == []
    build.run_to(2)
    assert next_step(build.state) == Pause("paused before c as requested", wanted=True)
    build.do(Pause("paused before c as requested"))
    build.do(Resume())
    assert build.do(Start()) == ["BuildStarted"]
    assert next_step(build.state) == RunCheckpoint(2)


@pytest.mark.parametrize("where", ["queued", "running", "failed"])
def test_a_pause_that_is_not_reached_can_be_withdrawn(begin: Begin, where: str) -> None:
    build = begin(pause_before="c")
    if where != "queued":
        build.run_to(1)
    if where == "failed":
        build.start_next()
        build.do(FailCheckpoint("b", ERROR, 1.0))
    before = build.state
    assert build.do(WithdrawPause()) == ["PauseWithdrawn"]
    assert build.state.pause_before is None
    assert (build.state.lifecycle, build.state.reason) == (before.lifecycle, before.reason)


def test_a_build_whose_pause_is_withdrawn_runs_to_its_end(begin: Begin) -> None:
    build = begin(pause_before="b").run_to(1)
    build.do(WithdrawPause())
    assert build.do(WithdrawPause()) == []
    build.run_to(3)
    assert next_step(build.state) == Deliver()


def test_a_pause_is_withdrawn_until_the_running_checkpoint_has_ended(begin: Begin) -> None:
    build = begin(pause_before="c").run_to(1)
    build.start_next()
    build.do(RequestPause())
    assert build.do(WithdrawPause()) == ["PauseWithdrawn"]
    assert (build.state.lifecycle, build.state.reason) == (Lifecycle.RUNNING, "")
    build.complete(1.0)
    assert next_step(build.state) == RunCheckpoint(2)
    with pytest.raises(Refused, match="the pause of build b1 was withdrawn"):
        build.do(Pause("paused as requested", wanted=True))


def test_a_build_that_has_paused_is_resumed_instead(begin: Begin) -> None:
    build = begin().run_to(1)
    pause(build)
    with pytest.raises(Refused, match="cannot withdraw a pause of build b1") as caught:
        build.do(WithdrawPause())
    assert "resume" in caught.value.resolution


def test_a_build_can_be_submitted_to_pause_before_its_first_checkpoint(begin: Begin) -> None:
    build = begin(pause_before="a")
    build.do(Start())
    assert next_step(build.state) == Pause("paused before a as requested", wanted=True)


def test_a_build_cannot_pause_before_what_runs_or_has_completed(begin: Begin) -> None:
    build = begin().run_to(1)
    build.start_next()
    for name, why in (("a", "a has completed already"), ("b", "b is running already")):
        with pytest.raises(Refused) as caught:
            build.do(RequestPause(before=name))
        assert caught.value.details.startswith(why)


def test_a_failure_overtakes_a_pause(begin: Begin) -> None:
    build = begin().run_to(1)
    build.start_next()
    build.do(RequestPause())
    assert build.do(FailCheckpoint("b", ERROR)) == ["CheckpointFailed", "BuildFailed"]
    assert build.state.lifecycle is Lifecycle.FAILED


def test_a_wish_to_pause_later_outlives_a_failure(begin: Begin) -> None:
    build = begin(pause_before="c").run_to(1)
    build.start_next()
    build.do(FailCheckpoint("b", ERROR))
    build.do(Resume())
    assert build.state.pause_before == "c"
    build.do(Resume())
    build.run_to(2)
    assert isinstance(next_step(build.state), Pause)
