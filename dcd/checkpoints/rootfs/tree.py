"""The entries of an image area, ready to be packed.

Times after the build's are set back, as the commit of a layer does, since not every tool that packs a tree
has an option for it.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dcd.checkpoints import products
from dcd.checkpoints.image.compress import matches
from dcd.checkpoints.image.identity import NO_HOST_KEYS, remove_identity, without_host_keys
from dcd.checkpoints.interface import Context
from dcd.checkpoints.times import source_date_epoch
from store.host.attributes import names_of_attributes
from store.host.entries import Entry, entries_of

_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Tree:
    """A tree that is ready to be packed. `left_out` are the excluded paths, without what is below them.
    `epoch` is the Unix time of everything that has none of its own."""

    root: Path
    entries: tuple[Entry, ...]
    left_out: tuple[str, ...]
    epoch: int

    @property
    def content_bytes(self) -> int:
        """The size of all regular files, hard links once."""
        files = {
            (one.status.st_dev, one.status.st_ino): one.status.st_size
            for one in self.entries
            if one.kind == stat.S_IFREG
        }
        return sum(files.values())


def completed_image(context: Context, exclude: Sequence[str] = ()) -> Tree:
    """The image area without the identity of a machine, except what matches the patterns `exclude`. Raises
    `CheckpointError` for an empty one."""
    image = context.pkg_image
    if not any(image.iterdir()):
        raise products.missing(products.IMAGE, f"{image} is empty")
    remove_identity(image)
    if without_host_keys(image):
        context.warn(NO_HOST_KEYS)
    latest = source_date_epoch(context, None)
    entries, left_out = _walk(image, exclude)
    if latest is None:
        latest = max(one.seconds for one in entries)
    return Tree(image, tuple(_set_back(entries, latest)), left_out, latest)


def with_attributes(tree: Tree, kept: str = "") -> list[str]:
    """The paths of entries with extended attributes other than `kept`, ACLs and capabilities included."""
    return [
        one.name
        for one in tree.entries
        if any(name != kept for name in names_of_attributes(one.path))
    ]


def _walk(root: Path, exclude: Sequence[str]) -> tuple[list[Entry], tuple[str, ...]]:
    patterns = [pattern.strip("/").split("/") for pattern in exclude]
    left_out: list[str] = []

    def is_left_out(name: str) -> bool:
        found = any(matches(name.split("/"), pattern) for pattern in patterns)
        if found:
            left_out.append(name)
        return found

    return entries_of(root, is_left_out), tuple(sorted(left_out))


def _set_back(entries: Sequence[Entry], latest: int) -> Iterator[Entry]:
    most = latest * _NANOSECONDS
    for one in entries:
        if one.status.st_mtime_ns > most:
            os.utime(one.path, ns=(most, most), follow_symlinks=False)
            yield Entry(one.name, one.path, one.path.lstat())
        else:
            yield one
