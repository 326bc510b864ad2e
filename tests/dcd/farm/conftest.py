"""A log of a farm without a database: that of a single machine, with epochs."""

from collections.abc import Iterator
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from statemachine.errors import Refused
from statemachine.events import Actor, BuildPlaced, Event
from statemachine.machine import BuildMachine
from store.eventlog import Fenced, SqliteLog
from store.eventlog.interface import May, whatever


class SharedLog(SqliteLog):
    """What the members of a farm share: it grants epochs, and refuses facts of those that are over."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.epochs: dict[str, int] = {}
        self._unfenced, self.append = self.append, self._fencing

    def take(self, build: str, host: str, may: May = whatever) -> int:
        if not may(BuildMachine.rehydrate(self.read_build(build)).state):
            raise Refused(f"build {build} is for another member than {host}")
        epoch = self.epochs[build] = self.epochs.get(build, 0) + 1
        expected, placed = self.summary(build).sequence, BuildPlaced(host, epoch)
        self._unfenced(build, expected, (placed,), Actor(), datetime.now(UTC)).result()
        return epoch

    def _fencing(self, build: str, *arguments: Any) -> "Future[list[Event]]":
        epoch = arguments[4]
        if epoch is not None and epoch != self.epochs[build]:
            refused: Future[list[Event]] = Future()
            refused.set_exception(Fenced(f"epoch {epoch} is over"))
            return refused
        return self._unfenced(build, *arguments[:4])


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SharedLog]:
    with SharedLog(tmp_path / "events.db") as shared:
        yield shared
