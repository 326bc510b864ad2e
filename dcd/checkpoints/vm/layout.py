"""From the manifest's `target` to the layout of the disk: the place, the type and the ids of each partition.

Pure: the same manifest gives the same layout, ids included, and everything that is impossible is an
error that names the element, its line and the remedy. A partition begins at the next full MiB, or at its
`start_sector`; without a size it takes the free space. All ids are uuid5 of one id and their purpose; that
one comes from the distribution's name or the disk's `id`, or is random.

A manifest without partitions gets a disk of the size of vm_im/max_size (by default 8 GiB) with the
partitions of its firmware, a BIOS boot partition of 1 MiB and an ESP of 64 MiB (300 MiB for sectors of 4096
bytes, the least for FAT32), and an ext4 root on the rest.
Source: UEFI specification 2.10, chapter 5 (GPT); the GRUB manual, "BIOS installation".
"""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dcd.checkpoints.architecture import hardware, image_architecture
from dcd.checkpoints.media.largest import largest_bytes
from dcd.checkpoints.vm import layout_checks, nested_checks
from dcd.checkpoints.vm.disk import DiskLayout, DiskPartition
from dcd.checkpoints.vm.layout_checks import MOST_PARTITIONS, TYPES, fault
from dcd.checkpoints.vm.nested import Filled, filled
from dcd.checkpoints.vm.volume_rules import MIB, mib
from dcd.manifest.data_object import DataObject
from dcd.manifest.diagnostics import Diagnostic, refuse
from dcd.manifest.doc import DataObjectCache, distro
from dcd.manifest.objects.distro import VmIm
from dcd.manifest.objects.storage import Format, Size
from dcd.manifest.objects.target import Disk, DiskImage, GptPartition, Partition, Slice, Zpool
from dcd.manifest.values import size_bytes
from dcd.platform.hardware import PC
from dcd.platform.hypervisor import Firmware

ALIGNMENT = MIB
DEFAULT_DISK_BYTES = 8 << 30
_EXPECTED_BYTES = 512 << 20

_NAMESPACE = uuid.UUID("5b0ad5e2-5f43-5a0c-9d2f-6a0f3c0a6a41")
_LONGEST_PARTITION_LABEL = 36


def table_bytes(sector_size: int) -> int:
    """The size of the table at either end of the disk: header and 128 entries. At the beginning the sector
    of the protective MBR is added."""
    return sector_size + MOST_PARTITIONS * 128


def firmware(doc: DataObjectCache) -> frozenset[Firmware]:
    """The firmware that boots the disk: `bios`, `uefi`, or by default all that the machine has."""
    offered = hardware(doc).firmware
    described = doc.volatile.get_descendants(None, VmIm, max_count=1)
    wanted = described[0].firmware if described else None
    return frozenset(kind for kind in offered if wanted in (None, "both", kind))


def _check_firmware(doc: DataObjectCache, faults: "Faults") -> None:
    """An error for firmware that the machines of the image do not have."""
    described = doc.volatile.get_descendants(None, VmIm, max_count=1)
    if described and described[0].firmware in ("bios", "both") and hardware(doc) is not PC:
        brief = f"machines of {image_architecture(doc)} have no BIOS"
        faults.add(described[0], "firmware", brief, 'firmware="uefi"')


class Faults(list[Diagnostic]):
    """The errors of a layout."""

    def add(self, element: DataObject, attribute: str, brief: str, resolution: str) -> None:
        """Add an error at an element, or at an attribute of it."""
        self.append(fault(element, attribute, brief, resolution))


def disk_layout(doc: DataObjectCache, random: uuid.UUID | None = None) -> DiskLayout:
    """The layout that the manifest describes. `random` is the origin of the ids of a disk whose `id` is
    `random`. Raises `ManifestError` with all its errors."""
    layout, faults = examine_layout(doc, random)
    refuse(faults)
    return layout


def expected_image_bytes(doc: DataObjectCache) -> int:
    """The usual size of a system's disk in one of the formats. It is no larger than the disk."""
    return min(_EXPECTED_BYTES, examine_layout(doc)[0].size)


