"""Workspaces that stay for a look inside: shells stand on them and change nothing, on every back end."""

from collections.abc import Callable
from pathlib import Path

import pytest

from statemachine.errors import NotFound, Refused
from tests.store.layers.conftest import Subject, key_of

pytestmark = pytest.mark.root


def writes(name: str, text: str) -> Callable[[Path], int]:
    return lambda root: (root / name).write_text(text)


def contents(root: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in root.iterdir()}


def kept(subject: Subject) -> None:
    """A workspace on a layer, as a failed attempt leaves it: changed, and a file of the layer gone."""
    subject.make("one", None, lambda root: (writes("a", "1")(root), writes("b", "1")(root)))
    workspace = subject.begin("one", "failed")

    def half(root: Path) -> None:
        writes("a", "half")(root)
        (root / "b").unlink()

    subject.change(workspace, half)


def test_a_branch_shows_what_the_workspace_holds(subject: Subject) -> None:
    kept(subject)
    branch = subject.store.branch("failed", "shell")
    assert subject.change(branch, contents) == {"a": "half"}


def test_branches_change_neither_the_workspace_nor_each_other(subject: Subject) -> None:
    kept(subject)
    first = subject.store.branch("failed", "first")
    subject.change(first, writes("a", "first"))
    second = subject.store.branch("failed", "second")
    assert subject.change(second, contents) == {"a": "half"}
    subject.store.release("first")
    third = subject.store.branch("failed", "third")
    assert subject.change(third, contents) == {"a": "half"}
    assert subject.change(second, contents) == {"a": "half"}


def test_release_leaves_nothing_and_may_be_repeated(subject: Subject) -> None:
    kept(subject)
    branch = subject.store.branch("failed", "shell")
    subject.change(branch, writes("c", "x"))
    with pytest.raises(Refused):
        subject.store.remove(key_of("one"))
    for name in ("shell", "shell", "failed", "failed", "never"):
        subject.store.release(name)
    assert subject.work() == []
    subject.store.remove(key_of("one"))


def test_a_branch_of_what_is_not_there_is_not_found(subject: Subject) -> None:
    with pytest.raises(NotFound):
        subject.store.branch("failed", "shell")
    assert subject.work() == []


def test_a_branch_takes_the_document_along(subject: Subject) -> None:
    workspace = subject.begin(None, "failed")
    workspace.document.write_text("<persistent/>")
    branch = subject.store.branch("failed", "shell")
    assert branch.document.read_text() == "<persistent/>"


def test_workspaces_are_listed_with_the_space_that_they_take(subject: Subject) -> None:
    workspace = subject.begin(None, "failed")
    subject.change(workspace, lambda root: (root / "big").write_bytes(bytes(range(256)) * 4096))
    subject.begin(None, "other")
    assert [name for name, _ in subject.store.workspaces()] == ["failed", "other"]
    assert all(size_bytes >= 0 for _, size_bytes in subject.store.workspaces())


def test_the_reconciler_keeps_the_living_and_what_they_stand_on(subject: Subject) -> None:
    kept(subject)
    subject.store.branch("failed", "shell")
    removed = subject.store.reconcile(known_keys=(), living={"failed"})
    assert removed == ["workspace shell"]
    assert subject.work() == ["failed"]
    branch = subject.store.branch("failed", "again")
    assert subject.change(branch, contents) == {"a": "half"}
