"""What every simulated daemon begins with."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from store.eventlog import EventLog, SqliteLog
from tests.postgresql import Cluster
from tests.store.eventlog.conftest import Postgresql


@dataclass(frozen=True)
class SqliteFiles:
    """Event logs in files. `template` is one without events: to make one takes longer than a history."""

    template: Path

    def clear(self, directory: Path) -> None:
        """Give a new state directory a log without events."""
        shutil.copy(self.template, directory / "events.db")

    def open(self, directory: Path) -> EventLog:
        """Open the log of a state directory."""
        return SqliteLog(directory / "events.db")


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> SqliteFiles:
    """Event logs in files."""
    path = tmp_path_factory.mktemp("template") / "events.db"
    with SqliteLog(path):
        pass
    return SqliteFiles(path)


@pytest.fixture
def farm(server: Cluster, new_farm: Callable[[], str], tmp_path: Path) -> Postgresql:
    """An empty event log in PostgreSQL."""
    return Postgresql(server, new_farm(), tmp_path)
