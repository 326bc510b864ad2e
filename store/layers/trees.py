"""What a back end does for layers as directories (`store.layers.directory`)."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from store.layers.interface import Workspace


class Busy(Exception):
    """A process outside the project uses a tree."""


class Trees(Protocol):
    """The operations of a back end: creating and showing a layer directory and its tree.

    `layer` is a layer directory; `chain` lists layer directories, nearest first, each based on the
    next.
    """

    name: str
    mounts: bool
    """Whether `enter` and `show` mount something."""

    stacked: bool
    """Whether a layer stores only what differs from the layer below, as the upper directory of an overlay."""

    keeps_inodes: bool
    """Whether an unchanged entry of a whole tree has the inode and the times of the layer below."""

    def prepare(self, directory: Path) -> None:
        """Create the layer directory and the back end's own files in it. Raises Unprepared, leaving
        nothing behind, when it cannot work there."""
        ...

    def root(self, workspace: Path) -> Path:
        """The path at which the tree of the workspace in this directory appears once entered."""
        ...

    def tree(self, layer: Path) -> Path:
        """The directory with what a layer, or the `layer` directory of a workspace, stores itself."""
        ...

    def create(self, workspace: Path, chain: Sequence[Path]) -> None:
        """Create the directory `layer` of a workspace, with a writable `tree` on top of the chain."""
        ...

    def enter(self, workspace: Workspace) -> AbstractContextManager[Path]:
        """See LayerStore.enter."""
        ...

    def show(self, chain: Sequence[Path], scratch: Path) -> AbstractContextManager[Path]:
        """The tree of the first layer of the chain for reading; may be mounted on or in `scratch`."""
        ...

    def locate(self, chain: Sequence[Path], parts: Sequence[str]) -> Path | None:
        """The real file, of any type, behind a path in the tree; links are not followed."""
        ...

    def seal(self, layer: Path) -> None:
        """Write the whole tree to disk, ready to be the base of other layers."""
        ...

    def size_bytes(self, layer: Path) -> int:
        """The exclusive disk space of this sealed layer."""
        ...

    def erase(self, layer: Path) -> None:
        """Remove a layer directory in any state. Raises Busy, keeping the directory, while something
        uses it; it is then erased later."""
        ...
