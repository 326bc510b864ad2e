"""Which builds need a job: those that nobody drives, and none whose owner may live."""

from itertools import product

import pytest

from dcd.farm.jobs import Next, Situation, may_take, next_for
from statemachine.build import RUNNABLE

LIVING, LOST, HERE = "living", "lost", "here"


def found(state: str, host: str = "", **job: object) -> Situation:
    return Situation("b", state, host, **job)  # type: ignore[arg-type]


def then(situation: Situation, *driving: str, keeps: bool = True) -> Next:
    return next_for(situation, HERE, driving, [LOST], keeps=keeps)


def test_a_queued_build_needs_a_job_unless_it_has_one() -> None:
    assert then(found("queued")) is Next.MAKE_JOB
    assert then(found("queued", job=1)) is Next.NOTHING
    assert then(found("queued", job=1, fetched=True)) is Next.NOTHING


def test_a_job_is_replaced_whose_worker_died_before_it_took_the_build() -> None:
    assert then(found("queued", job=1, fetched=True, worker_lost=True)) is Next.MAKE_JOB


def test_a_job_is_left_to_the_worker_that_is_about_to_take_a_build_that_was_here_before() -> None:
    assert then(found("queued", HERE)) is Next.MAKE_JOB
    assert then(found("queued", HERE, job=1, fetched=True)) is Next.NOTHING
    assert then(found("queued", HERE, job=1, fetched=True, worker_lost=True)) is Next.MAKE_JOB


def test_a_build_of_a_lost_member_is_for_others() -> None:
    assert then(found("running", LOST)) is Next.MAKE_JOB
    assert then(found("running", LOST, job=1, fetched=True)) is Next.MAKE_JOB
    assert then(found("running", LOST, job=2)) is Next.NOTHING


@pytest.mark.parametrize("state", sorted(RUNNABLE - {"queued"}))
def test_a_member_that_came_back_continues_its_own_builds_without_a_job(state: str) -> None:
    """Another member could be quicker, and would make all layers again."""
    for job, fetched in ((None, False), (1, False), (1, True)):
        assert then(found(state, HERE, job=job, fetched=fetched)) is Next.CONTINUE
        assert then(found(state, HERE, job=job, fetched=fetched), "b") is Next.NOTHING


def test_a_member_hands_builds_over_that_it_does_not_keep() -> None:
    assert then(found("running", HERE), keeps=False) is Next.MAKE_JOB
    assert then(found("running", HERE), "b", keeps=False) is Next.NOTHING
    assert then(found("running", HERE, job=1), keeps=False) is Next.NOTHING
    assert then(found("running", LIVING), keeps=False) is Next.NOTHING


@pytest.mark.parametrize("state", ["pausing", "cancelling"])
def test_a_member_that_drains_pauses_and_cancels_what_it_has_handed_over(state: str) -> None:
    """Nobody else could take it, so the command waited until the member took builds again."""
    for job in (None, 1):
        assert then(found(state, HERE, job=job), keeps=False) is Next.CONTINUE
    assert then(found(state, LIVING), keeps=False) is Next.NOTHING


@pytest.mark.parametrize("state", sorted(RUNNABLE - {"queued"}))
def test_a_build_whose_owner_may_live_is_left_alone(state: str) -> None:
    for job, lost in product((None, 1), (True, False)):
        situation = found(state, LIVING, job=job, fetched=job is not None, worker_lost=lost)
        assert then(situation) is Next.NOTHING


@pytest.mark.parametrize("state", ["paused", "failed", "completed", "cancelled"])
def test_a_build_that_waits_for_a_person_needs_no_job(state: str) -> None:
    assert then(found(state, LOST)) is Next.NOTHING
    assert then(found(state)) is Next.NOTHING


@pytest.mark.parametrize(
    ("situation", "epoch", "maker", "free"),
    [
        (found("queued"), 0, LIVING, True),
        (found("running", LOST, epoch=1), 1, LIVING, True),
        (found("running", HERE, epoch=1), 1, LIVING, True),
        (found("running", LIVING, epoch=1), 1, LIVING, True),  # its owner hands it over
        (found("running", LIVING, epoch=1), 1, "another", False),  # its owner has come back
        (found("running", LIVING, epoch=2), 1, LIVING, False),  # it was taken meanwhile
        (found("queued", LIVING, epoch=2), 1, LIVING, False),
        (None, 1, LIVING, False),
    ],
)
def test_a_member_looks_again_before_it_takes_the_build_of_a_job(
    situation: Situation | None, epoch: int, maker: str, free: bool
) -> None:
    assert may_take(situation, HERE, epoch, maker, [LOST]) is free
