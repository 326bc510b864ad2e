"""File systems of illumos' type hsfs (ISO 9660 with Rock Ridge) from a directory, by xorriso.

Owners, modes, links and device nodes are those of the directory. The same directory gives the same bytes:
a time of a file after the build's time is set to it, and the other times of a file are the build's time.
Source: xorrisofs(1), xorriso(1); the original's call of mkisofs(8).
"""

import os
from collections.abc import Sequence
from pathlib import Path

from dcd.checkpoints.interface import Context
from dcd.checkpoints.mkisofs import MKISOFS

NAMES = ("-N", "-l", "-R", "-U", "-allow-multidot", "-no-iso-translate", "-d", "-D")
"""The options of the original: long names as they are, Rock Ridge with the owners of the files, directories
at any depth."""


def write_hsfs(
    context: Context,
    directory: Path,
    target: Path,
    epoch: int,
    *,
    volume_id: str,
    more: Sequence[str | Path] = (),
) -> None:
    """Write the file system with the contents of `directory` to `target`, at the Unix time `epoch`. `more`
    are further options for mkisofs."""
    date = f"={epoch}"
    context.run(
        [
            *(*MKISOFS, *NAMES, "-V", volume_id),
            *(*more, "-o", target, directory, "--"),
            *("-alter_date_r", "a-c", date, "/", "--", "-alter_date_r", "c", date, "/", "--"),
        ],
        env={"SOURCE_DATE_EPOCH": str(epoch)},
    )


def set_back_times(directory: Path, epoch: int) -> None:
    """Set the times in the directory that are after `epoch` back to it."""
    for entry in (directory, *directory.rglob("*")):
        if entry.lstat().st_mtime > epoch:
            os.utime(entry, (epoch, epoch), follow_symlinks=False)
