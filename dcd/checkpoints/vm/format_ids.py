"""The ids and times that qemu-img draws at random or from the clock, written again from those of the disk.

So the same disk gives the same bytes in each format. Only the fields that identify an image change, with the
checksums over them: its structure and contents stay. For a closed image, whose log is empty.
Source: QEMU's block/vdi.c; Microsoft's Virtual Hard Disk Image Format Specification, "Hard Disk Footer";
[MS-VHDX] 2.2 and 2.6; VMware's Virtual Disk Format 1.1, "Hosted Sparse Extents"; RFC 9562 5.5 (UUID 5);
RFC 3720 appendix B.4 (CRC-32C).
"""

import os
import re
import struct
import uuid
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import BinaryIO

from statemachine.errors import CheckpointError

_SECTOR_BYTES = 512
_KIB = 1024

Derive = Callable[[str], uuid.UUID]


def derive_ids(path: Path, type_: str, disk_uuid: str, epoch: int) -> None:
    """Write the ids of an image of that `vm_format` type again, derived from the `uuid` of the disk's
    layout, and its time from `epoch`, seconds since 1970. Leaves formats without such ids as they are.
    Raises `CheckpointError` when the image does not have the structure of its format."""
    write = _WRITERS.get(type_)
    if write is None:
        return

    def derive(what: str) -> uuid.UUID:
        return uuid.uuid5(uuid.NAMESPACE_OID, f"{disk_uuid} {type_} {what}")

    try:
        with path.open("r+b") as image:
            write(image, derive, epoch)
    except (struct.error, ValueError, OverflowError) as error:
        raise CheckpointError(
            f"the ids of {path.name} cannot be written",
            f"it does not have the structure of a {type_}: {error}",
            "check the version of qemu-utils (dcctl doctor)",
        ) from error


def _write_vdi(image: BinaryIO, derive: Derive, epoch: int) -> None:
    _require(_at(image, 64, 4) == b"\x7f\x10\xda\xbe", "no signature")
    _put(image, 392, derive("image").bytes_le + derive("snapshot").bytes_le)


def _write_vmdk(image: BinaryIO, derive: Derive, epoch: int) -> None:
    _require(_at(image, 0, 4) == b"KDMV", "no signature")
    sector, sectors = struct.unpack("<QQ", _at(image, 28, 16))
    start, size = sector * _SECTOR_BYTES, sectors * _SECTOR_BYTES
    content_id = derive("content").int & 0x7FFFFFFF or 1
    text, count = re.subn(
        rb"^CID=[0-9a-f]{1,8}$",
        b"CID=%08x" % content_id,
        _at(image, start, size).rstrip(b"\0"),
        flags=re.MULTILINE,
    )
    _require(count == 1 and len(text) <= size, "no descriptor")
    _put(image, start, text.ljust(size, b"\0"))


_VHD_SINCE = 946684800
"""2000-01-01, from which a VHD counts seconds."""


def _write_vhd(image: BinaryIO, derive: Derive, epoch: int) -> None:
    end = image.seek(0, os.SEEK_END) - _SECTOR_BYTES
    footer = bytearray(_at(image, end, _SECTOR_BYTES))
    _require(footer[:8] == b"conectix", "no footer")
    footer[24:28] = struct.pack(">I", max(0, epoch - _VHD_SINCE))
    footer[68:84] = derive("disk").bytes
    footer[64:68] = bytes(4)
    footer[64:68] = struct.pack(">I", ~sum(footer) & 0xFFFFFFFF)
    # A dynamic one has a copy at its start, a fixed one the disk's first sector.
    if footer[60:64] != struct.pack(">I", 2):
        _put(image, 0, footer)
    _put(image, end, footer)


_VHDX_HEADERS = (64 * _KIB, 128 * _KIB)
_VHDX_HEADER_BYTES, _VHDX_TABLE_BYTES = 4 * _KIB, 64 * _KIB
_VHDX_REGIONS = 192 * _KIB
_VHDX_METADATA = uuid.UUID("8B7CA206-4790-4B9A-B8FE-575F050F886E").bytes_le
_VHDX_PAGE_83 = uuid.UUID("BECA12AB-B2E6-4523-93EF-C309E000C746").bytes_le


def _write_vhdx(image: BinaryIO, derive: Derive, epoch: int) -> None:
    for sequence, at in enumerate(_VHDX_HEADERS, 1):
        header = bytearray(_at(image, at, _VHDX_HEADER_BYTES))
        _require(header[:4] == b"head", "no header")
        _require(not any(header[48:64]), "a log with entries")
        header[8:16] = struct.pack("<Q", sequence)
        header[16:32] = derive("file write").bytes_le
        header[32:48] = derive("data write").bytes_le
        log_bytes, log_at = struct.unpack_from("<IQ", header, 68)
        header[4:8] = bytes(4)
        header[4:8] = struct.pack("<I", _crc32c(bytes(header)))
        _put(image, at, header)
    # Entries without the header's id are void.
    _blank(image, log_at, log_bytes)
    at = _item(image, _VHDX_REGIONS, 8, 16, _VHDX_METADATA)
    (metadata,) = struct.unpack("<Q", _at(image, at + 16, 8))
    at = _item(image, metadata, 10, 32, _VHDX_PAGE_83)
    (offset,) = struct.unpack("<I", _at(image, at + 16, 4))
    _put(image, metadata + offset, derive("page 83").bytes_le)


def _item(image: BinaryIO, table: int, count_at: int, first: int, name: bytes) -> int:
    """The place of the entry of that GUID in a region or metadata table."""
    content = _at(image, table, _VHDX_TABLE_BYTES)
    (count,) = struct.unpack_from("<H", content, count_at)
    for at in range(first, first + 32 * count, 32):
        if content[at : at + 16] == name:
            return table + at
    raise ValueError("a table lacks an entry")


def _blank(image: BinaryIO, start: int, size: int) -> None:
    """Write zeros where there are others, so that holes stay holes."""
    for at in range(start, start + size, 64 * _KIB):
        length = min(64 * _KIB, start + size - at)
        if any(_at(image, at, length)):
            _put(image, at, bytes(length))


_WRITERS: Mapping[str, Callable[[BinaryIO, Derive, int], None]] = {
    "vdi": _write_vdi,
    "vmdk": _write_vmdk,
    "vhd": _write_vhd,
    "vhdx": _write_vhdx,
}


def _at(image: BinaryIO, at: int, size: int) -> bytes:
    _require(at >= 0, "it is too short")
    image.seek(at)
    content = image.read(size)
    _require(len(content) == size, "it is too short")
    return content


def _put(image: BinaryIO, at: int, content: bytes | bytearray) -> None:
    image.seek(at)
    image.write(content)


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise ValueError(problem)


@cache
def _crc32c_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


def _crc32c(data: bytes) -> int:
    table, crc = _crc32c_table(), 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
