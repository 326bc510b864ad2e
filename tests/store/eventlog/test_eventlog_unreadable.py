"""Events that cannot be read, though the database should have refused them: they stop their own build."""

from collections.abc import Callable
from typing import Any

import pytest

from statemachine.errors import DcdError
from store.eventlog import EventLog
from tests.store.eventlog.conftest import Postgresql


@pytest.fixture
def forge(farm: Postgresql, submit: Callable[..., Any]) -> Callable[[str], EventLog]:
    """A log of b1, b2 and b3, in which events of b2 are altered by somebody who knows the triggers."""

    def forge(change: str) -> EventLog:
        with farm.open() as log:
            for build in ("b1", "b2", "b3"):
                submit(log, build)
        farm.forge(f"UPDATE events SET {change} WHERE build = 'b2'")
        return farm.open()

    return forge


@pytest.mark.parametrize(
    "change",
    [
        "type = 'BuildExploded'",
        "version = 2",
        "data = '{'",
        "data = 'null'",
        "data = replace(data, '\"plan\"', '\"plans\"')",
        "data = repeat('[', 100000)",
        "actor = '[]'",
        "time = 'yesterday'",
    ],
)
def test_an_event_that_cannot_be_read_stops_its_own_build(
    forge: Callable[[str], EventLog], change: str
) -> None:
    with forge(change) as log:
        assert [event.build for event in log.read()] == ["b1", "b3"]
        assert [event.build for event in log.read(after=1, limit=1)] == ["b3"]
        assert log.read(after=3) == []
        with pytest.raises(DcdError):
            log.read_build("b2")
        with pytest.raises(DcdError):
            log.take("b2", "here")
        assert log.take("b3", "here") == 1
        assert [summary.id for summary in log.unfinished()] == ["b1", "b2", "b3"]
        assert log.verify("b2") != [] == log.verify("b1")
