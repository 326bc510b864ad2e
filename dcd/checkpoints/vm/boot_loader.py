"""GRUB on the disk of a virtual machine, for BIOS and UEFI, without grub-install.

GRUB comes from the image's own packages, so that the boot loader, the modules in /boot/grub and the later
menus of `update-grub` agree. For BIOS, boot.img goes into the first sector and the core image into
the BIOS boot partition; for UEFI, one program goes to the default path of all firmware. Both find the menu
by the UUID of its file system, on any controller.
Source: the GRUB manual, "Images", "BIOS installation"; GRUB's boot.S and diskboot.S for the fields that
grub-install sets; UEFI specification 2.10, 3.5.1.1.
"""

import shutil
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dcd.checkpoints import secure_boot
from dcd.checkpoints.architecture import hardware
from dcd.checkpoints.interface import Context
from dcd.checkpoints.media.grub import MENU, core_image
from dcd.checkpoints.vm.disk import DiskLayout, FileSystem, VolumePartition
from dcd.checkpoints.vm.gpt import BOOT_CODE_BYTES
from dcd.checkpoints.vm.layout_checks import BIOS_BOOT
from dcd.platform.hardware import Hardware
from dcd.platform.hypervisor import Firmware
from dcd.platform.inside import make_directory, resolve
from statemachine.errors import CheckpointError

TOOLS = ("grub-mkimage",)

_LOGICAL = ("lvm",)
_DISK = ("part_gpt", "search_fs_uuid", "fat")
_READERS: Mapping[FileSystem, tuple[str, ...]] = {
    "ext4": ("ext2",),
    "xfs": ("xfs",),
    "btrfs": ("btrfs",),
    "vfat": (),
}

_SECTOR_BYTES = 512
_KERNEL_SECTOR = 0x5C
"""In boot.img: the sector (8 bytes) where the core image begins."""
_DRIVE_CHECK = 0x66
"""In boot.img: a jump over the correction of the drive's number, which only old BIOSes need."""
_FIRST_BLOCK_LIST = _SECTOR_BYTES - 12
"""In the core image's first sector: the sector (8 bytes) where the rest of it begins."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a path of the installed system: its partition, and the path there."""

    partition: VolumePartition
    path: PurePosixPath

    @property
    def find(self) -> str:
        """GRUB's command that makes the file system its root.

        A logical volume is named too: where a floppy drive has no disk, as in QEMU's machine `pc`, GRUB 2.06
        does not find it by its UUID alone, since its search for groups ends at the error of the drive."""
        logical = self.partition.logical
        hint = f"--hint lvm/{logical.replace('/', '-')} " if logical else ""
        return f"search --no-floppy --fs-uuid --set=root {hint}{self.partition.volume.uuid}"


def place_of(layout: DiskLayout, path: str) -> Place:
    """The place of a path of the installed system. Raises `CheckpointError` without a root."""
    wanted = PurePosixPath(path)
    for point in (wanted, *wanted.parents):
        partition = layout.mounted_at(str(point))
        if partition is not None:
            subvolume = partition.volume.mounts[str(point)]
            top = PurePosixPath("/") / (subvolume.name if subvolume else "")
            return Place(partition, top / wanted.relative_to(point))
    raise CheckpointError(
        "the disk has no root file system to install to",
        "none of its partitions is mounted at /",
        'give one <format type="ext4" mountpoint="/"/>',
    )


def copy_modules(image: Path, machine: Hardware, firmware: Collection[Firmware]) -> None:
    """Copy GRUB's modules into the image's /boot/grub, for the menu."""
    for kind in sorted(firmware):
        platform = machine.grub[kind]
        directory = make_directory(image, f"boot/grub/{platform}")
        source = resolve(image, f"usr/lib/grub/{platform}")
        for file in sorted([*source.glob("*.mod"), *source.glob("*.lst")]):
            shutil.copyfile(file, directory / file.name)


def uefi_files(context: Context, layout: DiskLayout, epoch: int) -> dict[PurePosixPath, Path]:
    """The files of the EFI system partition, by their paths there."""
    machine = hardware(context.doc)
    if unified := secure_boot.unified_of(context):
        return {machine.uefi_path: unified}
    way = secure_boot.way_of(context.doc)
    if way is None:
        program = context.tmp / machine.uefi_program
        _core(context, machine.grub["uefi"], machine.video, layout, program)
        return {machine.uefi_path: program}
    to_menu = f"{_find_menu(place_of(layout, '/boot/grub'))}configfile $prefix/grub.cfg\n"
    return secure_boot.programs(context, way, to_menu, epoch)


def install_for_bios(context: Context, disk: Path, layout: DiskLayout) -> None:
    """Write boot.img and the core image. Raises `CheckpointError` when that does not fit."""
    partition = next(one for one in layout.partitions if one.type == BIOS_BOOT)
    result = context.tmp / "core.img"
    _core(context, "i386-pc", ("biosdisk",), layout, result)
    core = bytearray(result.read_bytes())
    if len(core) > partition.size:
        brief = f"GRUB does not fit into the BIOS boot partition ({partition.number})"
        details = f"it has {len(core)} bytes, the partition {partition.size}"
        raise CheckpointError(brief, details, "make that partition 1mb")
    first = partition.start // _SECTOR_BYTES
    struct.pack_into("<Q", core, _FIRST_BLOCK_LIST, first + 1)
    image = resolve(context.pkg_image, "usr/lib/grub/i386-pc/boot.img")
    boot = bytearray(image.read_bytes()[:BOOT_CODE_BYTES])
    struct.pack_into("<Q", boot, _KERNEL_SECTOR, first)
    struct.pack_into("2s", boot, _DRIVE_CHECK, b"\x90\x90")
    with disk.open("r+b") as file:
        file.write(boot)
        file.seek(partition.start)
        file.write(core)


def _find_menu(place: Place) -> str:
    """GRUB's first commands, for a menu at that place."""
    return f"{place.find}\nset prefix=($root){place.path}\n"


def _core(
    context: Context, platform: str, modules: Sequence[str], layout: DiskLayout, result: Path
) -> None:
    place = place_of(layout, "/boot/grub")
    partition = place.partition
    readers = (*_READERS[partition.volume.type], *(_LOGICAL if partition.logical else ()))
    core_image(
        context,
        platform,
        (*modules, *_DISK, *readers, *MENU),
        _find_menu(place),
        result,
        resolve(context.pkg_image, f"usr/lib/grub/{platform}"),
    )
