"""Any history of the engine keeps its promises: commands, outcomes, full disks and deaths, in any order.

DCD_SOAK=1 runs many more histories, with a random seed; DCD_SEED repeats them. The controls plant a defect
each, which has to be found within the bounded profile.
"""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any
from xml.sax.saxutils import escape

import pytest
import simulated_mirror
from expectations import ENDED, Broken, Expectations, Manifest, Wish
from histories import run_histories
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)
from simulated_daemon import Logs, World
from simulated_parts import PLENTY

from dcd.engine import garbage
from dcd.engine.attempt import Attempt
from dcd.engine.engine import ManifestSource, Options
from dcd.engine.locks import LayerLocks
from dcd.engine.runner import RETRY_SECONDS
from dcd.engine.shells import Shells
from statemachine import commands
from statemachine.build import BuildState
from statemachine.commands import Change, Resume
from statemachine.errors import NotFound, Refused, Unavailable, Unprepared
from statemachine.events import BuildPaused, CheckpointStarted
from statemachine.fold import advance
from store.eventlog import EventLog
from store.eventlog.postgresql.log import PostgresqlLog
from tests.store.eventlog.conftest import Postgresql

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: PTH112
"""Power cuts have a suite of their own: here what is written need not reach a disk."""

ONE, TWO, THREE = ("one", "echo 1"), ("two", "echo 2"), ("three", "echo 3")
MIRROR, ISO = ("mirror", "all"), ("iso", "make")
MANIFESTS: tuple[Manifest, ...] = (
    (ONE, TWO, ISO),
    (ONE, TWO, THREE, ISO),
    (ONE, ("two", "echo other"), ISO),
    (("one", "echo other"), TWO, ISO),
    (MIRROR, ONE, ISO),
    (MIRROR, ONE, TWO, ISO),
    (ONE,),
)
NAMES = ("one", "two", "three", "mirror", "iso")


@dataclass(frozen=True)
class Pace:
    """What the daemon does before the next thing happens: so many jobs (None: all that it can), and so
    many attempts end well and are concluded."""

    jobs: int | None
    ends: int


manifests = st.sampled_from(MANIFESTS)
maybe_name = st.none() | st.sampled_from(NAMES)
which = st.integers(0, 5)
paces = st.builds(
    Pace, st.sampled_from((None, None, None, 0, 0, 1, 2, 3, 5, 9)), st.sampled_from((0, 0, 1, 2))
)
STANDING = {
    "resume": ("paused", "failed"),
    "another manifest": ("paused", "failed"),
    "retry": ("failed",),
    "rm": ENDED,
}
"""The states of builds that a command is for, mostly."""


