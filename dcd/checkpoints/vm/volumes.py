"""The file systems of a disk, each made in its partition, empty or with the content of a tree.

The disk is a sparse file and stays sparse. ext4 and vfat are made in place, without loop devices or mounts.
xfs, btrfs and swap are made in a sparse file of the partition's size and copied in. A tree gets into xfs and
btrfs through a mount by the kernel, on a loop device that ends with the mount, and the mount with the
worker: mkfs.xfs -p would lose attributes and hard links, and mkfs.btrfs --rootdir of Debian 12 loses devices,
holes and counts of links. The file system keeps the tree's owners, modes, times, attributes, capabilities,
hard links, devices and holes; vfat keeps files and directories only.

The features are explicit instead of those in the host's mke2fs.conf, so that the result is the same on any
host, and all its readers (GRUB, the image's kernel) know them.
Source: mke2fs(8), mkfs.xfs(8), mkfs.btrfs(8), mkswap(8), mformat(1), mcopy(1), mount(8).
"""

import os
import struct
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dcd.checkpoints.interface import Context, Variance
from dcd.checkpoints.times import fat_environment, fat_time
from dcd.checkpoints.vm import mounted
from dcd.checkpoints.vm.disk import (
    DiskLayout,
    FileSystem,
    Subvolume,
    Volume,
    VolumePartition,
)
from dcd.checkpoints.vm.luks import SECTOR_BYTES
from dcd.checkpoints.vm.volume_rules import GIB, least_fat32_bytes
from dcd.platform.copying import copy_into
from dcd.platform.inside import listed
from statemachine.errors import CheckpointError
from store.host.attributes import attributes_of
from store.host.process import ToolFailed

BLOCK_BYTES = 4096

_EXT4_FEATURES = (
    "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,"
    "large_file,huge_file,dir_nlink,extra_isize,metadata_csum"
)
_LAST_OF_32_BITS = (1 << 31) - 1
_EXT4_SUPERBLOCK, _EXT4_ROOT, _EXT4_FIRST = 1024, 2, 11
_MBR_TABLE = range(446, 510)
"""The table of partitions in a first sector."""
_FAT32_COPY = 6
"""The number of the sector with the copy of the first."""
_FAT_CLUSTERS = ((260 << 20, 512), (8 * GIB, 4096), (16 * GIB, 8192), (32 * GIB, 16384))
_LARGEST_FAT_CLUSTER = 32768

VOLUME_TOOLS: dict[FileSystem, tuple[str, ...]] = {
    "ext4": ("mke2fs", "debugfs"),
    "vfat": ("mformat", "mcopy"),
    "xfs": ("mkfs.xfs",),
    "btrfs": ("mkfs.btrfs",),
    "swap": ("mkswap",),
}
"""The tools that make each, as named in `store.host.tools`."""

ALL_VOLUME_TOOLS = tuple(dict.fromkeys(tool for tools in VOLUME_TOOLS.values() for tool in tools))

MOUNTED: tuple[FileSystem, ...] = ("xfs", "btrfs")
"""The file systems that are filled through a mount."""


def variances_of(layout: DiskLayout) -> Iterator[Variance]:
    """The reasons why the volumes of a layout differ each time."""
    for kind in MOUNTED:
        titles = [one.title for one in layout.volumes if one.volume.type == kind]
        if titles:
            yield Variance(
                f"{' and '.join(titles)}: the kernel fills {kind} through a mount, with times of "
                "its clock and an order of its own; ext4 is reproducible"
            )


_DETACHING_SECONDS = (0.2, 0.5, 1.0, 3.0)
"""The pauses before retries, since a loop device disappears only when its last user has closed it."""

_COPY = (
    *("cp", "--archive", "--sparse=auto", "--no-target-directory"),
    # Explicit, since --archive ignores errors with extended attributes.
    "--preserve=mode,ownership,timestamps,links,xattr",
)

MOUNT_TOOLS = ("cp", *mounted.TOOLS)
SUBVOLUME_TOOLS = ("btrfs",)


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a new volume: a partition of the disk in the file `disk` with that layout. `epoch` is the
    Unix time of everything without a time of its own."""

    disk: Path
    layout: DiskLayout
    partition: VolumePartition
    epoch: int

    @property
    def volume(self) -> Volume:
        """The content of the partition."""
        return self.partition.volume


def bytes_per_inode(size: int) -> int:
    """The number of bytes for each inode in an ext4 file system of `size` bytes."""
    return 16384 if size >= 512 << 20 else 4096


def make_volume(context: Context, place: Place, tree: Path | None = None) -> None:
    """Make the partition's file system, with the content of the directory `tree`. Its part of the disk must
    be all zeros. Raises `CheckpointError`, with the tool's message."""
    volume = place.volume
    match volume.type:
        case "ext4":
            _ext4(context, place, tree)
        case "vfat":
            _vfat(context, place, tree)
        case "xfs":
            # The sectors of an encrypted device are larger than those of the disk.
            encrypted = place.partition.encrypted
            sector = f"size={SECTOR_BYTES if encrypted else place.layout.sector_size}"
            label = ["-L", volume.label] if volume.label else []
            command = ["mkfs.xfs", "-q", "-m", f"uuid={volume.uuid}", "-s", sector, *label]
            _move_in(context, place, command)
        case "btrfs":
            _btrfs(context, place)
        case "swap":
            _move_in(context, place, ["mkswap", "-q", "-U", volume.uuid, "-L", volume.label])
    if tree is not None and volume.type in MOUNTED:
        _fill_mounted(context, place, tree)


