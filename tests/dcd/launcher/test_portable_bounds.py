"""What the launcher lets a portable worker have, which nothing confines to what it is shown."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from dcd.launcher.bounds import granted
from dcd.launcher.orders import AttemptOrder, Bounds, Wanted
from statemachine.errors import PermissionDenied
from store.host.capabilities import CHROOT, MOUNTS

PORTABLE = Bounds(portable=True)


def order(**wanted: object) -> AttemptOrder:
    return AttemptOrder(
        build="b",
        checkpoint="c",
        attempt=1,
        mod_path="dcd.checkpoints.transfer.ips",
        checkpoint_class="TransferIPS",
        manifest="<dc/>",
        workspace="b.0.1",
        wanted=Wanted(**wanted),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("host_code", [False, True])
def test_nothing_is_mounted_in_a_portable_worker(host_code: bool) -> None:
    bounds = Bounds(portable=True, host_code=True)
    with pytest.raises(PermissionDenied, match="mounts in a portable worker"):
        granted(order(capabilities=MOUNTS, host_code=host_code), bounds)
    assert granted(order(capabilities=CHROOT), bounds).capabilities == CHROOT


def test_products_are_put_into_configured_directories_only(tmp_path: Path) -> None:
    (tmp_path / "images/web").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "images/web")
    configured = Bounds(publish=(tmp_path / "images",))

    def publishing(path: Path) -> AttemptOrder:
        return replace(order(writes=(path,)), mod_path="dcd/checkpoints/publish/directory")

    for bounds in (configured, Bounds(private=True)):
        assert granted(publishing(tmp_path / "images/web"), bounds).writes
    for path in (tmp_path, tmp_path / "link", tmp_path / "images/none", Path("/etc")):
        with pytest.raises(PermissionDenied):
            granted(publishing(path), configured)
    with pytest.raises(PermissionDenied):
        granted(publishing(tmp_path / "images/web"), Bounds())
    with pytest.raises(PermissionDenied):
        granted(order(writes=(tmp_path / "images/web",)), configured)
    with pytest.raises(PermissionDenied):
        granted(publishing(Path("/usr/lib")), Bounds(private=True))


@pytest.mark.root
def test_a_path_that_others_can_replace_is_not_read(tmp_path: Path) -> None:
    for place in (tmp_path, *tmp_path.parents[:-1]):
        place.chmod(place.stat().st_mode | 0o755)
    fixed, loose, theirs = (tmp_path / name for name in ("fixed", "loose", "theirs"))
    for directory in (fixed, loose, theirs):
        (directory / "repository").mkdir(parents=True)
    loose.chmod(0o777)
    os.chown(theirs / "repository", 12345, -1)
    (tmp_path / "link").symlink_to(fixed / "repository")
    for path in (fixed / "repository", tmp_path / "link"):
        assert granted(order(reads=(path,)), PORTABLE).named
    for path in (loose / "repository", theirs / "repository"):
        with pytest.raises(PermissionDenied, match="other users can replace"):
            granted(order(reads=(path,)), PORTABLE)
        assert granted(order(reads=(path,)), Bounds()).named
        assert granted(order(reads=(path,)), Bounds(portable=True, private=True)).named


@pytest.mark.root
def test_products_are_not_put_where_others_can_replace_the_directory(tmp_path: Path) -> None:
    for place in (tmp_path, *tmp_path.parents[:-1]):
        place.chmod(place.stat().st_mode | 0o755)
    (tmp_path / "web").mkdir()
    publishing = replace(
        order(writes=(tmp_path / "web",)), mod_path="dcd/checkpoints/publish/directory"
    )
    assert granted(publishing, Bounds(portable=True, publish=(tmp_path,))).writes
    os.chown(tmp_path, 12345, -1)
    assert granted(publishing, Bounds(publish=(tmp_path,))).writes
    with pytest.raises(PermissionDenied):
        granted(publishing, Bounds(portable=True, publish=(tmp_path,)))
