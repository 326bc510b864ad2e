"""Block maps: the parts of a disk image that have to be written, with the digest of each.

A map of what a sparse file has allocated is not enough: a file system relies on zeros that it has never
written, in tables of inodes, in a journal, in a FAT. Therefore all blocks are mapped but those that are zero
and belong to nobody: free blocks of an ext4 file system, swap space, and space outside of partitions. So the
image also starts on a medium that was used before. The map depends on the content alone.
Source: bmap-tools, the format 2.0 as its own bmaptool(1) writes it; dumpe2fs(8).
"""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from dcd.checkpoints.interface import Context
from dcd.checkpoints.vm.disk import DiskLayout, DiskPartition, VolumePartition
from store.host.sparse import filled_ranges

TOOLS = ("dumpe2fs",)
_BLOCK_BYTES = 4096
_CHUNK_BYTES = 1 << 20
_FREE = re.compile(r"^  Free blocks: (.+)$", re.MULTILINE)
_SIZE = re.compile(r"^Block size: +(\d+)$", re.MULTILINE)
_UNUSED = ("swap",)
"""Volumes of which only what is filled counts."""

_TEXT = """\
<?xml version="1.0" ?>
<!-- Write the image with `bmaptool copy IMAGE DEVICE`; this file is found beside it. -->
<bmap version="2.0">
    <ImageSize> {size} </ImageSize>
    <BlockSize> {block} </BlockSize>
    <BlocksCount> {blocks} </BlocksCount>
    <MappedBlocksCount> {mapped} </MappedBlocksCount>
    <ChecksumType> sha256 </ChecksumType>
    <BmapFileChecksum> {digest} </BmapFileChecksum>
    <BlockMap>
{ranges}
    </BlockMap>
</bmap>
"""

Range = tuple[int, int]
"""The first block, and the one behind the last."""


def block_map(context: Context, disk: Path, layout: DiskLayout) -> str:
    """The map of a disk, as the text of its file."""
    with disk.open("rb") as file:
        mapped = list(_mapped(context, disk, file.fileno(), layout))
        lines = [
            f'        <Range chksum="{_digest(file.fileno(), start, end, layout.size)}"> '
            f"{start if end - start == 1 else f'{start}-{end - 1}'} </Range>"
            for start, end in mapped
        ]
    text = _TEXT.format(
        size=layout.size,
        block=_BLOCK_BYTES,
        blocks=_blocks(layout.size),
        mapped=sum(end - start for start, end in mapped),
        digest="0" * 64,
        ranges="\n".join(lines),
    )
    # The digest of the file is that with zeros in its place.
    return text.replace("0" * 64, hashlib.sha256(text.encode()).hexdigest(), 1)


def _mapped(context: Context, disk: Path, descriptor: int, layout: DiskLayout) -> Iterator[Range]:
    """The mapped blocks, in order, each once."""
    wanted = [
        (start // _BLOCK_BYTES, _blocks(end))
        for start, end in filled_ranges(descriptor, layout.size, _BLOCK_BYTES)
    ]
    for partition in layout.partitions:
        wanted += _needed(context, disk, partition)
    start = end = 0
    for first, behind in sorted(wanted):
        if first > end:
            if end > start:
                yield start, end
            start = first
        end = max(end, behind)
    if end > start:
        yield start, end


def _needed(context: Context, disk: Path, partition: DiskPartition) -> Iterator[Range]:
    """The blocks of a partition that have to be written, whatever is in them."""
    kind = ""
    if isinstance(partition, VolumePartition) and not partition.cover:
        kind = partition.volume.type
    if kind in _UNUSED:
        return
    position, last = partition.start, partition.start + partition.size
    for free_start, free_end in _free(context, disk, partition) if kind == "ext4" else ():
        # Partial blocks at both ends are written too.
        start = partition.start + -(-free_start // _BLOCK_BYTES) * _BLOCK_BYTES
        end = partition.start + free_end // _BLOCK_BYTES * _BLOCK_BYTES
        if end > start >= position:
            if start > position:
                yield position // _BLOCK_BYTES, _blocks(start)
            position = end
    if position < last:
        yield position // _BLOCK_BYTES, _blocks(last)


def _free(context: Context, disk: Path, partition: DiskPartition) -> Iterator[tuple[int, int]]:
    """The free parts of an ext4 file system, in bytes from its start, in order."""
    shown = context.run(["dumpe2fs", f"{disk}?offset={partition.start}"], capture=True).stdout
    size = _SIZE.search(shown)
    if size is None:
        return
    for line in _FREE.findall(shown):
        for part in line.split(","):
            first, _, last = part.strip().partition("-")
            if first.isdecimal():
                yield int(first) * int(size[1]), (int(last or first) + 1) * int(size[1])


def _blocks(size_bytes: int) -> int:
    return -(-size_bytes // _BLOCK_BYTES)


def _digest(descriptor: int, start: int, end: int, size_bytes: int) -> str:
    digest = hashlib.sha256()
    position, last = start * _BLOCK_BYTES, min(end * _BLOCK_BYTES, size_bytes)
    while position < last:
        data = os.pread(descriptor, min(_CHUNK_BYTES, last - position), position)
        digest.update(data)
        position += len(data)
    return digest.hexdigest()
