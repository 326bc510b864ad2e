"""What a member says of builds that it does not drive: it follows from the log."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from dcd.engine.losses import Losses
from dcd.engine.reproductions import Reproductions
from dcd.engine.standing import standing_in
from dcd.farm.member import FarmMember
from statemachine.build import Lifecycle
from statemachine.commands import Pause, Start
from statemachine.events import Actor, BuildSubmitted
from store.eventlog import SqliteLog
from store.eventlog.postgresql.log import PostgresqlLog
from store.eventlog.postgresql.members import Placement
from tests.dcd.farm.conftest import SharedLog
from tests.dcd.farm.test_farm_builds import PERSON, PLAN, Member, farm

SUBMITTED = BuildSubmitted("x", "<dc/>", "/x", PLAN)
UNKNOWN: Any = None


def test_a_paused_build_is_counted_by_its_cause_whatever_came_after_the_pause(
    log: SharedLog,
) -> None:
    """One that was taken at the moment of its pause was counted nowhere."""

    async def story(a: Member, b: Member, build: str) -> None:
        await a.command(build, Pause("the disk is full", "no-space"))
        log.take(build, "b")
        found = standing_in(log)
        assert (found.states, found.paused) == ({Lifecycle.PAUSED: 1}, {"no-space": 1})

    farm(log, story)


def test_a_build_that_cannot_be_read_keeps_no_other_from_being_counted(
    log: SharedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(a: Member, b: Member, build: str) -> None:
        await a.command(build, Pause("the disk is full", "no-space"))
        other = (await a.create(SUBMITTED, PERSON)).id
        await a.take(other)
        await a.command(other, Start())
        await a.command(other, Pause("the disk is full", "no-space"))
        read = log.read_build
        damaged = {build: 1}
        monkeypatch.setattr(log, "read_build", lambda each: read(each)[damaged.get(each, 0) :])
        found = standing_in(log)
        assert (found.states, found.paused) == ({Lifecycle.PAUSED: 2}, {"no-space": 1})

    farm(log, story)


def test_a_repetition_is_found_that_another_member_drives(log: SharedLog) -> None:
    """A second one was made of it."""

    async def story(a: Member, b: Member, build: str) -> None:
        first = await a.state(build)
        reproductions = Reproductions(b, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)
        assert await reproductions._begun(first, PERSON) is None
        begun = await a.create(replace(SUBMITTED, reproduces=build), PERSON)
        await a.take(begun.id)
        found = await reproductions._begun(first, PERSON)
        assert found is not None
        assert found.id == begun.id
        assert await reproductions._begun(first, Actor(uid=1001, user="bob")) is None

    farm(log, story)


def test_an_imported_build_has_the_labels_of_its_host_also_after_it_was_taken(
    log: SharedLog,
) -> None:
    async def story(a: Member, b: Member, build: str) -> None:
        placed = Placement(build, "queued", 0, "a", 1, ["host:a"], None)
        member: Any = SimpleNamespace(
            _log=SimpleNamespace(origin="a", placements=lambda: [placed]), _builds=b
        )
        state = await b.state(build)
        assert (state.epoch, state.requires) == (1, ())
        assert FarmMember._labelled(member, state).requires == ("host:a",)

    farm(log, story)


def test_lost_events_are_restored_where_the_log_is() -> None:
    told = [Losses(1, (), each.restoring).error for each in (SqliteLog, PostgresqlLog)]
    alone, shared = [str(each and each.resolution) for each in told]
    assert "(dcd restore). The data" in alone
    assert "dcd restore" not in shared
    assert "the farm's database" in shared
