"""What a member drives, with a job and without, and how many jobs it may have beside it."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from dcd.engine.broadcast import Broadcast
from dcd.farm.builds import FarmBuilds
from dcd.farm.scheduler import FarmScheduler
from statemachine.events import Actor, BuildSubmitted
from store.eventlog import LogDamaged
from tests.dcd.farm.conftest import SharedLog
from tests.dcd.farm.test_farm_builds import PLAN

SLOTS = 2


class Runner:
    """A runner of builds that end when the test says so."""

    def __init__(self) -> None:
        self.ending = asyncio.Event()
        self.stopping = False
        self.left: list[str] = []

    def leave(self, build: str) -> None:
        self.left.append(build)

    async def run(self, build: str) -> None:
        await self.ending.wait()


Story = Callable[[FarmScheduler, Runner, list[str]], Awaitable[None]]


def member(log: SharedLog, story: Story) -> None:
    """A member with two slots, and three builds that are queued."""

    async def tell() -> None:
        builds = FarmBuilds(log, Broadcast(), "a", lambda event: None)
        runner = Runner()
        settings = SimpleNamespace(max_running_builds=SLOTS)
        scheduler = FarmScheduler(builds, runner, lambda: settings, lambda: None)  # type: ignore[arg-type]
        submitted = [BuildSubmitted("x", "<dc/>", "/x", PLAN) for _ in range(3)]
        ids = [(await builds.create(each, Actor(uid=1000, user="ada"))).id for each in submitted]
        await story(scheduler, runner, ids)

    asyncio.run(tell())


async def settled(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.01)


def test_a_job_takes_one_of_the_slots_and_lasts_as_long_as_its_build(log: SharedLog) -> None:
    async def story(scheduler: FarmScheduler, runner: Runner, ids: list[str]) -> None:
        job = asyncio.create_task(scheduler.drive(ids[0], 0))
        await settled(lambda: scheduler.driving == {ids[0]})
        assert scheduler.room == SLOTS
        runner.ending.set()
        await job
        assert scheduler.driving == frozenset()

    member(log, story)


def test_builds_that_are_driven_without_a_job_leave_less_room_for_jobs(log: SharedLog) -> None:
    async def story(scheduler: FarmScheduler, runner: Runner, ids: list[str]) -> None:
        await scheduler.resume(ids[0], 0)
        assert scheduler.room == 1
        job = asyncio.create_task(scheduler.drive(ids[1], 0))
        await settled(lambda: len(scheduler.driving) == 2)
        assert scheduler.room == 1
        job.cancel()  # the worker starts again, and the build is driven on
        await settled(job.done)
        assert (scheduler.room, len(scheduler.driving)) == (0, 2)
        await scheduler.drive(ids[2], 0)
        assert ids[2] not in scheduler.driving
        runner.ending.set()
        await settled(lambda: scheduler.room == SLOTS)

    member(log, story)


def test_a_build_is_driven_though_the_caller_is_cancelled_while_it_is_taken(
    log: SharedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, take = threading.Event(), log.take

    def late(*given: Any) -> int:
        answers.wait()
        return take(*given)

    monkeypatch.setattr(log, "take", late)

    async def story(scheduler: FarmScheduler, runner: Runner, ids: list[str]) -> None:
        job = asyncio.create_task(scheduler.drive(ids[0], 0))
        await settled(lambda: ids[0] in scheduler._taking)
        job.cancel()
        await settled(job.done)
        answers.set()
        await settled(lambda: scheduler.driving == {ids[0]})
        runner.ending.set()
        await settled(lambda: scheduler.driving == frozenset())

    member(log, story)


def test_a_drained_member_takes_its_builds_that_are_to_be_cancelled(log: SharedLog) -> None:
    async def story(scheduler: FarmScheduler, runner: Runner, ids: list[str]) -> None:
        scheduler.draining, scheduler.may_take = True, lambda build: False
        await scheduler.resume(ids[0], 0, ends=True)
        assert (scheduler.driving, runner.left) == ({ids[0]}, [ids[0]])
        runner.ending.set()
        await settled(lambda: scheduler.driving == frozenset())

    member(log, story)


def test_a_build_that_could_not_be_read_is_read_again(
    log: SharedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was passed over until the daemon started again."""

    async def story(scheduler: FarmScheduler, runner: Runner, ids: list[str]) -> None:
        def damaged(build: str) -> Any:
            raise LogDamaged(f"the log of build {build} cannot be read")

        with monkeypatch.context() as patch:
            patch.setattr(log, "read_build", damaged)
            scheduler._farm.forget(ids[0])
            assert not await scheduler.can_continue(ids[0])
        assert not await scheduler.can_continue(ids[0]), "not at once"
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: float("inf"))
        readable = await scheduler.can_continue(ids[0])
        monkeypatch.undo()
        assert readable

    member(log, story)


def test_a_build_that_another_member_has_taken_meanwhile_is_left_to_it(log: SharedLog) -> None:
    """Two members had jobs for a build of a lost one: the second one took it from the first."""

    async def story(scheduler: FarmScheduler, runner: Runner, ids: list[str]) -> None:
        log.take(ids[0], "b")
        await scheduler.drive(ids[0], 0)
        assert scheduler.driving == frozenset()

    member(log, story)


def test_a_member_that_stops_or_is_drained_takes_nothing(log: SharedLog) -> None:
    async def story(scheduler: FarmScheduler, runner: Runner, ids: list[str]) -> None:
        scheduler.draining = True
        await scheduler.drive(ids[0], 0)
        scheduler.draining = False
        await scheduler.stop(0)
        await scheduler.resume(ids[1], 0)
        assert scheduler.driving == frozenset()
        assert log.epochs == {}

    member(log, story)
