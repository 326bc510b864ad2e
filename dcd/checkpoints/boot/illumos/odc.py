"""A cpio archive of a directory in the old portable format (odc, magic 070707), the one that the kernel of
illumos reads.

Names have no leading slash. Entries are in the order of their names and have the owners, modes, times and
hard links of the directory; each hard link has the whole data, since the kernel looks for one name only.
Inodes are numbered anew, so that the same directory gives the same bytes.
Source: cpio(5); illumos, usr/src/common/fs/bootrd_cpio.c.
"""

import os
import shutil
import stat
from pathlib import Path
from typing import BinaryIO

from statemachine.errors import CheckpointError

_LARGEST_BYTES = (1 << 33) - 1
"""11 octal digits."""
_SHORT_BITS = 18
"""6 octal digits."""
_END = "TRAILER!!!"
_BLOCK_BYTES = 512


def write_odc(directory: Path, target: Path) -> None:
    """Write the archive. Raises `CheckpointError` for what the format cannot hold: files of 8 GiB and more,
    users and groups above 262143. Sockets are left out."""
    numbers: dict[tuple[int, int], int] = {}
    with target.open("wb") as sink:
        for path in sorted(directory.rglob("*")):
            status = path.lstat()
            if stat.S_ISSOCK(status.st_mode):
                continue
            known = (status.st_dev, status.st_ino)
            number = numbers.setdefault(known, len(numbers) + 1)
            _write_entry(sink, path, str(path.relative_to(directory)), status, number)
        _write_header(sink, _END, (0, 0, 0, 0, 1, 0), 0, 0, 0)
        sink.write(bytes(-sink.tell() % _BLOCK_BYTES))


def _write_entry(
    sink: BinaryIO, path: Path, name: str, status: os.stat_result, number: int
) -> None:
    regular = stat.S_ISREG(status.st_mode)
    data = os.fsencode(path.readlink()) if path.is_symlink() else b""
    size = status.st_size if regular else len(data)
    if size > _LARGEST_BYTES or max(status.st_uid, status.st_gid) >> _SHORT_BITS:
        raise CheckpointError(
            f"/{name} cannot be in a cpio archive",
            f"it has {size} bytes, and the owner {status.st_uid}:{status.st_gid}",
            "leave it out of the boot archive, or use another format",
        )
    links = 2 if stat.S_ISDIR(status.st_mode) else status.st_nlink
    owner = (status.st_mode, status.st_uid, status.st_gid, links)
    device = os.major(status.st_rdev) << 8 | os.minor(status.st_rdev)
    numbers = (number >> _SHORT_BITS, number & ((1 << _SHORT_BITS) - 1), *owner)
    _write_header(sink, name, numbers, device, int(status.st_mtime), size)
    if regular:
        with path.open("rb") as file:
            shutil.copyfileobj(file, sink, 1 << 20)
    else:
        sink.write(data)


def _write_header(
    sink: BinaryIO, name: str, numbers: tuple[int, ...], device: int, mtime: int, size: int
) -> None:
    """`numbers` are dev, ino, mode, uid, gid and nlink."""
    encoded = os.fsencode(name) + b"\0"
    short = "".join(f"{number:06o}" for number in (*numbers, device & 0o777777))
    sink.write(f"070707{short}{max(mtime, 0):011o}{len(encoded):06o}{size:011o}".encode())
    sink.write(encoded)
