"""The GUID partition table of a layout, as bytes. Pure.

sfdisk(8) is not used, since it assumes sectors of 512 bytes for every file.
Source: UEFI specification 2.10, chapter 5: protective MBR, header, entries of 128 bytes, and the copy of
both at the end of the disk.
"""

import struct
import uuid
import zlib

from dcd.checkpoints.vm.disk import DiskLayout
from dcd.checkpoints.vm.layout import table_bytes
from dcd.checkpoints.vm.layout_checks import MOST_PARTITIONS

_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_ENTRY = struct.Struct("<16s16sQQQ72s")
_REVISION = 0x00010000
_PROTECTIVE_TYPE = 0xEE
BOOT_CODE_BYTES = 440
"""The boot loader's part of the first sector."""


def table(layout: DiskLayout) -> list[tuple[int, bytes]]:
    """The parts of the table, each with its offset in bytes, for an empty disk."""
    sector = layout.sector_size
    last = layout.size // sector - 1
    entries = b"".join(_entries(layout))
    copy = last - len(entries) // sector
    return [
        (BOOT_CODE_BYTES, _protective_mbr(last)),
        (sector, _header(layout, entries, here=1, other=last, entries_at=2)),
        (2 * sector, entries),
        (copy * sector, entries),
        (last * sector, _header(layout, entries, here=last, other=1, entries_at=copy)),
    ]


def _entries(layout: DiskLayout) -> list[bytes]:
    entries = [bytes(_ENTRY.size)] * MOST_PARTITIONS
    for partition in layout.partitions:
        entries[partition.number - 1] = _ENTRY.pack(
            uuid.UUID(partition.type).bytes_le,
            uuid.UUID(partition.uuid).bytes_le,
            partition.start // layout.sector_size,
            (partition.start + partition.size) // layout.sector_size - 1,
            0,
            partition.label.encode("utf-16-le"),
        )
    return entries


def _header(layout: DiskLayout, entries: bytes, *, here: int, other: int, entries_at: int) -> bytes:
    reserved = table_bytes(layout.sector_size) // layout.sector_size
    last = layout.size // layout.sector_size - 1

    def packed(checksum: int) -> bytes:
        return _HEADER.pack(
            *(b"EFI PART", _REVISION, _HEADER.size, checksum, 0),
            *(here, other, 1 + reserved, last - reserved),
            uuid.UUID(layout.uuid).bytes_le,
            *(entries_at, MOST_PARTITIONS, _ENTRY.size, zlib.crc32(entries)),
        )

    return packed(zlib.crc32(packed(0)))


def _protective_mbr(last: int) -> bytes:
    """The first sector after the boot code: one partition over the whole disk, so that systems without GPT
    do not consider the disk empty."""
    whole = struct.pack(
        "<4sB3sII", b"\0\0\2\0", _PROTECTIVE_TYPE, b"\xff" * 3, 1, min(last, 2**32 - 1)
    )
    return bytes(6) + whole + bytes(48) + b"\x55\xaa"
