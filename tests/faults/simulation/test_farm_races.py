"""Histories of a farm step by step: those that the fence is for, and those that broke a promise once."""

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from expectations import Broken, Manifest
from farm_expectations import FarmExpectations
from procrastinate import exceptions
from simulated_database import Database
from simulated_farm import Farm
from simulated_member import Member
from simulated_queue import Jobs
from test_engine_stateful import ISO, MEMORY, ONE, TWO
from test_farm_stateful import SOMEBODY, placed

from dcd.engine.engine import Options
from dcd.engine.runner import Runner
from dcd.farm import queue, takers
from dcd.farm.jobs import Next, Situation, next_for
from dcd.farm.scheduler import FarmScheduler
from dcd.farm.sharing import SharedLayers
from statemachine.build import Lifecycle
from statemachine.errors import Unavailable
from statemachine.events import BuildPlaced
from statemachine.machine import BuildMachine
from store.eventlog.postgresql import log
from store.eventlog.postgresql.members import members_by

pytestmark = pytest.mark.faults


@pytest.fixture
def shares() -> bool:
    """Whether the members share layers."""
    return False


@pytest.fixture
def farm(shares: bool) -> Iterator[Farm]:
    directory = Path(tempfile.mkdtemp(prefix="dcd-farm-", dir=MEMORY))
    try:
        with Farm(directory, 0, {"a": ("kvm",), "b": ()}, shares=shares) as farm:
            farm.run(2 * farm.lost_seconds)
            yield farm
    finally:
        shutil.rmtree(directory)


share_layers = pytest.mark.parametrize("shares", [True], ids=["shared"])


def submitted(farm: Farm, manifest: Manifest, *labels: str, through: str = "a") -> str:
    member = farm.members[through]
    assert member.engine is not None
    given = placed(manifest, labels)
    task = member.start_task(member.engine.submit(given, Options(), SOMEBODY, lambda plan: None))
    farm.run(1.0)
    return task.result()[0].id  # type: ignore[no-any-return]


def owner(farm: Farm, build: str) -> Member:
    return farm.members[farm.database.builds[build].owner.host]


def other(farm: Farm, member: Member) -> Member:
    return farm.members["b" if member.host == "a" else "a"]


def kinds(farm: Farm, build: str) -> list[str]:
    return [event.type for event in farm.database.builds[build].events]


def returns_when_its_build_is_taken(farm: Farm) -> str:
    """A member freezes when its checkpoint has ended; another one takes the build, and freezes before it has
    recorded anything; the first one wakes and records the outcome."""
    build = submitted(farm, (ONE, TWO))
    zombie = owner(farm, build)
    taker = other(farm, zombie)
    ((_, attempt),) = farm.attempts
    zombie.freeze()
    zombie.end(attempt)
    farm.run(0.8 * farm.lost_seconds)
    while owner(farm, build) is zombie:
        farm.run(1.0, jobs=1)
    taker.freeze()
    zombie.thaw()
    zombie._hears = True  # it has not heard of the taking yet
    farm.run(1.0)
    return build


def test_a_member_that_returns_is_fenced(farm: Farm) -> None:
    seen = FarmExpectations(farm)
    build = returns_when_its_build_is_taken(farm)
    seen.observe()
    assert kinds(farm, build)[-1] == "BuildPlaced"


def test_control_without_the_fence_it_records_what_it_does_not_own(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Database, "has_fence", False)
    seen = FarmExpectations(farm)
    returns_when_its_build_is_taken(farm)
    with pytest.raises(Broken, match="only the owner of a build records facts"):
        seen.observe()


def runs_through_an_outage(farm: Farm, patch: pytest.MonkeyPatch) -> FarmExpectations:
    """The database is down for longer than a member may be silent, while a build runs. Afterwards another
    member is there sooner than its owner."""
    patch.setattr(queue, "WAIT_SECONDS", 20.0)
    seen = FarmExpectations(farm)
    sooner = other(farm, owner(farm, submitted(farm, (ONE,))))
    farm.crash()
    farm.run(1.1 * farm.lost_seconds)
    sooner.kill()
    farm.recover()
    sooner.start()
    farm.run(3 * farm.lost_seconds)
    seen.observe()
    return seen


