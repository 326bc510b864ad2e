"""A layer as a stream and a layer again, for each back end: what is shown is what was made."""

import os
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from store.layers import ExpectedLayer
from store.layers.stream import pack, unpack
from tests.dcd.checkpoints.hostile_tree import fingerprint, plant
from tests.store.layers.conftest import Subject, key_of

pytestmark = pytest.mark.root


def moved(subject: Subject, name: str) -> None:
    """Pack a layer, remove it, and make it again from the stream."""
    store = subject.store
    layer = store.find(key_of(name))
    assert layer is not None
    record = layer.record
    expected = ExpectedLayer(record.key, record.parent, record.content, store.name)
    with TemporaryFile() as stream:
        pack(store, record.key, stream.fileno())
        store.remove(record.key)
        stream.seek(0)
        workspace = store.begin(record.parent, "unpacking")
        again = store.commit(workspace, unpack(workspace, stream.fileno(), expected))
    assert again.record == record
    assert store.check(record.key, True, False, record.content).state == "unchanged"


def test_layers_of_each_back_end_are_what_they_were(subject: Subject) -> None:
    def first(root: Path) -> None:
        if subject.keeps_attributes:
            plant(root)
        (root / "removed").write_text("removed")
        (root / "directory").mkdir()
        (root / "directory/file").write_text("x")
        (root / "one").write_text("two names")
        os.link(root / "one", root / "two")

    def second(root: Path) -> None:
        (root / "removed").unlink()
        (root / "directory").rename(root / "other")
        (root / "new").write_text("new")

    subject.make("first", None, first)
    moved(subject, "first")
    subject.make("second", "first", second)
    before = subject.read("second", fingerprint)
    moved(subject, "second")
    assert subject.read("second", fingerprint) == before
    assert subject.work() == []
