"""The limits of file systems: size of the partition, label, id, mountpoint. Pure.

Source: mke2fs(8), mkfs.xfs(8), mkfs.btrfs(8), mkswap(8); Microsoft's FAT specification, "FAT type
determination"; file-hierarchy(7) for what cannot be a file system of its own.
"""

import re
import uuid
from collections.abc import Iterator

from dcd.checkpoints.vm.disk import FileSystem, Volume

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40


def mib(size: int) -> str:
    """A size in bytes, rounded up to MiB, for messages."""
    return f"{-(-size // MIB)} MiB" if size >= MIB else f"{size} bytes"


_LEAST_FAT16_CLUSTERS, _LEAST_FAT32_CLUSTERS = 4085, 65525
_FAT_OVERHEAD_SECTORS = 1200
"""Reserved sectors, root directory and two FATs of the smallest FAT32: 2 * 65525 * 4 / 512, rounded up."""

_LEAST_BYTES = {"ext4": 16 * MIB, "xfs": 300 * MIB, "btrfs": 128 * MIB, "swap": 1 * MIB}
_MOST_FAT_SECTORS, _MOST_FAT32_BYTES = (1 << 32) - 1, ((1 << 28) - 12) * 32768
"""Numbers of 32 bits for sectors, and of 28 bits for clusters, of which each has 32 KiB at most."""
_MOST_BYTES = {"ext4": 64 * TIB - MIB, "swap": 16 * TIB - MIB}
"""Numbers of 32 bits for inodes, one for each 16 KiB, and for pages of 4 KiB."""
_LONGEST_LABEL = {"ext4": 16, "xfs": 12, "btrfs": 255, "swap": 15, "vfat": 11}
_FAT_LABEL = re.compile(r"[A-Z0-9 $%'@~!(){}^#&_-]*")
_FAT_ID = re.compile(r"[0-9A-F]{4}-[0-9A-F]{4}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ASKS_FOR = {
    **dict.fromkeys(("subvol", "subvolid"), "a subvolume of btrfs"),
    "device": "another device of btrfs",
    **dict.fromkeys(("logdev", "rtdev"), "another device of XFS"),
    **dict.fromkeys(("journal_dev", "journal_path"), "a journal on another device"),
    **dict.fromkeys(("bind", "rbind", "move"), "another directory that is mounted"),
    **dict.fromkeys(("loop", "offset", "sizelimit"), "a file with a file system in it"),
}
"""Mount options that need something which is not made."""
_OF_THE_ROOT = ("bin", "dev", "etc", "lib", "lib32", "lib64", "proc", "run", "sbin", "sys")
"""Directories that the system needs before it mounts anything, or mounts itself."""


def volume_id(kind: FileSystem, given: str | uuid.UUID) -> str:
    """An id of the manifest, or a derived one, in the form of blkid(8) for that file system."""
    if isinstance(given, str):
        return given.upper() if kind == "vfat" else given.lower()
    if kind == "vfat":
        digits = given.hex[:8].upper()
        return f"{digits[:4]}-{digits[4:]}"
    return str(given)


def least_fat32_bytes(sector_size: int) -> int:
    """The smallest partition for FAT32, with one sector a cluster."""
    return (_LEAST_FAT32_CLUSTERS + _FAT_OVERHEAD_SECTORS) * sector_size


def most_bytes(kind: FileSystem, sector_size: int) -> int:
    """The largest partition that the file system can use."""
    if kind == "vfat":
        return min(_MOST_FAT_SECTORS * sector_size, _MOST_FAT32_BYTES)
    # xfs and btrfs have more than any disk.
    return _MOST_BYTES.get(kind, 1 << 63)


def problems(volume: Volume, size: int | None, sector_size: int) -> Iterator[tuple[str, str, str]]:
    """The errors of a volume in a partition of `size` bytes (None: unknown), each as the attribute of its
    <format> ("": the partition's size), the message, and the remedy."""
    found = (
        ("", None if size is None else _size(volume, size, sector_size)),
        ("label", _label(volume)),
        ("uuid", _id(volume)),
        ("mountpoint", _mount(volume)),
        ("options", _options(volume)),
    )
    yield from ((attribute, *problem) for attribute, problem in found if problem is not None)


def _size(volume: Volume, size: int, sector_size: int) -> tuple[str, str] | None:
    if volume.type == "vfat":
        least = (_LEAST_FAT16_CLUSTERS + _FAT_OVERHEAD_SECTORS) * sector_size
    else:
        least = _LEAST_BYTES[volume.type]
    if size > (most := most_bytes(volume.type, sector_size)):
        return (
            f"{size} bytes are too many for {volume.type}, with sectors of {sector_size} bytes",
            f"make it at most {most // MIB}mb"
            + (", or use xfs or btrfs" if volume.type == "ext4" else ""),
        )
    if size >= least:
        return None
    need = -(-least // MIB)
    if volume.type == "vfat":
        return (
            f"{size} bytes are too small for FAT, and for an ESP, with sectors of {sector_size} bytes",
            f"make it at least {need}mb; UEFI asks for FAT32, which begins at "
            f"{-(-least_fat32_bytes(sector_size) // MIB)}mb",
        )
    return f"{size} bytes are too small for {volume.type}", f"make it at least {need}mb"


def _label(volume: Volume) -> tuple[str, str] | None:
    most = _LONGEST_LABEL[volume.type]
    if len(volume.label.encode()) > most:
        brief = f"the label {volume.label!r} is too long for {volume.type}"
        return brief, f"it is at most {most} bytes"
    if not volume.label.isprintable() or "/" in volume.label or volume.label == "-":
        return f"{volume.label!r} is not a label", "use printable characters, and no slash"
    if volume.type == "vfat" and not _FAT_LABEL.fullmatch(volume.label):
        brief = f"{volume.label!r} is not a label that FAT can hold"
        return brief, "use capital letters, digits, blanks, - and _"
    return None


def _id(volume: Volume) -> tuple[str, str] | None:
    form = _FAT_ID if volume.type == "vfat" else _UUID
    if form.fullmatch(volume.uuid):
        return None
    example = "4E5A-01B2" if volume.type == "vfat" else "6a3c9f0e-3f0c-4c2e-9a55-0d5f0a1b2c3d"
    brief = f"{volume.uuid!r} is not an id that {volume.type} can have"
    return brief, f"write, for example, {example}, or leave uuid out"


def _mount(volume: Volume) -> tuple[str, str] | None:
    point = volume.mountpoint
    if point is None:
        return None
    if volume.type == "swap":
        return "swap space is not mounted", "take mountpoint out"
    if (first := point.split("/")[1]) in _OF_THE_ROOT:
        brief = f"{point} cannot be a file system of its own"
        return brief, f"/{first} belongs to the root, or to the running system"
    if point == "/" and volume.type == "vfat":
        return "the root cannot be vfat", "use ext4, xfs or btrfs"
    return None


def _options(volume: Volume) -> tuple[str, str] | None:
    if volume.mountpoint is None or volume.type == "swap":
        return None
    for option in volume.options.split(","):
        name = option.partition("=")[0]
        if name in _ASKS_FOR:
            return (
                f"the mount option {option} needs {_ASKS_FOR[name]}, which is not made",
                "write <subvolume> in <format>: its option subvol is written to fstab"
                if name.startswith("subvol")
                else f"take {name} out: the partition is the whole file system",
            )
    return None
