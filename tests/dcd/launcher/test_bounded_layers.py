"""What a layer from elsewhere may cost until it is stored, and what its record has to say."""

import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from statemachine.errors import Unprepared
from store.host.plain import as_plain
from store.layers import stream as streams
from store.layers.overlay import OverlayTrees
from tests.dcd.launcher.test_moved_layers import Forged, Host, expected, lower

pytestmark = pytest.mark.root


@pytest.fixture
def hosts(tmp_path: Path) -> tuple[Host, Host]:
    return Host(tmp_path / "one", OverlayTrees()), Host(tmp_path / "other", OverlayTrees())


def test_a_record_of_other_products_is_refused_before_anything_is_made(
    hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = hosts
    layer = one.make("first", None, lower)
    named = replace(expected(layer), products=layer.record.products)
    forged = replace(named, products=replace(layer.record.products, left=("media/x",)))
    monkeypatch.setattr(streams, "_Plants", None)
    assert "of its products" in other.refuses(one.packed("first"), forged)
    monkeypatch.undo()
    assert other.take(one.packed("first"), named).record.products == layer.record.products


@pytest.mark.parametrize(
    "forged",
    [
        {"seconds": float("nan")},
        {"seconds": -1.0},
        {"attempt": 10**400},
        {"epoch": -(10**30)},
        {"made_by": "b" * 201},
        {"own": "0" * (17 << 20)},
    ],
    ids=lambda forged: next(iter(forged)),
)
def test_a_record_that_no_event_could_repeat_is_refused(
    hosts: tuple[Host, Host], forged: dict[str, Any]
) -> None:
    one, other = hosts
    layer = one.make("first", None, Forged.tree)
    record = as_plain(replace(layer.record, **forged))
    file = layer.directory / "layer.json"
    file.write_text(json.dumps({**json.loads(file.read_bytes()), "record": record}))
    one.subject.store._known.clear()
    assert other.refuses(one.packed("first"), expected(layer))


def test_a_small_stream_that_becomes_too_large_or_takes_too_long_leaves_nothing(
    hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    def sparse(root: Path) -> None:
        with (root / "disk").open("wb") as file:
            file.truncate(streams.FREELY_BYTES // 4096)

    one, other = hosts
    layer = one.make("first", None, sparse)
    stream = one.packed("first")
    assert len(stream) < 10_000
    assert "more than 0 s" in other.refuses(stream, replace(expected(layer), most_seconds=0.0))
    with pytest.raises(Unprepared, match="no space left"):
        other.take(stream, replace(expected(layer), min_free_bytes=1 << 62))
    assert other.names() == [".work"]
    monkeypatch.setattr(streams, "FREELY_BYTES", 1 << 20)
    monkeypatch.setattr(streams, "SECOND_BYTES", 0)
    assert "read in time" in other.refuses(stream, expected(layer))
    monkeypatch.undo()
    assert other.take(stream, expected(layer)).record.content == layer.record.content


def test_attributes_that_fill_the_memory(
    hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MOST_ATTRIBUTES_BYTES", 10)
    one, other = hosts
    forged = Forged(one)
    forged.member("tree/directory", tarfile.DIRTYPE, **{"SCHILY.xattr.user.x": b"y" * 11})
    assert "attributes" in other.refuses(forged.stream, expected(forged.layer))
