"""A layer counts only on the very layer that it was built on: what was made again need not be the same."""

import json
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from statemachine.errors import NotFound
from store.layers.directory import LayerDirectory
from tests.store.layers.conftest import Subject, key_of

pytestmark = [pytest.mark.root, pytest.mark.slow]


def writes(name: str, text: str) -> Callable[[Path], None]:
    def work(root: Path) -> None:
        (root / name).write_text(text)

    return work


def lose(subject: Subject, name: str) -> None:
    """Take a layer away from outside, as a broken disk or a hasty administrator does."""
    directory = subject.store.directory
    (directory / key_of(name)).rename(directory.parent / f"lost-{uuid.uuid4().hex}")


@pytest.fixture
def stack(subject: Subject) -> Subject:
    """Three layers, each on the one before."""
    subject.make("one", None, writes("one", "first"))
    subject.make("two", "one", writes("two", "first"))
    subject.make("three", "two", writes("three", "first"))
    return subject


def test_what_stands_on_a_lost_layer_does_not_count(stack: Subject) -> None:
    lose(stack, "one")
    assert [stack.store.find(key_of(name)) for name in ("one", "two", "three")] == [None] * 3
    assert [stack.store.stale(key_of(name)) for name in ("one", "two", "three")] == [
        False,
        True,
        True,
    ]
    with pytest.raises(NotFound):
        stack.begin("three")


def test_nor_does_it_when_the_lost_layer_has_been_made_again(stack: Subject) -> None:
    lose(stack, "one")
    stack.make("one", None, writes("one", "second"))
    assert stack.store.find(key_of("one")) is not None
    assert stack.store.find(key_of("two")) is None
    assert stack.store.find(key_of("three")) is None
    assert [layer.record.key for layer in stack.store.layers()] == [key_of("one")]


def test_what_is_made_again_on_it_takes_the_place_of_the_stale_one(stack: Subject) -> None:
    lose(stack, "one")
    stack.make("one", None, writes("one", "second"))
    stack.make("two", "one", writes("two", "second"))
    assert stack.store.find(key_of("two")) is not None
    assert stack.store.find(key_of("three")) is None, "it stands on the two that is gone"
    stack.make("three", "two", writes("three", "second"))
    read = stack.read("three", lambda tree: [(tree / n).read_text() for n in ("one", "two")])
    assert read == ["second", "second"]
    assert len(list(stack.store.layers())) == 3
    assert stack.store.stale_layers() == []


def test_stale_layers_can_be_removed_from_the_top_down(stack: Subject) -> None:
    lose(stack, "one")
    stack.make("one", None, writes("one", "second"))
    stale = [layer.record.key for layer in stack.store.stale_layers()]
    assert stale == [key_of("three"), key_of("two")]
    for key in stale:
        stack.store.remove(key)
    stack.store.remove(key_of("one"))
    assert list(stack.store.layers()) == []
    assert stack.store.stale_layers() == []


def test_the_next_start_removes_them_whatever_names_them(stack: Subject) -> None:
    lose(stack, "one")
    stack.make("one", None, writes("one", "second"))
    names = [key_of(name) for name in ("one", "two", "three")]
    removed = stack.store.reconcile(names, ())
    assert removed == [f"layer {names[2]}", f"layer {names[1]}"]
    assert stack.store.find(names[0]) is not None


def test_a_layer_that_loses_what_it_stands_on_while_it_is_made_does_not_count(
    stack: Subject,
) -> None:
    workspace = stack.begin("three")
    stack.change(workspace, writes("four", "first"))
    lose(stack, "one")
    made = stack.commit(workspace, "four")
    assert made.record.key == key_of("four")
    assert stack.store.find(key_of("four")) is None
    stack.make("one", None, writes("one", "second"))
    assert stack.store.find(key_of("four")) is None


def test_a_kept_workspace_goes_stale_with_the_layer_that_it_stands_on(stack: Subject) -> None:
    kept = stack.begin("two", "kept")
    stack.change(kept, writes("half", "done"))
    stack.store.release(stack.store.branch("kept", "look").name)
    lose(stack, "two")
    stack.make("two", "one", writes("two", "second"))
    with pytest.raises(NotFound, match="rebuilt"):
        stack.store.branch("kept", "another-look")


def test_identities_outlive_the_daemon(stack: Subject) -> None:
    again = LayerDirectory(stack.store.directory, stack.store._trees)
    assert len(list(again.layers())) == 3
    lose(stack, "two")
    stack.make("two", "one", writes("two", "second"))
    again = LayerDirectory(stack.store.directory, stack.store._trees)
    assert again.find(key_of("two")) is not None
    assert again.find(key_of("three")) is None


def as_of_0_1_0(subject: Subject, *names: str) -> None:
    """Make the records of layers what version 0.1.0 wrote."""
    for name in names:
        file = subject.store.directory / key_of(name) / "layer.json"
        stored = json.loads(file.read_text())
        del stored["identity"], stored["parent_identity"]
        file.write_text(json.dumps(stored))
    subject.store._known.clear()


def test_layers_of_0_1_0_count_until_one_below_them_is_made_again(stack: Subject) -> None:
    as_of_0_1_0(stack, "one", "two", "three")
    assert len(list(stack.store.layers())) == 3
    stack.make("four", "three", writes("four", "new on old"))
    assert stack.store.find(key_of("four")) is not None
    lose(stack, "one")
    stack.make("one", None, writes("one", "second"))
    left = [layer.record.key for layer in stack.store.layers()]
    assert left == [key_of("one")]
