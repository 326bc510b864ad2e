"""Which builds need a job: those that nobody drives, and none whose owner may live."""

from itertools import product

import pytest

from dcd.farm.jobs import RUNNABLE, Situation, needs_job

LIVING, LOST, HERE = "living", "lost", "here"


def found(state: str, host: str = "", **job: object) -> Situation:
    return Situation("b", state, host, **job)  # type: ignore[arg-type]


def needed(situation: Situation, *driving: str) -> bool:
    return needs_job(situation, HERE, driving, [LOST])


def test_a_queued_build_needs_a_job_unless_it_has_one() -> None:
    assert needed(found("queued"))
    assert not needed(found("queued", job=1))
    assert not needed(found("queued", job=1, fetched=True))


def test_a_job_is_taken_back_from_a_worker_that_died_before_it_took_the_build() -> None:
    assert needed(found("queued", job=1, fetched=True, worker_lost=True))


def test_a_job_is_left_to_the_worker_that_is_about_to_take_a_build_that_was_here_before() -> None:
    assert needed(found("queued", HERE))
    assert not needed(found("queued", HERE, job=1, fetched=True))
    assert needed(found("queued", HERE, job=1, fetched=True, worker_lost=True))


def test_a_build_of_a_lost_member_is_for_others() -> None:
    assert needed(found("running", LOST))
    assert needed(found("running", LOST, job=1, fetched=True))
    assert not needed(found("running", LOST, job=2))


def test_a_member_that_came_back_takes_its_own_builds_at_once() -> None:
    assert needed(found("running", HERE))
    assert needed(found("cancelling", HERE, job=1, fetched=True))
    assert not needed(found("running", HERE), "b")


@pytest.mark.parametrize("state", sorted(RUNNABLE - {"queued"}))
def test_a_build_whose_owner_may_live_is_left_alone(state: str) -> None:
    for job, lost in product((None, 1), (True, False)):
        assert not needed(found(state, LIVING, job=job, fetched=job is not None, worker_lost=lost))


@pytest.mark.parametrize("state", ["paused", "failed", "completed", "cancelled"])
def test_a_build_that_waits_for_a_person_needs_no_job(state: str) -> None:
    assert not needed(found(state, LOST))
    assert not needed(found(state))
