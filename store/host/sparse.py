"""Copying and digesting file content by descriptor: holes are kept and not read, and extents are shared if
the file system can.

Source: lseek(2), SEEK_DATA and SEEK_HOLE; copy_file_range(2).
"""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress

PIECEWISE_BYTES = 1024**3
"""The size from which on content manifests digest a file by pieces (`store.layers.content`)."""

_CHUNK_BYTES = 1 << 22
_DIGESTED_BYTES = 1 << 18
"""How much is digested at once: it stays in the processor's cache."""


def copy_content(source: int, sink: int, size_bytes: int) -> None:
    """Copy the first `size_bytes` of the file open as `source` to the empty file open as `sink`, which
    gets that size. Raises OSError."""
    os.truncate(sink, size_bytes)
    for begin, end in data_ranges(source, size_bytes):
        copy_range(source, sink, begin, end)


def sha256_of(descriptor: int) -> str:
    """The SHA-256 of an open file, in hexadecimal. Its holes are not read: the kernel would fill memory with
    their zeros. Raises OSError."""
    return sha256_of_range(descriptor, 0, os.fstat(descriptor).st_size).hex()


def sha256_of_range(descriptor: int, start: int, end: int) -> bytes:
    """The SHA-256 of the bytes from `start` to `end` of an open file, as `sha256_of` does it."""
    digest, zeros = hashlib.sha256(), memoryview(bytes(_DIGESTED_BYTES))
    position = start
    for begin, hole in (*data_ranges(descriptor, end, start), (end, end)):
        while position < begin:
            count = min(begin - position, _DIGESTED_BYTES)
            digest.update(zeros[:count])
            position += count
        while position < hole:
            piece = os.pread(descriptor, min(hole - position, _DIGESTED_BYTES), position)
            if not piece:
                raise OSError(errno.EIO, "the file became shorter while it was read")
            digest.update(piece)
            position += len(piece)
    return digest.digest()


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


def filled_ranges(descriptor: int, size_bytes: int, block_bytes: int) -> Iterator[tuple[int, int]]:
    """The parts of a file that are not all zeros, as start and end, in whole blocks (but for the file's end).
    Blocks of zeros count as holes, so the file system does not matter."""
    zeros = bytes(block_bytes)
    start = end = 0
    for begin, hole in data_ranges(descriptor, size_bytes):
        position = max(begin - begin % block_bytes, end)
        while position < hole:
            chunk = os.pread(descriptor, min(_CHUNK_BYTES, size_bytes - position), position)
            if not chunk:
                break
            for at in range(0, len(chunk), block_bytes):
                block = chunk[at : at + block_bytes]
                if block == zeros[: len(block)]:
                    continue
                if position + at != end:
                    if end > start:
                        yield start, end
                    start = position + at
                end = position + at + len(block)
            position += len(chunk)
    if end > start:
        yield start, end


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