def _ext4(context: Context, place: Place, tree: Path | None) -> None:
    volume, partition = place.volume, place.partition
    # mke2fs keeps only the last -E.
    extended = (
        f"offset={partition.start}",
        f"hash_seed={uuid.uuid5(uuid.UUID(volume.uuid), 'hash_seed')}",
        "root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard",
        # The file is all holes, so neither mke2fs nor the guest's kernel has to write zeros.
        "assume_storage_prezeroed=1",
    )
    context.run(
        [
            *("mke2fs", "-q", "-t", "ext4", "-b", str(BLOCK_BYTES), "-I", "256", "-m", "5"),
            *("-i", str(bytes_per_inode(partition.size))),
            *("-O", _EXT4_FEATURES, "-E", ",".join(extended)),
            *("-U", volume.uuid, "-L", volume.label),
            *(("-d", tree) if tree else ()),
            *(place.disk, f"{partition.size // 1024}k"),
        ],
        env={"E2FSPROGS_FAKE_TIME": str(place.epoch)},
    )
    if tree is not None:
        _finish_ext4(context, place, tree)


def _finish_ext4(context: Context, place: Place, tree: Path) -> None:
    """Complete the work of mke2fs -d (1.47): the root directory gets the tree's own mode, owner, time and
    attributes, and all entries a ctime and atime that are the same each time."""
    status = tree.stat()
    fields = {"mode": f"0{status.st_mode:o}", "uid": status.st_uid, "gid": status.st_gid}
    fields["mtime"] = f"@{int(status.st_mtime)}"
    requests = [f"set_inode_field <2> {field} {value}" for field, value in fields.items()]
    for number, (attribute, content) in enumerate(attributes_of(tree).items()):
        value = context.tmp / f"attribute-{place.partition.number}-{number}"
        value.write_bytes(content)
        place_of_value, name = (debugfs_word(text, *_OF_ROOT) for text in (str(value), attribute))
        requests.append(f"ea_set -f {place_of_value} <2> {name}")
    requests += _late_times(tree)
    requests += [
        f"set_inode_field <{inode}> {field} @{place.epoch}"
        for inode in (_EXT4_ROOT, *range(_EXT4_FIRST, _used_inodes(place) + 1))
        for field in ("ctime", "atime")
    ]
    script = context.tmp / f"finish-{place.partition.number}"
    script.write_text("".join(f"{request}\n" for request in requests), "utf-8")
    # Its exit status does not show the result of its requests; errors are on separate lines.
    lines: list[str] = []
    context.run(
        ["debugfs", "-w", "-f", script, f"{place.disk}?offset={place.partition.start}"],
        env={"E2FSPROGS_FAKE_TIME": str(place.epoch)},
        capture=True,
        on_line=lines.append,
    )
    errors = [line for line in lines if line and not line.startswith(("debugfs:", "debugfs 1."))]
    if errors:
        raise CheckpointError(
            f"the file system for {place.volume.mountpoint} cannot be finished",
            "\n".join(errors[:20]),
        )


def _late_times(tree: Path) -> Iterator[str]:
    """Requests for the times after 2038, of which mke2fs -d writes only the lower 32 bits."""
    below = (
        Path(where, name)
        for where, directories, files in os.walk(tree, onerror=_raise)
        for name in (*directories, *files)
    )
    for one in below:
        seconds = int(one.lstat().st_mtime)
        if seconds > _LAST_OF_32_BITS:
            path = debugfs_word(f"/{one.relative_to(tree)}", *_LATE)
            yield f"set_inode_field {path} mtime @{seconds}"


_OF_ROOT = (
    "cannot be carried over into ext4",
    "It is an attribute of the image's root directory, with a quotation mark or control character.",
    "take the attribute away (setfattr --remove) in a checkpoint before",
)
_LATE = (
    "cannot keep its time in ext4",
    "It is after 2038, and the name has a quotation mark or control character.",
    "give the file another time (touch) in a checkpoint before",
)


def debugfs_word(text: str, problem: str, details: str, resolution: str) -> str:
    """The text as a word of a debugfs request. The text is a name in the image; with the end of a line it
    would begin another request. Raises CheckpointError with the `problem` of a text that is no word."""
    if not text.isprintable() or '"' in text:
        raise CheckpointError(f"{text[:100]!r} {problem}", details, resolution)
    return f'"{text}"'


def _used_inodes(place: Place) -> int:
    """The number of used inodes of a new file system; they are the first ones."""
    with place.disk.open("rb") as disk:
        disk.seek(place.partition.start + _EXT4_SUPERBLOCK)
        total, free = struct.unpack("<I12xI", disk.read(20))
    return int(total) - int(free)


