"""Any history of a farm keeps its promises: commands through any member, deaths, freezes, cut networks, and
outages of the database, in any order.

DCD_SOAK=1 runs many more histories, with a random seed; DCD_SEED repeats them. test_farm_races.py has the
controls.
"""

import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from expectations import Manifest
from farm_expectations import FarmExpectations
from histories import run_histories
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)
from simulated_farm import Farm
from simulated_member import Member
from test_engine_stateful import ISO, MEMORY, ONE, TWO, source

from dcd.engine.engine import ManifestSource, Options
from statemachine.errors import NotFound, Refused, Unavailable, Unprepared
from statemachine.events import Actor

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

LOST_SECONDS = 30.0
HOSTS = {"a": ("kvm",), "b": ("kvm", "rack:1"), "c": ()}
PLACED = ((), (), (), ("kvm",), ("rack:1",), ("moon",))
"""Labels that builds ask for; no host has `moon`."""
MANIFESTS: tuple[Manifest, ...] = ((ONE, TWO, ISO), (ONE, TWO), (ONE,))
SOMEBODY = Actor(uid=1000, gid=1000)

FATES = ("kill", "reboot", "freeze", "freeze", "cut off")

which = st.integers(0, 5)
hosts = st.sampled_from(sorted(HOSTS))
under_way = st.sampled_from((0, 0, 1, 2, 9))


