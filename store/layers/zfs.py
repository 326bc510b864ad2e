"""Layers as ZFS snapshots: a tree is a dataset, sealed by a snapshot; a workspace is a clone of it.

Begin, commit and removal cost the same for any size, and what is shared takes no space. The datasets
lie below one of their own, made on the dataset that holds the layer directory and mounted there at
`.trees`. They bear ids and are never renamed: a layer directory holds a link to its dataset's
mount point, so a layer gets its key as in every back end, by a rename of that directory.
"""

import contextlib
import hashlib
import secrets
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from statemachine.errors import Unprepared
from store.layers.interface import Workspace
from store.layers.mounts import file_system_of
from store.layers.plain import locate
from store.layers.tool import run_tool

_ZFS = ("zfs", "fuse.zfs")
_SNAPSHOT = "layer"


class ZfsTrees:
    """See `store.layers.directory.Trees`."""

    name = "zfs"

    def prepare(self, directory: Path) -> None:
        if (found := file_system_of(directory.parent)).type not in _ZFS:
            raise Unprepared(f"{directory.parent} is on {found.type}, not on ZFS")
        directory.mkdir(mode=0o711, exist_ok=True)
        trees = directory / ".trees"
        name = f"{found.source}/dcd-layers-{hashlib.sha256(bytes(trees)).hexdigest()[:12]}"
        listing = run_tool(
            "listing datasets", "zfs", "list", "-H", "-r", "-o", "name,mounted", found.source
        )
        mounted = dict(line.split("\t") for line in listing.splitlines())
        if name not in mounted:
            run_tool("making layers", "zfs", "create", "-o", f"mountpoint={trees}", name)
            trees.chmod(0o700)
        # After a restart of the machine they may be there, but not mounted yet.
        for dataset, state in mounted.items():
            if state == "no" and (dataset == name or dataset.startswith(f"{name}/")):
                run_tool("mounting layers", "zfs", "mount", dataset)

    def root(self, workspace: Path) -> Path:
        return (workspace / "layer" / "tree").resolve()

    def create(self, workspace: Path, chain: Sequence[Path]) -> None:
        layer = workspace / "layer"
        layer.mkdir(mode=0o700)
        base = workspace.parent.parent / ".trees"
        tree = base / secrets.token_hex(8)
        # The link first: what a crash leaves can then be found, and erased.
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
        # A snapshot is on disk when zfs(8) returns.
        run_tool("sealing a layer", "zfs", "snapshot", f"{_dataset(layer)}@{_SNAPSHOT}")

    def size_bytes(self, layer: Path) -> int:
        used = run_tool("measuring a layer", "zfs", "get", "-Hpo", "value", "used", _dataset(layer))
        return int(used)

    def erase(self, layer: Path) -> None:
        if (layer / "tree").exists():
            run_tool("removing a layer", "zfs", "destroy", "-r", _dataset(layer))
        shutil.rmtree(layer)


def _dataset(layer: Path) -> str:
    tree = (layer / "tree").readlink()
    return f"{file_system_of(tree.parent).source}/{tree.name}"
