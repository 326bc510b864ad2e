"""Layers by overlayfs: each holds only what its checkpoint changed (Linux, any file system).

A layer's `tree` was the upper directory of its attempt; a workspace is mounted, in the worker's mount
namespace only, over the trees of all layers below. Begin and commit take the same time for any size.

The mount options are explicit, since the defaults of hosts differ:
- redirect_dir=on: renaming a directory of a layer below works, as on every other back end.
- metacopy=off: a file in an upper directory is always the whole file, so `locate` is enough to find it.
- index=off: the index ties an upper directory to one mount; ours become lower directories of others.
  So, as in every layered format, writing through one name of a hard link of an earlier layer leaves the
  old content under the other names.
- volatile: fsync in a workspace does nothing. An interrupted attempt is discarded anyway, and the
commit writes everything back once. The kernel's mark against mounting again after a crash is in the
work directory, which is new for each mount and never kept.
"""

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from store.host.mounts import mount, unmount
from store.host.removal import remove_tree
from store.layers.interface import Workspace
from store.layers.plain import allocated_bytes, sync_tree

_OPTIONS = "redirect_dir=on,metacopy=off,index=off"
_LONGEST_OPTIONS = 4095
"""How many characters of options the kernel takes: a small page, with their end (mount(2))."""

_OPAQUE = "trusted.overlay.opaque"
_REDIRECT = "trusted.overlay.redirect"

DEVICE_FILE = "overlay-device"
"""File beside an entered workspace with the mount's device number, as in stat(2). It identifies loop
devices on files of the workspace after the mount is gone (`dcd.worker.recover`)."""

_Place = tuple[int, Path]
"""A path in one layer's tree, with that layer's number in the chain (0 is the nearest)."""


class OverlayTrees:
    """See `store.layers.directory.Trees`. A workspace has `root`, where the tree is mounted; `work`, for the
    kernel; with many layers below it `lower`, links to their trees."""

    name = "overlay"
    mounts = True
    stacked = True
    keeps_inodes = False

    def prepare(self, directory: Path) -> None:
        directory.mkdir(mode=0o711, exist_ok=True)

    def root(self, workspace: Path) -> Path:
        return workspace / "root"

    def tree(self, layer: Path) -> Path:
        return layer / "tree"

    def create(self, workspace: Path, chain: Sequence[Path]) -> None:
        (workspace / "layer").mkdir(mode=0o700)
        (workspace / "layer" / "tree").mkdir(mode=0o755)
        (workspace / "root").mkdir()

    @contextlib.contextmanager
    def enter(self, workspace: Workspace) -> Iterator[Path]:
        directory = workspace.directory
        with contextlib.suppress(FileNotFoundError):
            remove_tree(directory / "work")
        (directory / "work").mkdir()
        upper = directory / "layer" / "tree", directory / "work"
        with _overlay(workspace.parents, directory, upper) as root:
            (directory / DEVICE_FILE).write_text(str(root.stat().st_dev))
            yield root

    def show(self, chain: Sequence[Path], scratch: Path) -> AbstractContextManager[Path]:
        (scratch / "root").mkdir()
        return _overlay(chain, scratch)

    def locate(self, chain: Sequence[Path], parts: Sequence[str]) -> Path | None:
        places = _resolve([layer / "tree" for layer in chain], 0, parts)
        return places[0][1] if places else None

    def seal(self, layer: Path) -> None:
        sync_tree(layer)

    def size_bytes(self, layer: Path) -> int:
        return allocated_bytes(layer)

    def erase(self, layer: Path) -> None:
        remove_tree(layer)


@contextlib.contextmanager
def _overlay(
    chain: Sequence[Path], directory: Path, upper: tuple[Path, Path] | None = None
) -> Iterator[Path]:
    """Mount the trees of the layers at the `root` of a directory in `.work`. `upper`: the tree that takes the
    changes, and the directory for the kernel."""
    lowers = [layer / "tree" for layer in chain]
    # An overlay needs one lower directory, or two without an upper one.
    if len(lowers) < (2 if upper is None else 1):
        lowers.append(directory / "none")
        lowers[-1].mkdir(exist_ok=True)
    base = directory.parents[1]
    options = _options(lowers, upper, base)
    if len(options) > _LONGEST_OPTIONS:
        base = directory / "lower"
        options = _options(_linked(lowers, base), upper, base)
    with contextlib.chdir(base):
        mount("overlay", directory / "root", options)
    try:
        yield directory / "root"
    finally:
        unmount(directory / "root")


def _options(lowers: Sequence[Path], upper: tuple[Path, Path] | None, base: Path) -> str:
    """The options of the mount, with paths relative to `base`."""
    lower = ":".join(os.path.relpath(each, base) for each in lowers)
    if upper is None:
        return f"lowerdir={lower},{_OPTIONS}"
    tree, work = (os.path.relpath(each, base) for each in upper)
    return f"lowerdir={lower},{_OPTIONS},upperdir={tree},workdir={work},volatile"


def _linked(targets: Sequence[Path], directory: Path) -> list[Path]:
    """Links with short names to the targets, in a new directory."""
    with contextlib.suppress(FileNotFoundError):
        remove_tree(directory)
    directory.mkdir(mode=0o700)
    links = [directory / str(number) for number in range(len(targets))]
    for link, target in zip(links, targets, strict=True):
        link.symlink_to(target)
    return links


def _resolve(trees: Sequence[Path], first: int, parts: Sequence[str]) -> list[_Place]:
    """The directories, nearest first, that form the directory of that path in the overlay of
    `trees[first:]`, or the one file at that path. Empty when it does not exist."""
    places = [(number, trees[number]) for number in range(first, len(trees))]
    for part in parts:
        places = _descend(trees, [place for place in places if _is_directory(place[1])], part)
    return places


def _descend(trees: Sequence[Path], parents: Sequence[_Place], name: str) -> list[_Place]:
    """The same for one name in the directory that `parents` form. As in the kernel's overlayfs(5): a
    whiteout, a file or an opaque directory ends the search, and a renamed directory continues in the
    lower layers under its old name."""
    found: list[_Place] = []
    for position, (number, parent) in enumerate(parents):
        path = parent / name
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
            break
        if not stat.S_ISDIR(status.st_mode):
            return found or [(number, path)]
        found.append((number, path))
        if _attribute(path, _OPAQUE) == "y":
            break
        if redirect := _attribute(path, _REDIRECT):
            if redirect.startswith("/"):
                below = _resolve(trees, number + 1, redirect.strip("/").split("/"))
            else:
                below = _descend(trees, parents[position + 1 :], redirect)
            return found + [place for place in below if _is_directory(place[1])]
    return found


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _attribute(path: Path, name: str) -> str | None:
    try:
        return os.fsdecode(os.getxattr(path, name, follow_symlinks=False))
    except OSError:
        return None
