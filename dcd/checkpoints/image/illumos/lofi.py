"""The format of compressed lofi images (solaris.zlib): a writer and a reader.

A file is cut into segments of the same length, each compressed by itself; an index leads to each of them, so
that the kernel reads any part of the image without the rest. All numbers are big-endian:

    36 bytes  name of the algorithm, filled up with NUL: gzip, gzip-6, gzip-9 or lzma
     4 bytes  length of a segment
     4 bytes  number of entries of the index
     4 bytes  length of the last segment
     8 bytes  for each entry: the offset of its segment behind the index; the last entry is the end
     segments: 1 byte (1: compressed, 0: stored) and the data

The file is filled up to a multiple of 512 bytes. A segment that hardly shrinks is stored. gzip is zlib's own
format here. lzma is the format of .lzma files; liblzma also writes an end mark, after which the kernel's
decoder, which knows the length, does not look.
Source: illumos, usr/src/cmd/lofiadm/main.c (lofi_compress, lzma_compress), usr/src/uts/common/io/lofi.c
(lofi_map_compressed_file, lzma_decompress), usr/src/uts/common/sys/lofi.h.
"""

import lzma
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, Literal, get_args

from statemachine.errors import CheckpointError

Algorithm = Literal["gzip", "gzip-6", "gzip-9", "lzma"]

OnSegment = Callable[[int, int], None]
"""Called with the number of segments done and their total."""

SEGMENT_BYTES = 128 << 10
"""The length of a segment, lofiadm's default."""

_NAME_BYTES = 36
_HEADER = struct.Struct(f">{_NAME_BYTES}sIII")
_ENTRY = struct.Struct(">Q")
_BLOCK_BYTES = 512
_THRESHOLD_BYTES = 2048
"""A segment that shrinks by less is stored."""
_GZIP_LEVELS = {"gzip": 6, "gzip-6": 6, "gzip-9": 9}

_LZMA_FILTERS = [{"id": lzma.FILTER_LZMA1, "preset": 6, "dict_size": SEGMENT_BYTES}]
_LZMA_HEADER = struct.Struct("<BIQ")
_LZMA_PROPERTIES = 0x5D
"""lc 3, lp 0, pb 2: the defaults of both libraries."""
_LZMA_DICTIONARY_BYTES = 8 << 20
"""lofiadm's; decoders allow any that is not smaller than the one in use."""


@dataclass(frozen=True, slots=True)
class Index:
    """The header of a compressed image: where each segment begins and ends, in the file."""

    algorithm: Algorithm
    segment_bytes: int
    last_segment_bytes: int
    bounds: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """The length of the image behind it."""
        return (len(self.bounds) - 2) * self.segment_bytes + self.last_segment_bytes


def compress(
    source: Path,
    target: Path,
    algorithm: Algorithm,
    on_segment: OnSegment = lambda done, total: None,
) -> None:
    """Write the compressed image of `source` to `target`, which must be another file. Raises
    `CheckpointError` for an empty source, or one that is not a whole number of blocks."""
    size = source.stat().st_size
    if size == 0 or size % _BLOCK_BYTES:
        raise CheckpointError(
            f"{source.name} cannot be a lofi image",
            f"it has {size} bytes; lofi takes files of whole blocks of {_BLOCK_BYTES} bytes",
        )
    total = -(-size // SEGMENT_BYTES)
    offsets = [0]
    last = size - (total - 1) * SEGMENT_BYTES
    with source.open("rb") as origin, target.open("wb") as sink:
        sink.seek(_HEADER.size + (total + 1) * _ENTRY.size)
        for done, data in enumerate(_packed_in_order(origin, algorithm), start=1):
            offsets.append(offsets[-1] + sink.write(data))
            on_segment(done, total)
        sink.write(bytes(-sink.tell() % _BLOCK_BYTES))
        sink.seek(0)
        sink.write(_HEADER.pack(algorithm.encode(), SEGMENT_BYTES, total + 1, last))
        sink.write(b"".join(map(_ENTRY.pack, offsets)))


def read_index(file: BinaryIO) -> Index:
    """The header of a compressed image. Raises `CheckpointError` for anything else."""
    head = file.read(_HEADER.size)
    if len(head) < _HEADER.size:
        raise _damaged("it has no header")
    name, segment_bytes, count, last = _HEADER.unpack(head)
    algorithm = name.rstrip(b"\0").decode("ascii", "replace")
    if algorithm not in get_args(Algorithm):
        raise _damaged(f"its algorithm is {algorithm!r}")
    entries = file.read(count * _ENTRY.size)
    if count < 2 or len(entries) < count * _ENTRY.size or not 0 < last <= segment_bytes:
        raise _damaged("its index is incomplete")
    base = _HEADER.size + len(entries)
    bounds = tuple(base + offset for (offset,) in _ENTRY.iter_unpack(entries))
    if any(end <= begin for begin, end in pairwise(bounds)):
        raise _damaged("its index does not ascend")
    return Index(algorithm, segment_bytes, last, bounds)


def decompress(source: Path) -> Iterator[bytes]:
    """The segments of the image that a compressed file holds, in order. Raises `CheckpointError`."""
    with source.open("rb") as file:
        index = read_index(file)
        pairs = list(pairwise(index.bounds))
        for number, (begin, end) in enumerate(pairs, start=1):
            file.seek(begin)
            wanted = index.last_segment_bytes if number == len(pairs) else index.segment_bytes
            segment = _unpacked(file.read(end - begin), index.algorithm)
            if len(segment) != wanted:
                raise _damaged(f"segment {number} has {len(segment)} bytes instead of {wanted}")
            yield segment


def _packed_in_order(origin: BinaryIO, algorithm: Algorithm) -> Iterator[bytes]:
    """The stored form of each segment. Both libraries compress outside the interpreter's lock."""
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        while some := [data for _ in range(4 * workers) if (data := origin.read(SEGMENT_BYTES))]:
            yield from pool.map(lambda segment: _packed(segment, algorithm), some)


def _packed(segment: bytes, algorithm: Algorithm) -> bytes:
    if algorithm == "lzma":
        head = _LZMA_HEADER.pack(_LZMA_PROPERTIES, _LZMA_DICTIONARY_BYTES, len(segment))
        small = head + lzma.compress(segment, lzma.FORMAT_RAW, filters=_LZMA_FILTERS)
    else:
        small = zlib.compress(segment, _GZIP_LEVELS[algorithm])
    if len(small) > SEGMENT_BYTES - _THRESHOLD_BYTES:
        return b"\0" + segment
    return b"\1" + small


def _unpacked(stored: bytes, algorithm: Algorithm) -> bytes:
    kind, data = stored[:1], stored[1:]
    if kind == b"\0":
        return data
    try:
        if algorithm == "lzma":
            body = data[_LZMA_HEADER.size :]
            size = _LZMA_HEADER.unpack_from(data)[2]
            filters = [{"id": lzma.FILTER_LZMA1, "dict_size": _LZMA_DICTIONARY_BYTES}]
            return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters).decompress(body, size)
        return zlib.decompress(data)
    except (zlib.error, lzma.LZMAError, struct.error) as failure:
        raise _damaged(str(failure)) from None


def _damaged(why: str) -> CheckpointError:
    return CheckpointError("this is no compressed lofi image", why)
