"""Copying file content by descriptor: holes are kept, and extents are shared if the file system can.

Source: lseek(2), SEEK_DATA and SEEK_HOLE; copy_file_range(2).
"""

import errno
import os
from collections.abc import Iterator
from contextlib import suppress

_CHUNK_BYTES = 1 << 22


def copy_content(source: int, sink: int, size_bytes: int) -> None:
    """Copy the first `size_bytes` of the file open as `source` to the empty file open as `sink`, which
    gets that size. Raises OSError."""
    os.truncate(sink, size_bytes)
    for begin, end in data_ranges(source, size_bytes):
        copy_range(source, sink, begin, end)


def data_ranges(descriptor: int, end: int, begin: int = 0) -> Iterator[tuple[int, int]]:
    """The parts of a file from `begin` to `end` that are not holes."""
    position = begin
    while position < end:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
            hole = os.lseek(descriptor, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # Only a hole is left.
            if error.errno != errno.EINVAL:
                raise
            start, hole = position, end  # The file system does not report holes.
        if start >= end:
            return
        yield start, min(hole, end)
        position = hole


def copy_range(source: int, sink: int, start: int, end: int, shift: int = 0) -> None:
    """Copy the bytes from `start` to `end`, `shift` bytes further on. A source that became shorter ends
    the copy."""
    position = start
    with suppress(AttributeError, OSError):
        while position < end:
            done = os.copy_file_range(source, sink, end - position, position, position + shift)
            if done == 0:
                break
            position += done
    while position < end:
        chunk = os.pread(source, min(_CHUNK_BYTES, end - position), position)
        if not chunk:
            return
        view = memoryview(chunk)
        while view:
            written = os.pwrite(sink, view, position + shift)
            view, position = view[written:], position + written
