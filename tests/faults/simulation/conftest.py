"""What every simulated daemon begins with."""

from pathlib import Path

import pytest

from store.eventlog import SqliteLog


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An event log without events: to make one takes longer than a history."""
    path = tmp_path_factory.mktemp("template") / "events.db"
    with SqliteLog(path):
        pass
    return path
