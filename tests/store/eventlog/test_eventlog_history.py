"""History cannot be altered unnoticed: the hash chain and what `verify` says."""

from collections.abc import Callable
from typing import Any

import pytest

from statemachine.errors import NotFound
from store.eventlog import EventLog, LogDamaged
from tests.store.eventlog.conftest import Database


@pytest.fixture
def forge(database: Database, submit: Callable[..., Any]) -> Callable[[str], EventLog]:
    """A log of b1 and b2 with six events each, altered by somebody who knows the triggers."""

    def forge(statement: str) -> EventLog:
        with database.open() as log:
            for build in ("b1", "b2"):
                submit(log, build).run(2)
        database.forge(statement)
        return database.open()

    return forge


def test_an_untouched_history_is_sound(log: EventLog, submit: Callable[..., Any]) -> None:
    submit(log, "b1").run(3)
    assert log.verify("b1") == []
    with pytest.raises(NotFound):
        log.verify("b2")


@pytest.mark.parametrize(
    "change",
    [
        'data = \'{"checkpoint":"c0"}\'',
        "type = 'BuildStarted'",
        "version = 2",
        "time = '2020-01-01T00:00:00.000000Z'",
        "actor = '{\"uid\":0}'",
        "hash = 'abc'",
    ],
)
def test_an_altered_event_is_found_and_not_acted_on(
    forge: Callable[[str], EventLog], change: str
) -> None:
    with forge(f"UPDATE events SET {change} WHERE build = 'b1' AND sequence = 3") as log:
        assert any("event 3" in problem for problem in log.verify("b1"))
        with pytest.raises(LogDamaged, match="b1 are damaged"):
            log.read_build("b1")
        assert log.verify("b2") == []
        assert len(log.read_build("b2")) == 6


def test_an_event_that_changed_places_is_found(forge: Callable[[str], EventLog]) -> None:
    with forge("UPDATE events SET build = 'b3' WHERE build = 'b1'") as log:
        assert "event 1 or the one before it has been altered" in log.verify("b3")


def test_a_gap_is_found(forge: Callable[[str], EventLog]) -> None:
    with forge("DELETE FROM events WHERE build = 'b1' AND sequence = 4") as log:
        assert log.verify("b1") == ["event 4 is missing: event 5 is in its place"]
        with pytest.raises(LogDamaged):
            log.read_build("b1")


def test_a_lost_end_is_found(forge: Callable[[str], EventLog]) -> None:
    with forge("DELETE FROM events WHERE build = 'b1' AND sequence > 4") as log:
        assert log.verify("b1") == ["the list of builds has 6 events, the log has 4"]


def test_a_lost_build_is_found(forge: Callable[[str], EventLog]) -> None:
    with forge("DELETE FROM events WHERE build = 'b1'") as log:
        assert log.verify("b1") == ["the list of builds has 6 events, the log has 0"]
