"""Layers as btrfs subvolumes: a tree is a read-only snapshot, a workspace a writable one of it.

Begin, commit and removal take the same time for any size, and shared data takes no space.
"""

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from statemachine.errors import CheckpointError, Unprepared
from store.host.durable import sync_file_system
from store.host.filesystem_tools import run_tool
from store.host.mounts import file_system_of
from store.host.removal import remove_tree
from store.layers.interface import Workspace
from store.layers.plain import locate

_SUBVOLUME_INODE = 256
"""The inode number that only roots of subvolumes have (btrfs-subvolume(8))."""


class BtrfsTrees:
    """See `store.layers.directory.Trees`."""

    name = "btrfs"
    mounts = False
    stacked = False
    keeps_inodes = True

    def prepare(self, directory: Path) -> None:
        if (found := file_system_of(directory.parent)).type != "btrfs":
            raise Unprepared(f"{directory.parent} is on {found.type}, not on btrfs")
        directory.mkdir(mode=0o711, exist_ok=True)

    def root(self, workspace: Path) -> Path:
        return workspace / "layer" / "tree"

    def tree(self, layer: Path) -> Path:
        return layer / "tree"

    def create(self, workspace: Path, chain: Sequence[Path]) -> None:
        tree = workspace / "layer" / "tree"
        tree.parent.mkdir(mode=0o700)
        if chain:
            run_tool(
                "making a workspace", "btrfs", "subvolume", "snapshot", chain[0] / "tree", tree
            )
        else:
            run_tool("making a workspace", "btrfs", "subvolume", "create", tree)

    def enter(self, workspace: Workspace) -> AbstractContextManager[Path]:
        return contextlib.nullcontext(workspace.root)

    def show(self, chain: Sequence[Path], scratch: Path) -> AbstractContextManager[Path]:
        return contextlib.nullcontext(chain[0] / "tree")

    def locate(self, chain: Sequence[Path], parts: Sequence[str]) -> Path | None:
        return locate(chain[0] / "tree", parts)

    def seal(self, layer: Path) -> None:
        # A snapshot omits nested subvolumes, so the layer would be incomplete.
        inner = run_tool("sealing a layer", "btrfs", "subvolume", "list", "-o", layer / "tree")
        if inner.strip():
            raise CheckpointError(
                "the checkpoint left btrfs subvolumes in its workspace",
                inner.strip(),
                "have it create plain directories instead",
            )
        sync_file_system(layer)
        run_tool("sealing a layer", "btrfs", "property", "set", "-ts", layer / "tree", "ro", "true")

    def size_bytes(self, layer: Path) -> int:
        usage = run_tool(
            "measuring a layer", "btrfs", "filesystem", "du", "--raw", "--summarize", layer / "tree"
        )
        # Total, Exclusive, Set shared, Filename, below a line of headings.
        return int(usage.splitlines()[1].split()[1])

    def erase(self, layer: Path) -> None:
        tree = layer / "tree"
        if tree.exists() and tree.stat().st_ino == _SUBVOLUME_INODE:
            run_tool("removing a layer", "btrfs", "subvolume", "delete", tree)
        remove_tree(layer)
