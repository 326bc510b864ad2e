"""A check that a disk holds an installed system, from its content instead of the installer's messages.

The disk was blank, so an untrusted guest has written its content: the file systems are checked by their own
programs before the kernel of the build host mounts them. Source: blkid(8), low-level
probing; e2fsck(8), xfs_repair(8), btrfs-check(8).
"""

from pathlib import Path

from dcd.checkpoints.interface import Context
from dcd.checkpoints.vm import gpt, mounted
from dcd.checkpoints.vm.disk import DiskLayout, VolumePartition
from dcd.platform.copying import copy_into
from dcd.platform.inside import resolve
from statemachine.errors import CheckpointError
from store.host.process import ToolFailed

TOOLS = ("blkid", "e2fsck", *mounted.TOOLS)
"""The checkers of xfs and btrfs are in the packages of their mkfs programs."""

_CHECKERS: dict[str, tuple[str, ...]] = {
    "xfs": ("xfs_repair", "-n", "-f"),
    "btrfs": ("btrfs", "check", "--readonly"),
}

_NOTHING_FOUND = 2
_SYSTEM = ("etc/fstab", "boot/grub/grub.cfg", "sbin/init")
"""Files of every system that boots by itself."""


def check_disk(context: Context, disk: Path, layout: DiskLayout) -> None:
    """Raise `CheckpointError` when the disk differs from its layout in its partitions or file systems, or has
    no system."""
    # The entries only: headers differ in the sectors that a tool considers usable.
    at, entries = gpt.table(layout)[2]
    with disk.open("rb") as file:
        file.seek(at)
        if file.read(len(entries)) != entries:
            raise _wrong("its partitions are not those of its layout")
    for partition in layout.volumes:
        _check_volume(context, disk, partition)
    for partition in layout.volumes:
        _check_structure(context, disk, partition)
    try:
        with mounted.mounted(context, disk, layout, read_only=True) as root:
            for name in _SYSTEM:
                file_there = resolve(root, name)
                if not file_there.is_file() or not file_there.stat().st_size:
                    raise _wrong(f"there is no /{name} on it")
    except ToolFailed as error:
        raise _wrong(f"its file systems cannot be read: {error.output}") from error


def _check_structure(context: Context, disk: Path, partition: VolumePartition) -> None:
    """Check the file system with its own program, which changes nothing. Raises `CheckpointError`."""
    kind = partition.volume.type
    alone = context.tmp / f"check-{partition.number}"
    try:
        if kind == "ext4":
            context.run(["e2fsck", "-f", "-n", f"{disk}?offset={partition.start}"], capture=True)
        elif checker := _CHECKERS.get(kind):
            with alone.open("xb") as file:
                file.truncate(partition.size)
            end = partition.start + partition.size
            copy_into(disk, alone, 0, begin=partition.start, end=end)
            context.run([*checker, alone], capture=True)
    except ToolFailed as error:
        raise _wrong(
            f"its file systems cannot be read: partition {partition.number} holds no sound {kind}:"
            f" {error.output}"
        ) from error
    finally:
        alone.unlink(missing_ok=True)


def _check_volume(context: Context, disk: Path, partition: VolumePartition) -> None:
    volume = partition.volume
    place = ("--offset", str(partition.start), "--size", str(partition.size))
    found = context.run(
        ["blkid", "--probe", "--output", "export", *place, disk],
        capture=True,
        ok=(0, _NOTHING_FOUND),
    ).stdout
    fields = dict(line.split("=", 1) for line in found.splitlines() if "=" in line)
    if (fields.get("TYPE"), fields.get("UUID", "").lower()) != (volume.type, volume.uuid.lower()):
        there = f"{fields['TYPE']} {fields.get('UUID', '')}" if "TYPE" in fields else "nothing"
        raise _wrong(
            f"partition {partition.number} was to hold {volume.type} {volume.uuid} and holds {there}"
        )


def _wrong(what: str) -> CheckpointError:
    return CheckpointError(
        "the installation reported success, but the disk does not hold the system",
        what,
        "the installer on the medium used another disk, or other settings than in its answers:"
        " see the console log in the evidence",
    )
