"""A network that is cut: silence, which the kernel alone would bear for a quarter of an hour."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from statemachine.errors import Unavailable
from statemachine.events import Actor, Event, PauseRequested
from store.eventlog.postgresql.log import PostgresqlLog
from tests.postgresql import Cluster

pytestmark = [pytest.mark.faults, pytest.mark.root]

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


@pytest.fixture
def cut_off(initialised: Cluster, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The address of a server, and the interface of a network namespace of its own that leads to it."""
    number = os.getpid() % 250
    space, ours, theirs = f"dcd-{os.getpid()}", f"dcda{os.getpid()}", f"dcdb{os.getpid()}"
    here, there = f"198.18.{number}.1", f"198.18.{number}.2"
    cluster = Cluster(initialised)
    with (cluster.data / "pg_hba.conf").open("a") as rules:
        rules.write("host all all 198.18.0.0/15 trust\n")
    ip("netns", "add", space)
    try:
        ip("link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", space)
        ip("address", "add", f"{here}/30", "dev", ours)
        ip("link", "set", ours, "up")
        ip("-n", space, "address", "add", f"{there}/30", "dev", theirs)
        ip("-n", space, "link", "set", theirs, "up")
        cluster.start(f"listen_addresses={there}", namespace=space)
        yield there, ours
    finally:
        cluster.remove()
        ip("netns", "delete", space)


def test_a_member_that_was_cut_off_learns_of_it_and_continues(
    cut_off: tuple[str, str],
    tmp_path: Path,
    submission: Any,
    append: Callable[..., list[Event]],
) -> None:
    address, interface = cut_off
    with PostgresqlLog(f"host={address} dbname=farm user=dcd-here", tmp_path) as log:
        append(log, "b1", 0, submission())
        ip("link", "set", interface, "down")
        began = time.monotonic()
        waiting = log.append("b1", 1, [PauseRequested("c1")], Actor(), NOW)
        while log.trouble is None:
            assert time.monotonic() - began < 30
            time.sleep(0.05)
        with pytest.raises(Unavailable, match="cannot be reached"):
            append(log, "b2", 0, submission())
        assert not waiting.done()
        ip("link", "set", interface, "up")
        assert [event.sequence for event in waiting.result(timeout=60)] == [2]
        assert len(log.read_build("b1")) == 2
        assert log.verify_all() == []
