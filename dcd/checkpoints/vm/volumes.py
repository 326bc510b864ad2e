"""Making the file systems of a disk, each in its partition, empty or with a tree in it.

The disk is a sparse file and stays one: nothing is written where nothing is. ext4 and vfat are made in
place, without loop devices or mounts. xfs, btrfs and swap are made in a sparse file of the partition's size
and moved in. A tree goes into xfs and btrfs through a mount by the kernel, on a loop device that goes with
the mount, and the mount with the worker: mkfs.xfs -p would lose attributes and hard links, and
mkfs.btrfs --rootdir of Debian 12 loses devices, holes and counts of links. What a tree holds is kept:
owners, modes, times, attributes, capabilities, hard links, devices, holes; vfat holds files and
directories only.

Features are named, not left to the host's mke2fs.conf, so that the result is the same on any host, and all
that reads it (GRUB, the image's kernel) knows them.
Source: mke2fs(8), mkfs.xfs(8), mkfs.btrfs(8), mkswap(8), mformat(1), mcopy(1), mount(8).
"""

import os
import stat
import struct
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dcd.checkpoints.interface import Context
from dcd.checkpoints.times import fat_environment, fat_time
from dcd.checkpoints.vm import mounted
from dcd.checkpoints.vm.disk import DiskLayout, FileSystem, Volume, VolumePartition
from dcd.checkpoints.vm.volume_rules import GIB, least_fat32_bytes
from dcd.platform.copying import copy_into
from dcd.platform.inside import readable
from statemachine.errors import CheckpointError
from store.host.process import ToolFailed

BLOCK_BYTES = 4096

_EXT4_FEATURES = (
    "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,"
    "large_file,huge_file,dir_nlink,extra_isize,metadata_csum"
)
_LAST_OF_32_BITS = (1 << 31) - 1
_EXT4_SUPERBLOCK, _EXT4_ROOT, _EXT4_FIRST = 1024, 2, 11
_MBR_TABLE = range(446, 510)
"""Where a table of partitions is in a first sector."""
_FAT32_COPY = 6
"""The sector with the copy of the first."""
_FAT_CLUSTERS = ((260 << 20, 512), (8 * GIB, 4096), (16 * GIB, 8192), (32 * GIB, 16384))
_LARGEST_FAT_CLUSTER = 32768

VOLUME_TOOLS: dict[FileSystem, tuple[str, ...]] = {
    "ext4": ("mke2fs", "debugfs"),
    "vfat": ("mformat", "mcopy"),
    "xfs": ("mkfs.xfs",),
    "btrfs": ("mkfs.btrfs",),
    "swap": ("mkswap",),
}
"""What makes each, as named in `store.host.tools`."""

MOUNTED: tuple[FileSystem, ...] = ("xfs", "btrfs")
"""Those that are mounted to be filled."""

_DETACHING_SECONDS = (0.2, 0.5, 1.0, 3.0)
"""A loop device that was left goes when the last one that looks at it has closed it."""

_COPY = (
    *("cp", "--archive", "--sparse=auto", "--no-target-directory"),
    # Named again: what --archive implies of extended attributes, it lets fail silently.
    "--preserve=mode,ownership,timestamps,links,xattr",
)

MOUNT_TOOLS = ("cp", *mounted.TOOLS)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a volume is made: the partition of a disk that is the file `disk`, laid out as `layout`.
    `epoch` is the Unix time of everything that has no time of its own."""

    disk: Path
    layout: DiskLayout
    partition: VolumePartition
    epoch: int

    @property
    def volume(self) -> Volume:
        """What is in the partition."""
        return self.partition.volume


def bytes_per_inode(size: int) -> int:
    """For each so many bytes of an ext4 file system of `size` bytes there is an inode."""
    return 16384 if size >= 512 << 20 else 4096


def make_volume(context: Context, place: Place, tree: Path | None = None) -> None:
    """Make the partition's file system, with what is in the directory `tree`. Its part of the disk must
    be all zeros. Raises `CheckpointError`, with the tool's own words."""
    _MAKERS[place.volume.type](context, place, tree)