def _step(name: str, **arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(st.just(name), st.fixed_dictionaries(arguments))


_KINDS = (*("pause", "resume", "another manifest") * 2, "withdraw", "retry", "cancel", "rm")
_HAPPENS = ("disk full", "disk freed", "disk freed", "log full", *("log freed",) * 4, "mirror")
_command = _step(
    "command",
    kind=st.sampled_from(_KINDS),
    which=which,
    start=st.none() | maybe_name,
    before=st.none() | maybe_name,
    manifest=manifests,
)
_outcome = st.sampled_from(("completed", "failed", *("no-space",) * 2, "died", "broken"))
_end_attempt = _step("end_attempt", which=which, outcome=_outcome)
_pause_attempt = _step("pause_attempt", which=which, taken_back=st.booleans(), outcome=_outcome)
_start = {"running": st.integers(1, 3), "limit": st.sampled_from((0, 0, 1))}
steps = st.one_of(
    _step(
        "submit",
        manifest=manifests,
        before=maybe_name,
        priority=st.integers(-1, 1),
        key=st.sampled_from((None, None, "k1", "k2")),
        fresh=st.sampled_from((False, False, False, True)),
    ),
    _command,
    _command,
    _command,
    _step("command_again", which=which),
    _step("collect_garbage", all_of_it=st.booleans()),
    _end_attempt,
    _end_attempt,
    _pause_attempt,
    _step(
        "kill",
        under_way=st.integers(0, 4),
        reboots=st.booleans(),
        loses=st.integers(0, 9),
        **_start,
    ),
    _step("stop_and_start", **_start),
    _step(
        "time_passes",
        what=st.sampled_from(_HAPPENS),
        seconds=st.sampled_from((RETRY_SECONDS, 11.0, 70.0)),
        jump=st.integers(-90000, 90000),
    ),
)
"""What can happen next; one rule takes them all, so that each history has something of everything."""


def source(manifest: Manifest) -> ManifestSource:
    steps = "".join(
        f'<checkpoint name="{name}" mod_path="{module}" checkpoint_class="{factory}">'
        f"<args>{escape(line)}</args></checkpoint>"
        for name, line in manifest
        for module, factory in [
            ("simulated_mirror", "Transfer")
            if name == "mirror"
            else ("dcd/checkpoints/custom_script", "CustomScript")
        ]
    )
    text = f'<dc><distro name="live"><execution>{steps}</execution></distro></dc>'
    return ManifestSource(text, "/live.xml", {}, {}, host_code=True)


@dataclass(frozen=True)
class Database:
    """One event log in PostgreSQL, in which facts need no epoch."""

    farm: Postgresql

    def clear(self, directory: Path) -> None:
        self.farm.forge(
            "TRUNCATE events, builds, layer_keys, placements, facts; UPDATE head SET position = 0"
        )

    def open(self, directory: Path) -> EventLog:
        return PostgresqlLog(self.farm.dsn, directory)


class Histories(RuleBasedStateMachine):
    logs: Logs

    @initialize(chance=st.integers(0, 2**16), first=manifests, second=manifests, before=maybe_name)
    def begin(self, chance: int, first: Manifest, second: Manifest, before: str | None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="dcd-history-", dir=MEMORY))
        self.logs.clear(self.directory)
        (self.directory / "layers").mkdir()
        self.tasks: list[tuple[Wish, Any]] = []
        self.sent: list[Wish] = []
        self.resting = False
        self.world = World(
            self.directory, chance, lambda attempt: self.seen.began(attempt), self.logs
        )
        self.world.__enter__()
        self.seen = Expectations(self.world)
        self.live()
        self.send(Wish("submit", manifest=first))
        self.send(Wish("submit", manifest=second, before=before))
        self.live()

    @rule(step=steps, pace=paces)
    def happens(self, step: tuple[str, dict[str, Any]], pace: Pace) -> None:
        name, arguments = step
        getattr(self, name)(**arguments)
        self.live(pace.jobs)
        for _ in range(pace.ends):
            for attempt in self.world.attempts[:1]:
                attempt.end("completed")
            self.live()

    # People

    def submit(self, **options: Any) -> None:
        if len(self.seen.living()) < 6:
            self.send(Wish("submit", **options))

    def command(
        self, kind: str, which: int, start: str | None, before: str | None, manifest: Manifest
    ) -> None:
        build = self.build(kind, which)
        match kind:
            case "pause":
                self.send(Wish(kind, build, before=before))
            case "resume":
                self.send(Wish(kind, build, start, before))
            case "another manifest":
                self.send(Wish("resume", build, start, before, manifest))
            case _:
                self.send(Wish(kind, build))

    def command_again(self, which: int) -> None:
        if self.sent:
            self.send(self.sent[-1 - which % len(self.sent)])

    def collect_garbage(self, all_of_it: bool) -> None:
        if self.world.engine:
            collecting = self.world.engine.collector.collect(0 if all_of_it else None)
            self.tasks.append((Wish("gc"), self.world.start_task(collecting)))

    # Workers

    def end_attempt(self, which: int, outcome: str) -> None:
        if attempts := self.world.attempts:
            attempts[which % len(attempts)].end(outcome)

    def pause_attempt(self, which: int, taken_back: bool, outcome: str) -> None:
        """Pause a build whose checkpoint runs, which then ends so; the pause may be taken back before."""
        if attempts := self.world.attempts:
            build = attempts[which % len(attempts)].number[0]
            self.send(Wish("pause", build))
            self.live()
            if taken_back:
                self.send(Wish("resume", build))
                self.live()
            self.end_attempt(which, outcome)

    # Fate

    def kill(self, under_way: int, reboots: bool, loses: int, **start: int) -> None:
        self.world.kill(under_way)
        self.tasks.clear()
        self.seen.observe()
        self.seen.deaths += 1
        if reboots:
            self.world.boot = f"boot-{self.seen.deaths}"
        with_results = [build for build in self.seen.living() if build.results]
        if loses < len(with_results):
            shutil.rmtree(self.seen.lose(with_results[loses]), ignore_errors=True)
        self.start(**start)

    def stop_and_start(self, **start: int) -> None:
        self.world.log_is_full = False
        self.live(seconds=RETRY_SECONDS)
        self.world.stop(1000.0)
        self.world.kill(0)
        self.start(**start)

    def start(self, running: int, limit: int) -> None:
        self.world.settings = replace(
            self.world.settings, max_running_builds=running, layers_max_bytes=limit
        )
        self.world.start()
        self.seen.check_log()

    def time_passes(self, what: str, seconds: float, jump: int) -> None:
        world = self.world
        match what:
            case "disk full":
                world.free_bytes = 0
            case "disk freed":
                world.free_bytes = PLENTY * self.seen.position
            case "log full" | "log freed":
                world.log_is_full = what == "log full"
            case "mirror":
                simulated_mirror.state = "2" if simulated_mirror.state == "1" else "1"
        world.jump_seconds += jump
        self.live(seconds=seconds)

    # How commands are sent, and their answers read

    def build(self, kind: str, which: int) -> str:
        """A build that the command is for, or sometimes any."""
        builds = list(self.seen.builds.values())
        living = self.seen.living()
        meant = [b for b in builds if b.state in STANDING[kind]] if kind in STANDING else living
        if which > 3 or not meant:
            # Soon it may be one for it.
            meant = living if which < 5 and living else builds
        return meant[-1 - which % len(meant)].id if meant else "none"

    def send(self, wish: Wish) -> None:
        engine = self.world.engine
        if engine is None:
            return
        actor = self.seen.wish(wish)
        given = None if wish.manifest is None else source(wish.manifest)
        command: Any
        match wish.kind:
            case "submit":
                assert given is not None
                options = Options(wish.before, wish.fresh, wish.priority, wish.key)
                command = engine.submit(given, options, actor, lambda plan: None)
            case "pause":
                command = engine.pause(wish.build, wish.before, actor)
            case "withdraw":
                command = engine.withdraw_pause(wish.build, actor)
            case "resume":
                command = engine.resume(
                    wish.build, wish.start, wish.before, given, actor, lambda plan: None
                )
            case "retry":
                command = engine.retry(wish.build, actor)
            case "cancel":
                command = engine.cancel(wish.build, actor)
            case "rm":
                command = engine.remove(wish.build, actor)
        self.sent = [*self.sent[-2:], wish]
        self.tasks.append((wish, self.world.start_task(command)))

    def live(self, jobs: int | None = None, seconds: float = 0.0) -> None:
        self.resting = self.world.run(float("inf") if jobs is None else jobs, seconds)
        self.answers()

    def answers(self) -> None:
        """Read the events and the answers that have come."""
        self.seen.observe()
        for wish, task in [pair for pair in self.tasks if pair[1].done()]:
            self.tasks.remove((wish, task))
            try:
                answer = task.result()
            except (Refused, NotFound, Unavailable, Unprepared):
                continue
            if wish.kind != "gc":
                state = answer[0] if isinstance(answer, tuple) else answer
                self.seen.acknowledged(wish, state)
                self.world.follow(state.id)
        assert not (self.resting and self.tasks), f"no answer: {self.tasks}"

    @invariant()
    def what_always_holds(self) -> None:
        self.seen.check_always()
        if self.resting and self.world.engine:
            self.live()
            self.seen.check_at_rest()

    def teardown(self) -> None:
        """Whatever happened, every build ends when people and the disk let it."""
        try:
            if sys.exception() is None and hasattr(self, "seen"):
                self.drain()
        finally:
            if hasattr(self, "world"):
                self.world.__exit__()
                shutil.rmtree(self.directory)

    def drain(self) -> None:
        self.world.log_is_full = False
        self.world.free_bytes = PLENTY * (self.seen.position + 2)
        self.live(seconds=11.0)
        starved = [b for b in self.seen.living() if b.cause == "no-space" and not b.held]
        assert not [b for b in starved if b.state == "paused"], f"there is space: {starved}"
        for _ in range(40):
            if not self.seen.living():
                break
            for build in self.seen.living():
                if build.state in ("paused", "failed"):
                    self.send(Wish("resume", build.id))
            for attempt in list(self.world.attempts):
                attempt.end("completed")
            self.live()
        self.what_always_holds()
        left = [(build.id, build.state) for build in self.seen.living()]
        assert left == [], "every build ends"
        self.collect_garbage(True)
        self.live()
        self.seen.check_log()
        self.seen.check_delivery()
        left = [path.name for path in (self.directory / "layers" / "copy").iterdir()]
        assert left == [".work"], f"nobody needs it any more: {left}"


