"""The file systems of a disk in a file, mounted as its installed system mounts them.

For work that only the kernel can do: changing files of a file system that exists, running its programs.
Call it in a mount namespace of your own (a worker has one). Each loop device belongs to its mount and goes
with it, so nothing is left whatever happens. FAT is left out: what is in an EFI system partition is for
mtools. On a read-only mount nothing at all is written to the disk, not even the time.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dcd.checkpoints.interface import Context
from dcd.checkpoints.vm.disk import DiskLayout, VolumePartition
from dcd.platform.inside import make_directory, resolve

TOOLS = ("losetup", "mount", "umount")
"""What it needs of the host."""

_FILE_SYSTEMS = ("ext4", "xfs", "btrfs")
_OPTIONS = {"xfs": ["nouuid"]}
"""Another disk with the same ids may be mounted on this host: that of another build of the manifest."""


@contextmanager
def mounted(context: Context, disk: Path, layout: DiskLayout, *, read_only: bool) -> Iterator[Path]:
    """The root of the disk's system. Raises ToolFailed when something cannot be mounted, which is so for
    a read-only mount of a file system that was not unmounted properly."""
    root = context.tmp / "mounted"
    root.mkdir(exist_ok=True)
    with ExitStack() as mounts:
        for where, partition in _in_order(layout):
            target = resolve(root, where) if read_only else make_directory(root, where)
            context.run(["mount", *mount_arguments(partition, read_only=read_only), disk, target])
            mounts.callback(context.run, ["umount", target])
        yield root
    root.rmdir()


def _in_order(layout: DiskLayout) -> list[tuple[str, VolumePartition]]:
    """Where which partition is mounted, outer ones first."""
    found = [
        (point, partition)
        for point, partition in layout.mounted.items()
        if partition.volume.type in _FILE_SYSTEMS
    ]
    return sorted(found, key=lambda each: (each[0].count("/"), len(each[0])))


def mount_arguments(partition: VolumePartition, *, read_only: bool) -> list[str]:
    """How mount(8) mounts the partition of a disk in a file, before disk and directory."""
    volume = partition.volume
    options = ["loop", f"offset={partition.start}", f"sizelimit={partition.size}", "nodev"]
    options += ["ro" if read_only else "rw", *_OPTIONS.get(volume.type, [])]
    return ["-t", volume.type, "-o", ",".join(options)]
