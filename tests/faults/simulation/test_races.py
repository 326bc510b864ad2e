"""Histories that broke a promise once, step by step."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from simulated_daemon import Logs, World
from test_engine_stateful import ISO, ONE, THREE, TWO, source

from dcd.engine.engine import Engine, Options
from dcd.engine.runner import RETRY_SECONDS
from dcd.worker.request import ShellRequest
from statemachine.build import Lifecycle
from statemachine.events import Actor
from statemachine.plan import Plan
from store.artifacts import Artifacts

pytestmark = pytest.mark.faults

SOMEBODY = Actor(uid=1000, gid=1000)


@pytest.fixture
def world(tmp_path: Path, files: Logs) -> Iterator[World]:
    (tmp_path / "layers").mkdir()
    files.clear(tmp_path)
    with World(tmp_path, 0, lambda attempt: None, files) as world:
        world.run()
        yield world


def anything(plan: Plan) -> None:
    """Everybody may run everything."""


def submitted(world: World, *checkpoints: tuple[str, str]) -> str:
    task = world.start_task(world.engine.submit(source(checkpoints), Options(), SOMEBODY, anything))
    world.run()
    return task.result()[0].id


def test_a_build_that_is_paused_when_its_turn_comes_stands_still(world: World) -> None:
    """It was taken for a defect: the build was given its place while the pause was being written."""
    world.settings = replace(world.settings, max_running_builds=1)
    submitted(world, ONE)
    build = submitted(world, TWO)
    pause = world.start_task(world.engine.pause(build, None, SOMEBODY))
    world.run(jobs=0)
    world.settings = replace(world.settings, max_running_builds=2)
    world._scheduler.wake()

    world.run()

    assert pause.result().lifecycle is Lifecycle.PAUSED
    assert [attempt.order.checkpoint for attempt in world.attempts] == ["one"]


def cancel(engine: Engine, build: str) -> Any:
    return engine.cancel(build, SOMEBODY)


def resume(engine: Engine, build: str) -> Any:
    return engine.resume(build, None, None, None, SOMEBODY, anything)


@pytest.mark.parametrize("command", [cancel, resume])
def test_the_workspace_of_an_attempt_that_fails_meanwhile_is_let_go(
    world: World, command: Callable[[Engine, str], Any]
) -> None:
    """It stayed until the next start: the build had not yet failed when the command looked."""
    build = submitted(world, ONE)
    world.attempts[0].end("failed")
    world.run(jobs=0)
    task = world.start_task(command(world.engine, build))

    world.run()

    assert task.exception() is None
    work = world.state_dir / "layers" / "copy" / ".work"
    running = {attempt.order.workspace for attempt in world.attempts}
    assert {path.name for path in work.iterdir()} == running


def test_another_manifest_goes_on_while_a_shell_is_open_in_the_failed_attempt(world: World) -> None:
    """The new checkpoint's first attempt wanted the same workspace, and counted as an interruption."""
    build = submitted(world, ONE, TWO)
    world.attempts[0].end("completed")
    world.run()
    world.attempts[0].end("failed")
    world.run()
    engine = world.engine

    async def look_inside() -> ShellRequest:
        return (await engine.shells.open(await engine.records.state(build), None))[0]

    shell = world.start_task(look_inside())
    world.run()
    world.start_task(engine.resume(build, None, None, source((ONE, THREE)), SOMEBODY, anything))

    world.run()

    assert [attempt.number for attempt in world.attempts] == [(build, "three", 1)]
    world.start_task(engine.shells.close(shell.result()))
    world.run()
    work = world.state_dir / "layers" / "copy" / ".work"
    assert [path.name for path in work.iterdir()] == [world.attempts[0].order.workspace]


@pytest.mark.parametrize("published", [0, 1, 2])
def test_publishing_waits_for_a_log_that_takes_no_events(
    world: World, monkeypatch: pytest.MonkeyPatch, published: int
) -> None:
    """It was tried again at once, hundreds of times a second, and each time wrote onto the full disk."""
    tried: list[str] = []
    publish, write = Artifacts.publish, Artifacts.write

    def counted(function: Any) -> Any:
        def count(*arguments: Any) -> Any:
            tried.append(function.__name__)
            if len(tried) == published + 1:
                world.log_is_full = True
            return function(*arguments)

        return count

    monkeypatch.setattr(Artifacts, "publish", counted(publish))
    monkeypatch.setattr(Artifacts, "write", counted(write))
    build = submitted(world, ISO)
    world.follow(build)
    world.attempts[0].end("completed")
    world.run(seconds=10 * RETRY_SECONDS)

    assert len(tried) == published + 1, "what is in place is not made again"
    assert world.refusals <= 11
    assert state_of(world, build) is Lifecycle.RUNNING

    world.log_is_full = False
    world.run(seconds=RETRY_SECONDS)

    assert state_of(world, build) is Lifecycle.COMPLETED
    # The manifest, the digests, the provenance, and the digests of the evidence.
    assert tried == ["publish", *["write"] * 4]


def test_a_log_that_is_full_while_the_daemon_stops_ends_the_publishing(world: World) -> None:
    build = submitted(world, ONE)
    world.attempts[0].end("completed")
    world.run(jobs=3)
    world.log_is_full = True
    world.run(seconds=RETRY_SECONDS)
    world.stop(1000.0)
    world.kill(0)
    world.log_is_full = False
    world.start()
    world.run(seconds=RETRY_SECONDS)
    for attempt in list(world.attempts):
        attempt.end("completed")
    world.run()
    assert state_of(world, build) is Lifecycle.COMPLETED


def state_of(world: World, build: str) -> Lifecycle:
    task = world.start_task(world.engine.records.state(build))
    world.run()
    return task.result().lifecycle


@pytest.mark.parametrize("when", ["while it runs", "between two checkpoints"])
def test_a_pause_is_taken_back(world: World, when: str) -> None:
    build = submitted(world, ONE, TWO)
    pause = world.start_task(world.engine.pause(build, None, SOMEBODY))
    world.run()
    assert pause.result().lifecycle is Lifecycle.PAUSING
    if when == "between two checkpoints":
        world.attempts[0].end("completed")
        world.run(jobs=2)
    back = world.start_task(resume(world.engine, build))
    world.run()
    assert back.exception() is None
    for _ in range(2):
        for attempt in list(world.attempts):
            attempt.end("completed")
        world.run()
    assert state_of(world, build) is Lifecycle.COMPLETED