def test_an_outage_moves_no_build(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    runs_through_an_outage(farm, monkeypatch).check_at_rest()


def test_control_a_naive_reaper_takes_builds_from_the_living(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def naive(connection: Any, lost_seconds: float) -> list[str]:
        silent = [(each.host, each.silent_seconds) for each in members_by(connection)]
        return [host for host, seconds in silent if seconds is not None and seconds > lost_seconds]

    monkeypatch.setattr(queue, "lost", naive)
    with pytest.raises(Broken, match="no build is taken from a member that lives"):
        runs_through_an_outage(farm, monkeypatch)


def loses_its_member(farm: Farm, *, returns: bool) -> FarmExpectations:
    seen = FarmExpectations(farm)
    member = owner(farm, submitted(farm, (ONE,)))
    member.kill()
    if returns:
        member.start()
    farm.run(3 * farm.lost_seconds)
    seen.observe()
    return seen


@pytest.mark.parametrize("returns", [False, True])
def test_a_build_of_a_lost_member_continues(farm: Farm, returns: bool) -> None:
    loses_its_member(farm, returns=returns).check_at_rest()


@pytest.mark.parametrize("returns", [False, True])
def test_control_without_the_reconciler_it_waits_for_ever(
    farm: Farm, monkeypatch: pytest.MonkeyPatch, returns: bool
) -> None:
    def careless(found: Situation, *arguments: Any, **named: Any) -> Next:
        return next_for(found, *arguments, **named) if found.state == "queued" else Next.NOTHING

    monkeypatch.setattr(queue, "next_for", careless)
    seen = loses_its_member(farm, returns=returns)
    with pytest.raises(Broken, match="a build waits only with a stated reason"):
        seen.check_at_rest()


def test_control_a_taking_without_an_epoch_is_found(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Database, "counts_epochs", False)
    monkeypatch.setattr(log, "BuildPlaced", lambda host, epoch: BuildPlaced(host, 1))
    with pytest.raises(AssertionError, match=r"epochs only grow|epoch 1 is over"):
        loses_its_member(farm, returns=False)


def test_a_member_that_takes_a_failed_build_before_it_hears_of_its_resume_cleans_up(
    farm: Farm,
) -> None:
    """The workspace of the failed attempt stayed until the member started again."""
    build = submitted(farm, (ONE, TWO), "kvm")
    member, through = farm.members["a"], farm.members["b"]
    ((_, attempt),) = farm.attempts
    member.end(attempt, "failed")
    farm.run(5.0)
    seen = FarmExpectations(farm)
    seen.check_at_rest()
    member._hears = True  # it does not hear for a while
    assert through.engine is not None
    through.start_task(through.engine.retry(build, SOMEBODY))
    farm.run(2.0)
    assert kinds(farm, build)[-1] == "CheckpointStarted"
    seen.check_at_rest()


def test_a_member_that_gets_a_command_before_it_hears_of_a_resume_cleans_up(farm: Farm) -> None:
    """The workspace of the failed attempt stayed until the member started again."""
    build = submitted(farm, (ONE, TWO))
    ((member, attempt),) = farm.attempts
    through = other(farm, member)
    member.end(attempt, "failed")
    farm.run(5.0)
    farm.current = member
    member.hosts.drain(member.host, draining=True)
    farm.run(5.0)
    member._hears = True  # it does not hear for a while
    assert through.engine is not None
    assert member.engine is not None
    through.start_task(through.engine.retry(build, SOMEBODY))
    farm.run(jobs=0)
    while kinds(farm, build)[-1] != "BuildResumed":
        farm.run(1.0, jobs=1)
    asked = member.start_task(member.engine.pause(build, None, SOMEBODY))
    farm.run(2.0)
    assert asked.done()
    member._hears = False
    member.news()
    farm.run(2.0)
    FarmExpectations(farm).check_at_rest()


def test_an_outage_while_a_build_is_read_is_no_defect(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was taken for one, and failed the build if the database was back by then."""
    build = submitted(farm, (ONE, TWO))
    step = Runner._step

    async def away(*_: Any) -> None:
        monkeypatch.setattr(Runner, "_step", step)
        raise Unavailable("the database of the farm cannot be reached")

    monkeypatch.setattr(Runner, "_step", away)
    ((member, attempt),) = farm.attempts
    member.end(attempt)
    farm.run(farm.lost_seconds)
    assert "BuildFailed" not in kinds(farm, build)
    for member, attempt in farm.attempts:
        member.end(attempt)
    farm.run(1.0)
    for member, attempt in farm.attempts:
        member.end(attempt)
    farm.run(1.0)
    assert kinds(farm, build)[-1] == "BuildCompleted"
    assert kinds(farm, build).count("CheckpointCompleted") == 2


def moves_while_it_runs(farm: Farm, left: Callable[[], None] = lambda: None) -> FarmExpectations:
    """A person moves a build whose first checkpoint runs. `left` is called when that has ended."""
    seen = FarmExpectations(farm)
    build = submitted(farm, (ONE, TWO, ISO))
    member = owner(farm, build)
    assert member.engine is not None
    moved = member.start_task(member.engine.move(build, "", SOMEBODY))
    farm.run(1.0)
    assert moved.result().moves_to == ""
    for _ in range(4):
        for host, attempt in farm.attempts:
            host.end(attempt)
        if kinds(farm, build).count("CheckpointCompleted") == 0:
            farm.run(jobs=0)
            while kinds(farm, build).count("CheckpointCompleted") == 0:
                farm.run(1.0, jobs=1)
            left()
        farm.run(5.0)
    seen.observe()
    assert kinds(farm, build)[-1] == "BuildCompleted"
    return seen


def test_a_build_that_is_to_move_leaves_its_member(farm: Farm) -> None:
    seen = moves_while_it_runs(farm)
    (build,) = seen.builds.values()
    assert build.epoch == 2
    assert kinds(farm, build.id).count("BuildRewound") == 1, "its layers are on its first member"


@share_layers
def test_a_build_that_moves_has_its_layers_from_the_registry(farm: Farm) -> None:
    (build,) = moves_while_it_runs(farm).builds.values()
    assert build.epoch == 2
    assert kinds(farm, build.id).count("CheckpointStarted") == 3
    assert "BuildRewound" not in kinds(farm, build.id)


@share_layers
@pytest.mark.parametrize("how", ["away", "keeps nothing"])
def test_a_build_whose_layers_are_gone_with_the_registry_makes_them_again(
    farm: Farm, how: str
) -> None:
    (build,) = moves_while_it_runs(farm, lambda: lose_registry(farm, how)).builds.values()
    assert build.epoch == 2
    assert kinds(farm, build.id).count("BuildRewound") == 1
    assert build.results == ["one", "two", "iso"]


def lose_registry(farm: Farm, how: str) -> None:
    farm.registry.away = how == "away"
    farm.registry.keeps = how != "keeps nothing"


@share_layers
def test_control_a_member_that_fails_with_the_registry_is_found(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(shared: SharedLayers, key: str, stop: Any) -> bool:
        return shared._bring(key, stop, set())

    monkeypatch.setattr(SharedLayers, "_bring_quietly", careless)
    with pytest.raises(AssertionError, match="a build stopped because of a defect"):
        moves_while_it_runs(farm, lambda: lose_registry(farm, "away"))


def test_control_an_owner_that_keeps_a_build_that_is_to_move_is_found(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FarmScheduler, "hand_over", lambda *_: None)
    with pytest.raises(Broken, match="leaves after its running checkpoint"):
        moves_while_it_runs(farm)


def test_control_a_move_without_a_goal_is_found(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(takers, "_at_goal", lambda build, able: able)
    with pytest.raises(Broken, match="arrives at its goal"):
        moves_while_it_runs(farm)


@pytest.mark.parametrize("command", ["cancel", "pause"])
def test_a_build_that_a_draining_member_has_handed_over_waits_for_nobody_to_be_stopped(
    farm: Farm, command: str
) -> None:
    """Nobody else has its labels: it was cancelled when its member took builds again."""
    build = submitted(farm, (ONE, TWO), "kvm")
    member = owner(farm, build)
    assert member.engine is not None
    farm.current = member
    member.hosts.drain("a", draining=True)
    farm.run(farm.lost_seconds)
    ((_, attempt),) = farm.attempts
    member.end(attempt)
    farm.run(1.0)
    assert member.scheduler.driving == frozenset()
    state = farm.database.builds[build].row["state"]
    assert (state, farm.attempts) == ("running", [])
    known = BuildMachine.rehydrate(farm.database.builds[build].events).state
    why = farm.members["b"].hosts.why_waits(known)
    assert why.startswith("its member a is draining; every member with its labels is away")
    engine = farm.members["b"].engine
    assert engine is not None
    cancels = command == "cancel"
    asked = engine.cancel(build, SOMEBODY) if cancels else engine.pause(build, None, SOMEBODY)
    farm.members["b"].start_task(asked)
    farm.run(farm.lost_seconds)
    stopped = {"cancel": "cancelled", "pause": "paused"}[command]
    assert farm.database.builds[build].row["state"] == stopped


def test_a_member_whose_look_waits_for_others_is_not_lost(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def waits(*_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(queue, "_put", waits)
    submitted(farm, (ONE,))
    farm.run(3 * farm.lost_seconds)
    now = farm.database.now()
    silent = [now - (each.seen_at or 0.0) for each in farm.database.members.values()]
    assert max(silent) < farm.lost_seconds / 2


def test_more_jobs_than_one_look_makes_are_made_by_the_next_ones(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "MOST_JOBS", 1)
    builds = {submitted(farm, (ONE,), "moon") for _ in range(5)}
    farm.run(2.0)
    assert {job.lock for job in farm.database.jobs.rows.values()} == builds


def test_a_job_whose_end_was_not_recorded_does_not_keep_its_build(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was that of a worker that lived: no other job was made, and the build waited for ever."""
    build = submitted(farm, (ONE,))
    member = owner(farm, build)
    assert member.engine is not None
    finish = Jobs.finish_job

    def lost(*_: Any, **__: Any) -> None:
        monkeypatch.setattr(Jobs, "finish_job", finish)
        raise exceptions.ConnectorException("the connection is lost")

    monkeypatch.setattr(Jobs, "finish_job", lost)
    ((_, attempt),) = farm.attempts
    member.end(attempt, "failed")
    farm.run(2.0)
    resumed = member.start_task(
        member.engine.resume(build, None, None, None, SOMEBODY, lambda plan: None)
    )
    farm.run(2 * farm.lost_seconds)
    assert resumed.result()[0].lifecycle is Lifecycle.QUEUED
    assert [each.number[0] for _, each in farm.attempts] == [build]


def test_a_build_that_nobody_can_make_is_cancelled_without_a_trace_in_the_queue(farm: Farm) -> None:
    """Its job was never removed: only workers with its labels removed jobs."""
    build = submitted(farm, (ONE,), "moon")
    assert len(farm.database.jobs.rows) == 1
    member = farm.members["b"]
    assert member.engine is not None
    cancelled = member.start_task(member.engine.cancel(build, SOMEBODY))
    farm.run(farm.lost_seconds)
    assert cancelled.result().lifecycle is Lifecycle.CANCELLED
    assert farm.database.jobs.rows == {}


@pytest.mark.parametrize("skew_seconds", [-90000.0, 90000.0])
def test_a_lost_build_waits_for_no_clock(farm: Farm, skew_seconds: float) -> None:
    """Its job was to be taken again at a time by the clock of the member that took it back."""
    build = submitted(farm, (ONE,))
    lost = owner(farm, build)
    taker = other(farm, lost)
    taker.skew_seconds = skew_seconds
    lost.kill()
    farm.run(2.5 * farm.lost_seconds)
    assert owner(farm, build) is taker
    assert kinds(farm, build).count("CheckpointStarted") == 2


def test_an_answer_that_is_lost_is_read_back(farm: Farm) -> None:
    build = submitted(farm, (ONE,))
    member = owner(farm, build)
    ((_, attempt),) = farm.attempts
    member.end(attempt)
    farm.run(jobs=0)
    while not kinds(farm, build).count("CheckpointCompleted"):
        member.line.losing = 1
        farm.run(jobs=1)
    farm.run(10.0)
    assert kinds(farm, build).count("CheckpointCompleted") == 1
    assert kinds(farm, build)[-1] == "BuildCompleted"
