"""Which layers a build has to check before it uses one."""

from pathlib import Path

from dcd.engine.soundness import unchecked
from store.layers.copy import CopyTrees
from store.layers.directory import LayerDirectory
from store.layers.interface import LayerRecord

BASE, RESULT, NEXT = ("1" * 64, "2" * 64, "3" * 64)


def test_a_base_below_a_result_is_checked_with_it_and_what_was_checked_is_not(
    tmp_path: Path,
) -> None:
    layers = LayerDirectory(tmp_path / "layers", CopyTrees())
    layers.prepare()
    for parent, key in ((None, BASE), (BASE, RESULT), (RESULT, NEXT)):
        workspace = layers.begin(parent, "attempt")
        layers.commit(workspace, LayerRecord(key, parent, "build", "one", 1, 1.0))

    assert unchecked(layers, RESULT, set()) == [BASE, RESULT]
    assert unchecked(layers, NEXT, {RESULT}) == [NEXT]
    assert unchecked(layers, NEXT, {NEXT}) == []
    assert unchecked(layers, "4" * 64, set()) == ["4" * 64]
