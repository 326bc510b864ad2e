"""The disk that the checkpoints of a virtual machine pass to each other.

It is a raw, sparse file in the media area with the layout of the manifest's `target`. `CreateDisk` makes it
and records its path and its layout, ids included. Later checkpoints read that record, never the manifest's
`target`, so that they always fit the existing disk.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import msgspec

from dcd.checkpoints import products
from dcd.checkpoints.interface import Context
from dcd.checkpoints.recorded import DISK, record, recorded

FileSystem = Literal["ext4", "xfs", "btrfs", "vfat", "swap"]


@dataclass(frozen=True, slots=True)
class Volume:
    """The content of a partition: a file system, or swap space. `uuid` has the form of blkid(8) (for vfat
    XXXX-XXXX); the installed system mounts it at `mountpoint` with mount options `options`."""

    type: FileSystem
    uuid: str
    label: str = ""
    mountpoint: str | None = None
    options: str = "defaults"


@dataclass(frozen=True, slots=True)
class DiskPartition:
    """A partition in the table, by itself without a volume: for a boot loader, or a ZFS pool. `type` and
    `uuid` are its GUIDs in lower case; `start` and `size` are in bytes."""

    number: int
    type: str
    uuid: str
    start: int
    size: int
    label: str = ""


@dataclass(frozen=True, slots=True)
class VolumePartition(DiskPartition):
    """A partition with a volume."""

    volume: Volume = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class DiskLayout:
    """A disk with a GUID partition table: its file's name, size and sector size in bytes, the table's
    GUID, and its partitions by number."""

    name: str
    size: int
    sector_size: int
    uuid: str
    partitions: tuple[DiskPartition, ...]

    @property
    def volumes(self) -> tuple[VolumePartition, ...]:
        """The partitions with a volume."""
        return tuple(one for one in self.partitions if isinstance(one, VolumePartition))

    @property
    def mounted(self) -> dict[str, VolumePartition]:
        """The partitions that the installed system mounts, by mount point."""
        points = ((one.volume.mountpoint, one) for one in self.volumes)
        return {point: one for point, one in points if point is not None}

    def mounted_at(self, mountpoint: str) -> VolumePartition | None:
        """The partition that the installed system mounts there, or None."""
        return self.mounted.get(mountpoint)


def record_disk(context: Context, path: Path, layout: DiskLayout) -> None:
    """Record the disk that this checkpoint has made, for later ones."""
    place = str(path.relative_to(context.root))
    record(context, DISK, {"path": place, "layout": msgspec.to_builtins(layout)}, path)


def recorded_disk(context: Context, *, change: bool = False) -> tuple[Path, DiskLayout]:
    """The disk of an earlier checkpoint. `change` declares that this one changes it. Raises `CheckpointError`
    when there is none."""
    described = recorded(context, DISK)
    if not described:
        raise products.missing(products.DISK)
    path = context.root / str(described["path"])
    if change:
        context.made.add(path)
    layout = described["layout"]
    bare = msgspec.convert({**layout, "partitions": ()}, DiskLayout)
    partitions = (
        msgspec.convert(one, VolumePartition if one.get("volume") else DiskPartition)
        for one in layout["partitions"]
    )
    return path, replace(bare, partitions=tuple(partitions))
