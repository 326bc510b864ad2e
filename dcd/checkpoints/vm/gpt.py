"""The GUID partition table of a layout, as bytes. Pure.

Written here and not by sfdisk(8), which takes every file for a disk with sectors of 512 bytes.
Source: UEFI specification 2.10, chapter 5: protective MBR, header, entries of 128 bytes, and the copy of
both at the end of the disk.
"""

import struct
import uuid
import zlib

from dcd.checkpoints.vm.disk import DiskLayout, DiskPartition
from dcd.checkpoints.vm.layout import table_bytes
from dcd.checkpoints.vm.layout_checks import MOST_PARTITIONS

_ENTRY_BYTES = 128
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_ENTRY = struct.Struct("<16s16sQQQ72s")
_REVISION = 0x00010000
_PROTECTIVE_TYPE = 0xEE
BOOT_CODE_BYTES = 440
"""The part of the first sector that is left to the boot loader."""


def table(layout: DiskLayout) -> list[tuple[int, bytes]]:
    """What to write where (offset in bytes), on a disk that is otherwise empty."""
    sector = layout.sector_size
    last = layout.size // sector - 1
    entries = _entries(layout)
    copy = last - len(entries) // sector
    return [
        (BOOT_CODE_BYTES, _protective_mbr(last)),
        (sector, _header(layout, entries, here=1, other=last, entries_at=2)),
        (2 * sector, entries),
        (copy * sector, entries),
        (last * sector, _header(layout, entries, here=last, other=1, entries_at=copy)),
    ]


def _entries(layout: DiskLayout) -> bytes:
    entries = bytearray(MOST_PARTITIONS * _ENTRY_BYTES)
    for partition in layout.partitions:
        at = (partition.number - 1) * _ENTRY_BYTES
        entries[at : at + _ENTRY_BYTES] = _entry(partition, layout.sector_size)
    return bytes(entries)


def _entry(partition: DiskPartition, sector: int) -> bytes:
    return _ENTRY.pack(
        uuid.UUID(partition.type).bytes_le,
        uuid.UUID(partition.uuid).bytes_le,
        partition.start // sector,
        (partition.start + partition.size) // sector - 1,
        0,
        partition.label.encode("utf-16-le"),
    )


def _header(layout: DiskLayout, entries: bytes, *, here: int, other: int, entries_at: int) -> bytes:
    reserved = table_bytes(layout.sector_size) // layout.sector_size
    last = layout.size // layout.sector_size - 1

    def packed(checksum: int) -> bytes:
        return _HEADER.pack(
            *(b"EFI PART", _REVISION, _HEADER.size, checksum, 0),
            *(here, other, 1 + reserved, last - reserved),
            uuid.UUID(layout.uuid).bytes_le,
            *(entries_at, MOST_PARTITIONS, _ENTRY_BYTES, zlib.crc32(entries)),
        )

    return packed(zlib.crc32(packed(0)))


def _protective_mbr(last: int) -> bytes:
    """The first sector from the end of the boot code: one partition over the whole disk, which keeps
    systems that know no GPT from taking it for empty."""
    whole = struct.pack(
        "<4sB3sII", b"\0\0\2\0", _PROTECTIVE_TYPE, b"\xff" * 3, 1, min(last, 2**32 - 1)
    )
    return bytes(6) + whole + bytes(48) + b"\x55\xaa"
