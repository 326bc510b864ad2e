"""The suites of kills and of kill points with the event log in PostgreSQL: the daemon is a member of a farm.

Where the daemon on SQLite is killed before calls that change files, it is killed here before it sends an
event to the database, and before it reads the answer, when the event is there and the daemon does not know.
The witness examines the database beside the state directory, with queries of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from store.eventlog.postgresql.log import PostgresqlLog
from tests.farms import violations
from tests.faults import test_kill_daemon as kills
from tests.faults.conftest import Witness
from tests.faults.test_kill_points import Scenario, chosen, scenario
from tests.forking import Fault
from tests.postgresql import Cluster

__all__ = ["scenario"]

pytestmark = [pytest.mark.faults, pytest.mark.root]


@dataclass
class FarmWitness(Witness):
    """A witness of a member, which is the only one of its farm."""

    server: Cluster | None = None
    new_farm: Callable[[], str] = str
    name: str = ""

    def clear(self) -> None:
        super().clear()
        assert self.server is not None
        self.name = self.new_farm()
        dsn = self.server.dsn(self.name, "dcd-here")
        self.daemon.tables = f'[farm]\ndatabase = "{dsn}"\n'

    def _wrong_in_log(self) -> list[str]:
        assert self.server is not None
        seen = self.daemon.state_dir.parent / "examined"
        seen.mkdir(exist_ok=True)
        (seen / "farm").unlink(missing_ok=True)
        with PostgresqlLog(self.server.dsn(self.name, "dcd-there"), seen) as log:
            return [*violations(self.server.dsn(self.name)), *self._wrong_in(log)]


@pytest.fixture
def witness(frail: Any, tmp_path: Any, server: Cluster, new_farm: Callable[[], str]) -> FarmWitness:
    """The witness of `frail`, which is a member of a new farm."""
    found = FarmWitness(frail, tmp_path / "effects", server=server, new_farm=new_farm)
    found.clear()
    return found


@pytest.fixture
def make_fault() -> Callable[..., Fault]:
    """Makes a fault at an event that is sent, or at its answer."""
    return lambda at: Fault(at, calls=("send", "recv"))


def test_killed_in_every_checkpoint(
    cold_daemon: Any, witness: Any, write_manifest: Any, tmp_path: Any
) -> None:
    kills.test_killed_in_every_checkpoint_the_build_goes_on_from_the_interrupted_one(
        cold_daemon, witness, write_manifest, tmp_path, "main process", cold_daemon.launch
    )


def test_killed_at_random_moments(
    frail: Any, witness: Any, write_manifest: Any, chance: Any, soak: bool
) -> None:
    kills.test_killed_at_random_moments_concurrent_builds_keep_every_promise(
        frail, witness, write_manifest, chance, soak, rounds=2
    )


def test_killed_around_events_the_build_completes_all_the_same(
    scenario: Scenario, zygote: Any, witness: Any, chance: Any, soak: bool
) -> None:
    """The last daemon but one is killed in its recovery."""
    assert scenario.run(0)
    assert scenario.end() == []
    points = zygote.points()
    print(points)
    assert {"send BuildSubmitted", "recv CheckpointCompleted", "recv BuildPlaced"} <= set(points)

    wrong = []
    for number in chosen(points, soak, chance, few=2):
        witness.clear()
        wrong += scenario.survive(number, chance.randint(1, 5))
    assert wrong == []


def test_control_acknowledgement_before_the_answer_is_noticed(
    scenario: Scenario, zygote: Any, witness: Any
) -> None:
    assert not scenario.run(1, "acknowledge_before_the_answer")

    assert zygote.points() == ["send BuildSubmitted"]
    assert any("was acknowledged" in problem for problem in witness.wrong_after_death())