def look_for_trouble(logs: Logs, chance: int | None = None, **profile: Any) -> None:
    class Here(Histories):
        pass

    Here.logs = logs
    run_histories(Here, BOUNDED, chance, **profile)


BOUNDED = settings(max_examples=40, stateful_step_count=40, derandomize=True)
AT_LENGTH: dict[str, Any] = {"max_examples": 2000, "stateful_step_count": 60, "derandomize": False}


def test_any_history_of_the_engine_keeps_its_promises(
    files: Logs, soak: bool, chance: Random
) -> None:
    if soak:
        look_for_trouble(files, chance.randrange(2**32), **AT_LENGTH)
    else:
        look_for_trouble(files, max_examples=28)


def test_any_history_of_the_engine_keeps_its_promises_on_postgresql(
    farm: Postgresql, soak: bool, chance: Random
) -> None:
    logs = Database(farm)
    if soak:
        look_for_trouble(logs, chance.randrange(2**32), **AT_LENGTH)
    else:
        look_for_trouble(logs, max_examples=4, stateful_step_count=25, phases=(Phase.generate,))


def attempts_begin_before_their_event(patch: pytest.MonkeyPatch) -> None:
    record = Attempt._record

    async def careless(self: Attempt, wanted: Change) -> BuildState:
        if not isinstance(wanted, CheckpointStarted):
            return await record(self, wanted)
        task = asyncio.ensure_future(record(self, wanted))
        task.add_done_callback(lambda done: done.exception())
        state = await self._resources.builds.state(self._build)
        return advance(state, wanted)

    patch.setattr(Attempt, "_record", careless)


