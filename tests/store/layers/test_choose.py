"""The back end is the best that works where the layers are to be, found out by trying."""

import shutil
import uuid
from pathlib import Path

import pytest

from statemachine.errors import Unprepared
from store.host.mounts import mount
from store.host.process import BASE_ENVIRONMENT
from store.layers.choose import choose, open_store
from store.layers.interface import LayerRecord, LayerStore
from tests.store.layers.conftest import in_namespace, key_of

pytestmark = [pytest.mark.root, pytest.mark.slow]


def what_is_left(directory: Path) -> list[Path]:
    return [path for path in directory.rglob(".work/*") if path.name != "tree"]


def make_layer(store: LayerStore) -> None:
    workspace = store.begin(None, "attempt")
    store.commit(workspace, LayerRecord(key_of("one"), None, "build", "checkpoint", 1, 1.0))


def test_overlay_on_a_plain_file_system(tmp_path: Path) -> None:
    store, reason = choose(tmp_path / "layers")
    assert store.name == "overlay"
    assert reason.startswith(f"overlay works in {tmp_path}/layers; zfs: ")
    assert "not on btrfs" in reason
    assert list(store.layers()) == []
    assert what_is_left(tmp_path) == []


@pytest.mark.parametrize("name", ["btrfs", "zfs"])
def test_the_file_systems_own_snapshots_where_it_has_them(
    name: str, request: pytest.FixtureRequest
) -> None:
    directory = request.getfixturevalue(name) / uuid.uuid4().hex
    store, _ = choose(directory)
    assert store.name == name
    assert list(store.layers()) == []
    assert what_is_left(directory) == []


def test_copies_where_nothing_else_works(tmp_path: Path) -> None:
    for name in ("lower", "upper", "work", "mounted"):
        (tmp_path / name).mkdir()
    options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"

    def on_an_overlay() -> tuple[str, str]:
        mount("overlay", tmp_path / "mounted", options)
        store, reason = choose(tmp_path / "mounted" / "layers")
        return store.name, reason

    name, reason = in_namespace(on_an_overlay)
    assert name == "copy"
    assert "overlay: a trial failed" in reason


def test_one_that_has_layers_is_kept(tmp_path: Path) -> None:
    store, _ = choose(tmp_path, "copy")
    assert choose(tmp_path)[0].name == "overlay"
    make_layer(store)
    store, reason = choose(tmp_path)
    assert store.name == "copy"
    assert "has layers" in reason


def test_back_ends_do_not_meet_each_others_layers(tmp_path: Path) -> None:
    copy, overlay = choose(tmp_path, "copy")[0], choose(tmp_path, "overlay")[0]
    make_layer(copy)
    assert overlay.find(key_of("one")) is None
    make_layer(overlay)
    assert overlay.reconcile((), ()) == [f"layer {key_of('one')}"]
    assert copy.find(key_of("one")) is not None


def test_a_configured_one_that_does_not_work_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Unprepared, match="layers cannot be kept"):
        choose(tmp_path, "btrfs")
    with pytest.raises(Unprepared, match="no layer back end"):
        choose(tmp_path, "nonsense")


def test_a_worker_opens_what_the_daemon_chose(tmp_path: Path) -> None:
    store, _ = choose(tmp_path)
    make_layer(store)
    assert open_store(store.name, tmp_path).find(key_of("one")) == store.find(key_of("one"))


def test_zfs_is_found_where_hundreds_of_other_file_systems_are_mounted(
    zfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """zfs(8) of zfs-fuse does not find a path then, and says nothing, as here always."""
    program = tmp_path / "bin" / "zfs"
    program.parent.mkdir()
    real = shutil.which("zfs")
    program.write_text(
        f'#!/bin/sh\nfor last; do :; done\ncase $1$last in list/*) exit 1; esac\nexec {real} "$@"\n'
    )
    program.chmod(0o755)
    path = f"{program.parent}:{BASE_ENVIRONMENT['PATH']}"
    monkeypatch.setattr("store.host.process.BASE_ENVIRONMENT", {**BASE_ENVIRONMENT, "PATH": path})
    store, _ = choose(zfs / uuid.uuid4().hex)
    assert store.name == "zfs"
    make_layer(store)
    assert store.find(key_of("one")) is not None
    assert choose(tmp_path / "layers")[0].name == "overlay"
