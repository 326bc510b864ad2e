"""Errors of a layout with which the disk cannot be made or does not boot, each at its element. Pure."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

from dcd.checkpoints.vm import volume_rules
from dcd.checkpoints.vm.disk import DiskPartition, VolumePartition
from dcd.checkpoints.vm.nested import Content, Filled
from dcd.checkpoints.vm.volume_rules import mib
from dcd.manifest.data_object import DataObject
from dcd.manifest.diagnostics import Diagnostic, error
from dcd.manifest.objects.storage import Format, Size, Subvolume
from dcd.manifest.objects.target import GptPartition

MOST_PARTITIONS = 128

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

Placed = tuple[GptPartition, Filled, bool]
"""An element, its partition with its contents, and whether the partition has a place on the disk."""


def check_table(placed: Sequence[Placed], where: DataObject) -> Iterator[Diagnostic]:
    seen: set[int] = set()
    for element, partition in ((element, found.partition) for element, found, _ in placed):
        if not 1 <= partition.number <= MOST_PARTITIONS:
            yield fault(
                element,
                "name",
                f"there is no partition {partition.number}",
                f"partitions are numbered from 1 to {MOST_PARTITIONS}",
            )
        if partition.number in seen:
            brief = f"there are two partitions {partition.number}"
            yield fault(element, "name", brief, "give each a number of its own")
        seen.add(partition.number)
    boot = [element for element, found, _ in placed if found.partition.type == BIOS_BOOT]
    for element in boot[1:]:
        brief = "the disk has more than one BIOS boot partition"
        yield fault(element, "part_type", brief, "keep one: only the first gets the boot loader")
    in_place = sorted(
        ((found.partition, element) for element, found, has_place in placed if has_place),
        key=lambda pair: pair[0].start,
    )
    for (before, _), (after, element) in pairwise(in_place):
        if before.start + before.size > after.start:
            yield fault(
                element,
                "",
                f"partitions {before.number} and {after.number} overlap",
                f"partition {before.number} ends {mib(before.start + before.size - after.start)} "
                "after the other's start: move or shorten one, or leave start_sector out",
            )
    # By number: partitions of the same number, an error above, have the same derived ids.
    contents = [content for _, found, _ in placed for content in found.contents]
    ids = Counter(
        id_ for *_, id_ in {(p.number, p.logical, p.volume.uuid) for p in map(_volume_of, contents)}
    )
    for twice in (id_ for id_, count in ids.items() if count > 1):
        last = next(one for one in reversed(contents) if one.volume.volume.uuid == twice)
        place = last.format if isinstance(last.format, Format) else where
        brief = f"two file systems have the UUID {twice}"
        yield fault(place, "uuid", brief, "leave uuid out, or give each its own")


def _volume_of(content: Content) -> VolumePartition:
    return content.volume


def check_content(
    element: GptPartition, found: Filled, sector_size: int | None
) -> Iterator[Diagnostic]:
    """Errors in the content of the partition, and in its size unless `sector_size` is None."""
    content = element.get_first_child(class_type=Format) or element
    partition = found.partition
    if partition.type == BIOS_BOOT:
        if found.contents:
            brief = f"partition {partition.number}: a BIOS boot partition has no file system"
            yield fault(content, "", brief, "take <format> out: the boot loader itself is in it")
        if sector_size is not None and partition.size < _LEAST_BIOS_BOOT_BYTES:
            place = element.get_first_child(class_type=Size) or element
            brief = f"partition {partition.number}: the BIOS boot partition is too small for GRUB"
            yield fault(place, "val", brief, "make it 1mb")
        return
    if partition.type == ESP and found.contents:
        yield from _check_esp(content, partition)
    for one in found.contents:
        yield from _check_volume(one, sector_size)


def _check_esp(content: DataObject, partition: DiskPartition) -> Iterator[Diagnostic]:
    if isinstance(partition, VolumePartition) and partition.volume.type == "vfat":
        return
    kind = partition.volume.type if isinstance(partition, VolumePartition) else "such a content"
    brief = f"partition {partition.number}: UEFI cannot read an ESP with {kind}"
    yield fault(content, "type", brief, '<format type="vfat"/>')


def _check_volume(content: Content, sector_size: int | None) -> Iterator[Diagnostic]:
    one = content.volume
    # A container that is too small for any volume is an error already.
    size = None if sector_size is None or (one.cover and one.size <= 0) else one.size
    for attribute, brief, resolution in volume_rules.problems(one.volume, size, sector_size or 512):
        at = content.format
        if not attribute:
            at = content.holder.get_first_child(class_type=Size) or content.holder
        yield fault(at, attribute or "val", f"{one.title}: {brief}", resolution)


def check_mountpoints(placed: Sequence[Placed]) -> Iterator[Diagnostic]:
    seen: dict[str, VolumePartition] = {}
    for content in (each for _, found, _ in placed for each in found.contents):
        subvolumes = content.format.get_children(class_type=Subvolume)
        places = [(one, one.mountpoint) for one in subvolumes]
        for place, point in ((content.format, content.volume.volume.mountpoint), *places):
            if point is None:
                continue
            if point in seen:
                titles = f"{seen[point].title} and {content.volume.title}"
                brief = f"{titles} both have the mountpoint {point}"
                yield fault(place, "mountpoint", brief, "give each a mountpoint of its own")
            seen[point] = content.volume


def check_bootable(
    placed: Sequence[Placed],
    where: DataObject,
    firmware: frozenset[str],
    pools: frozenset[str],
) -> Iterator[Diagnostic]:
    partitions = [found.partition for _, found, _ in placed]
    volumes = [content.volume.volume for _, found, _ in placed for content in found.contents]
    rooted = any("/" in volume.mounts for volume in volumes)
    if not rooted and not any(element.in_zpool in pools for element, _, _ in placed):
        yield fault(
            where,
            "",
            "the disk has no root partition",
            'give one <format type="ext4" mountpoint="/"/>, or the in_zpool of the root pool',
        )
    types = {partition.type for partition in partitions}
    if "" in types:
        return  # The unknown one may be the missing one.
    for kind, guid, name, example in (
        ("bios", BIOS_BOOT, "BIOS boot partition", ("bios_boot", "1mb")),
        ("uefi", ESP, "EFI system partition", ("esp", "64mb")),
    ):
        if kind in firmware and guid not in types:
            other = "uefi" if kind == "bios" else "bios"
            yield fault(
                where,
                "",
                f"the disk has no {name}, without which {kind.upper()} cannot boot it",
                f'add <gpt_partition name="N" part_type="{example[0]}"><size val="{example[1]}"/>'
                f'</gpt_partition>, or write <vm_im firmware="{other}">',
            )


def fault(element: DataObject, attribute: str, brief: str, resolution: str) -> Diagnostic:
    return error(element.place_of(attribute), brief, "", resolution)