def examine_layout(
    doc: DataObjectCache, random: uuid.UUID | None = None
) -> tuple[DiskLayout, list[Diagnostic]]:
    """The layout of the possible partitions, and all errors."""
    faults = Faults()
    disk = _disk(doc, faults)
    image = disk.get_first_child(class_type=DiskImage) if disk else None
    sector_size = image.sector_size if image else 512
    name = image.name if image else f"{distro(doc).name}.raw"
    where = image or distro(doc)
    size = _disk_bytes(doc, image, faults)
    _check_firmware(doc, faults)
    if "bios" in firmware(doc) and sector_size != 512:
        faults.add(
            where,
            "sector_size",
            "BIOS cannot boot a disk with sectors of 4096 bytes",
            'write <vm_im firmware="uefi">, or sector_size="512"',
        )
    identity = _identity(doc, image, random)
    given = disk.get_children(class_type=GptPartition) if disk else []
    wanted = given or _default_partitions(doc, sector_size)
    placed = [
        (element, _partition(element, span, identity, faults), span is not None)
        for element, span in _spans(wanted, size, sector_size, where, faults)
    ]
    faults += layout_checks.check_table(placed, where)
    for element, found, has_place in placed:
        faults += layout_checks.check_content(element, found, sector_size if has_place else None)
    faults += layout_checks.check_mountpoints(placed)
    for element, found, _ in placed:
        faults += nested_checks.check_nested(element, found)
    faults += nested_checks.check_boot(placed, image)
    pools = frozenset(one.name for one in doc.volatile.get_descendants(None, Zpool) if one.is_root)
    faults += layout_checks.check_bootable(placed, where, firmware(doc), pools)
    ordered = sorted((found.partition for _, found, _ in placed), key=lambda each: each.number)
    return DiskLayout(name, size, sector_size, str(identity), tuple(ordered)), faults


def _disk(doc: DataObjectCache, faults: Faults) -> Disk | None:
    """The one disk that is a file."""
    disks = doc.volatile.get_descendants(None, Disk)
    images = [disk for disk in disks if disk.get_first_child(class_type=DiskImage)]
    if disks and not images:
        remedy = 'put <disk_image name="disk.img" size="4gb"/> into <disk>'
        faults.add(disks[0], "", "none of the target's disks is a file that can be made", remedy)
    if not images:
        return None
    for other in disks:
        if other not in images:
            brief = "this disk is not made: only the one that is a file is"
            faults.add(other, "", brief, "leave it out, or describe it as a build of its own")
        elif other is not images[0]:
            brief = "the target has more than one disk that is a file"
            faults.add(other, "", brief, "describe one disk_image")
    for part in images[0].get_children():
        if isinstance(part, Partition | Slice):
            brief = f"<{part.TAG}> cannot be on a disk that is a file"
            faults.add(part, "", brief, "it has a GUID partition table: use <gpt_partition>")
    return images[0]


def _disk_bytes(doc: DataObjectCache, image: DiskImage | None, faults: Faults) -> int:
    """The size of the disk, in full MiB."""
    limit = largest_bytes(doc, VmIm)
    if image is None:
        return _rounded_up(DEFAULT_DISK_BYTES if limit is None else limit, ALIGNMENT)
    size = _rounded_up(size_bytes(image.size, image.sector_size), ALIGNMENT)
    if limit is not None and size > limit:
        faults.add(
            image,
            "size",
            f"the disk of {mib(size)} is larger than the image may be",
            f"raise max_size ({mib(limit)}), or make the disk smaller",
        )
    return size


