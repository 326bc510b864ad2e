"""Contents of IPS packages in the package store, so that pkg(7) downloads no file twice.

pkg keeps each file as it came, compressed with gzip, below PKG_CACHEROOT, and names it by a digest of the
uncompressed content: SHA-1, or one of 256 bits. In the store it has that name behind `content-`. A worker may
put anything there, and the next attempt uses it, so `taken` lets only files through that have the content of
their name. pkg compares each file with its manifest too. Standard library only. Blocking.
"""

import hashlib
import os
import re
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from store.host.regular import open_regular

DIRECTORY = "contents"
"""In an attempt's directory of the store: what PKG_CACHEROOT names."""

PREFIX = "content-"
NAME = re.compile(PREFIX + r"(?:[0-9a-f]{40}|[0-9a-f]{64})")

MOST_BYTES = 64 << 30
"""Limit of the uncompressed contents of one attempt, those with another digest included. What exceeds it is
not read, and not kept."""

_CHUNK_BYTES = 1024 * 1024
_DIGESTS = {40: ("sha1",), 64: ("sha256", "sha512_256")}
_GZIP = 16 + zlib.MAX_WBITS


def taken(directory: Path) -> Iterator[tuple[Path, str]]:
    """The files below that are what their names say, read-only from then on, each with its name in the
    store. No process may have them open. Raises OSError."""
    left = MOST_BYTES
    for path in _files(directory, levels=3):
        if left <= 0:
            return
        if not NAME.fullmatch(PREFIX + path.name):
            continue
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_nlink != 1:
                continue
            length, whole = _unpacked(file, path.name, left)
            left -= length
            if not whole:
                continue
            os.fchmod(file.fileno(), 0o444)
        yield path, PREFIX + path.name


def _files(directory: Path, levels: int) -> Iterator[Path]:
    """The files below so many levels of directories, PUBLISHER/file/FIRST-TWO-DIGITS. No link is followed:
    those of an attempt lead to what the store has already."""
    if directory.is_symlink() or not directory.is_dir():
        return
    for entry in os.scandir(directory):
        if levels and entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path), levels - 1)
        elif not levels and entry.is_file(follow_symlinks=False):
            yield Path(entry.path)


def _unpacked(file: BufferedReader, name: str, most_bytes: int) -> tuple[int, bool]:
    """The length of the uncompressed content in bytes, as far as it was read, and whether it has the digest
    and is not longer."""
    digests = [hashlib.new(each, usedforsecurity=False) for each in _DIGESTS[len(name)]]
    unpacking = zlib.decompressobj(_GZIP)
    length = 0
    try:
        while not unpacking.eof:
            packed = unpacking.unconsumed_tail or file.read(_CHUNK_BYTES)
            if not packed:
                return length, False
            content = unpacking.decompress(packed, _CHUNK_BYTES)
            length += len(content)
            if length > most_bytes:
                return length, False
            for digest in digests:
                digest.update(content)
        whole = not unpacking.unused_data and not file.read(1)
    except zlib.error:
        return length, False
    return length, whole and name in {digest.hexdigest() for digest in digests}
