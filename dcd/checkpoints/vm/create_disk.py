"""`CreateDisk`: the disk of a virtual machine, laid out as the manifest's `target` says.

A sparse file in the media area with a GUID partition table and empty file systems, made without loop
devices and mounts. Result: media/NAME, and its layout in the DOC (`disk`) for the later checkpoints that
install into it. Ids and times are the same each time, unless the manifest asks for random ids. Tables and
journals take a few MiB.
"""

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dcd.checkpoints import architecture, products
from dcd.checkpoints.interface import Checkpoint, Context, Needs, Report, Variance
from dcd.checkpoints.times import FIRST_FAT_TIME, source_date_epoch
from dcd.checkpoints.vm import gpt, lvm
from dcd.checkpoints.vm.disk import DiskLayout, record_disk
from dcd.checkpoints.vm.layout import disk_layout, examine_layout
from dcd.checkpoints.vm.volumes import (
    ALL_VOLUME_TOOLS,
    VOLUME_TOOLS,
    Place,
    make_volume,
    variances_of,
)
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.objects.target import DiskImage
from dcd.platform.inside import entry
from statemachine.errors import CheckpointError
from store.artifacts import FILE_MODE

LAYOUT_READS = (
    *("//target", "//max_size", "//vm_im.firmware", "//distro.name"),
    *architecture.READS,
)
"""The DOC paths that determine the layout."""


@dataclass(frozen=True)
class CreateDisk(Checkpoint):
    """Make the disk with its partitions and empty file systems.

    The `target` describes it, in one `disk` with a `disk_image`; without one the disk has the partitions
    that its firmware needs, and an ext4 root. `InstallOffline` fills it; it also makes encrypted partitions,
    subvolumes and trees of hashes, which have no empty form.
    """

    DESCRIPTION = "Make the disk: partitions and file systems"
    EXPECTED_SECONDS = 1.0
    PROVIDES = (products.DISK,)
    READS = LAYOUT_READS
    TOOLS = ALL_VOLUME_TOOLS

    def needs(self, doc: DataObjectCache) -> Needs:
        layout, _ = examine_layout(doc)
        return Needs(tools=tools_for(layout), disk_bytes=256 << 20)

    def variances(self, doc: DataObjectCache) -> Iterator[Variance]:
        images = doc.get_descendants(class_type=DiskImage)
        if any(image.id == "random" for image in images):
            yield Variance('the manifest asks for random ids (<disk_image id="random">)')
        yield from variances_of(examine_layout(doc)[0])

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        yield from examine_layout(doc)[1]

    def execute(self, context: Context) -> None:
        layout = disk_layout(context.doc, uuid.uuid4())
        path = entry(context.media, layout.name)
        if os.path.lexists(path):
            raise CheckpointError(
                f"there is a {layout.name} already",
                str(path),
                "give the disk another name, in disk_image",
            )
        # Without files the disk has no time of its own.
        epoch = source_date_epoch(context, FIRST_FAT_TIME)
        begin_disk(path, layout, epoch)
        for partition in (one for one in layout.volumes if not one.encrypted):
            make_volume(context, Place(path, layout, partition, epoch))
        record_disk(context, path, layout)
        context.report(Report(1.0, f"{layout.name}: {layout.size >> 20} MiB"))


def tools_for(layout: DiskLayout) -> tuple[str, ...]:
    """The host tools that make the layout's file systems."""
    kinds = [partition.volume.type for partition in layout.volumes]
    return tuple(dict.fromkeys(tool for kind in kinds for tool in VOLUME_TOOLS[kind]))


def begin_disk(path: Path, layout: DiskLayout, epoch: int) -> None:
    """Make a new disk at `path`: all holes except for the partition table, and the metadata of volume
    groups."""
    path.unlink(missing_ok=True)
    parts = gpt.table(layout)
    for group in (one.group for one in layout.containers):
        if group is not None:
            parts += [(group.start + at, content) for at, content in lvm.metadata(group, epoch)]
    with path.open("xb") as disk:
        path.chmod(FILE_MODE)  # its delivery takes no space
        disk.truncate(layout.size)
        for at, content in parts:
            disk.seek(at)
            disk.write(content)
