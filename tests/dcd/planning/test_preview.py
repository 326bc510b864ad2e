"""Why a checkpoint would run or be reused, told without a daemon."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dcd.planning.preview import intentions
from statemachine.build import BuildState, CheckpointRecord, CheckpointState, Lifecycle
from statemachine.events import Actor
from statemachine.keys import chain, with_salt
from statemachine.plan import Ingredient, Plan, PlannedCheckpoint
from store.layers import LayerRecord, LayerStore
from store.layers.choose import open_store


def plan(**code: str) -> Plan:
    return chain(
        PlannedCheckpoint(name, "", "m", "C", "", (Ingredient("code", "", digest),))
        for name, digest in code.items()
    )


def build(of: Plan, completed: int) -> BuildState:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    records = tuple(
        CheckpointRecord(
            planned.name,
            planned.key,
            CheckpointState.COMPLETED if index < completed else CheckpointState.PENDING,
        )
        for index, planned in enumerate(of.checkpoints)
    )
    return BuildState(
        "b1", "live", Lifecycle.CANCELLED, of, records, "<dc/>", "/m", now, now, Actor()
    )  # fmt: skip


@pytest.fixture
def layers(tmp_path: Path) -> LayerStore:
    store = open_store("copy", tmp_path / "layers")
    (tmp_path / "layers").mkdir()
    store.prepare()  # type: ignore[attr-defined]
    return store


def reasons(wanted: Plan, newest: BuildState | None, layers: LayerStore) -> list[str]:
    return [found.reason for found in intentions(wanted, newest, layers, fresh=False)]


def test_without_a_build_of_the_same_name_nothing_was_made(layers: LayerStore) -> None:
    assert reasons(plan(a="1"), None, layers) == ["no build made it yet"]


def test_what_the_newest_build_did_not_reach_was_not_made(layers: LayerStore) -> None:
    of = plan(a="1", b="1")
    assert reasons(of, build(of, completed=1), layers) == [
        "its layer was removed since build b1",
        "no build made it yet",
    ]


def test_changed_code_says_so_and_what_follows_only_follows(layers: LayerStore) -> None:
    newest = build(plan(a="1", b="1"), completed=2)
    assert reasons(plan(a="2", b="1"), newest, layers) == [
        "its own code changed",
        "an earlier checkpoint changed",
    ]


def test_what_a_fresh_build_made_is_its_own(layers: LayerStore) -> None:
    of = plan(a="1")
    newest = build(with_salt(of, 0, "fresh"), completed=1)
    assert reasons(of, newest, layers) == [
        "build b1 made it for itself alone (fresh, rewound or grown)"
    ]


def test_a_layer_is_reused_whoever_made_it_unless_that_is_declined(layers: LayerStore) -> None:
    of = plan(a="1")
    (planned,) = of.checkpoints
    planned = replace(planned, estimate_seconds=9.0)
    workspace = layers.begin(None, "w")
    layers.commit(workspace, LayerRecord(planned.key, None, "b7", "a", 1, 1.0))
    (found,) = intentions(of, None, layers, fresh=False)
    assert (found.action, found.reason) == ("reuse", f"layer {planned.key[:12]} from build b7")
    assert found.estimate_seconds == 0
    (found,) = intentions(of, None, layers, fresh=True)
    assert (found.action, found.reason) == ("run", "no reuse is wanted")
