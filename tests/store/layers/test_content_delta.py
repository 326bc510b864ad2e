"""The manifest of a layer on an overlay, against a walk through the mounted tree."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store.layers.content import differences, parse, read_text
from store.layers.delta import whole
from store.layers.directory import LayerDirectory
from store.layers.overlay import OverlayTrees
from store.layers.walk import describe
from tests.store.layers.conftest import Subject, key_of

pytestmark = [pytest.mark.slow, pytest.mark.root]

NAMES = st.sampled_from(["a", "b", "c d", "a!", 'q"'])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
CHANGES = st.one_of(
    st.tuples(st.just("write"), PATHS, st.text("xyz", max_size=3)),
    st.tuples(st.just("mkdir"), PATHS),
    st.tuples(st.just("remove"), PATHS),
    st.tuples(st.just("rename"), PATHS, PATHS),
    st.tuples(st.just("link"), PATHS, PATHS),
    st.tuples(st.just("symlink"), PATHS, PATHS),
    st.tuples(st.just("chmod"), PATHS, st.sampled_from([0o700, 0o755])),
    st.tuples(st.just("note"), PATHS, st.binary(min_size=1, max_size=3)),
)


def fill(root: Path) -> None:
    """A tree to change, with directories to rename."""
    for place in ("a/b/c d", "a/a!/b", "b/a"):
        (root / place).mkdir(parents=True)
        (root / place / 'q"').write_text(place)
    os.link(root / "b/a" / 'q"', root / "b/b")


def apply(root: Path, changes: list[tuple[str, ...]]) -> None:
    """Make the changes, leaving out what is impossible."""
    for change, path, *more in changes:
        place = root / path
        try:
            if any(up.is_symlink() for up in place.parents if up.is_relative_to(root)):
                continue
            match change:
                case "write":
                    place.write_text(more[0]) if not place.is_symlink() else None
                case "mkdir":
                    place.mkdir()
                case "remove" if place.is_dir() and not place.is_symlink():
                    shutil.rmtree(place)
                case "remove":
                    place.unlink()
                case "rename":
                    place.rename(root / more[0])
                case "link":
                    os.link(place, root / more[0], follow_symlinks=False)
                case "symlink":
                    place.symlink_to(more[0])
                case "chmod":
                    place.chmod(int(more[0])) if not place.is_symlink() else None
                case "note":
                    os.setxattr(place, "trusted.note", more[0], follow_symlinks=False)
        except OSError:
            continue


@pytest.fixture
def overlay(tmp_path: Path) -> Subject:
    store = LayerDirectory(tmp_path / "layers", OverlayTrees())
    store.prepare()
    return Subject(store)


def compared(subject: Subject, name: str) -> object:
    """How the manifest of a layer differs from its mounted tree."""
    layer = subject.store.find(key_of(name))
    assert layer is not None
    written = read_text(layer.directory)
    assert written is not None
    walked = subject.read(name, lambda tree: whole(describe(tree, stacked=False)).text)
    return differences(parse(written), parse(walked))


@given(layers=st.lists(st.lists(CHANGES, max_size=10), min_size=1, max_size=4))
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_what_the_upper_directories_say_is_what_the_mounted_tree_shows(
    overlay: Subject, layers: list[list[tuple[str, ...]]]
) -> None:
    overlay.store.reconcile((), ())
    overlay.make("filled", None, fill)
    parent = "filled"
    for number, changes in enumerate(layers):
        name = f"layer{number}"
        overlay.make(name, parent, lambda root, changes=changes: apply(root, changes))
        assert compared(overlay, name) == []
        parent = name