def _identity(doc: DataObjectCache, image: DiskImage | None, random: uuid.UUID | None) -> uuid.UUID:
    """The origin of all ids; the table's own GUID."""
    wanted = image.id if image else "derived"
    if wanted == "random" and random is not None:
        return random
    if wanted in ("derived", "random"):
        return uuid.uuid5(_NAMESPACE, distro(doc).name)
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
    elements: Sequence[GptPartition],
    disk_bytes: int,
    sector_size: int,
    where: DataObject,
    faults: Faults,
) -> Iterator[tuple[GptPartition, _Span | None]]:
    """The place of each partition, in the order of the manifest; None if it is impossible."""
    given = [_given(element, sector_size, faults) for element in elements]
    fixed = [start for start, _ in given if start is not None]
    free = ALIGNMENT
    for element, (asked_start, asked_size) in zip(elements, given, strict=True):
        start = free if asked_start is None else asked_start
        size = asked_size
        if size is None:
            end = (disk_bytes - table_bytes(sector_size)) // ALIGNMENT * ALIGNMENT
            size = min((other for other in fixed if other > start), default=end) - start
        span = _Span(start, size)
        if asked_size != 0 and _fits(element, span, disk_bytes, sector_size, where, faults):
            yield element, span
            free = _rounded_up(start + size, ALIGNMENT)
        else:
            yield element, None


def _fits(
    element: GptPartition,
    span: _Span,
    disk_bytes: int,
    sector_size: int,
    where: DataObject,
    faults: Faults,
) -> bool:
    """Whether the partition can be there; otherwise an error is added."""
    first = sector_size + table_bytes(sector_size)
    last = disk_bytes - table_bytes(sector_size)
    end = span.start + span.size
    if span.size <= 0:
        larger = "the disk_image" if isinstance(where, DiskImage) else "max_size of vm_im"
        faults.add(
            element,
            "",
            f"no space is left on the disk of {mib(disk_bytes)} for partition {element.name}",
            f"make {larger} larger, or give the partitions before it a (smaller) size",
        )
    elif span.start < first:
        faults.add(
            element.get_first_child(class_type=Size) or element,
            "start_sector",
            f"partition {element.name} begins inside the partition table",
            f"its start_sector is at least {first // sector_size}; without one it is aligned",
        )
    elif end > last:
        least = _rounded_up(end + table_bytes(sector_size), ALIGNMENT)
        faults.add(
            element,
            "",
            f"partition {element.name} ends {mib(end - last)} beyond the end of the disk",
            f"the disk of {mib(disk_bytes)} is too small for its partitions: make it at least "
            f"{mib(least)}, or the partition smaller",
        )
    else:
        return True
    return False


def _given(
    element: GptPartition, sector_size: int, faults: Faults
) -> tuple[int | None, int | None]:
    """Start and size in bytes in the manifest."""
    size = element.get_first_child(class_type=Size)
    if size is None:
        return None, None
    start = None if size.start_sector is None else size.start_sector * sector_size
    asked = _rounded_up(size_bytes(size.val, sector_size), sector_size)
    if asked == 0:
        remedy = "give it one, or leave <size> out: it then takes the rest of the disk"
        faults.add(size, "val", f"partition {element.name} has no size", remedy)
    return start, asked


def _partition(
    element: GptPartition, span: _Span | None, identity: uuid.UUID, faults: Faults
) -> Filled:
    number = int(element.name)
    if element.action != "create":
        brief = f"partition {number}: there is nothing to {element.action} on a new disk"
        faults.add(element, "action", brief, 'write action="create", or leave action out')
    label = element.label or ""
    if len(label.encode("utf-16-le")) > 2 * _LONGEST_PARTITION_LABEL or not label.isprintable():
        brief = f"partition {number}: {label!r} cannot be its name in the table"
        remedy = f"it is at most {_LONGEST_PARTITION_LABEL} printable characters"
        faults.add(element, "label", brief, remedy)
    part_type = element.part_type
    if not part_type.startswith("{") and part_type not in TYPES:
        brief = f"partition {element.name}: {part_type!r} is not a type of partition"
        faults.add(
            element, "part_type", brief, f"use one of {', '.join(TYPES)}, or a GUID in braces"
        )
    guid = part_type.strip("{}").lower() if part_type.startswith("{") else TYPES.get(part_type, "")
    bare = DiskPartition(
        number=number,
        type=guid,
        uuid=str(uuid.uuid5(identity, f"partition {number}")),
        start=span.start if span else 0,
        size=span.size if span else 0,
        label=label,
    )
    return filled(element, bare, identity, faults)


def _rounded_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit
