"""The file systems of a disk in a file, mounted as in its installed system.

For work that only the kernel can do: to change files of an existing file system, and to run its programs.
It needs a mount namespace of its own (a worker has one). Each loop device ends with its mount, so nothing
remains in any case. FAT is not mounted: mtools reads the EFI system partition. A read-only mount writes
nothing to the disk, not even a time. What LUKS encrypts cannot be mounted on the host, and is left out.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dcd.checkpoints.interface import Context
from dcd.checkpoints.vm.disk import DiskLayout, Subvolume, VolumePartition
from dcd.platform.inside import make_directory, resolve

TOOLS = ("losetup", "mount", "umount")
"""The tools that it needs."""

_FILE_SYSTEMS = ("ext4", "xfs", "btrfs")
_OPTIONS = {"xfs": ["nouuid"]}
"""A disk with the same ids, of another build of the manifest, may be mounted on this host."""


@contextmanager
def mounted(context: Context, disk: Path, layout: DiskLayout, *, read_only: bool) -> Iterator[Path]:
    """The root of the disk's system. Raises ToolFailed when a mount fails, such as a read-only mount of a
    file system that was not unmounted properly."""
    root = context.tmp / "mounted"
    root.mkdir(exist_ok=True)
    with ExitStack() as mounts:
        for where, partition in _in_order(layout):
            target = resolve(root, where) if read_only else make_directory(root, where)
            subvolume = partition.volume.mounts[where]
            arguments = mount_arguments(partition, read_only=read_only, subvolume=subvolume)
            context.run(["mount", *arguments, disk, target])
            mounts.callback(context.run, ["umount", target])
        yield root
    root.rmdir()


def _in_order(layout: DiskLayout) -> list[tuple[str, VolumePartition]]:
    """The mount points with their partitions, outer ones first."""
    found = [
        (point, partition)
        for point, partition in layout.mounted.items()
        if partition.volume.type in _FILE_SYSTEMS and not partition.encrypted
    ]
    return sorted(found, key=lambda each: (each[0].count("/"), len(each[0])))


def mount_arguments(
    partition: VolumePartition, *, read_only: bool, subvolume: Subvolume | None = None
) -> list[str]:
    """The arguments of mount(8) for a volume of a disk in a file, before disk and directory."""
    volume = partition.volume
    options = ["loop", f"offset={partition.start}", f"sizelimit={partition.size}", "nodev"]
    options += ["ro" if read_only else "rw", *_OPTIONS.get(volume.type, [])]
    options += [] if subvolume is None else [f"subvol={subvolume.name}"]
    return ["-t", volume.type, "-o", ",".join(options)]
