"""Layers as ZFS snapshots: a tree is a dataset, sealed by a snapshot; a workspace is a clone of it.

Begin, commit and removal take the same time for any size, and shared data takes no space. The datasets
have a common parent dataset, created below the dataset that holds the layer directory and mounted there
at `.trees`. Their names are ids and never change: a layer directory contains a link to its dataset's
mount point, so a layer gets its key as in every back end, by a rename of that directory.
"""

import contextlib
import hashlib
import secrets
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from statemachine.errors import Unprepared
from store.host.durable import sync_file
from store.host.filesystem_tools import run_tool
from store.host.mounts import share
from store.host.removal import remove_tree
from store.layers.interface import Workspace
from store.layers.plain import locate
from store.layers.trees import Busy

_SNAPSHOT = "layer"
_BUSY = ("dataset is busy", "has dependent clones")
_BUSY_SECONDS = 1.0


class ZfsTrees:
    """See `store.layers.directory.Trees`."""

    name = "zfs"
    mounts = False
    stacked = False
    keeps_inodes = True

    def prepare(self, directory: Path) -> None:
        try:
            below = _dataset_at(directory.parent)
        except Unprepared as error:
            raise Unprepared(f"{directory.parent} is not on ZFS", str(error)) from error
        directory.mkdir(mode=0o711, exist_ok=True)
        trees = directory / ".trees"
        name = f"{below}/dcd-layers-{hashlib.sha256(bytes(trees)).hexdigest()[:12]}"
        listing = run_tool(
            "listing datasets", "zfs", "list", "-H", "-r", "-o", "name,mounted", below
        )
        mounted = dict(line.split("\t") for line in listing.splitlines())
        if name not in mounted:
            run_tool("making layers", "zfs", "create", "-o", f"mountpoint={trees}", name)
            trees.chmod(0o700)
        # After a reboot they may exist without being mounted.
        for dataset, state in mounted.items():
            if state == "no" and (dataset == name or dataset.startswith(f"{name}/")):
                run_tool("mounting layers", "zfs", "mount", dataset)
        # A worker's mount namespace copies every mount and would keep it busy; unmounting a shared
        # mount propagates there.
        share(trees)

    def root(self, workspace: Path) -> Path:
        return (workspace / "layer" / "tree").resolve()

    def tree(self, layer: Path) -> Path:
        return (layer / "tree").resolve()

    def create(self, workspace: Path, chain: Sequence[Path]) -> None:
        layer = workspace / "layer"
        layer.mkdir(mode=0o700)
        base = workspace.parent.parent / ".trees"
        tree = base / secrets.token_hex(8)
        # The link comes first, so that a dataset left by a crash can be found and erased.
        (layer / "tree").symlink_to(tree)
        if chain:
            origin = f"{_dataset(chain[0])}@{_SNAPSHOT}"
            run_tool("making a workspace", "zfs", "clone", origin, _dataset(layer))
        else:
            run_tool("making a workspace", "zfs", "create", _dataset(layer))

    def enter(self, workspace: Workspace) -> AbstractContextManager[Path]:
        return contextlib.nullcontext(workspace.root)

    def show(self, chain: Sequence[Path], scratch: Path) -> AbstractContextManager[Path]:
        return contextlib.nullcontext((chain[0] / "tree").resolve())

    def locate(self, chain: Sequence[Path], parts: Sequence[str]) -> Path | None:
        return locate((chain[0] / "tree").resolve(), parts)

    def seal(self, layer: Path) -> None:
        for file in layer.iterdir():
            if not file.is_symlink():
                sync_file(file)  # beside the tree, in another dataset
        # A snapshot is on disk when zfs(8) returns.
        run_tool("sealing a layer", "zfs", "snapshot", f"{_dataset(layer)}@{_SNAPSHOT}")

    def size_bytes(self, layer: Path) -> int:
        used = run_tool("measuring a layer", "zfs", "get", "-Hpo", "value", "used", _dataset(layer))
        return int(used)

    def erase(self, layer: Path) -> None:
        if (layer / "tree").exists():
            _destroy(_dataset(layer))
        remove_tree(layer)


def _destroy(dataset: str) -> None:
    """Destroy a dataset with its snapshots. It may be busy for a moment, since zfs-fuse releases a
    dataset some time after umount(2), or for longer, when it is mounted in another mount namespace or a
    clone of it still exists. Raises Busy."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            run_tool("removing a layer", "zfs", "destroy", "-r", dataset)
        except Unprepared as error:
            if not any(reason in error.details for reason in _BUSY):
                raise
            if time.monotonic() > deadline:
                raise Busy(error.details) from error
            time.sleep(0.02)
        else:
            return


def _dataset(layer: Path) -> str:
    tree = (layer / "tree").readlink()
    return f"{_dataset_at(tree.parent)}/{tree.name}"


def _dataset_at(path: Path) -> str:
    """The dataset that holds a path. Raises Unprepared when none does."""
    doing = f"looking for the dataset of {path}"
    try:
        return run_tool(doing, "zfs", "list", "-Ho", "name", path).strip()
    except Unprepared:
        # zfs-fuse compares 8 bits of the device's minor number, and so finds no file system that was mounted
        # when there were 256 others without a disk.
        if name := _mounted_at(_mount_point(path)):
            return name
        raise


def _mounted_at(place: Path) -> str | None:
    """The dataset that is mounted there, if it has the place as its property. Raises Unprepared."""
    columns = ("-o", "name,mountpoint,mounted")
    listing = run_tool("listing datasets", "zfs", "list", "-H", "-t", "filesystem", *columns)
    for line in listing.splitlines():
        name, mountpoint, mounted = line.split("\t")
        if mounted == "yes" and mountpoint == str(place):
            return name
    return None


def _mount_point(path: Path) -> Path:
    """The mount point of the file system that holds a path."""
    resolved = path.resolve()
    return next(each for each in (resolved, *resolved.parents) if each.is_mount())
