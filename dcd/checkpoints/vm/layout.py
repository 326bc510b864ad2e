"""From the manifest's `target` to the layout of the disk: where each partition is and what it is called.

Pure: the same manifest gives the same layout, ids and all, and whatever cannot be laid out is an
`InvalidManifest` that names the element, its line and the remedy. Partitions begin at full MiB after the one
before, or at their `start_sector`; one without a size takes what is free. All ids derive from one
(uuid5 of it and what it is for): from the distribution's name, from the disk's `id`, or from `chance`.

A manifest that says nothing of partitions gets a disk of the size of vm_im/max_size (8 GiB without) with
what its firmware needs, a BIOS boot partition of 1 MiB and an ESP of 64 MiB (300 MiB for sectors of 4096
bytes, since FAT32 needs so much there), and an ext4 root on the rest.
Source: UEFI specification 2.10, chapter 5 (GPT); the GRUB manual, "BIOS installation".
"""

import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath

from dcd.checkpoints.vm import volume_rules
from dcd.checkpoints.vm.disk import DiskLayout, DiskPartition, Volume
from dcd.checkpoints.vm.volume_rules import MIB
from dcd.manifest.data_object import DataObject
from dcd.manifest.doc import DataObjectCache, distro
from dcd.manifest.objects.distro import MaxSize, VmIm
from dcd.manifest.objects.target import (
    Disk,
    DiskImage,
    Format,
    GptPartition,
    Partition,
    Size,
    Slice,
    Zpool,
)
from dcd.manifest.values import size_bytes
from statemachine.errors import InvalidManifest

ALIGNMENT = MIB
MOST_PARTITIONS = 128
DEFAULT_DISK_BYTES = 8 << 30

BIOS_BOOT = "21686148-6449-6e6f-744e-656564454649"
ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
TYPES = {
    "bios_boot": BIOS_BOOT,
    "esp": ESP,
    "linux": "0fc63daf-8483-4772-8e79-3d69d8477de4",
    "swap": "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f",
    "solaris": "6a85cf4d-1dd2-11b2-99a6-080020736631",
}
"""The partition types that have a name, and their GUIDs."""

_LEAST_BIOS_BOOT_BYTES = 256 << 10
"""GRUB's core image with the modules for a file system takes about 100 KiB."""
_NAMESPACE = uuid.UUID("5b0ad5e2-5f43-5a0c-9d2f-6a0f3c0a6a41")
_LONGEST_PARTITION_LABEL = 36
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def table_bytes(sector_size: int) -> int:
    """How much of either end of the disk the table takes: header and 128 entries, and at the beginning
    one more sector for the protective MBR."""
    return sector_size + MOST_PARTITIONS * 128


def firmware(doc: DataObjectCache) -> frozenset[str]:
    """The firmware that the disk is to boot with: `bios`, `uefi`, or by default both."""
    machine = doc.volatile.get_descendants(None, VmIm, max_count=1)
    wanted = (machine[0].firmware if machine else None) or "both"
    return frozenset(("bios", "uefi") if wanted == "both" else (wanted,))


def disk_layout(doc: DataObjectCache, chance: uuid.UUID | None = None) -> DiskLayout:
    """The layout that the manifest describes. `chance` is what ids derive from where the manifest wants
    them `random`. Raises `InvalidManifest`."""
    disk = _disk(doc)
    image = disk.get_first_child(class_type=DiskImage) if disk else None
    sector_size = image.sector_size if image else 512
    name = image.name if image else f"{distro(doc).name}.raw"
    where = image or distro(doc)
    if PurePosixPath(name).name != name or not name.isprintable():
        raise _invalid(where, f"{name!r} is not the name of a file", 'write name="disk.img"')
    size = _disk_bytes(doc, image)
    if "bios" in firmware(doc) and sector_size != 512:
        raise _invalid(
            where,
            "BIOS cannot boot a disk with sectors of 4096 bytes",
            'write <vm_im firmware="uefi">, or sector_size="512"',
        )
    identity = _identity(doc, image, chance)
    given = disk.get_children(class_type=GptPartition) if disk else []
    wanted = given or _default_partitions(doc, sector_size)
    partitions = tuple(
        _partition(element, span, identity)
        for element, span in zip(wanted, _spans(wanted, size, sector_size, where), strict=True)
    )
    _check_table(wanted, partitions, where)
    for element, partition in zip(wanted, partitions, strict=True):
        _check_content(element, partition, sector_size)
    _check_mountpoints(wanted, partitions)
    _check_bootable(doc, wanted, partitions, where)
    ordered = tuple(sorted(partitions, key=lambda partition: partition.number))
    return DiskLayout(name, size, sector_size, str(identity), ordered)