def _step(name: str, **arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(st.just(name), st.fixed_dictionaries(arguments))


steps = st.one_of(
    _step(
        "submit", host=hosts, manifest=st.sampled_from(MANIFESTS), labels=st.sampled_from(PLACED)
    ),
    _step(
        "command",
        kind=st.sampled_from(("pause", "pause", "resume", "resume", "retry", "cancel")),
        host=hosts,
        which=which,
    ),
    _step("move", host=hosts, which=which, to=st.sampled_from(("", "", *sorted(HOSTS)))),
    _step("end", which=which, outcome=st.sampled_from(("completed",) * 5 + ("failed", "died"))),
    _step("end", which=which, outcome=st.just("completed")),
    _step("lose", how=st.sampled_from(FATES), which=which, under_way=under_way),
    _step("lose", how=st.sampled_from(FATES), which=which, under_way=under_way),
    _step("come_back", host=hosts),
    _step("come_back", host=hosts),
    _step("restart", host=hosts),
    _step("drain", host=hosts, other=hosts, draining=st.booleans()),
    _step("outage", under_way=under_way, seconds=st.sampled_from((0.5, 10.0, LOST_SECONDS + 10))),
    _step("registry", how=st.sampled_from(("away", "away", "back", "emptied"))),
    _step("skew", host=hosts, seconds=st.sampled_from((-90000, 90000))),
    _step("wait", seconds=st.sampled_from((3.0, 2 * LOST_SECONDS + 10))),
    _step("wait", seconds=st.just(2 * LOST_SECONDS + 10)),
)
jobs = st.sampled_from((None, None, 0, 1, 2, 3, 5, 9, 20))


def placed(manifest: Manifest, labels: Sequence[str]) -> ManifestSource:
    asked = "".join(f'<require label="{label}"/>' for label in labels)
    given = source(manifest)
    start = given.text.index("<execution>")
    text = f"{given.text[:start]}<placement>{asked}</placement>{given.text[start:]}"
    return replace(given, text=text if labels else given.text)


class Histories(RuleBasedStateMachine):
    @initialize(chance=st.integers(0, 2**16))
    def begin(self, chance: int) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="dcd-farm-", dir=MEMORY))
        self.farm = Farm(self.directory, chance, HOSTS, LOST_SECONDS, shares=True)
        self.tasks: list[tuple[Member, Any]] = []
        self.farm.__enter__()
        self.seen = FarmExpectations(self.farm)
        self.farm.run(LOST_SECONDS)
        self.submit("a", MANIFESTS[1], ())
        self.farm.run(1.0)

    @rule(step=steps, jobs=jobs)
    def happens(self, step: tuple[str, dict[str, Any]], jobs: int | None) -> None:
        name, arguments = step
        getattr(self, name)(**arguments)
        if jobs is None:
            self.farm.run(1.0)
        else:
            self.farm.run(jobs=jobs)

    # People

    def send(self, host: str, command: Callable[[Any], Any]) -> None:
        member = self.farm.members[host]
        if member.engine is not None and not member.frozen:
            self.tasks.append((member, member.start_task(command(member.engine))))

    def submit(self, host: str, manifest: Manifest, labels: Sequence[str]) -> None:
        if len(self.seen.living) < 5:
            given = placed(manifest, labels)
            self.send(host, lambda engine: engine.submit(given, Options(), SOMEBODY, _anything))

    def command(self, kind: str, host: str, which: int) -> None:
        standing = ("paused", "failed") if kind in ("resume", "retry") else ("queued", "running")
        living = self.seen.living
        meant = [build for build in living if build.state in standing] or living
        if not meant:
            return
        build = meant[which % len(meant)].id
        match kind:
            case "pause":
                self.send(host, lambda engine: engine.pause(build, None, SOMEBODY))
            case "resume":
                self.send(
                    host,
                    lambda engine: engine.resume(build, None, None, None, SOMEBODY, _anything),
                )
            case "retry":
                self.send(host, lambda engine: engine.retry(build, SOMEBODY))
            case "cancel":
                self.send(host, lambda engine: engine.cancel(build, SOMEBODY))

    def move(self, host: str, which: int, to: str) -> None:
        living = [each for each in self.seen.living if each.state in ("queued", "running")]
        if living:
            build = living[which % len(living)].id
            self.send(host, lambda engine: engine.move(build, to, SOMEBODY))

    def drain(self, host: str, other: str, draining: bool) -> None:
        member = self.farm.members[host]
        if member.is_well and member.reaches() and member.engine is not None:
            self.farm.current = member
            member.hosts.drain(other, draining=draining)

    # Fate

    def end(self, which: int, outcome: str) -> None:
        if attempts := self.farm.attempts:
            member, attempt = attempts[which % len(attempts)]
            member.end(attempt, outcome)

    def lose(self, how: str, which: int, under_way: int) -> None:
        """Lose a member, mostly one that works."""
        members = [member for member, _ in self.farm.attempts] or list(self.farm.members.values())
        member = members[which % len(members)]
        if member.is_well:
            match how:
                case "kill" | "reboot":
                    self.kill(member, under_way, reboots=how == "reboot")
                case "freeze":
                    member.freeze(under_way)
                case "cut off":
                    member.cut_off(under_way)

    def kill(self, member: Member, under_way: int = 0, *, reboots: bool = False) -> None:
        member.kill(under_way, reboots=reboots)
        self.tasks = [each for each in self.tasks if each[0] is not member]

    def come_back(self, host: str) -> None:
        member = self.farm.members[host]
        if member.line.cut:
            member.rejoin()
        if member.dead:
            member.start()
        elif member.frozen:
            member.thaw()

    def restart(self, host: str) -> None:
        member = self.farm.members[host]
        if member.is_well and member.engine is not None:
            stopping = member.start_task(member.stop())
            self.farm.run(3 * member.settings.stop_grace_seconds)
            assert stopping.done(), "the daemon does not stop"
            stopping.result()
            self.kill(member)
            member.start()

    def outage(self, under_way: int, seconds: float) -> None:
        self.farm.crash(under_way)
        self.farm.run(seconds)
        self.farm.recover()

    def registry(self, how: str) -> None:
        """The registry is away, or back, or has lost everything."""
        self.farm.registry.away = how == "away"
        if how == "emptied":
            self.farm.registry.empty()

    def skew(self, host: str, seconds: float) -> None:
        self.farm.members[host].skew_seconds = seconds

    def wait(self, seconds: float) -> None:
        self.farm.run(seconds)

    # What holds

    @invariant()
    def what_always_holds(self) -> None:
        self.seen.observe()
        for member, task in [pair for pair in self.tasks if pair[1].done()]:
            self.tasks.remove((member, task))
            try:
                answer = task.result()
            except (Refused, NotFound, Unavailable, Unprepared):
                continue
            self.seen.acknowledged(answer[0] if isinstance(answer, tuple) else answer)

    def heal(self) -> None:
        """All members live, and can reach the database and the registry."""
        self.registry("back")
        for host in HOSTS:
            self.come_back(host)
        self.farm.run(5.0)
        for host in HOSTS:
            self.drain(host, host, False)
        self.farm.run(3 * LOST_SECONDS)
        self.what_always_holds()
        assert self.tasks == [], "every command is answered"
        self.seen.check_at_rest()

    def teardown(self) -> None:
        """Whatever happened, every build ends when people and the network let it."""
        try:
            if sys.exception() is None and hasattr(self, "seen"):
                self.heal()
                self.finish()
        finally:
            if hasattr(self, "farm"):
                self.farm.__exit__()
                shutil.rmtree(self.directory)

    def finish(self) -> None:
        for _ in range(30):
            for build in self.seen.living:
                state = self.farm.database.builds[build.id].owner
                if build.state in ("paused", "failed"):
                    self.command("resume", "a", self.seen.living.index(build))
                elif "moon" in state.requires:
                    name = build.id
                    self.send("b", lambda engine, name=name: engine.cancel(name, SOMEBODY))
            for member, attempt in list(self.farm.attempts):
                member.end(attempt)
            self.farm.run(6.0)
            self.what_always_holds()
            if not self.seen.living:
                break
        self.farm.run(LOST_SECONDS)
        self.seen.check_at_rest()
        self.seen.check_end()


def _anything(plan: object) -> None:
    """Everybody may run everything."""


def look_for_trouble(chance: int | None = None, **profile: Any) -> None:
    class Here(Histories):
        pass

    run_histories(Here, BOUNDED, chance, **profile)


BOUNDED = settings(max_examples=8, stateful_step_count=25, derandomize=True)
AT_LENGTH: dict[str, Any] = {"max_examples": 1000, "stateful_step_count": 50, "derandomize": False}


def test_any_history_of_a_farm_keeps_its_promises(soak: bool, chance: Random) -> None:
    if soak:
        look_for_trouble(chance.randrange(2**32), **AT_LENGTH)
    else:
        look_for_trouble(phases=(Phase.generate,))
