"""Trees in one plain directory: finding a path, syncing, measuring."""

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from store.host.durable import sync_directory, sync_file, sync_file_system

_FEW = 64
"""Up to this number of entries, syncing each one is cheaper than syncing the whole file system, to
which other builds may be writing gigabytes."""


def locate(tree: Path, parts: Sequence[str]) -> Path | None:
    """The path below `tree` if it exists and none of its parent directories is a link, else None."""
    path = tree
    for part in parts:
        if path.is_symlink() or not os.path.lexists(path / part):
            return None
        path = path / part
    return path


def sync_tree(directory: Path) -> None:
    """Sync `directory` and everything below it to disk."""
    few = list(islice(_entries(directory), _FEW + 1))
    if len(few) > _FEW:
        sync_file_system(directory)
        return
    for entry in few:
        # Links, devices and whiteouts are on disk with the directory that names them.
        if entry.is_file(follow_symlinks=False):
            sync_file(Path(entry.path))
        elif entry.is_dir(follow_symlinks=False):
            sync_directory(Path(entry.path))
    sync_directory(directory)


def allocated_bytes(directory: Path) -> int:
    """Disk space of everything below `directory`, a file with several links counted once."""
    total = 0
    seen: set[int] = set()
    for entry in _entries(directory):
        status = entry.stat(follow_symlinks=False)
        if status.st_ino not in seen:
            total += status.st_blocks * 512
        if status.st_nlink > 1:
            seen.add(status.st_ino)
    return total


def _entries(directory: Path) -> Iterator[os.DirEntry[str]]:
    pending = [os.fspath(directory)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                yield entry
