"""The daemon is killed before every single call that changes a file, and so is its recovery.

The scenario is short: a daemon starts on nothing, a build of two checkpoints is submitted and completes.
First its calls are counted. Then, for each number N, the daemon is killed before its Nth call;
for a daemon that died in mid-checkpoint, the daemon that recovers is killed before each of its own. After
every death the witness looks, and a last daemon must complete the build. In the bounded form there
is one N for each kind of call.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli.client import ClientError

pytestmark = [pytest.mark.faults, pytest.mark.root]

FEW = 5


@dataclass
class Scenario:
    """One build, submitted until it is acknowledged and looked at until it is completed."""

    daemon: Any
    witness: Any
    zygote: Any
    manifest: Path
    make_fault: Any

    def run(self, at: int | None, defect: str | None = None) -> bool:
        """Start a daemon and go on to the end, or to the daemon's death before call `at` (0: only
        count; None: do not even count). Whether it lived."""
        self.zygote.defect = defect
        self.zygote.fault = None if at is None else self.make_fault(at=at)
        self.daemon.spawn()
        try:
            self._go_on()
        except (ClientError, OSError):
            assert at, self.daemon.log.read_text()[-4000:]
            # When the launcher was killed, the daemon ends by itself; with 9 during its start.
            assert self.daemon.process.wait() in (-9, 1, 9), self.daemon.log.read_text()[-4000:]
            return False
        return True

    def end(self) -> list[str]:
        """What is wrong at the end; the daemon is stopped."""
        wrong = self.witness.wrong_at_rest()
        builds = self.witness.ask("GET", "/builds")["builds"]
        if len(builds) != 1:
            wrong.append(f"there are {len(builds)} builds")
        assert self.daemon.stop() == 0, self.daemon.log.read_text()[-4000:]
        return wrong

    def survive(self, *schedule: int) -> list[str]:
        """What goes wrong when successive daemons are killed before these calls."""
        wrong = []
        for at in schedule:
            if self.run(at):
                self.daemon.kill()
            wrong += self.witness.wrong_after_death()
        self.run(None)
        return [f"killed before {schedule}: {problem}" for problem in wrong + self.end()]

    def _go_on(self) -> None:
        while b'"event": "ready"' not in self.daemon.log.read_bytes()[self.daemon._ready_from :]:
            if self.daemon.process.poll() is not None:
                raise OSError("died while it started")
        build = self.witness.submit(self.manifest, idempotency_key="once")
        while (state := self.witness.look()[build])["state"] != "completed":
            assert state["state"] in ("queued", "running", "paused"), state
            if state["state"] == "paused":
                assert "interrupted 3 times" in state["reason"], state
                self.witness.ask("POST", f"/builds/{build}/resume", {})


@pytest.fixture
def scenario(frail, witness, zygote, make_fault, write_manifest):
    image = "{PKG_IMAGE_PATH}"
    manifest = write_manifest(
        witness.step("one", f"mkdir {image}/one && echo one > {image}/one/file"),
        witness.step("two", f"mv {image}/one {image}/two && grep one {image}/two/file"),
    )
    return Scenario(frail, witness, zygote, manifest, make_fault)


def kind(point):
    """What a call does, without what differs from run to run."""
    return re.sub(r"[a-z0-9]{10}\.|[0-9a-f]{16,}|(?<![a-z])[a-z0-9]{10}(?=/|$)|\d+", "*", point)


def chosen(points, soak, chance, few=FEW):
    """The numbers of all points, or of `few` of different kinds."""
    if soak:
        return range(1, len(points) + 1)
    numbers = list(range(1, len(points) + 1))
    chance.shuffle(numbers)
    by_kind = {kind(points[number - 1]): number for number in numbers}
    return sorted(chance.sample(list(by_kind.values()), min(few, len(by_kind))))


def test_killed_before_any_call_the_build_completes_all_the_same(
    scenario, witness, zygote, chance, soak
):
    assert scenario.run(0)
    assert scenario.end() == []
    points = zygote.points()
    print(f"{len(points)} points")

    wrong = []
    for number in chosen(points, soak, chance):
        witness.clear()
        wrong += [(problem, points[number - 1]) for problem in scenario.survive(number)]
    assert wrong == []


def test_recovery_killed_before_any_of_its_calls_is_recovered_in_turn(
    scenario, zygote, witness, chance, soak, tmp_path
):
    assert scenario.run(0)
    assert scenario.end() == []
    in_second = max(n for n, p in enumerate(zygote.points(), 1) if ".1.2" in p and "mkdir" in p)
    witness.clear()
    assert not scenario.run(in_second)
    dead = tmp_path / "dead"
    shutil.copytree(scenario.daemon.state_dir, dead, symlinks=True)
    effects = witness.effects.read_bytes()
    shown = {build: dict(known) for build, known in witness.shown.items()}
    assert scenario.run(0)
    assert scenario.end() == []
    points = zygote.points()
    print(f"{len(points)} points")

    wrong = []
    for number in chosen(points, soak, chance):
        witness.clear()
        shutil.copytree(dead, scenario.daemon.state_dir, symlinks=True)
        witness.effects.write_bytes(effects)
        witness.shown.update({build: dict(known) for build, known in shown.items()})
        wrong += [(problem, points[number - 1]) for problem in scenario.survive(number)]
    assert wrong == []


def test_recovery_makes_durable_what_it_relies_on_before_it_goes_on(scenario, witness, zygote):
    assert scenario.run(0)
    renamed = max(
        n for n, p in enumerate(zygote.points(), 1) if re.match("rename .*[0-9a-f]{64}$", p)
    )
    scenario.daemon.kill()
    witness.clear()
    assert not scenario.run(renamed + 1)  # before the sync of the layer's name

    assert scenario.run(0)

    points = zygote.points()
    synced = next(n for n, p in enumerate(points) if re.match("fsync .*/layers/overlay$", p))
    written = next(n for n, p in enumerate(points) if re.match("fdatasync .*-wal$", p))
    assert synced < written
    assert scenario.end() == []


def test_killed_again_and_again_before_any_call_the_build_completes(
    scenario, witness, chance, soak
):
    for _ in range(100 if soak else 2):
        witness.clear()
        schedule = [chance.randint(1, 400) for _ in range(3)]
        assert scenario.survive(*schedule) == []


def test_control_acknowledgement_before_the_commit_is_noticed(scenario, zygote, witness):
    assert scenario.run(0)
    assert scenario.end() == []
    points = zygote.points()
    first_commit = next(n for n, p in enumerate(points, 1) if re.match(r"pwrite64 .*-wal$", p))
    witness.clear()

    assert not scenario.run(first_commit, "acknowledge_before_commit")

    assert any("was acknowledged" in problem for problem in witness.wrong_after_death())


def test_control_a_layer_that_appears_bit_by_bit_is_noticed(scenario, zygote, witness):
    assert scenario.run(0, "layers_appear_bit_by_bit")
    points = zygote.points()
    scenario.daemon.kill()
    moves = [n for n, p in enumerate(points, 1) if p.startswith("rename") and p.endswith("/tree")]
    witness.clear()
    assert not scenario.run(moves[0], "layers_appear_bit_by_bit")
    try:
        scenario.run(None)
        noticed = scenario.end()
    except AssertionError as error:
        noticed = [str(error)]
    assert noticed