def garbage_ignores_who_needs_it(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(garbage, "pinned_keys", lambda layers, unfinished: set())


def resume_forgets_where_to_pause(patch: pytest.MonkeyPatch) -> None:
    resume = commands._resume

    def careless(state: BuildState, command: Resume) -> Any:
        *others, resumed = resume(state, command) or (None,)
        return (*others, replace(resumed, pause_before=command.pause_before)) if resumed else ()

    patch.setattr(commands, "_resume", careless)


def free_space_outranks_who_paused(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(commands, "_paused", lambda state, reason, cause: BuildPaused(reason, cause))


def builds_do_not_wait_for_a_layer_in_the_making(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LayerLocks, "of", lambda self, key: asyncio.Lock())


def workspaces_of_failed_attempts_stay(patch: pytest.MonkeyPatch) -> None:
    async def careless(self: Shells, state: BuildState) -> None:
        pass

    patch.setattr(Shells, "release", careless)


@pytest.mark.parametrize(
    ("plant", "promise"),
    [
        (attempts_begin_before_their_event, "announced before it has any effect"),
        (garbage_ignores_who_needs_it, "a layer that is needed is there|only what is lost"),
        (resume_forgets_where_to_pause, "a wish to pause is kept"),
        (free_space_outranks_who_paused, "stands until a person resumes it"),
        (builds_do_not_wait_for_a_layer_in_the_making, "make it once"),
        (workspaces_of_failed_attempts_stay, "nothing of an attempt is left"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_control_a_planted_defect_is_found(
    files: Logs, plant: Callable[[pytest.MonkeyPatch], None], promise: str
) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Broken, match=promise):
        plant(patch)
        look_for_trouble(files, phases=(Phase.generate,))
