"""Event logs of every released revision, which every later version must open, verify and fold alike."""

import json
import sqlite3
from pathlib import Path

import pytest

from statemachine.codec import PAYLOADS
from statemachine.machine import BuildMachine
from store.eventlog import LogDamaged, SqliteLog
from store.eventlog.sqlite.schema import REVISIONS

pytestmark = pytest.mark.faults

CORPUS = Path(__file__).with_name("corpus")
RELEASED = sorted(path.stem for path in CORPUS.glob("*.sql"))


@pytest.fixture
def restored(tmp_path):
    """Makes the database of a revision from its dump."""

    def restore(revision, change=lambda text: text):
        path = tmp_path / f"{revision}.db"
        with sqlite3.connect(path) as database:
            database.executescript(change((CORPUS / f"{revision}.sql").read_text()))
        database.close()
        return path

    return restore


@pytest.mark.parametrize("revision", RELEASED)
def test_log_of_a_released_revision_folds_to_what_it_was(restored, revision):
    expected = json.loads((CORPUS / f"{revision}.json").read_text())

    with SqliteLog(restored(revision)) as log:
        assert log.verify_projection() == []
        assert {event.build for event in log.read()} == set(expected)
        for build, before in expected.items():
            assert log.verify(build) == []
            state = BuildMachine.rehydrate(log.read_build(build)).state
            assert before == {
                "state": str(state.lifecycle),
                "reason": state.reason,
                "sequence": state.sequence,
                "hash": state.hash,
                "pause_before": state.pause_before,
                "checkpoints": [
                    [c.name, str(c.state), c.key, c.attempts] for c in state.checkpoints
                ],
                "published": [artifact.name for artifact in state.published],
            }


@pytest.mark.parametrize("revision", RELEASED)
def test_log_of_a_released_revision_goes_on(restored, revision):
    with SqliteLog(restored(revision)) as log:
        unfinished = [summary.id for summary in log.unfinished()]
        listed = log.known_builds({event.build for event in log.read(limit=100_000)})

        assert unfinished
        assert len(listed) == len(json.loads((CORPUS / f"{revision}.json").read_text()))
        assert log.verify_projection() == []


def test_the_corpus_has_every_revision_and_every_event_in_its_present_version(restored):
    assert list(REVISIONS) == sorted({name.partition("-")[0] for name in RELEASED})
    found = set()
    for revision in RELEASED:
        with SqliteLog(restored(revision)) as log:
            found |= {(event.type, event.version) for event in log.read()}
    assert found >= {(name, payload.VERSION) for name, payload in PAYLOADS.items()}


def test_control_a_corpus_with_an_altered_event_is_noticed(restored):
    path = restored("0001", lambda text: text.replace("its last lines: no", "its last lines: yes"))

    with SqliteLog(path) as log, pytest.raises(LogDamaged, match="are damaged"):
        log.read_build("aaaaaaaaaa")
