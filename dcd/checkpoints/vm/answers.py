"""The answers to an unattended installation, on a small medium that the installer finds by its label.

They have the layout of the disk, ids included, and the files with which the installed system starts from it:
fstab, the boot menu's settings. `dcd.checkpoints.image.installer_script` describes each file.
Source: sfdisk(8), "Script headers" and "Named-fields format".
"""

import shlex
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from dcd.checkpoints.image.installer_script import LABEL
from dcd.checkpoints.interface import Context
from dcd.checkpoints.mkisofs import MKISOFS
from dcd.checkpoints.times import source_date_epoch
from dcd.checkpoints.vm.disk import DiskLayout, VolumePartition
from dcd.checkpoints.vm.layout_checks import ESP

TOOLS = ("xorriso",)


def make_answers(
    context: Context, layout: DiskLayout, variables: Mapping[str, str], files: Path, result: Path
) -> None:
    """Make the medium. `variables` are for the shell, `files` is the tree that is copied over the installed
    system."""

    def dated(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.mtime = source_date_epoch(context, member.mtime)
        return member

    directory = context.tmp / "answers"
    directory.mkdir()
    (directory / "answers").write_text(
        "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items()), "utf-8"
    )
    (directory / "partitions").write_text(sfdisk_script(layout), "utf-8")
    (directory / "volumes").write_text(volumes_table(layout), "utf-8")
    with tarfile.open(directory / "files.tar", "w") as archive:
        for entry in sorted(files.rglob("*")):
            # Directories belong to the system; missing ones are made.
            if entry.is_symlink() or not entry.is_dir():
                name = str(entry.relative_to(files))
                archive.add(entry, name, recursive=False, filter=dated)
    context.run([*MKISOFS, "-r", "-V", LABEL, "-o", result, directory])


def sfdisk_script(layout: DiskLayout) -> str:
    """The script for sfdisk."""
    lines = ["label: gpt", f"label-id: {layout.uuid.upper()}", "unit: sectors", ""]
    for one in layout.partitions:
        fields = {
            "start": str(one.start // layout.sector_size),
            "size": str(one.size // layout.sector_size),
            "type": one.type.upper(),
            "uuid": one.uuid.upper(),
            **({"name": f'"{_escaped(one.label)}"'} if one.label else {}),
        }
        described = ", ".join(f"{name}={value}" for name, value in fields.items())
        lines.append(f"{one.number} : {described}")
    return "\n".join(lines) + "\n"


def volumes_table(layout: DiskLayout) -> str:
    """The volumes, a line each, outer mount points before those in them."""
    lines = []
    for one in sorted(layout.volumes, key=_depth):
        volume = one.volume
        fields = (str(one.number), volume.type, volume.uuid, volume.label, volume.mountpoint)
        lines.append("\t".join(field or "-" for field in fields))
    return "\n".join(lines) + "\n"


def esp_mountpoint(layout: DiskLayout) -> str:
    """The mount point of the EFI system partition; empty without one."""
    return next((point for point, one in layout.mounted.items() if one.type == ESP), "")


def _depth(partition: VolumePartition) -> tuple[int, int]:
    mountpoint = partition.volume.mountpoint
    depth = len(PurePosixPath(mountpoint).parts) if mountpoint else 99
    return depth, partition.number


def _escaped(label: str) -> str:
    return "".join(f"\\x{ord(c):02x}" if c in '"\\' else c for c in label)
