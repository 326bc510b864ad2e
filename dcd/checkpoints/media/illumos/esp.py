"""The EFI system partition of media of illumos: a FAT file system with the loaders of the image.

Source: UEFI specification, 3.5.1.1; kayak and image-builder, which make the same by pcfs.
"""

from pathlib import Path

from dcd.checkpoints.illumos_host import UEFI_LOADERS
from dcd.checkpoints.interface import Context
from dcd.checkpoints.times import fat_environment
from dcd.platform.inside import regular_file

IMAGE = "boot/efiboot.img"

_LEAST_KIB = 2880
_FREE_KIB = 256


def uefi_loaders(image: Path) -> dict[str, Path]:
    """The loaders for UEFI that the image has, by their names in the partition."""
    found = ((name, regular_file(image, path)) for path, name in UEFI_LOADERS.items())
    return {name: file for name, file in found if file is not None}


def write_esp(context: Context, loaders: dict[str, Path], epoch: int, target: Path) -> None:
    """Make the file system, with times and a serial number from the Unix time `epoch`."""
    content = sum(file.stat().st_size for file in loaders.values()) >> 10
    # Whole sectors of the ISO, two sectors of 512 bytes for a KiB.
    size_kib = max(_LEAST_KIB, -(-(content + _FREE_KIB) // 64) * 64)
    env = fat_environment(epoch)
    serial = f"{epoch & 0xFFFFFFFF:08x}"
    with target.open("wb") as image:
        image.truncate(size_kib << 10)
    context.run(
        [
            *("mformat", "-i", target, "-T", str(size_kib * 2), "-h", "2", "-s", "36"),
            *("-N", serial, "-v", "ESP", "::"),
        ],
        env=env,
    )
    context.run(["mmd", "-i", target, "::efi", "::efi/boot"], env=env)
    for name, file in sorted(loaders.items()):
        context.run(["mcopy", "-i", target, file, f"::efi/boot/{name}"], env=env)
