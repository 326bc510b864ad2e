"""The device nodes that an image has."""

import os
import stat
from pathlib import Path

import pytest

from store.host.devices import make_devices

pytestmark = pytest.mark.root


def nodes(directory: Path) -> dict[str, tuple[int, int, str]]:
    found = {}
    for path in directory.iterdir():
        status = path.lstat()
        target = str(path.readlink()) if path.is_symlink() else ""
        found[path.name] = (status.st_mode, status.st_rdev, target)
    return found


def test_they_can_be_made_where_they_are_already(tmp_path: Path) -> None:
    make_devices(tmp_path)
    first = nodes(tmp_path)
    make_devices(tmp_path)
    assert nodes(tmp_path) == first
    assert stat.S_ISCHR(first["null"][0])
    assert first["null"][1] == os.makedev(1, 3)


def test_what_is_in_the_place_of_one_goes_and_what_is_beside_them_stays(tmp_path: Path) -> None:
    make_devices(tmp_path)
    wanted = nodes(tmp_path)
    for name in ("null", "fd", "pts"):
        path = tmp_path / name
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    (tmp_path / "null").write_text("a script redirected into it")
    (tmp_path / "fd").mkdir()
    (tmp_path / "fd/x").touch()
    (tmp_path / "pts").symlink_to("/dev/pts")
    (tmp_path / "mine").touch()
    make_devices(tmp_path)
    found = nodes(tmp_path)
    assert found.pop("mine")
    assert found == wanted
