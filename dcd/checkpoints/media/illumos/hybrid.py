"""The first sectors of an ISO that also starts as a USB stick, with illumos' loader.

ISO 9660 leaves the first 64 sectors of 512 bytes free. They get:

    0       the image's boot/pmbr with a partition table for BIOS, and for tools that know no GPT
    1, 2    the header of a GPT, and its four entries
    3 - 62  a boot partition: boot/pmbr again, then boot/isoboot, which finds the ISO behind

The end of the file gets the backup of the GPT. Both tables have two partitions: the boot partition, and the
EFI system partition, which is the boot image for UEFI inside the ISO. boot/pmbr reads one sector of the boot
partition, and that the rest. Identifiers are made from a text, so that the same build gives the same bytes.
Source: UEFI specification, 5.2 and 5.3; illumos, usr/src/cmd/boot/installboot/i386 (installboot.h, and
installboot.c: prepare_stage1, prepare_bootblock, write_stage1), usr/src/uts/common/sys/multiboot.h;
image-builder and kayak, which lay out the same partitions by fdisk(8) and installboot(8).
"""

import struct
import uuid
import zlib
from dataclasses import dataclass
from pathlib import Path

from statemachine.errors import CheckpointError

SECTOR_BYTES = 512
BOOT_START, BOOT_SECTORS = 3, 60
"""The boot partition, from the end of the GPT to the ISO."""

ILLUMOS_BOOT = uuid.UUID("6a82cb45-1dd2-11b2-99a6-080020736631")
EFI_SYSTEM = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")

_MBR_BOOT, _MBR_ESP, _MBR_GPT = 0xBE, 0xEF, 0xEE
_ENTRIES, _ENTRY_BYTES = 4, 128
_HEADER_BYTES = 92
_TABLE = struct.Struct("<B3sB3sII")
_ENTRY = struct.Struct("<16s16sQQQ72s")
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_NO_GEOMETRY = b"\xfe\xff\xff"
"""A cylinder, head and sector for blocks that they cannot express."""

_STAGE1_BPB, _STAGE1_BPB_BYTES = 0x3, 0x3B
_STAGE1_STAGE2 = struct.Struct("<HQ16s")
"""At 0xfc: the number of sectors to read, the first of them, an id of the disk."""
_STAGE1_STAGE2_AT = 0xFC
_STAGE1_SIGNATURE = 0x1B8
_STAGE1_TABLE = 0x1BE

