"""How far a build is: its strip, its fraction, the time so far and the time left."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from statemachine.commands import FailCheckpoint, Resume
from statemachine.outlook import Outlook, outlook
from statemachine.plan import Plan
from statemachine.results import ErrorInfo


@pytest.fixture
def build(begin: Any, make_plan: Any) -> Any:
    """A build of three checkpoints that are expected to take 10, 30 and 60 seconds; an event each second."""
    planned = make_plan("a", "b", "c").checkpoints
    estimates = (10.0, 30.0, 60.0)
    return begin(
        Plan(
            tuple(
                replace(each, estimate_seconds=seconds)
                for each, seconds in zip(planned, estimates, strict=True)
            )
        )
    )


def seen(build: Any, later_seconds: float = 0.0, fraction: float | None = None) -> Outlook:
    return outlook(build.state, build.state.updated_at + timedelta(seconds=later_seconds), fraction)


def test_a_build_that_waits_has_all_before_it(build: Any) -> None:
    found = seen(build, 500.0)
    assert (found.fraction, found.elapsed_seconds, found.remaining_seconds) == (0.0, 0.0, 100.0)


def test_the_estimate_of_a_running_checkpoint_counts_until_it_says_more(build: Any) -> None:
    build.run_to(1).start_next()
    assert seen(build, 6.0).remaining_seconds == pytest.approx(24.0 + 60.0)
    assert seen(build, 40.0).remaining_seconds == pytest.approx(60.0), "it takes longer than usual"
    assert seen(build, 6.0, 0.5).remaining_seconds == pytest.approx(6.0 + 60.0)
    assert seen(build, 6.0, 0.01).remaining_seconds == pytest.approx(24.0 + 60.0)
    assert seen(build, 6.0).fraction == pytest.approx((10.0 + 6.0) / 100.0), "by its time"
    assert seen(build, 600.0).fraction == pytest.approx((10.0 + 27.0) / 100.0), (
        "but never all of it"
    )
    assert seen(build, 6.0, 0.5).fraction == pytest.approx((10.0 + 15.0) / 100.0)


def test_time_in_which_a_build_has_failed_does_not_count(build: Any) -> None:
    build.run_to(1)
    name = build.start_next()
    build.do(FailCheckpoint(name, ErrorInfo("it broke"), 1.0))
    worked = seen(build).elapsed_seconds
    assert worked > 0.0
    found = seen(build, 5000.0)
    assert (found.elapsed_seconds, found.remaining_seconds) == (worked, None)
    build.do(Resume())
    assert seen(build, 100.0).elapsed_seconds == worked, "it waits for its turn"
    build.run_to(3)
    assert seen(build).elapsed_seconds > worked


def test_the_strip_has_the_durations_of_results(build: Any) -> None:
    build.run_to(1)
    build.start_next()
    strip = [(piece.name, piece.state, piece.seconds) for piece in seen(build).checkpoints]
    assert strip == [("a", "completed", 1.0), ("b", "running", None), ("c", "pending", None)]
