"""The disk that the checkpoints of a virtual machine hand on to each other.

It is a raw, sparse file in the media area, laid out as the manifest's `target` says. `CreateDisk` makes
it and records where it is and how it is divided, ids and all; every later checkpoint reads that record,
never the manifest's `target` again, so that what it does fits the disk that is there.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import msgspec

from dcd.checkpoints.interface import Context
from dcd.checkpoints.recorded import DISK, record
from dcd.manifest.doc import DataObjectDict
from statemachine.errors import CheckpointError

FileSystem = Literal["ext4", "xfs", "btrfs", "vfat", "swap"]


@dataclass(frozen=True, slots=True)
class Volume:
    """What a partition holds: a file system, or swap space. `uuid` is as blkid(8) prints it (for vfat
    XXXX-XXXX); `mountpoint` is where the installed system mounts it, with mount options `options`."""

    type: FileSystem
    uuid: str
    label: str = ""
    mountpoint: str | None = None
    options: str = "defaults"


@dataclass(frozen=True, slots=True)
class DiskPartition:
    """A partition in the table, without a volume that dcd knows: a boot loader's, or one of a ZFS pool.
    `type` and `uuid` are its GUIDs, lower case; `start` and `size` are in bytes."""

    number: int
    type: str
    uuid: str
    start: int
    size: int
    label: str = ""


@dataclass(frozen=True, slots=True)
class VolumePartition(DiskPartition):
    """A partition with a volume in it."""

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
        """The partition that the installed system mounts there."""
        return self.mounted.get(mountpoint)


def record_disk(context: Context, path: Path, layout: DiskLayout) -> None:
    """Tell later checkpoints of the disk, which this one has made."""
    context.made.add(path)
    described = record(context, DISK)
    described["path"] = str(path.relative_to(context.root))
    described["layout"] = msgspec.to_builtins(layout)


def recorded_disk(context: Context, *, change: bool = False) -> tuple[Path, DiskLayout]:
    """The disk that a checkpoint before has made. `change`: this one is going to change it. Raises
    `CheckpointError` when none has."""
    described = context.doc.persistent.get_first_child(DISK, DataObjectDict)
    if described is None:
        raise CheckpointError(
            "there is no disk yet",
            "no checkpoint before has made one",
            "run a checkpoint that makes the disk (CreateDisk) before",
        )
    path = context.root / str(described["path"])
    if change:
        context.made.add(path)
    layout = described["layout"]
    bare = msgspec.convert({**layout, "partitions": ()}, DiskLayout)
    return path, replace(bare, partitions=tuple(map(_partition, layout["partitions"])))


def _partition(described: dict[str, object]) -> DiskPartition:
    kind = VolumePartition if described.get("volume") else DiskPartition
    return msgspec.convert(described, kind)