def _ext4(context: Context, place: Place, tree: Path | None) -> None:
    volume, partition = place.volume, place.partition
    # mke2fs keeps only the last -E.
    extended = (
        f"offset={partition.start}",
        f"hash_seed={uuid.uuid5(uuid.UUID(volume.uuid), 'hash_seed')}",
        "root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard",
        # The file is all holes: nothing has to be zeroed, neither now nor by the guest's kernel.
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
    """What mke2fs -d (1.47) leaves undone: it gives the root directory nothing of the tree's own, and
    entries the time when the *copy of the tree* was last touched (ctime, atime), which is another each time.
    """
    status = tree.stat()
    fields = {"mode": f"0{status.st_mode:o}", "uid": status.st_uid, "gid": status.st_gid}
    fields["mtime"] = f"@{int(status.st_mtime)}"
    requests = [f"set_inode_field <2> {field} {value}" for field, value in fields.items()]
    for number, attribute in enumerate(os.listxattr(tree)):
        value = context.tmp / f"attribute-{place.partition.number}-{number}"
        value.write_bytes(os.getxattr(tree, attribute))
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
    # Its exit status says nothing of what its requests came to: it tells on lines of their own.
    lines: list[str] = []
    context.run(
        ["debugfs", "-w", "-f", script, f"{place.disk}?offset={place.partition.start}"],
        env={"E2FSPROGS_FAKE_TIME": str(place.epoch)},
        capture=True,
        on_line=lines.append,
    )
    said = [line for line in lines if line and not line.startswith(("debugfs:", "debugfs 1."))]
    if said:
        raise CheckpointError(
            f"the file system for {place.volume.mountpoint} cannot be finished",
            "\n".join(said[:20]),
        )


def _late_times(tree: Path) -> Iterator[str]:
    """Requests for the times after 2038, of which mke2fs -d writes the lower 32 bits only."""
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
    """The text as a word of a debugfs request. Names are the image's own: one with the end of a line in it
    would be a request of its own. Raises CheckpointError, as the `problem` of the text, for what cannot be
    written."""
    if not text.isprintable() or '"' in text:
        raise CheckpointError(f"{text[:100]!r} {problem}", details, resolution)
    return f'"{text}"'


def _used_inodes(place: Place) -> int:
    """How many inodes of a new file system are used; they are the first ones."""
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
        # mformat describes the file system in a table of partitions too, as on a stick without one; in
        # a partition that is taken for partitions inside it.
        for first in (0, _FAT32_COPY) if fat32 else (0,):
            disk.seek(partition.start + first * sector + _MBR_TABLE.start)
            disk.write(bytes(len(_MBR_TABLE)))
    if tree is not None:
        _fill_vfat(context, target, tree, env)


_NAMED_FILES = 10
"""How many files a message names."""


def _fill_vfat(context: Context, target: str, tree: Path, env: Mapping[str, str]) -> None:
    """Directory by directory in the order of names, which mcopy -s would not keep."""
    changed: list[str] = []
    for where, directories, files in os.walk(tree, onerror=_raise):
        directories.sort()
        here = Path(where)
        for name in (*directories, *files):
            mode = (here / name).lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise CheckpointError(
                    "vfat holds files and directories only",
                    f"/{(here / name).relative_to(tree)} of its content is neither",
                    "take it out of the image, or use another file system",
                )
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
            changed.append(f"/{readable(path.relative_to(tree))}")
        if kept:
            context.run(["mcopy", "-i", target, "-m", *kept, f"{inside}/"], env=env)
    if changed:
        named = ", ".join(changed[:_NAMED_FILES])
        more = len(changed) - _NAMED_FILES
        named += f" and {more} more" if more > 0 else ""
        context.warn(f"FAT has times of 1980 to 2107; the nearest is given to {named}")


def _xfs(context: Context, place: Place, tree: Path | None) -> None:
    volume = place.volume
    sector = f"size={place.layout.sector_size}"
    command = ["mkfs.xfs", "-q", "-m", f"uuid={volume.uuid}", "-s", sector]
    _move_in(context, place, [*command, *(("-L", volume.label) if volume.label else ())])
    if tree is not None:
        _fill_mounted(context, place, tree)


def _btrfs(context: Context, place: Place, tree: Path | None) -> None:
    volume = place.volume
    command = ["mkfs.btrfs", "-q", "-U", volume.uuid, "-L", volume.label]
    for pause_seconds in (*_DETACHING_SECONDS, None):
        try:
            _move_in(context, place, command)
            break
        except ToolFailed as error:
            if "non-unique UUID" not in error.output:
                raise
            if pause_seconds is None:
                raise CheckpointError(
                    f"this host has a btrfs file system with the UUID {volume.uuid} attached already",
                    "the kernel tells btrfs file systems by their UUIDs",
                    f"detach it (`blkid -U {volume.uuid}` names its device), or give the disk another"
                    ' id: <disk_image id="random" .../>',
                ) from error
        time.sleep(pause_seconds)
    if tree is not None:
        _fill_mounted(context, place, tree)


def _swap(context: Context, place: Place, tree: Path | None) -> None:
    volume = place.volume
    _move_in(context, place, ["mkswap", "-q", "-U", volume.uuid, "-L", volume.label])


def _move_in(context: Context, place: Place, command: list[str]) -> None:
    """Run the command on a sparse file of the partition's size, and put what it wrote into the disk."""
    alone = context.tmp / f"partition-{place.partition.number}"
    with alone.open("xb") as file:
        file.truncate(place.partition.size)
    try:
        context.run([*command, alone])
        copy_into(alone, place.disk, place.partition.start)
    finally:
        alone.unlink()


def _fill_mounted(context: Context, place: Place, tree: Path) -> None:
    partition = place.partition
    target = context.tmp / f"mounted-{partition.number}"
    target.mkdir()
    context.run(["mount", *mounted.mount_arguments(partition, read_only=False), place.disk, target])
    try:
        context.run([*_COPY, tree, target])
    finally:
        context.run(["umount", target])
    target.rmdir()


def _raise(error: OSError) -> None:
    raise error


_MAKERS: Mapping[FileSystem, Callable[[Context, Place, Path | None], None]] = {
    "ext4": _ext4,
    "vfat": _vfat,
    "xfs": _xfs,
    "btrfs": _btrfs,
    "swap": _swap,
}
