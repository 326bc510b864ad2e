"""The disk that the checkpoints of a virtual machine pass to each other.

It is a raw, sparse file in the media area with the layout of the manifest's `target`. `CreateDisk` makes it
and records its path and its layout, ids included. Later checkpoints read that record, never the manifest's
`target`, so that they always fit the existing disk.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from dcd.checkpoints import products
from dcd.checkpoints.interface import Context
from dcd.checkpoints.recorded import DISK, record, recorded

FileSystem = Literal["ext4", "xfs", "btrfs", "vfat", "swap"]


@dataclass(frozen=True, slots=True)
class Subvolume:
    """A subvolume of btrfs, mounted at `mountpoint` (None: not at all) with mount options `options`."""

    name: str
    mountpoint: str | None = None
    options: str = "defaults"


@dataclass(frozen=True, slots=True)
class Volume:
    """The content of a partition: a file system, or swap space. `uuid` has the form of blkid(8) (for vfat
    XXXX-XXXX); the installed system mounts it at `mountpoint` with mount options `options`, or in its place
    the `subvolumes`."""

    type: FileSystem
    uuid: str
    label: str = ""
    mountpoint: str | None = None
    options: str = "defaults"
    subvolumes: tuple[Subvolume, ...] = ()

    @property
    def mounts(self) -> dict[str, Subvolume | None]:
        """Its mountpoints, each with the subvolume there (None: the whole file system)."""
        points: dict[str, Subvolume | None] = {
            one.mountpoint: one for one in self.subvolumes if one.mountpoint is not None
        }
        return points if self.mountpoint is None else {self.mountpoint: None, **points}


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

    @property
    def title(self) -> str:
        """Its name in messages."""
        return f"partition {self.number}"


@dataclass(frozen=True, slots=True)
class VolumePartition(DiskPartition):
    """A partition with a volume, or the part of a partition that has one: what LUKS encrypts or dm-verity
    verifies (`cover`), or a logical volume `GROUP/NAME`. `start` is the place of its plain text on the disk,
    also of one that is `encrypted`."""

    volume: Volume = field(kw_only=True)
    cover: Literal["", "luks", "verity"] = ""
    logical: str = ""

    @property
    def title(self) -> str:
        """Its name in messages."""
        return f"logical volume {self.logical}" if self.logical else f"partition {self.number}"

    @property
    def encrypted(self) -> bool:
        """Whether LUKS encrypts it."""
        return self.cover == "luks"

    @property
    def verified(self) -> bool:
        """Whether dm-verity verifies it."""
        return self.cover == "verity"


@dataclass(frozen=True, slots=True)
class Luks:
    """An encrypted partition: the UUID of its header, and its name in /dev/mapper."""

    uuid: str
    name: str


@dataclass(frozen=True, slots=True)
class Logical:
    """A logical volume: its name, and its place on the disk."""

    name: str
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Group:
    """A volume group with its one physical volume, which has `size` bytes from byte `start` of the disk.
    `uuid` is the origin of its ids."""

    name: str
    uuid: str
    start: int
    size: int
    volumes: tuple[Logical, ...]


@dataclass(frozen=True, slots=True)
class Verity:
    """The tree of hashes that begins `data_bytes` behind the start of a partition; `uuid` is that of its
    superblock. `signed`: the root hash gets a signature."""

    uuid: str
    data_bytes: int
    signed: bool


@dataclass(frozen=True, slots=True)
class ContainerPartition(DiskPartition):
    """A partition that holds volumes in LUKS, in a volume group, in a volume group in LUKS, or before a tree
    of hashes."""

    contents: tuple[VolumePartition, ...] = field(kw_only=True)
    luks: Luks | None = None
    group: Group | None = None
    verity: Verity | None = None


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
    def containers(self) -> tuple[ContainerPartition, ...]:
        """The partitions that hold volumes in something else."""
        return tuple(one for one in self.partitions if isinstance(one, ContainerPartition))

    @property
    def volumes(self) -> tuple[VolumePartition, ...]:
        """All volumes, by number of their partitions."""
        found: list[VolumePartition] = []
        for one in self.partitions:
            if isinstance(one, VolumePartition):
                found.append(one)
            elif isinstance(one, ContainerPartition):
                found += one.contents
        return tuple(found)

    @property
    def mounted(self) -> dict[str, VolumePartition]:
        """The volumes that the installed system mounts, by mount point."""
        return {point: one for one in self.volumes for point in one.volume.mounts}

    def mounted_at(self, mountpoint: str) -> VolumePartition | None:
        """The volume that the installed system mounts there, or None."""
        return self.mounted.get(mountpoint)

    def partition_of(self, volume: VolumePartition) -> DiskPartition:
        """The partition in the table that is or holds the volume."""
        return next(one for one in self.partitions if one.number == volume.number)


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
    partitions = (msgspec.convert(one, _kind_of(one)) for one in layout["partitions"])
    return path, replace(bare, partitions=tuple(partitions))


def _kind_of(recorded_partition: Mapping[str, Any]) -> type[DiskPartition]:
    if recorded_partition.get("volume") is not None:  # null in records of earlier versions
        return VolumePartition
    return ContainerPartition if "contents" in recorded_partition else DiskPartition
