"""From the manifest's `target` to the layout of the disk: where each partition is and what it is called.

Pure: the same manifest gives the same layout, ids and all, and whatever cannot be laid out is an
error that names the element, its line and the remedy. Partitions begin at full MiB after the one
before, or at their `start_sector`; one without a size takes what is free. All ids derive from one
(uuid5 of it and what it is for): from the distribution's name, from the disk's `id`, or from `chance`.

A manifest that says nothing of partitions gets a disk of the size of vm_im/max_size (8 GiB without) with
what its firmware needs, a BIOS boot partition of 1 MiB and an ESP of 64 MiB (300 MiB for sectors of 4096
bytes, since FAT32 needs so much there), and an ext4 root on the rest.
Source: UEFI specification 2.10, chapter 5 (GPT); the GRUB manual, "BIOS installation".
"""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from dcd.checkpoints.vm import layout_checks, volume_rules
from dcd.checkpoints.vm.disk import DiskLayout, DiskPartition, Volume, VolumePartition
from dcd.checkpoints.vm.layout_checks import (
    MOST_PARTITIONS,
    TYPES,
    fault,
    mib,
)
from dcd.checkpoints.vm.volume_rules import MIB
from dcd.manifest.data_object import DataObject
from dcd.manifest.diagnostics import Diagnostic, refuse
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

ALIGNMENT = MIB
DEFAULT_DISK_BYTES = 8 << 30

_NAMESPACE = uuid.UUID("5b0ad5e2-5f43-5a0c-9d2f-6a0f3c0a6a41")
_LONGEST_PARTITION_LABEL = 36


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
    them `random`. Raises `ManifestError` with everything in which it cannot be laid out."""
    layout, faults = examine_layout(doc, chance)
    refuse(faults)
    return layout


def examine_layout(
    doc: DataObjectCache, chance: uuid.UUID | None = None
) -> tuple[DiskLayout, list[Diagnostic]]:
    """The layout of what can be laid out, and errors for all else."""
    faults: list[Diagnostic] = []
    disk = _disk(doc, faults)
    image = disk.get_first_child(class_type=DiskImage) if disk else None
    sector_size = image.sector_size if image else 512
    name = image.name if image else f"{distro(doc).name}.raw"
    where = image or distro(doc)
    size = _disk_bytes(doc, image, faults)
    if "bios" in firmware(doc) and sector_size != 512:
        faults.append(
            fault(
                where,
                "sector_size",
                "BIOS cannot boot a disk with sectors of 4096 bytes",
                'write <vm_im firmware="uefi">, or sector_size="512"',
            )
        )
    identity = _identity(doc, image, chance)
    given = disk.get_children(class_type=GptPartition) if disk else []
    wanted = given or _default_partitions(doc, sector_size)
    placed = [
        (element, _partition(element, span, identity, faults), span is not None)
        for element, span in _spans(wanted, size, sector_size, where, faults)
    ]
    faults += layout_checks.check_table(placed, where)
    for element, partition, has_place in placed:
        faults += layout_checks.check_content(
            element, partition, sector_size if has_place else None
        )
    faults += layout_checks.check_mountpoints(placed)
    faults += layout_checks.check_bootable(placed, where, firmware(doc), _root_pools(doc))
    ordered = sorted((partition for _, partition, _ in placed), key=lambda found: found.number)
    return DiskLayout(name, size, sector_size, str(identity), tuple(ordered)), faults


def _root_pools(doc: DataObjectCache) -> frozenset[str]:
    return frozenset(
        pool.name for pool in doc.volatile.get_descendants(None, Zpool) if pool.is_root
    )


def _disk(doc: DataObjectCache, faults: list[Diagnostic]) -> Disk | None:
    """The one disk that is a file."""
    disks = doc.volatile.get_descendants(None, Disk)
    images = [disk for disk in disks if disk.get_first_child(class_type=DiskImage)]
    faults += [
        fault(
            another,
            "",
            "the target has more than one disk that is a file",
            "describe one disk_image",
        )
        for another in images[1:]
    ]
    if disks and not images:
        faults.append(
            fault(
                disks[0],
                "",
                "none of the target's disks is a file that can be made",
                'put <disk_image name="disk.img" size="4gb"/> into <disk>',
            )
        )
    if not images:
        return None
    faults += [
        fault(
            other,
            "",
            "this disk is not made: only the one that is a file is",
            "leave it out, or describe it as a build of its own",
        )
        for other in disks
        if other not in images
    ]
    faults += [
        fault(
            other,
            "",
            f"<{other.TAG}> cannot be on a disk that is a file",
            "it has a GUID partition table: use <gpt_partition>",
        )
        for other in images[0].get_children()
        if isinstance(other, Partition | Slice)
    ]
    return images[0]


def _disk_bytes(doc: DataObjectCache, image: DiskImage | None, faults: list[Diagnostic]) -> int:
    """The size of the disk, in full MiB."""
    limits = [
        size.size_bytes
        for machine in doc.volatile.get_descendants(None, VmIm)
        for most in machine.get_children(class_type=MaxSize)
        for size in most.get_children(class_type=Size)
    ]
    if image is None:
        return _rounded_up(limits[0] if limits else DEFAULT_DISK_BYTES, ALIGNMENT)
    size = _rounded_up(size_bytes(image.size, image.sector_size), ALIGNMENT)
    if limits and size > limits[0]:
        faults.append(
            fault(
                image,
                "size",
                f"the disk of {mib(size)} is larger than the image may be",
                f"raise max_size ({mib(limits[0])}), or make the disk smaller",
            )
        )
    return size


def _identity(doc: DataObjectCache, image: DiskImage | None, chance: uuid.UUID | None) -> uuid.UUID:
    """What all ids derive from; the table's own GUID."""
    wanted = image.id if image else "derived"
    if wanted == "random" and chance is not None:
        return chance
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
    faults: list[Diagnostic],
) -> Iterator[tuple[GptPartition, _Span | None]]:
    """Where each partition is, in the order of the manifest; None where it cannot be."""
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
        problem = _misplaced(element, span, disk_bytes, sector_size, where)
        if asked_size == 0:
            yield element, None
        elif problem is not None:
            faults.append(problem)
            yield element, None
        else:
            yield element, span
            free = _rounded_up(start + size, ALIGNMENT)


def _misplaced(
    element: GptPartition, span: _Span, disk_bytes: int, sector_size: int, where: DataObject
) -> Diagnostic | None:
    """Why the partition cannot be there, or None."""
    first = sector_size + table_bytes(sector_size)
    last = disk_bytes - table_bytes(sector_size)
    end = span.start + span.size
    size = element.get_first_child(class_type=Size)
    if span.size <= 0:
        return fault(
            element,
            "",
            f"no space is left on the disk of {mib(disk_bytes)} for partition {element.name}",
            f"make {_named(where)} larger, or give the partitions before it a (smaller) size",
        )
    if span.start < first:
        return fault(
            size or element,
            "start_sector",
            f"partition {element.name} begins inside the partition table",
            f"its start_sector is at least {first // sector_size}; without one it is aligned",
        )
    if end > last:
        return fault(
            element,
            "",
            f"partition {element.name} ends {mib(end - last)} beyond the end of the disk",
            f"the disk of {mib(disk_bytes)} is too small for its partitions: make it at least "
            f"{mib(_rounded_up(end + table_bytes(sector_size), ALIGNMENT))}, or the "
            "partition smaller",
        )
    return None


def _given(
    element: GptPartition, sector_size: int, faults: list[Diagnostic]
) -> tuple[int | None, int | None]:
    """Start and size in bytes, as far as the manifest says."""
    size = element.get_first_child(class_type=Size)
    if size is None:
        return None, None
    start = None if size.start_sector is None else size.start_sector * sector_size
    asked = _rounded_up(size_bytes(size.val, sector_size), sector_size)
    if asked == 0:
        faults.append(
            fault(
                size,
                "val",
                f"partition {element.name} has no size",
                "give it one, or leave <size> out: it then takes the rest of the disk",
            )
        )
    return start, asked


def _partition(
    element: GptPartition, span: _Span | None, identity: uuid.UUID, faults: list[Diagnostic]
) -> DiskPartition:
    number = int(element.name)
    if element.action != "create":
        faults.append(
            fault(
                element,
                "action",
                f"partition {number}: there is nothing to {element.action} on a new disk",
                'write action="create", or leave action out',
            )
        )
    label = element.label or ""
    if len(label.encode("utf-16-le")) // 2 > _LONGEST_PARTITION_LABEL or not (
        label.isprintable() or not label
    ):
        faults.append(
            fault(
                element,
                "label",
                f"partition {number}: {label!r} cannot be its name in the table",
                f"it is at most {_LONGEST_PARTITION_LABEL} printable characters",
            )
        )
    bare = DiskPartition(
        number=number,
        type=_type(element, faults),
        uuid=str(uuid.uuid5(identity, f"partition {number}")),
        start=span.start if span else 0,
        size=span.size if span else 0,
        label=label,
    )
    volume = _volume(element, identity)
    return bare if volume is None else VolumePartition(**asdict(bare), volume=volume)


def _type(element: GptPartition, faults: list[Diagnostic]) -> str:
    if element.part_type.startswith("{"):
        return element.part_type.strip("{}").lower()
    if element.part_type not in TYPES:
        faults.append(
            fault(
                element,
                "part_type",
                f"partition {element.name}: {element.part_type!r} is not a type of partition",
                f"use one of {', '.join(TYPES)}, or a GUID in braces",
            )
        )
    return TYPES.get(element.part_type, "")


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


def _named(element: DataObject) -> str:
    return "the disk_image" if isinstance(element, DiskImage) else "max_size of vm_im"


def _rounded_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit
