"""From a partition's element to what the partition holds: a volume, or volumes in LUKS, LVM or before a tree
of hashes.

Pure: each size and id follows from the manifest. A LUKS2 header takes 16 MiB, LVM's metadata the first MiB of
a physical volume, whose rest are extents of 4 MiB. A tree of hashes is behind the file system that it is for.
Source: cryptsetup(8), LUKS2 on-disk format 1.1.0; lvm.conf(5), default_data_alignment; veritysetup(8).
"""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from dcd.checkpoints.vm import disk, volume_rules
from dcd.checkpoints.vm.disk import ContainerPartition, DiskPartition, Volume, VolumePartition
from dcd.checkpoints.vm.volume_rules import MIB, mib
from dcd.manifest.data_object import DataObject
from dcd.manifest.diagnostics import Diagnostic, error
from dcd.manifest.objects.storage import (
    Format,
    LogicalVolume,
    Luks,
    SigningKey,
    Size,
    Subvolume,
    Verity,
    VolumeGroup,
)
from dcd.manifest.objects.target import GptPartition

LUKS_HEADER_BYTES = 16 * MIB
EXTENTS_START = MIB
EXTENT_BYTES = 4 * MIB
BLOCK_BYTES = 4096
_HASHES_IN_BLOCK = BLOCK_BYTES // 32


@dataclass(frozen=True, slots=True)
class Content:
    """A volume with the elements that describe it: its <format> (or what stands for one), and what has its
    size."""

    format: DataObject
    holder: DataObject
    volume: VolumePartition


@dataclass(frozen=True, slots=True)
class Filled:
    """A partition and its contents."""

    partition: DiskPartition
    contents: tuple[Content, ...] = ()


def filled(
    element: GptPartition, bare: DiskPartition, identity: uuid.UUID, faults: list[Diagnostic]
) -> Filled:
    """The partition with the content that its element describes. `bare` has size 0 if its place is not
    known. Errors are added to `faults`."""
    luks = element.get_first_child(class_type=Luks)
    group = (luks or element).get_first_child(class_type=VolumeGroup)
    verity = element.get_first_child(class_type=Verity)
    content = (luks or element).get_first_child(class_type=Format)
    if luks is None and group is None and content is None:
        content = {
            "esp": Format(type="vfat", mountpoint="/boot/efi"),
            "swap": Format(type="swap"),
        }.get(element.part_type)
    start, size = bare.start, bare.size
    if luks is not None:
        start, size = start + LUKS_HEADER_BYTES, (size - LUKS_HEADER_BYTES) // MIB * MIB
        if 0 < bare.size <= LUKS_HEADER_BYTES:
            faults.append(_small(element, bare, LUKS_HEADER_BYTES, "the header of LUKS"))
    elif verity is not None:
        size = verified_bytes(size)
    inside = replace(bare, start=start, size=max(0, size))
    if group is not None:
        placed = _logical_volumes(group, inside, faults)
        volumes = tuple(_contents(group, placed, inside, identity))
    else:
        origin = f"partition {bare.number}"
        one = None if content is None else _volume(content, origin, identity)
        found = None if one is None else VolumePartition(**asdict(inside), volume=one)
        volumes = () if found is None else (Content(_place(content, element), element, found),)
    if luks is not None:
        volumes = tuple(_covered(each, "luks") for each in volumes)
    elif verity is not None:
        volumes = tuple(_covered(each, "verity") for each in volumes)
    elif group is None:
        return Filled(volumes[0].volume if volumes else bare, volumes)

    def derived(purpose: str) -> str:
        return str(uuid.uuid5(identity, f"{purpose} of partition {bare.number}"))

    return Filled(
        ContainerPartition(
            **asdict(bare),
            contents=tuple(each.volume for each in volumes),
            luks=None
            if luks is None
            else disk.Luks(derived("luks"), luks.name or f"luks-{bare.number}"),
            group=None
            if group is None
            else disk.Group(
                group.name,
                derived("volume group"),
                start,
                inside.size,
                tuple(one for _, one in placed),
            ),
            verity=None
            if verity is None
            else disk.Verity(
                derived("verity"),
                inside.size,
                verity.get_first_child(class_type=SigningKey) is not None,
            ),
        ),
        volumes,
    )


def verified_bytes(size: int) -> int:
    """The size of the file system in a partition of `size` bytes, in full MiB, so that the superblock and the
    tree of its hashes fit behind it."""
    data = size // MIB * MIB
    while data > 0 and data + BLOCK_BYTES + _tree_bytes(data) > size:
        data -= MIB
    return data


def _tree_bytes(data: int) -> int:
    blocks, tree = data // BLOCK_BYTES, 0
    while blocks > 1:
        blocks = -(-blocks // _HASHES_IN_BLOCK)
        tree += blocks
    return tree * BLOCK_BYTES


def _place(content: Format | None, element: DataObject) -> DataObject:
    """The element to name in errors: a <format> that stands for none in the manifest has no place."""
    return element if content is None or content.origin is None else content


def _volume(content: Format, origin: str, identity: uuid.UUID) -> Volume:
    derived = uuid.uuid5(identity, f"{content.type} of {origin}")
    return Volume(
        type=content.type,
        uuid=volume_rules.volume_id(content.type, content.uuid or derived),
        label=content.label or "",
        mountpoint=content.mountpoint,
        options=content.options,
        subvolumes=tuple(
            disk.Subvolume(one.name, one.mountpoint, one.options)
            for one in content.get_children(class_type=Subvolume)
        ),
    )


def _covered(content: Content, cover: Literal["luks", "verity"]) -> Content:
    return replace(content, volume=replace(content.volume, cover=cover))


def _logical_volumes(
    group: VolumeGroup, inside: DiskPartition, faults: list[Diagnostic]
) -> list[tuple[LogicalVolume, disk.Logical]]:
    """The places of the logical volumes, one after the other."""
    elements = group.get_children(class_type=LogicalVolume)
    free = max(0, inside.size - EXTENTS_START) // EXTENT_BYTES
    sizes = _extents(group, elements, free, faults)
    if inside.size and sum(sizes) > free:
        need = EXTENTS_START + sum(sizes) * EXTENT_BYTES
        faults.append(_small(group, inside, need, f"the volumes of the group {group.name}"))
    at = inside.start + EXTENTS_START
    names: set[str] = set()
    placed = []
    for element, extents in zip(elements, sizes, strict=True):
        if element.name in names:
            brief = f"the group {group.name} has two volumes {element.name}"
            faults.append(error(element.place_of("name"), brief, "", "give each its own name"))
        names.add(element.name)
        placed.append((element, disk.Logical(element.name, at, extents * EXTENT_BYTES)))
        at += extents * EXTENT_BYTES
    return placed


def _contents(
    group: VolumeGroup,
    placed: Sequence[tuple[LogicalVolume, disk.Logical]],
    inside: DiskPartition,
    identity: uuid.UUID,
) -> Iterator[Content]:
    for element, place in placed:
        content = element.get_first_child(class_type=Format)
        if content is not None:
            logical = f"{group.name}/{element.name}"
            size = place.size if inside.size else 0
            part = replace(inside, start=place.start, size=size)
            volume = _volume(content, f"logical volume {logical}", identity)
            found = VolumePartition(**asdict(part), volume=volume, logical=logical)
            yield Content(content, element, found)


def _extents(
    group: VolumeGroup, elements: Sequence[LogicalVolume], free: int, faults: list[Diagnostic]
) -> list[int]:
    given = [element.get_first_child(class_type=Size) for element in elements]
    sizes = [0 if one is None else -(-one.size_bytes // EXTENT_BYTES) for one in given]
    without = [number for number, one in enumerate(given) if one is None]
    for number in without[1:]:
        brief = f"two logical volumes of the group {group.name} have no size"
        remedy = 'give each but one a size: <size val="1gb"/>'
        faults.append(error(elements[number].place_of(""), brief, "", remedy))
    if without:
        sizes[without[0]] = max(0, free - sum(sizes))
    return sizes


def _small(element: DataObject, partition: DiskPartition, need: int, what: str) -> Diagnostic:
    return error(
        element.place_of(""),
        f"partition {partition.number} has {mib(partition.size)}, which is too small for {what}",
        f"that needs {mib(need)}",
        "make the partition (and the disk) larger, or its volumes smaller",
    )