def _disk(doc: DataObjectCache) -> Disk | None:
    """The one disk that is a file."""
    disks = doc.volatile.get_descendants(None, Disk)
    images = [disk for disk in disks if disk.get_first_child(class_type=DiskImage)]
    if len(images) > 1:
        raise _invalid(
            images[1], "the target has more than one disk that is a file", "describe one disk_image"
        )
    if disks and not images:
        raise _invalid(
            disks[0],
            "none of the target's disks is a file that can be made",
            'put <disk_image name="disk.img" size="4gb"/> into <disk>',
        )
    if not images:
        return None
    for other in (
        *images[0].get_children(class_type=Partition),
        *images[0].get_children(class_type=Slice),
    ):
        raise _invalid(
            other,
            f"<{other.TAG}> cannot be on a disk that is a file",
            "it has a GUID partition table: use <gpt_partition>",
        )
    return images[0]


def _disk_bytes(doc: DataObjectCache, image: DiskImage | None) -> int:
    """The size of the disk, in full MiB."""
    limits = [
        size.size_bytes
        for most in doc.volatile.get_descendants(None, MaxSize)
        for size in most.get_children(class_type=Size)
    ]
    if image is None:
        return _rounded_up(limits[0] if limits else DEFAULT_DISK_BYTES, ALIGNMENT)
    size = _rounded_up(size_bytes(image.size, image.sector_size), ALIGNMENT)
    if limits and size > limits[0]:
        raise _invalid(
            image,
            f"the disk of {_mib(size)} is larger than the image may be",
            f"raise max_size ({_mib(limits[0])}), or make the disk smaller",
        )
    return size


def _identity(doc: DataObjectCache, image: DiskImage | None, chance: uuid.UUID | None) -> uuid.UUID:
    """What all ids derive from; the table's own GUID."""
    wanted = image.id if image else "derived"
    if wanted == "random" and chance is not None:
        return chance
    if wanted in ("derived", "random"):
        return uuid.uuid5(_NAMESPACE, distro(doc).name)
    if not _UUID.fullmatch(wanted):
        raise _invalid(
            image or distro(doc),
            f"{wanted!r} is not an id of a disk",
            'write id="derived", id="random" or a UUID',
        )
    return uuid.UUID(wanted)


def _default_partitions(doc: DataObjectCache, sector_size: int) -> list[GptPartition]:
    wanted = firmware(doc)
    elements: list[GptPartition] = []

    def add(part_type: str, size: str | None, content: Format | None = None) -> None:
        element = GptPartition(name=str(len(elements) + 1), part_type=part_type)
        element.insert_children([Size(val=size)] if size else [])
        element.insert_children([content] if content else [])
        elements.append(element)

    if "bios" in wanted:
        add("bios_boot", "1mb")
    if "uefi" in wanted:
        add("esp", "64mb" if sector_size == 512 else "300mb")
    add("linux", None, Format(type="ext4", label="root", mountpoint="/"))
    return elements


@dataclass(frozen=True, slots=True)
class _Span:
    start: int
    size: int


def _spans(
    elements: Sequence[GptPartition], disk_bytes: int, sector_size: int, where: DataObject
) -> Iterator[_Span]:
    """Where each partition is, in the order of the manifest."""
    first = sector_size + table_bytes(sector_size)
    end = (disk_bytes - table_bytes(sector_size)) // ALIGNMENT * ALIGNMENT
    last = disk_bytes - table_bytes(sector_size)
    given = [_given(element, sector_size) for element in elements]
    fixed = [start for start, _ in given if start is not None]
    free = ALIGNMENT
    for element, (asked_start, asked_size) in zip(elements, given, strict=True):
        start = free if asked_start is None else asked_start
        size = asked_size
        if size is None:
            size = min((other for other in fixed if other > start), default=end) - start
            if size <= 0:
                raise _invalid(
                    element,
                    f"no space is left on the disk of {_mib(disk_bytes)} for partition {element.name}",
                    f"make {_named(where)} larger, or give the partitions before it a (smaller) size",
                )
        if start < first:
            raise _invalid(
                element,
                f"partition {element.name} begins inside the partition table",
                f"its start_sector is at least {first // sector_size}; without one it is aligned",
            )
        if start + size > last:
            raise _invalid(
                element,
                f"partition {element.name} ends {_mib(start + size - last)} beyond the end of the disk",
                f"the disk of {_mib(disk_bytes)} is too small for its partitions: make it at least "
                f"{_mib(_rounded_up(start + size + table_bytes(sector_size), ALIGNMENT))}, or the "
                "partition smaller",
            )
        yield _Span(start, size)
        free = _rounded_up(start + size, ALIGNMENT)


def _given(element: GptPartition, sector_size: int) -> tuple[int | None, int | None]:
    """Start and size in bytes, as far as the manifest says."""
    size = element.get_first_child(class_type=Size)
    if size is None:
        return None, None
    start = None if size.start_sector is None else size.start_sector * sector_size
    asked = _rounded_up(size_bytes(size.val, sector_size), sector_size)
    if asked == 0:
        raise _invalid(
            element,
            f"partition {element.name} has no size",
            "give it one, or leave <size> out: it then takes the rest of the disk",
        )
    return start, asked


def _partition(element: GptPartition, span: _Span, identity: uuid.UUID) -> DiskPartition:
    number = int(element.name)
    if element.action != "create":
        raise _invalid(
            element,
            f"partition {number}: there is nothing to {element.action} on a new disk",
            'write action="create", or leave action out',
        )
    label = element.label or ""
    if len(label.encode("utf-16-le")) // 2 > _LONGEST_PARTITION_LABEL or not (
        label.isprintable() or not label
    ):
        raise _invalid(
            element,
            f"partition {number}: {label!r} cannot be its name in the table",
            f"it is at most {_LONGEST_PARTITION_LABEL} printable characters",
        )
    return DiskPartition(
        number=number,
        type=_type(element),
        uuid=str(uuid.uuid5(identity, f"partition {number}")),
        start=span.start,
        size=span.size,
        label=label,
        volume=_volume(element, identity),
    )


def _type(element: GptPartition) -> str:
    if element.part_type in TYPES:
        return TYPES[element.part_type]
    guid = element.part_type.removeprefix("{").removesuffix("}")
    if f"{{{guid}}}" != element.part_type or not _UUID.fullmatch(guid):
        raise _invalid(
            element,
            f"partition {element.name}: {element.part_type!r} is not a type of partition",
            f"use one of {', '.join(TYPES)}, or a GUID in braces",
        )
    return guid.lower()


def _volume(element: GptPartition, identity: uuid.UUID) -> Volume | None:
    content = element.get_first_child(class_type=Format)
    if content is None and element.part_type == "esp":
        content = Format(type="vfat", mountpoint="/boot/efi")
    if content is None and element.part_type == "swap":
        content = Format(type="swap")
    if content is None:
        return None
    derived = uuid.uuid5(identity, f"{content.type} of partition {int(element.name)}")
    return Volume(
        type=content.type,
        uuid=volume_rules.volume_id(content.type, content.uuid or derived),
        label=content.label or "",
        mountpoint=content.mountpoint,
        options=content.options,
    )


