"""Layers compared with a plain directory to which the same changes were made."""

import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from statemachine.errors import NotFound
from tests.store.layers.conftest import Subject, key_of

pytestmark = [pytest.mark.root, pytest.mark.slow]

NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
CHANGES = st.one_of(
    st.tuples(st.just("write"), PATHS, st.text("xyz", max_size=3)),
    st.tuples(st.just("mkdir"), PATHS),
    st.tuples(st.just("remove"), PATHS),
    st.tuples(st.just("rename"), PATHS, PATHS),
    st.tuples(st.just("symlink"), PATHS, PATHS),
    st.tuples(st.just("chmod"), PATHS, st.sampled_from([0o700, 0o755])),
)


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
                case "remove":
                    subprocess.run(["rm", "-rf", place], check=True)
                case "rename":
                    place.rename(root / more[0])
                case "symlink":
                    place.symlink_to(more[0])
                case "chmod":
                    place.chmod(int(more[0])) if not place.is_symlink() else None
        except OSError:
            continue


def content(root: Path) -> dict[str, object]:
    """Everything in a tree, by path."""
    found: dict[str, object] = {}
    for path in root.rglob("*"):
        mode = path.lstat().st_mode
        what = (
            path.readlink()
            if path.is_symlink()
            else path.read_text()
            if path.is_file()
            else "directory"
        )
        found[str(path.relative_to(root))] = (stat.S_IFMT(mode), mode & 0o700, what)
    return found


@given(layers=st.lists(st.lists(CHANGES, max_size=8), min_size=1, max_size=4))
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_layers_show_what_a_plain_directory_would(
    subject: Subject,
    tmp_path_factory: pytest.TempPathFactory,
    layers: list[list[tuple[str, ...]]],
) -> None:
    plain = tmp_path_factory.mktemp("plain")
    subject.store.reconcile((), ())
    parent = None
    for number, changes in enumerate(layers):
        apply(plain, changes)
        name = f"layer{number}"
        subject.make(name, parent, lambda root, changes=changes: apply(root, changes))
        expected = content(plain)
        assert subject.read(name, content) == expected
        for path in (f"{a}/{b}/{c}" for a in "abc" for b in "abc" for c in "abc"):
            for part in (path, path[:3], path[:1]):
                if expected.get(part, [0])[0] == stat.S_IFREG:
                    real = subject.store.file(key_of(name), part)
                    assert real.read_text() == expected[part][2]
                else:
                    with pytest.raises(NotFound):
                        subject.store.file(key_of(name), part)
        parent = name
