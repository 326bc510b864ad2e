"""A farm of a thousand hosts: kills, freezes, cut networks and an outage of the database, drawn from a seed,
while builds are submitted everywhere. DCD_SOAK=1 has more builds, and another seed each time."""

import random
import shutil
import tempfile
from pathlib import Path
from random import Random

import pytest
from farm_expectations import FarmExpectations
from simulated_farm import Farm
from simulated_member import Member
from simulated_parts import Attempt
from test_engine_stateful import MEMORY, ONE, TWO
from test_farm_stateful import SOMEBODY, placed

from dcd.engine.engine import Options

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

LOST_SECONDS = 60.0
RACKS = 50


class Fate:
    """What happens in a farm, by its seed."""

    def __init__(self, farm: Farm, seed: int) -> None:
        self.farm = farm
        self.chance = random.Random(seed)
        self.seen = FarmExpectations(farm)
        self.began, farm.began = farm.began, self._began

    def _began(self, member: Member, attempt: Attempt) -> None:
        self.began(member, attempt)
        end = self.farm.seconds + self.chance.expovariate(1 / 10)
        self.farm.at(end, lambda: member.end(attempt))

    def submit(self) -> None:
        able = [each for each in self.farm.members.values() if each.is_well and each.engine]
        member = self.chance.choice(able)
        labels = (f"rack:{self.chance.randrange(RACKS)}",)
        given = placed((ONE, TWO), labels)
        assert member.engine is not None
        submitting = member.engine.submit(given, Options(fresh=True), SOMEBODY, lambda plan: None)
        member.start_task(submitting)

    def strike(self) -> None:
        """Lose a member, mostly one that works, for longer or shorter than others wait for it."""
        working = [member for member, _ in self.farm.attempts]
        anybody = list(self.farm.members.values())
        member = self.chance.choice(working if working and self.chance.random() < 0.8 else anybody)
        if not member.is_well or member.engine is None:
            return
        back = self.farm.seconds + self.chance.choice((10.0, 1.1 * LOST_SECONDS))
        under_way = self.chance.randrange(3)
        match self.chance.choice(("kill", "freeze", "cut")):
            case "kill":
                member.kill(under_way, reboots=self.chance.random() < 0.5)
                self.farm.at(back, member.start)
            case "freeze":
                member.freeze(under_way)
                self.farm.at(back, member.thaw)
            case "cut":
                member.cut_off(under_way)
                self.farm.at(back, member.rejoin)

    def outage(self, seconds: float) -> None:
        self.farm.crash(self.chance.randrange(5))
        self.farm.run(seconds)
        self.farm.recover()


def live_through(fate: Fate, builds: int, outage_seconds: float) -> None:
    farm = fate.farm
    farm.run(1.0)
    for number in range(builds):
        fate.submit()
        farm.run(fate.chance.uniform(0.0, 3.0))
        if number % 2 == 0:
            fate.strike()
        if number == builds // 2:
            fate.outage(outage_seconds)
        fate.seen.observe()
    for _ in range(200):
        farm.run(5.0)
        fate.seen.observe()
        if not fate.seen.living and all(member.is_well for member in farm.members.values()):
            break
    farm.run(10.0)


def test_a_thousand_hosts_lose_and_duplicate_nothing(soak: bool, chance: Random) -> None:
    hosts = {
        f"h{number}": (f"rack:{number % RACKS}", *(("kvm",) if number % 3 else ()))
        for number in range(1000)
    }
    directory = Path(tempfile.mkdtemp(prefix="dcd-farm-", dir=MEMORY))
    seed, builds = (chance.randrange(2**32), 300) if soak else (1, 8)
    try:
        with Farm(directory, seed, hosts, LOST_SECONDS) as farm:
            farm.heard_seconds = 30.0
            farm.database.started_at = -2 * LOST_SECONDS
            for row in farm.database.members.values():
                row.seen_at, row.unbroken_since = 0.0, -2 * LOST_SECONDS
            fate = Fate(farm, seed)
            live_through(fate, builds, outage_seconds=1.2 * LOST_SECONDS if soak else 5.0)
            fate.seen.check_at_rest()
            fate.seen.check_end()
            looks, read = farm.database.asked["heartbeat"], farm.database.asked.total()
            most = RACKS + 10  # the kinds of builds that there may be, and a few rows more
            assert read < most * looks, "what a look reads does not grow with the number of members"
            assert any(build.epoch > 1 for build in fate.seen.builds.values())
    finally:
        shutil.rmtree(directory)
