"""Trees that are deeper than any path, or than the stack of a recursive function."""

from collections.abc import Callable
from pathlib import Path

import pytest

from store.host.removal import remove_tree, try_to_remove_tree
from tests.store.deep import fill


@pytest.mark.parametrize("remove", [remove_tree, try_to_remove_tree])
@pytest.mark.parametrize("levels", [1, pytest.param(3000, marks=pytest.mark.slow)])
def test_is_removed_however_deep_and_nothing_beside_it(
    tmp_path: Path, remove: Callable[[Path], None], levels: int
) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/link").symlink_to(tmp_path / "kept")
    fill(tmp_path / "tree", levels)
    remove(tmp_path / "tree")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_what_is_not_there_is_an_error_or_not(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        remove_tree(tmp_path / "tree")
    try_to_remove_tree(tmp_path / "tree")
