"""Old builds are removed as the settings say: which, by whom, and again after a crash."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dcd.configuration import Configuration
from dcd.engine.broadcast import Broadcast
from dcd.engine.builds import DAEMON, Builds
from dcd.engine.records import Records
from dcd.engine.retention import Retention, outdated
from statemachine.build import BuildState, Lifecycle
from statemachine.commands import Remove, RequestCancel
from statemachine.errors import Refused
from statemachine.events import (
    Actor,
    BuildCompleted,
    BuildStarted,
    BuildSubmitted,
    CheckpointReused,
    Payload,
)
from statemachine.keys import chain
from statemachine.plan import Ingredient, PlannedCheckpoint
from store.eventlog import BuildSummary, SqliteLog

NOW = datetime(2026, 6, 1, tzinfo=UTC)
PERSON = Actor(uid=1000, gid=1000, pid=1, user="ada")
SUBMITTED = BuildSubmitted(
    "live",
    "<dc/>",
    "/m",
    chain([PlannedCheckpoint("c", "", "m", "C", "", (Ingredient("code", "c", "1"),))]),
)


def build(identity: str, state: str, days: float, name: str = "live") -> BuildSummary:
    at = NOW - timedelta(days=days)
    return BuildSummary(
        id=identity, name=name, state=Lifecycle(state), reason="", submitted_at=at, updated_at=at,
        actor=Actor(), priority=0, pause_before=None, idempotency_key=None, completed_checkpoints=0,
        total_checkpoints=1, removed=False, submitted_position=1, position=1, sequence=1,
    )  # fmt: skip


BUILDS = [
    build("a", "completed", 20),
    build("b", "failed", 21),
    build("c", "completed", 30),
    build("d", "cancelled", 40),
    build("e", "completed", 50, "other"),
    build("f", "completed", 60),
    build("g", "failed", 1),
]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ""),
        ({"failed_builds_days": 7}, "bd"),
        ({"failed_builds_days": 30}, "d"),
        ({"completed_builds_days": 7}, "cf"),
        ({"completed_builds_days": 7, "completed_builds_kept": 2}, "f"),
        ({"completed_builds_days": 7, "completed_builds_kept": 0}, "acef"),
        ({"completed_builds_days": 55, "failed_builds_days": 21}, "bdf"),
    ],
)
def test_the_settings_say_which_builds_go(settings: dict[str, int], expected: str) -> None:
    chosen = outdated(BUILDS, replace(Configuration(), **settings), NOW)
    assert "".join(each.id for each in chosen) == expected


def test_old_builds_go_and_their_events_say_who_removed_them(tmp_path: Path) -> None:
    """The log and the machines are real; the clock is the test's."""
    clock = [NOW]
    settings = replace(Configuration(), failed_builds_days=7)

    async def scenario() -> None:
        builds = Builds(log, Broadcast(), lambda: clock[0])
        tried: list[str] = []

        async def cancel(identity: str, actor: Actor) -> BuildState:
            return await builds.command(identity, RequestCancel(), actor)

        async def remove(identity: str, actor: Actor) -> BuildState:
            tried.append(identity)
            if tried.count(identity) == 1:
                raise Refused("a client has a shell in it")
            return await builds.command(identity, Remove(), actor)

        retention = Retention(
            builds, lambda: settings, cancel=cancel, remove=remove, clock=lambda: clock[0]
        )
        old = (await builds.create(SUBMITTED, PERSON)).id
        await builds.command(old, RequestCancel(), PERSON)
        clock[0] += timedelta(days=6)
        young = (await builds.create(SUBMITTED, PERSON)).id
        await builds.command(young, RequestCancel(), PERSON)
        assert await retention.look() == []
        clock[0] += timedelta(days=2)
        assert await retention.look() == [], "what cannot be removed now stays"
        assert await retention.look() == [old]
        assert await retention.look() == []
        state = await builds.state(old)
        assert (state.removed, state.removed_by) == (True, DAEMON)
        assert [each.id for each in log.list_builds()] == [young]

    with SqliteLog(tmp_path / "events.db") as log:
        asyncio.run(scenario())


def test_without_settings_nothing_goes() -> None:
    assert list(outdated(BUILDS, Configuration(), NOW + timedelta(days=9999))) == []


def test_a_build_is_superseded_by_the_newest_completed_one_of_its_distribution(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        builds = Builds(log, Broadcast())
        records = Records(builds, stores=None)  # type: ignore[arg-type]  # it asks the log only

        async def submitted(name: str, *facts: Payload) -> str:
            build = (await builds.create(replace(SUBMITTED, name=name), PERSON)).id
            for fact in facts:
                await builds.command(build, fact)
            return build

        done = (
            BuildStarted(),
            CheckpointReused("c", SUBMITTED.plan.checkpoints[0].key, "other"),
            BuildCompleted(),
        )
        first = await submitted("live", *done)
        other = await submitted("other", *done)
        failed = await submitted("live")
        await builds.command(failed, RequestCancel(), PERSON)
        newest = await submitted("live", *done)
        later = await submitted("live")
        found = await records.superseding(log.list_builds())
        assert found == {first: newest, failed: newest}
        assert not {other, newest, later} & found.keys()

    with SqliteLog(tmp_path / "events.db") as log:
        asyncio.run(scenario())
