"""Trees in one plain directory: finding a path, syncing, measuring."""

import errno
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from store.host.durable import sync_directory, sync_file, sync_file_system

_FEW = 64
"""Up to this number of entries, syncing each one is cheaper than syncing the whole file system, to
which other builds may be writing gigabytes."""

_MANY, _MANY_BYTES = 1024, 16 * 1024**2
"""From this number of entries or bytes on, a tree takes long enough to write that other work continues
meanwhile."""


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


@contextmanager
def writing_back(directory: Path) -> Iterator[None]:
    """Write a large tree to disk in the background, so that `sync_tree` afterwards has little to do. Errors
    of the writing are raised at the end: a later sync would not report them again."""
    if not _is_large(directory):
        yield
        return
    with ThreadPoolExecutor(1, "sync") as pool:
        early = pool.submit(sync_tree, directory)
        yield
        early.result()


def allocated_bytes(directory: Path) -> int:
    """Disk space of everything below `directory`, a file with several links counted once. 0 where directories
    are so deep that no path leads there; they can be removed."""
    total = 0
    seen: set[int] = set()
    try:
        for entry in _entries(directory):
            status = entry.stat(follow_symlinks=False)
            if status.st_ino not in seen:
                total += status.st_blocks * 512
            if status.st_nlink > 1:
                seen.add(status.st_ino)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return 0
    return total


def _is_large(directory: Path) -> bool:
    left_bytes = _MANY_BYTES
    try:
        for number, entry in enumerate(_entries(directory)):
            if entry.is_file(follow_symlinks=False):
                left_bytes -= entry.stat(follow_symlinks=False).st_size
            if number >= _MANY or left_bytes <= 0:
                return True
        return False
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False  # the description of the tree reports directories that no path leads to


def _entries(directory: Path) -> Iterator[os.DirEntry[str]]:
    pending = [os.fspath(directory)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                yield entry
