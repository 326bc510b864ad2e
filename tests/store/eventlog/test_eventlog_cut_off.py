"""A network that is cut: silence, which the kernel alone would bear for a quarter of an hour."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from statemachine.errors import Unavailable
from statemachine.events import Actor, Event, PauseRequested
from store.eventlog.postgresql.log import PostgresqlLog
from tests.network import Network
from tests.postgresql import Cluster
from tests.store.eventlog.conftest import NOW, until

pytestmark = [pytest.mark.faults, pytest.mark.root]


@pytest.fixture
def network() -> Iterator[Network]:
    """A network of this test's own."""
    made = Network(use=1)
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture
def cut_off(initialised: Cluster, network: Network) -> Iterator[str]:
    """The address of a server in that network."""
    cluster = Cluster(initialised)
    with (cluster.data / "pg_hba.conf").open("a") as rules:
        rules.write(f"host all all {network.range} trust\n")
    try:
        cluster.start(f"listen_addresses={network.server}", namespace=network.space)
        yield network.server
    finally:
        cluster.remove()


def test_a_member_that_was_cut_off_learns_of_it_and_continues(
    cut_off: str,
    network: Network,
    tmp_path: Path,
    submission: Any,
    append: Callable[..., list[Event]],
) -> None:
    with PostgresqlLog(f"host={cut_off} dbname=farm user=dcd-here", tmp_path) as log:
        append(log, "b1", 0, submission())
        network.cut()
        waiting = log.append("b1", 1, [PauseRequested("c1")], Actor(), NOW)
        until(lambda: log.trouble is not None)
        with pytest.raises(Unavailable, match="cannot be reached"):
            append(log, "b2", 0, submission())
        assert not waiting.done()
        network.join()
        assert [event.sequence for event in waiting.result(timeout=120)] == [2]
        assert len(log.read_build("b1")) == 2
        assert log.verify_all() == []