_MULTIBOOT = b"\x02\xb0\xad\x1b"
_MULTIBOOT_SEARCHED = 32 << 10
_MULTIBOOT_BSS_END = 24
_NAMESPACE = uuid.UUID("9d0c7a5e-5a1c-5c8e-8f0e-1f6c0a3b7d42")


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition: its first sector and its number of sectors."""

    start: int
    sectors: int


def make_hybrid(iso: Path, pmbr: bytes, isoboot: bytes, esp: Partition, identity: str) -> None:
    """Write the tables and the boot programs into the ISO. Raises `CheckpointError` for programs that do not
    fit, or an end that is not free for the backup."""
    if len(pmbr) != SECTOR_BYTES or pmbr[-2:] != b"\x55\xaa":
        raise CheckpointError(
            "boot/pmbr of the image is no boot sector",
            f"it has {len(pmbr)} bytes; a boot sector has 512 and ends in 55 aa",
            "install the loader of illumos: system/boot/loader",
        )
    if len(isoboot) > (BOOT_SECTORS - 1) * SECTOR_BYTES:
        raise CheckpointError(
            "boot/isoboot of the image is too large",
            f"it has {len(isoboot)} bytes; before the ISO there is space for "
            f"{(BOOT_SECTORS - 1) * SECTOR_BYTES}",
            "install another version of the loader",
        )
    boot = Partition(BOOT_START, BOOT_SECTORS)
    with iso.open("r+b") as file:
        sectors = file.seek(0, 2) // SECTOR_BYTES
        file.seek((sectors - 2) * SECTOR_BYTES)
        if any(file.read(2 * SECTOR_BYTES)):
            raise CheckpointError("the end of the ISO is not free for the backup of the GPT")
        entries = _entries(boot, esp, identity)
        stage2_sectors = -(-len(isoboot) // SECTOR_BYTES)
        first = _stage1(pmbr, boot.start, 1, identity, _mbr_table(boot, esp))
        second = _stage1(pmbr, boot.start + 1, stage2_sectors, identity, bytes(64))
        file.seek(0)
        file.write(first)
        file.write(_gpt_header(entries, identity, sectors, own=1, table=2))
        file.write(entries)
        file.write(second)
        file.write(_stage2(isoboot, esp.start).ljust((BOOT_SECTORS - 1) * SECTOR_BYTES, b"\0"))
        file.seek((sectors - 2) * SECTOR_BYTES)
        file.write(entries)
        file.write(_gpt_header(entries, identity, sectors, own=sectors - 1, table=sectors - 2))


def _stage1(pmbr: bytes, start: int, sectors: int, identity: str, table: bytes) -> bytes:
    """The boot sector, told where the next program is."""
    sector = bytearray(pmbr)
    sector[_STAGE1_BPB : _STAGE1_BPB + _STAGE1_BPB_BYTES] = bytes(_STAGE1_BPB_BYTES)
    disk = _id(identity, "disk").bytes_le
    _STAGE1_STAGE2.pack_into(sector, _STAGE1_STAGE2_AT, sectors, start, disk)
    sector[_STAGE1_SIGNATURE:_STAGE1_TABLE] = disk[:4] + bytes(2)
    sector[_STAGE1_TABLE:-2] = table
    return bytes(sector)


def _stage2(isoboot: bytes, target: int) -> bytes:
    """The second program, with the file system's first sector in its multiboot header, if it has one."""
    at = isoboot.find(_MULTIBOOT, 0, _MULTIBOOT_SEARCHED)
    if at < 0 or at + _MULTIBOOT_BSS_END + 8 > len(isoboot):
        return isoboot
    program = bytearray(isoboot)
    struct.pack_into("<Q", program, at + _MULTIBOOT_BSS_END, target)
    return bytes(program)


def _mbr_table(boot: Partition, esp: Partition) -> bytes:
    """Both partitions, the second one active: some BIOSes start no stick without one. The third covers the
    GPT, by which firmware recognizes it."""
    rows = (
        (0, _MBR_BOOT, boot),
        (0x80, _MBR_ESP, esp),
        (0, _MBR_GPT, Partition(1, 2)),
    )
    packed = b"".join(
        _TABLE.pack(flag, _NO_GEOMETRY, kind, _NO_GEOMETRY, part.start, part.sectors)
        for flag, kind, part in rows
    )
    return packed.ljust(64, b"\0")


def _entries(boot: Partition, esp: Partition, identity: str) -> bytes:
    rows = ((ILLUMOS_BOOT, boot, "boot"), (EFI_SYSTEM, esp, "efi"))
    packed = b"".join(
        _ENTRY.pack(
            kind.bytes_le,
            _id(identity, name).bytes_le,
            part.start,
            part.start + part.sectors - 1,
            0,
            name.encode("utf-16-le"),
        )
        for kind, part, name in rows
    )
    return packed.ljust(_ENTRIES * _ENTRY_BYTES, b"\0")


def _gpt_header(entries: bytes, identity: str, sectors: int, own: int, table: int) -> bytes:
    other = sectors - 1 if own == 1 else 1

    def header(checksum: int) -> bytes:
        return _HEADER.pack(
            *(b"EFI PART", 0x10000, _HEADER_BYTES, checksum, 0, own, other),
            *(BOOT_START, sectors - 3, _id(identity, "disk").bytes_le, table),
            *(_ENTRIES, _ENTRY_BYTES, zlib.crc32(entries)),
        )

    return header(zlib.crc32(header(0))).ljust(SECTOR_BYTES, b"\0")


def _id(identity: str, name: str) -> uuid.UUID:
    return uuid.uuid5(_NAMESPACE, f"{identity}\0{name}")
