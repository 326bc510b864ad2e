"""GRUB's boot images, made by grub-mkimage.

Media have one EFI system partition, and for PCs an image for BIOS (El Torito, and after a hybrid boot
record). GRUB's modules for PCs are the host's. Those of other architectures come from the image: Debian has
their packages for that architecture only, while any grub-mkimage makes their programs.
Each has its modules, finds the medium by a file that only this medium has, and reads boot/grub/grub.cfg
from it. The same input gives the same bytes.
Source: grub-mkimage(1), the GRUB manual; mformat(1), mcopy(1).
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath

from dcd.checkpoints.interface import Context
from dcd.checkpoints.times import fat_environment
from dcd.platform.hardware import PC, Hardware
from dcd.platform.hypervisor import Firmware
from dcd.platform.inside import resolve
from statemachine.errors import CheckpointError

TOOLS = ("grub-mkimage", "mformat", "mcopy")
PC_TOOLS = ("grub-bios", "grub-efi", *TOOLS)
"""The tools that media need, those for PCs too, as named in `store.host.tools`."""

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


def uefi_program(context: Context, machine: Hardware, marker: str) -> Path:
    """Make the program that UEFI firmware of the machine starts from the medium."""
    program = context.tmp / machine.uefi_program
    modules = (*machine.video, *_MEDIUM, *MENU)
    early, directory = find_medium(marker), uefi_modules(context, machine)
    core_image(context, machine.grub["uefi"], modules, early, program, directory)
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


def uefi_modules(context: Context, machine: Hardware) -> Path | None:
    """The directory of GRUB's modules for UEFI; None: the host's, for PCs. Raises `CheckpointError` when they
    should be in the image and are not."""
    if machine is PC:
        return None
    check_modules(context.pkg_image, machine, ["uefi"])
    return modules_in(context.pkg_image, machine.grub["uefi"])


def modules_in(image: Path, platform: str) -> Path | None:
    """The directory of GRUB's modules for a platform in the image; None when it has none. Raises
    `CheckpointError` for a link among them, which grub-mkimage would follow on the build host."""
    directory = resolve(image, f"usr/lib/grub/{platform}")
    if not resolve(image, f"usr/lib/grub/{platform}/moddep.lst").is_file():
        return None
    for file in directory.iterdir():
        if file.is_symlink():
            raise CheckpointError(
                f"{file.name} of the image's boot loader is a link",
                f"{file} leads to {file.readlink()}",
                "install the unmodified packages of the boot loader",
            )
    return directory


def check_modules(image: Path, machine: Hardware, firmware: Collection[Firmware]) -> None:
    """Raise `CheckpointError` when the image lacks GRUB's modules for one of the kinds of firmware."""
    lacking = [
        machine.packages[kind]
        for kind in sorted(firmware)
        if modules_in(image, machine.grub[kind]) is None
    ]
    if lacking:
        raise CheckpointError(
            "the image has no boot loader",
            f"its /usr/lib/grub has no files of {', '.join(lacking)}",
            f"add {' and '.join(f'<name>{name}</name>' for name in lacking)} to the transfer",
        )


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
