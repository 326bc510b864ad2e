"""GRUB's boot images, made by grub-mkimage; those for live media from the host's GRUB modules.

Media have one image for BIOS (El Torito, and after a hybrid boot record) and one EFI system partition.
Each has its modules, finds the medium by a file that only this medium has, and reads boot/grub/grub.cfg
from it. The same input gives the same bytes.
Source: grub-mkimage(1), the GRUB manual; mformat(1), mcopy(1).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from dcd.checkpoints.interface import Context
from dcd.checkpoints.times import fat_environment

TOOLS = ("grub-bios", "grub-efi", "grub-mkimage", "mformat", "mcopy")
"""The tools that it needs, as named in `store.host.tools`."""

MODULES = Path("/usr/lib/grub")
"""GRUB's modules for each platform, as the packages grub-pc-bin and grub-efi-amd64-bin install them."""

HYBRID_RECORD = MODULES / "i386-pc/boot_hybrid.img"
"""The boot record that starts the BIOS image when the medium is a USB stick."""

MENU = (
    *("all_video", "boot", "configfile", "echo", "gfxterm", "halt", "linux", "ls", "minicmd"),
    *("normal", "reboot", "search", "search_fs_file", "serial", "sleep", "terminal", "test"),
)
"""The modules for a menu that starts Linux."""
_MEDIUM = ("fat", "iso9660", "part_gpt", "part_msdos")
_FLOPPY_KIB = 2880
"""The size of a floppy disk, which all firmware can read."""
_TRACK_KIB = 64 * 32 // 2
"""64 heads of 32 sectors, as in tables of partitions."""
_CLUSTER_BYTES = 4096


def find_medium(marker: str) -> str:
    """GRUB's early configuration: the medium is the one that has the file `marker`."""
    return f"search --no-floppy --file --set=root {marker}\nset prefix=($root)/boot/grub\n"


def bios_image(context: Context, marker: str, result: Path) -> None:
    """Make the image that BIOS starts, from a CD by El Torito or from a stick by `HYBRID_RECORD`."""
    modules = ("biosdisk", *_MEDIUM, *MENU)
    core_image(context, "i386-pc-eltorito", modules, find_medium(marker), result)


def uefi_program(context: Context, marker: str) -> Path:
    """Make the program that UEFI firmware starts from the medium."""
    program = context.tmp / "BOOTX64.EFI"
    modules = ("efi_gop", "efi_uga", *_MEDIUM, *MENU)
    core_image(context, "x86_64-efi", modules, find_medium(marker), program)
    return program


def efi_system_partition(
    context: Context, files: Mapping[PurePosixPath, Path], epoch: int, result: Path
) -> None:
    """Make a FAT file system with these files, by their paths there. Its times and serial number come from
    the Unix time `epoch`."""
    serial = f"{epoch & 0xFFFFFFFF:08x}"
    env = fat_environment(epoch)
    needed_kib = sum(-(-file.stat().st_size // _CLUSTER_BYTES) for file in files.values()) * 4 + 256
    if needed_kib <= _FLOPPY_KIB:
        size = ["-f", str(_FLOPPY_KIB)]
    else:
        tracks = -(-needed_kib // _TRACK_KIB)
        size = ["-t", str(tracks), "-h", "64", "-s", "32", "-c", str(_CLUSTER_BYTES // 512)]
    context.run(["mformat", "-C", "-i", result, *size, "-N", serial, "-v", "EFI", "::"], env=env)
    directories = {parent for path in files for parent in path.parents if parent.name}
    context.run(["mmd", "-i", result, *(f"::{each}" for each in sorted(directories))], env=env)
    for path, file in files.items():
        context.run(["mcopy", "-i", result, file, f"::{path}"], env=env)


def core_image(
    context: Context,
    target: str,
    modules: Sequence[str],
    configuration: str,
    result: Path,
    directory: Path | None = None,
) -> None:
    """Make GRUB's image for `target` (of grub-mkimage --format) with these modules, from `directory` or the
    host. It runs `configuration` first."""
    early = context.tmp / f"{target}.cfg"
    early.write_text(configuration, "utf-8")
    own: list[str | Path] = ["--directory", directory] if directory else []
    context.run(
        [
            *("grub-mkimage", "--format", target, "--output", result),
            *(*own, "--prefix", "/boot/grub", "--config", early, *modules),
        ]
    )