def _check_table(
    elements: Sequence[GptPartition], partitions: Sequence[DiskPartition], where: DataObject
) -> None:
    seen: set[int] = set()
    for element, partition in zip(elements, partitions, strict=True):
        if not 1 <= partition.number <= MOST_PARTITIONS:
            raise _invalid(
                element,
                f"there is no partition {partition.number}",
                f"partitions are numbered from 1 to {MOST_PARTITIONS}",
            )
        if partition.number in seen:
            raise _invalid(
                element,
                f"there are two partitions {partition.number}",
                "give each a number of its own",
            )
        seen.add(partition.number)
    placed = sorted(zip(partitions, elements, strict=True), key=lambda pair: pair[0].start)
    for (before, _), (after, element) in pairwise(placed):
        if before.start + before.size > after.start:
            raise _invalid(
                element,
                f"partitions {before.number} and {after.number} overlap",
                f"partition {before.number} ends {_mib(before.start + before.size - after.start)} "
                "after the other's start: move or shorten one, or leave start_sector out",
            )
    ids = [partition.volume.uuid for partition in partitions if partition.volume]
    if twice := {one for one in ids if ids.count(one) > 1}:
        raise _invalid(
            where,
            f"two file systems have the UUID {twice.pop()}",
            "leave uuid out, or give each its own",
        )


def _check_content(element: GptPartition, partition: DiskPartition, sector_size: int) -> None:
    if partition.type == BIOS_BOOT:
        if partition.volume is not None:
            raise _invalid(
                element,
                f"partition {partition.number}: a BIOS boot partition has no file system",
                "take <format> out: the boot loader itself is in it",
            )
        if partition.size < _LEAST_BIOS_BOOT_BYTES:
            raise _invalid(
                element,
                f"partition {partition.number}: the BIOS boot partition is too small for GRUB",
                "make it 1mb",
            )
    if partition.volume is None:
        return
    if partition.type == ESP and partition.volume.type != "vfat":
        raise _invalid(
            element,
            f"partition {partition.number}: UEFI cannot read an ESP with {partition.volume.type}",
            'write <format type="vfat"/>',
        )
    problem = volume_rules.problem(partition.volume, partition.size, sector_size)
    if problem is not None:
        brief, resolution = problem
        raise _invalid(element, f"partition {partition.number}: {brief}", resolution)


def _check_mountpoints(
    elements: Sequence[GptPartition], partitions: Sequence[DiskPartition]
) -> None:
    seen: dict[str, int] = {}
    for element, partition in zip(elements, partitions, strict=True):
        point = partition.volume.mountpoint if partition.volume else None
        if point is None:
            continue
        if point in seen:
            raise _invalid(
                element,
                f"partitions {seen[point]} and {partition.number} are both to be mounted at {point}",
                "give each a mountpoint of its own",
            )
        seen[point] = partition.number


def _check_bootable(
    doc: DataObjectCache,
    elements: Sequence[GptPartition],
    partitions: Sequence[DiskPartition],
    where: DataObject,
) -> None:
    pools = {pool.name for pool in doc.volatile.get_descendants(None, Zpool) if pool.is_root}
    roots = [one for one in partitions if one.volume and one.volume.mountpoint == "/"]
    if not roots and not any(element.in_zpool in pools for element in elements):
        raise _invalid(
            where,
            "the disk has no root partition",
            'give one <format type="ext4" mountpoint="/"/>, or the in_zpool of the root pool',
        )
    types = {partition.type for partition in partitions}
    for kind, guid, name, example in (
        ("bios", BIOS_BOOT, "BIOS boot partition", ("bios_boot", "1mb")),
        ("uefi", ESP, "EFI system partition", ("esp", "64mb")),
    ):
        if kind in firmware(doc) and guid not in types:
            other = "uefi" if kind == "bios" else "bios"
            raise _invalid(
                where,
                f"the disk has no {name}, without which {kind.upper()} cannot boot it",
                f'add <gpt_partition name="N" part_type="{example[0]}"><size val="{example[1]}"/>'
                f'</gpt_partition>, or write <vm_im firmware="{other}">',
            )


def _invalid(element: DataObject, brief: str, resolution: str) -> InvalidManifest:
    where = f"{element.origin}: " if element.origin else ""
    return InvalidManifest(brief, f"{where}<{element.TAG}>" if element.TAG else "", resolution)


def _named(element: DataObject) -> str:
    return "the disk_image" if isinstance(element, DiskImage) else "max_size of vm_im"


def _rounded_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def _mib(size: int) -> str:
    return f"{-(-size // MIB)} MiB" if size >= MIB else f"{size} bytes"