def _vfat(context: Context, place: Place, tree: Path | None) -> None:
    volume, partition, sector = place.volume, place.partition, place.layout.sector_size
    target = f"{place.disk}@@{partition.start}"
    env = fat_environment(place.epoch)
    fat32 = partition.size >= least_fat32_bytes(sector)
    cluster = next((c for most, c in _FAT_CLUSTERS if partition.size <= most), _LARGEST_FAT_CLUSTER)
    context.run(
        [
            *("mformat", "-i", target, "-S", str(sector.bit_length() - 8)),
            *("-T", str(partition.size // sector), "-H", str(partition.start // sector)),
            *("-h", "255", "-s", "63", "-c", str(max(1, cluster // sector))),
            *("-N", volume.uuid.replace("-", "")),
            *(("-v", volume.label) if volume.label else ()),
            *(("-F",) if fat32 else ()),
            "::",
        ],
        env=env,
    )
    with place.disk.open("r+b") as disk:
        # mformat also writes a table of partitions, for a stick without one; inside a partition it would
        # look like further partitions.
        for first in (0, _FAT32_COPY) if fat32 else (0,):
            disk.seek(partition.start + first * sector + _MBR_TABLE.start)
            disk.write(bytes(len(_MBR_TABLE)))
    if tree is not None:
        _fill_vfat(context, target, tree, env)


def _fill_vfat(context: Context, target: str, tree: Path, env: Mapping[str, str]) -> None:
    """Copy directory by directory in the order of names, which mcopy -s would not keep. `check_encodable` has
    accepted the tree."""
    changed: list[str] = []
    for where, directories, files in os.walk(tree, onerror=_raise):
        directories.sort()
        here = Path(where)
        inside = f"::/{here.relative_to(tree)}" if here != tree else "::"
        if directories:
            names = [f"{inside}/{name}" for name in directories]
            context.run(["mmd", "-i", target, *names], env=env)
        kept: list[Path] = []
        for path in (here / name for name in sorted(files)):
            seconds = path.stat().st_mtime
            if fat_time(seconds) == int(seconds):
                kept.append(path)
                continue
            context.run(["mcopy", "-i", target, path, f"{inside}/"], env=fat_environment(seconds))
            changed.append(f"/{path.relative_to(tree)}")
        if kept:
            context.run(["mcopy", "-i", target, "-m", *kept, f"{inside}/"], env=env)
    if changed:
        context.warn(f"FAT has times of 1980 to 2107; the nearest is given to {listed(changed)}")


def _btrfs(context: Context, place: Place) -> None:
    volume = place.volume
    command = ["mkfs.btrfs", "-q", "-U", volume.uuid, "-L", volume.label]
    for pause_seconds in (*_DETACHING_SECONDS, None):
        try:
            _move_in(context, place, command)
            return
        except ToolFailed as error:
            if "non-unique UUID" not in error.output:
                raise
            if pause_seconds is None:
                raise CheckpointError(
                    f"this host has a btrfs file system with the UUID {volume.uuid} attached already",
                    "the kernel distinguishes btrfs file systems by their UUIDs",
                    f"detach it (`blkid -U {volume.uuid}` names its device), or give the disk another"
                    ' id: <disk_image id="random" .../>',
                ) from error
        time.sleep(pause_seconds)


def _move_in(context: Context, place: Place, command: list[str]) -> None:
    """Run the command on a sparse file of the partition's size, and copy the result into the disk."""
    alone = context.tmp / f"partition-{place.partition.number}"
    with alone.open("xb") as file:
        file.truncate(place.partition.size)
    try:
        context.run([*command, alone])
        copy_into(alone, place.disk, place.partition.start)
    finally:
        alone.unlink()


def make_subvolumes(context: Context, place: Place) -> None:
    """Make the subvolumes of a new btrfs, empty."""
    with _mounted(context, place) as target:
        for one in place.volume.subvolumes:
            context.run(["btrfs", "subvolume", "create", target / one.name])


def fill_subvolume(context: Context, place: Place, subvolume: Subvolume, tree: Path) -> None:
    """Copy the content of a directory into an empty subvolume."""
    _fill_mounted(context, place, tree, subvolume)


def _fill_mounted(
    context: Context, place: Place, tree: Path, subvolume: Subvolume | None = None
) -> None:
    with _mounted(context, place, subvolume) as target:
        context.run([*_COPY, tree, target])


@contextmanager
def _mounted(context: Context, place: Place, subvolume: Subvolume | None = None) -> Iterator[Path]:
    partition = place.partition
    target = context.tmp / f"mounted-{partition.number}"
    target.mkdir()
    arguments = mounted.mount_arguments(partition, read_only=False, subvolume=subvolume)
    context.run(["mount", *arguments, place.disk, target])
    try:
        yield target
    finally:
        context.run(["umount", target])
    target.rmdir()


def _raise(error: OSError) -> None:
    raise error
