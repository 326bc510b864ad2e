"""Trees that lie whole in one directory: finding a path in them, and what they take on disk."""

import os
from collections.abc import Sequence
from pathlib import Path


def locate(tree: Path, parts: Sequence[str]) -> Path | None:
    """The path below `tree`, when it exists and no directory on the way to it is a link."""
    path = tree
    for part in parts:
        if path.is_symlink() or not os.path.lexists(path / part):
            return None
        path = path / part
    return path


def allocated_bytes(directory: Path) -> int:
    """Disk space of everything below `directory`, a file with several links counted once."""
    total, pending = 0, [os.fspath(directory)]
    seen: set[int] = set()
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                status = entry.stat(follow_symlinks=False)
                if status.st_ino not in seen:
                    total += status.st_blocks * 512
                if status.st_nlink > 1:
                    seen.add(status.st_ino)
    return total
