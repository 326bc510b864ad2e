"""A private copy of an image for a guest, where the hypervisor cannot keep what the guest writes apart.

Holes stay holes. Linux and illumos.
"""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from dcd.platform.hypervisor.interface import Drive

_CHUNK_BYTES = 1 << 22


def copy_image(drive: Drive, target: Path) -> Path:
    """Copy the image to `target` and return that. Raises OSError."""
    end = drive.image.stat().st_size if drive.length is None else drive.offset + drive.length
    with drive.image.open("rb") as source, target.open("wb") as copy:
        copy.truncate(end - drive.offset)
        for position, size in _data(source.fileno(), drive.offset, end):
            data = os.pread(source.fileno(), size, position)
            os.pwrite(copy.fileno(), data, position - drive.offset)
    return target


def _data(descriptor: int, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Where in a range there is data: places and sizes."""
    while begin < end:
        try:
            begin = os.lseek(descriptor, begin, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                # Nothing but a hole from there on.
                return
            raise
        hole = min(end, os.lseek(descriptor, begin, os.SEEK_HOLE))
        for position in range(begin, hole, _CHUNK_BYTES):
            yield position, min(_CHUNK_BYTES, hole - position)
        begin = hole
