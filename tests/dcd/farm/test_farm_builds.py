"""Members on one log: who drives a build, commands from anywhere, and the fence."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from dcd.engine.broadcast import Broadcast
from dcd.engine.builds import Builds, now
from dcd.engine.locked import require_packages_here
from dcd.engine.workspaces import kept_workspace
from dcd.farm.builds import FarmBuilds
from dcd.farm.scheduler import FarmScheduler
from statemachine.build import BuildState, Lifecycle
from statemachine.commands import (
    FailCheckpoint,
    Pause,
    RequestCancel,
    RequestMove,
    RequestPause,
    Resume,
    Start,
)
from statemachine.errors import Refused
from statemachine.events import (
    Actor,
    BuildCancelled,
    BuildPlaced,
    BuildSubmitted,
    CheckpointCompleted,
    CheckpointStarted,
    Event,
)
from statemachine.keys import chain
from statemachine.machine import BuildMachine
from statemachine.plan import Ingredient, Locked, PlannedCheckpoint
from statemachine.results import ErrorInfo
from store.eventlog import Fenced
from tests.dcd.farm.conftest import SharedLog

PERSON = Actor(uid=1000, user="ada")
PLAN = chain(
    [PlannedCheckpoint(name, "", "m", "C", "", (Ingredient("code", "code", "1"),)) for name in "ab"]
)


class Member(FarmBuilds):
    """A member that notes what it hears."""

    def __init__(self, log: SharedLog, host: str) -> None:
        self.heard: list[Event] = []
        self.left_with: list[str] = []
        super().__init__(log, Broadcast(), host, self.heard.append)


def farm(
    log: SharedLog, story: Callable[[Member, Member, str], Awaitable[None]]
) -> tuple[Member, Member]:
    """Members a and b, and a build that a has taken and started."""

    async def tell() -> tuple[Member, Member]:
        a, b = Member(log, "a"), Member(log, "b")
        build = (await b.create(BuildSubmitted("x", "<dc/>", "/x", PLAN), PERSON)).id
        await a.take(build)
        await a.command(build, Start())
        await story(a, b, build)
        return a, b

    return asyncio.run(tell())


def begin(builds: Member, build: str) -> Awaitable[Any]:
    started = CheckpointStarted("a", 1, PLAN.checkpoints[0].key, "log", host=builds.host)
    return builds.command(build, started)


def test_only_the_owner_drives_a_build(log: SharedLog) -> None:
    async def story(a: Member, b: Member, build: str) -> None:
        assert (a.owns(build), b.owns(build)) == (True, False)
        assert [state.id for state in a.unfinished()] == [build]
        assert b.unfinished() == []
        with pytest.raises(Fenced):
            await begin(b, build)
        assert (await begin(a, build)).running.host == "a"

    farm(log, story)


def test_a_daemon_that_starts_again_knows_what_it_drove_and_has_taken_none(log: SharedLog) -> None:
    """Otherwise it removes the workspaces of failed builds, and of attempts with claims."""

    async def story(a: Member, b: Member, build: str) -> None:
        again = Member(log, "a")
        assert [state.id for state in await again.load_unfinished()] == [build]
        assert (again.unfinished(), again.owns(build)) == ([], False)
        assert await b.load_unfinished() == []

    farm(log, story)


def test_every_member_takes_commands_and_the_owner_hears_of_them(log: SharedLog) -> None:
    async def story(a: Member, b: Member, build: str) -> None:
        await begin(a, build)
        state = await b.command(build, RequestPause(), PERSON)
        assert state.lifecycle is Lifecycle.PAUSING
        assert a.unfinished()[0].lifecycle is Lifecycle.RUNNING
        await a.follow()
        assert a.unfinished()[0].lifecycle is Lifecycle.PAUSING
        await b.command(build, RequestCancel(), PERSON)
        await a.follow()

    a, b = farm(log, story)
    assert [event.type for event in a.heard] == ["PauseRequested", "CancelRequested"]
    assert b.heard == []


def test_an_event_that_cannot_be_read_does_not_keep_the_next_from_being_heard(
    log: SharedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(a: Member, b: Member, build: str) -> None:
        await begin(a, build)
        await b.command(build, RequestPause(), PERSON)
        read, bad = log.read, log.position
        await b.command(build, RequestCancel(), PERSON)

        def read_without(
            build: str | None = None, after: int = 0, limit: int = 1000
        ) -> list[Event]:
            return [event for event in read(build, after, limit) if event.position != bad]

        monkeypatch.setattr(log, "read", read_without)
        await a.follow()
        assert [event.type for event in a.heard] == ["CancelRequested"]
        assert (await a.state(build)).lifecycle is Lifecycle.CANCELLING

    farm(log, story)


def test_no_jobs_are_made_for_a_build_whose_events_are_no_history(log: SharedLog) -> None:
    async def story(a: Member, b: Member, build: str) -> None:
        unknown: Any = None
        scheduler = FarmScheduler(b, unknown, unknown, lambda: None)
        assert await scheduler.can_continue(build)
        sequence = (await b.state(build)).sequence
        forged = (CheckpointCompleted("b", 1, "k", 1.0),)  # it never started
        log.append(build, sequence, forged, PERSON, now(), 1).result()
        assert not await scheduler.can_continue(build)
        other = (await b.create(BuildSubmitted("x", "<dc/>", "/x", PLAN), PERSON)).id
        assert await scheduler.can_continue(other)

    farm(log, story)


def test_a_fact_is_recorded_though_a_command_came_between(log: SharedLog) -> None:
    async def story(a: Member, b: Member, build: str) -> None:
        await b.command(build, RequestPause("b"), PERSON)
        assert (await begin(a, build)).pause_before == "b"
        await a.follow()
        assert [event.type for event in a.heard] == ["PauseRequested"]

    farm(log, story)


def test_commands_of_two_people_at_once_are_both_decided(log: SharedLog) -> None:
    async def story(a: Member, b: Member, build: str) -> None:
        commands = [
            member.command(build, command, PERSON)
            for command in (RequestPause("b"), RequestCancel(), RequestPause("b"))
            for member in (a, b)
        ]
        await asyncio.gather(*commands, return_exceptions=True)
        assert (await b.state(build)).lifecycle is Lifecycle.CANCELLING

    farm(log, story)


def test_what_a_member_records_after_another_took_the_build_is_refused(log: SharedLog) -> None:
    async def story(a: Member, b: Member, build: str) -> None:
        await b.take(build)
        sequence = log.summary(build).sequence
        for _ in range(2):
            with pytest.raises(Fenced):
                await begin(a, build)
        assert log.summary(build).sequence == sequence
        assert not a.owns(build)
        assert a.unfinished() == []
        assert (await begin(b, build)).running.host == "b"

    farm(log, story)


def test_a_member_hears_that_another_took_its_build(log: SharedLog) -> None:
    async def story(a: Member, b: Member, build: str) -> None:
        await b.take(build)
        await a.follow()
        assert not a.owns(build)

    a, _ = farm(log, story)
    assert [event.data for event in a.heard] == [BuildPlaced("b", 2)]


def test_a_build_that_has_ended_belongs_to_nobody(log: SharedLog) -> None:
    async def story(a: Member, b: Member, build: str) -> None:
        await b.command(build, RequestPause(), PERSON)
        await a.follow()
        await a.command(build, RequestCancel(), PERSON)

        await a.command(build, BuildCancelled())
        assert a.unfinished() == []
        assert not a.owns(build)

    farm(log, story)


def failed(log: SharedLog, continue_: Callable[[Member, Member, str], Awaitable[Any]]) -> Member:
    """Member a, after its build has failed, and it has heard what was done to it since."""

    async def story(a: Member, b: Member, build: str) -> None:
        await begin(a, build)
        await a.command(build, FailCheckpoint("a", ErrorInfo("broken")))
        a.rest(build)

        async def left(before: BuildState) -> None:
            a.left_with += filter(None, [kept_workspace(before)])

        a.left = left
        assert (a.owns(build), a.unfinished()) == (False, [])
        assert [state.lifecycle for state in a.unfinished_here()] == [Lifecycle.FAILED]
        await continue_(a, b, build)
        await a.follow()
        await asyncio.gather(*a._cleaning)

    return farm(log, story)[0]


def test_a_failed_build_keeps_its_layers_and_its_workspace_where_they_are(log: SharedLog) -> None:
    """Its layers were removed as garbage: only driven builds kept theirs."""

    async def nothing(a: Member, b: Member, build: str) -> None:
        again = Member(log, "a")
        await again.load_unfinished()
        assert [state.id for state in again.unfinished_here()] == [build]
        assert b.unfinished_here() == []

    a = failed(log, nothing)
    assert len(a.unfinished_here()) == 1
    assert a.left_with == []


def test_a_member_drops_the_workspace_of_a_build_that_is_resumed_elsewhere(log: SharedLog) -> None:
    async def resume(a: Member, b: Member, build: str) -> None:
        await b.command(build, Resume(), PERSON)

    a = failed(log, resume)
    assert len(a.unfinished_here()) == 1
    assert [name.partition(".")[2] for name in a.left_with] == ["0.1"]


def test_the_removal_of_a_workspace_delays_no_command(log: SharedLog) -> None:
    """A member heard of a cancel when it had removed the workspace of another build."""

    async def slow(a: Member, b: Member, build: str) -> None:
        removed = asyncio.Event()

        async def left(before: BuildState) -> None:
            await removed.wait()
            a.left_with.append(before.id)

        a.left = left
        await b.command(build, Resume(), PERSON)
        await a.follow()
        assert a.left_with == []
        removed.set()
        await asyncio.gather(*a._cleaning)
        assert a.left_with == [build]

    failed(log, slow)


@pytest.mark.parametrize("through", ["a", "b"])
def test_a_member_keeps_nothing_of_a_build_that_is_cancelled(log: SharedLog, through: str) -> None:
    async def cancel(a: Member, b: Member, build: str) -> None:
        await (a if through == "a" else b).command(build, RequestCancel(), PERSON)

    a = failed(log, cancel)
    assert a.unfinished_here() == []
    assert len(a.left_with) == (through == "b")  # the engine that got the command knows it already


def test_a_member_keeps_nothing_of_a_build_that_another_one_takes(log: SharedLog) -> None:
    async def move(a: Member, b: Member, build: str) -> None:
        await b.command(build, Resume(), PERSON)
        await b.take(build)
        await b.command(build, Start())

    assert failed(log, move).unfinished_here() == []


def test_builds_of_an_imported_log_rest_on_its_host(log: SharedLog) -> None:
    async def submitted() -> tuple[list[BuildState], list[BuildState]]:
        alone, found = Builds(log, Broadcast()), []
        await alone.create(BuildSubmitted("x", "<dc/>", "/x", PLAN), PERSON)
        for host in "ab":
            member = Member(log, host)
            member.origin = "a"
            found.append(await member.load_unfinished())
        return found[0], found[1]

    here, elsewhere = asyncio.run(submitted())
    assert (len(here), len(elsewhere)) == (1, 0)


def test_a_build_that_is_new_here_leaves_no_trace_when_it_is_heard_of_first(log: SharedLog) -> None:
    async def tell() -> Member:
        member = Member(log, "a")
        move = member._move

        def late(build: str, machine: BuildMachine | None, events: Sequence[Event]) -> BuildState:
            member._followed = events[-1].position
            return move(build, machine, events)

        member._move = late  # type: ignore[method-assign]
        await member.create(BuildSubmitted("x", "<dc/>", "/x", PLAN), PERSON)
        return member

    assert asyncio.run(tell())._own == set()


def test_a_paused_build_resumes_through_any_member(log: SharedLog) -> None:
    async def story(a: Member, b: Member, build: str) -> None:

        await a.command(build, Pause("because"))
        state = await b.command(build, Resume(), PERSON)
        assert state.lifecycle is Lifecycle.QUEUED
        assert (await b.take(build)).host == "b"
        await a.follow()
        assert not a.owns(build)

    farm(log, story)


def test_another_manifest_for_a_locked_build_is_for_the_member_with_its_packages(
    log: SharedLog,
) -> None:
    """Resumed elsewhere it lost the label of that member, and ran where its packages are not."""

    async def submitted() -> BuildState:
        labels = ("amd64", "host:a")
        event = BuildSubmitted(
            "x", "<dc/>", "/x", PLAN, locked=Locked(("1" * 64,)), requires=labels
        )
        return await Member(log, "a").create(event, PERSON)

    state = asyncio.run(submitted())
    require_packages_here(state, "a")
    with pytest.raises(Refused, match="on another member: host:a"):
        require_packages_here(state, "b")


def test_a_build_is_taken_by_those_for_whom_it_is_when_it_is_taken(log: SharedLog) -> None:
    async def story(a: Member, b: Member, build: str) -> None:
        await a.command(build, RequestMove("c"), PERSON)
        with pytest.raises(Refused, match="is for another member than b"):
            await b.take(build, lambda state: state.moves_to == "b")
        assert (await b.state(build)).moves_to == "c", "nothing is lost"
        c = Member(log, "c")
        assert (await c.take(build, lambda state: state.moves_to == "c")).moves_to is None
        await a.follow()

    farm(log, story)
