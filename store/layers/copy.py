"""Layers as full copies of the tree: works on every file system, without mounts and without privileges
beyond those for the files themselves.

Where the file system can share extents (xfs, btrfs, bcachefs) a copy takes little time and no space;
elsewhere each layer takes the space of its whole tree. GNU cp(1) copies where it is installed, else
`store.host.tree_copy`: both keep owners, modes, times, hard links, devices, extended attributes and holes.
"""

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path

from statemachine.errors import Unprepared
from store.host import tools
from store.host.filesystem_tools import run_tool
from store.host.removal import remove_tree
from store.host.tree_copy import copy_tree
from store.layers.interface import Workspace
from store.layers.plain import allocated_bytes, locate, sync_tree

_COPY = (
    "cp",
    "--archive",
    # Named again: --archive alone ignores errors with extended attributes.
    "--preserve=mode,ownership,timestamps,links,xattr",
    "--reflink=auto",
    "--sparse=auto",
    "--no-target-directory",
)


def _copy(source: Path, target: Path) -> None:
    if _has_gnu_cp():
        run_tool("copying a layer", *_COPY, source, target)
    else:
        copy_tree(source, target)


@cache
def _has_gnu_cp() -> bool:
    """Whether cp(1) of this host is GNU's, which has these options."""
    if tools.missing(["cp"]):
        return False
    try:
        return "GNU coreutils" in run_tool("looking for GNU cp", "cp", "--version")
    except Unprepared:
        return False


class CopyTrees:
    """See `store.layers.directory.Trees`."""

    name = "copy"
    mounts = False
    stacked = False
    keeps_inodes = False

    def prepare(self, directory: Path) -> None:
        directory.mkdir(mode=0o711, exist_ok=True)

    def root(self, workspace: Path) -> Path:
        return workspace / "layer" / "tree"

    def tree(self, layer: Path) -> Path:
        return layer / "tree"

    def create(self, workspace: Path, chain: Sequence[Path]) -> None:
        layer = workspace / "layer"
        layer.mkdir(mode=0o700)
        if chain:
            _copy(chain[0] / "tree", layer / "tree")
        else:
            (layer / "tree").mkdir(mode=0o755)

    def enter(self, workspace: Workspace) -> AbstractContextManager[Path]:
        return contextlib.nullcontext(workspace.root)

    def show(self, chain: Sequence[Path], scratch: Path) -> AbstractContextManager[Path]:
        return contextlib.nullcontext(chain[0] / "tree")

    def locate(self, chain: Sequence[Path], parts: Sequence[str]) -> Path | None:
        return locate(chain[0] / "tree", parts)

    def seal(self, layer: Path) -> None:
        sync_tree(layer)

    def size_bytes(self, layer: Path) -> int:
        return allocated_bytes(layer)

    def erase(self, layer: Path) -> None:
        remove_tree(layer)
