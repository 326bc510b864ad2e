"""The space that an image takes in its volumes, and a check for it before the first write.

Each entry of the image belongs to the volume that is mounted nearest above it. The overhead of a file system
(inode tables, journal, metadata) is a generous estimate from the layout that its tool makes; a reserve is
added, because a system with a full disk does not start.
Source: mke2fs(8), mkfs.xfs(8), mkfs.btrfs(8).
"""

import os
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dcd.checkpoints.vm.disk import FileSystem, VolumePartition
from dcd.checkpoints.vm.volume_rules import GIB, MIB, mib
from dcd.checkpoints.vm.volumes import BLOCK_BYTES, bytes_per_inode
from statemachine.errors import CheckpointError
from store.host.sparse import data_ranges

_SHORTEST_LINK_WITH_BLOCK = 60
_EXT4_JOURNALS = (
    (128 * MIB, 4 * MIB),
    (GIB, 16 * MIB),
    (2 * GIB, 32 * MIB),
    (16 * GIB, 64 * MIB),
    (32 * GIB, 128 * MIB),
    (64 * GIB, 256 * MIB),
)
_LARGEST_EXT4_JOURNAL = GIB
_EXT4_INODE_BYTES, _XFS_INODE_BYTES, _BTRFS_ENTRY_BYTES = 256, 512, 2048
_RESERVE = 0.05


@dataclass
class Contents:
    """The content of a volume: entries, and bytes in full blocks."""

    entries: int = 0
    size_bytes: int = 0

    def add(self, size_bytes: int) -> None:
        """Add an entry of that many bytes."""
        self.entries += 1
        self.size_bytes += -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


@dataclass(frozen=True, slots=True)
class Survey:
    """The contents of an image, by the directory where each volume is mounted, and the time of its newest
    entry, in nanoseconds since 1970."""

    volumes: Mapping[Path, Contents]
    newest_ns: int


def entries_below(directory: Path) -> Iterator[os.DirEntry[str]]:
    """All entries of a tree, each directory followed by its own entries. Links are not followed."""
    with os.scandir(directory) as found:
        for one in found:
            yield one
            if one.is_dir(follow_symlinks=False):
                yield from entries_below(Path(one.path))


def survey(image: Path, mountpoints: Collection[Path]) -> Survey:
    """Read every entry of the image once. `mountpoints` are the directories of the image where volumes are
    mounted, and the image itself."""
    volumes = {path: Contents() for path in mountpoints}
    newest_ns = image.stat().st_mtime_ns
    seen: set[tuple[int, int]] = set()
    pending = [(image, volumes[image])]
    while pending:
        directory, contents = pending.pop()
        contents.add(BLOCK_BYTES)
        with os.scandir(directory) as found:
            for one in found:
                status = one.stat(follow_symlinks=False)
                newest_ns = max(newest_ns, status.st_mtime_ns)
                if stat.S_ISDIR(status.st_mode):
                    path = Path(one.path)
                    pending.append((path, volumes.get(path, contents)))
                    continue
                identity = (status.st_dev, status.st_ino)
                if status.st_nlink > 1 and identity in seen:
                    continue
                seen.add(identity)
                contents.add(_allocated(one.path, status))
    return Survey(volumes, newest_ns)


def check_room(partition: VolumePartition, contents: Contents) -> None:
    """Raise `CheckpointError`, with numbers, when the partition is too small for the contents."""
    kind, size = partition.volume.type, partition.size
    overhead, reserve = _overhead(kind, size, contents.entries), int(size * _RESERVE)
    details = (
        f"it needs {mib(contents.size_bytes)} for {contents.entries} files and directories, "
        f"{mib(overhead)} for {kind} itself and {mib(reserve)} as a reserve"
    )
    if kind == "ext4" and contents.entries > _inodes(size):
        details += f"; ext4 of that size has room for {_inodes(size)} files"
    elif contents.size_bytes + overhead + reserve <= size:
        return
    raise CheckpointError(
        f"the image does not fit into {partition.title} "
        f"({', '.join(partition.volume.mounts)}, {mib(size)})",
        details,
        f"make it (and the disk) at least {mib(_enough(kind, contents))} in the manifest's "
        "target, or take something out of the image",
    )


def _enough(kind: FileSystem, contents: Contents) -> int:
    """A size that is large enough, in steps of 16 MiB."""
    size = contents.size_bytes // (16 * MIB) * (16 * MIB)
    while contents.size_bytes + _overhead(kind, size, contents.entries) + int(
        size * _RESERVE
    ) > size or (kind == "ext4" and contents.entries > _inodes(size)):
        size += 16 * MIB
    return size


def _overhead(kind: FileSystem, size: int, entries: int) -> int:
    match kind:
        case "ext4":
            journal = next((j for most, j in _EXT4_JOURNALS if size < most), _LARGEST_EXT4_JOURNAL)
            descriptors = min(8 * MIB, size // 64) + size // 256
            return journal + _inodes(size) * _EXT4_INODE_BYTES + descriptors
        case "xfs":
            return max(64 * MIB, size // 2048) + entries * _XFS_INODE_BYTES + size // 128
        case "btrfs":
            metadata = max(32 * MIB, min(256 * MIB, size // 20), entries * _BTRFS_ENTRY_BYTES)
            return 2 * metadata + 32 * MIB
        case _:
            return MIB + size // 64


def _inodes(size: int) -> int:
    return size // bytes_per_inode(size)


def _allocated(path: str, status: os.stat_result) -> int:
    """The bytes of an entry that take space, without holes of a file and short links."""
    if stat.S_ISLNK(status.st_mode):
        return status.st_size if status.st_size >= _SHORTEST_LINK_WITH_BLOCK else 0
    if not stat.S_ISREG(status.st_mode):
        return 0
    if status.st_blocks * 512 >= status.st_size:
        return status.st_size
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        return sum(end - start for start, end in data_ranges(descriptor, status.st_size))
    finally:
        os.close(descriptor)
