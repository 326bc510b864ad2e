"""A second place for the layers of builds in varied surroundings: another back end, seen as one store."""

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from statemachine.errors import NotFound
from statemachine.variation import ELSEWHERE
from store.layers.choose import with_second_place
from store.layers.copy import CopyTrees
from store.layers.directory import LayerDirectory
from store.layers.interface import LayerRecord, LayerStore
from store.layers.overlay import OverlayTrees
from tests.store.layers.conftest import Subject, key_of

pytestmark = pytest.mark.root

Opened = Callable[[], LayerStore]


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    """The store, as after a start."""

    def start() -> LayerStore:
        main = LayerDirectory(tmp_path / "layers/overlay", OverlayTrees())
        (tmp_path / "layers").mkdir(exist_ok=True)
        main.prepare()
        store = with_second_place(main, tmp_path / "layers/varied")
        store.prepare()
        return store

    return start


def make(store: LayerStore, name: str, parent: str | None, workspace: str) -> Path:
    begun = store.begin(key_of(parent) if parent else None, workspace)
    assert store.hold(workspace) == begun
    (begun.stored_tree / name).write_text(name)
    layer = store.commit(begun, LayerRecord(key_of(name), begun.parent, "b", "c", 1, 1.0))
    store.let_go(workspace)
    return layer.directory


def test_builds_in_varied_surroundings_have_another_back_end(opened: Opened) -> None:
    store = opened()
    plain = make(store, "plain", None, "b.0.1")
    varied = make(store, "varied", None, f"c.0.1.{ELSEWHERE}")
    above = make(store, "above", "varied", f"c.1.1.{ELSEWHERE}")
    assert [each.parent.name for each in (plain, varied, above)] == ["overlay", "copy", "copy"]
    assert varied.parent.parent.name == "varied"
    # A layer stays with what it stands on.
    assert make(store, "beside", "plain", f"c.2.1.{ELSEWHERE}").parent.name == "overlay"
    again = opened()
    for each in (store, again):
        assert {layer.record.key for layer in each.layers()} == {
            key_of(name) for name in ("plain", "varied", "above", "beside")
        }
        assert each.file(key_of("above"), "varied").read_text() == "varied"
        assert each.check(key_of("above"), True, False, "").state == "unchanged"
    assert make(again, "more", "above", f"c.3.1.{ELSEWHERE}").parent == varied.parent


def test_a_start_removes_what_no_build_needs_in_both_places(opened: Opened) -> None:
    store = opened()
    for name, workspace in (("plain", "b.0.1"), ("varied", f"c.0.1.{ELSEWHERE}")):
        make(store, name, None, workspace)
        store.begin(key_of(name), f"left-{workspace}")
    store = opened()
    assert {name for name, _ in store.workspaces()} == {"left-b.0.1", f"left-c.0.1.{ELSEWHERE}"}
    removed = store.reconcile([key_of("plain")], ())
    assert len(removed) == 3
    assert [each.record.key for each in store.layers()] == [key_of("plain")]
    assert list(store.workspaces()) == []


def test_names_of_neither_place_are_not_found(opened: Opened, tmp_path: Path) -> None:
    store = opened()
    for name in (key_of("none"), "../varied", str(tmp_path)):
        assert store.find(name) is None
        with pytest.raises(NotFound):
            store.remove(name)
    with pytest.raises(NotFound):
        store.hold("nothing")


def test_an_artifact_of_a_layer_below_is_not_one_of_the_layer(subject: Subject) -> None:
    """Whatever the back end stores: an artifact gets another mode, and the content of a layer must not
    depend on where it is kept."""

    def first(tree: Path) -> None:
        (tree / "kept").write_text("kept")
        (tree / "changed").write_text("before")

    subject.make("one", None, first)
    workspace = subject.begin("one", f"a-{uuid.uuid4().hex}")
    subject.change(workspace, lambda tree: (tree / "changed").write_text("afterwards"))
    subject.change(workspace, lambda tree: (tree / "new").write_text("new"))
    own = [subject.store.own_file(workspace, name) for name in ("kept", "changed", "new")]
    assert own[0] is None
    assert all(own[1:])
    subject.store.discard(workspace)


def test_where_the_same_back_end_is_the_only_one_it_has_another_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.layers.choose._BACK_ENDS", {"copy": CopyTrees})
    main = LayerDirectory(tmp_path / "copy", CopyTrees())
    main.prepare()
    store = with_second_place(main, tmp_path / "varied")
    place = make(store, "varied", None, f"c.0.1.{ELSEWHERE}")
    assert place.parent == tmp_path / "varied/copy"
