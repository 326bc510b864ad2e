"""What the soak of a farm examines in the end is noticed: its run is `python -m tests.faults.farm_soak`."""

import json
from typing import Any

import pytest

from tests.faults.farm_soak import out_of_order

PLAN = {"checkpoints": [{"name": "one"}, {"name": "two"}]}
ONE: dict[str, Any] = {"checkpoint": "one", "attempt": 1}
SOUND: tuple[tuple[str, dict[str, Any]], ...] = (
    ("BuildSubmitted", {"plan": PLAN}),
    ("BuildPlaced", {"host": "a", "epoch": 1}),
    ("CheckpointStarted", ONE | {"host": "a"}),
    ("BuildPlaced", {"host": "b", "epoch": 2}),
    ("CheckpointInterrupted", ONE),
    ("CheckpointStarted", {"checkpoint": "one", "attempt": 2, "host": "b"}),
    ("CheckpointCompleted", {"checkpoint": "one", "attempt": 2}),
    ("BuildRewound", {"checkpoint": "one"}),
    ("CheckpointReused", {"checkpoint": "one"}),
    ("CheckpointReused", {"checkpoint": "two"}),
    ("BuildCompleted", {}),
)


def found(*events: tuple[str, dict[str, Any]]) -> list[str]:
    return out_of_order(("b1", kind, json.dumps(said)) for kind, said in events)


@pytest.mark.parametrize(
    ("kept", "bad"),
    [
        (2, ("CheckpointStarted", ONE | {"host": "b"})),
        (2, ("CheckpointStarted", {"checkpoint": "two", "attempt": 1, "host": "a"})),
        (3, ("CheckpointStarted", {"checkpoint": "one", "attempt": 2, "host": "a"})),
        (3, ("CheckpointCompleted", {"checkpoint": "one", "attempt": 2})),
        (3, ("BuildCancelled", {})),
        (7, ("CheckpointCompleted", {"checkpoint": "one", "attempt": 2})),
        (7, ("BuildRewound", {"checkpoint": "two"})),
        (7, ("BuildCompleted", {})),
        (11, ("BuildPlaced", {"host": "a", "epoch": 3})),
        (11, ("BuildCompleted", {})),
    ],
)
def test_control_what_they_may_not_record_is_noticed(
    kept: int, bad: tuple[str, dict[str, Any]]
) -> None:
    assert found(*SOUND) == []
    (problem,) = found(*SOUND[:kept], bad)
    assert problem.startswith(f"b1: {bad[0]}")
