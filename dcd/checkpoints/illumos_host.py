"""The build host, and what an image of illumos is for: its machines and its boot loader."""

import platform
from pathlib import Path
from typing import Literal

from dcd.platform.inside import exists, regular_file
from statemachine.errors import CheckpointError

BootLoader = Literal["loader", "grub"]

BIOS_BOOT: dict[BootLoader, str] = {"loader": "boot/cdboot", "grub": "boot/grub/stage2_eltorito"}
"""The file of the image that BIOS starts from a CD."""
UEFI_LOADERS = {"boot/loader64.efi": "bootx64.efi", "boot/loader32.efi": "bootia32.efi"}
"""The loaders for UEFI in the image, and their names where firmware looks for them."""


def is_illumos() -> bool:
    """Whether the build host runs illumos, so that its own tools (lofiadm, newfs, svccfg) can be used."""
    return platform.system() == "SunOS"


def refuse_sparc(image: Path) -> None:
    """Raise `CheckpointError` for an image that is for SPARC only."""
    if not exists(image, "platform/i86pc") and exists(image, "platform/sun4u"):
        raise CheckpointError(
            "the image is for SPARC machines, for which dcd makes no media",
            "it has /platform/sun4u and no /platform/i86pc",
            "build for x86, or stop before this checkpoint: dcctl submit --pause-before",
        )


def boot_loader(image: Path) -> BootLoader:
    """The boot loader of the image: illumos' loader, or the GRUB 0.97 of images before 2016. Raises
    `CheckpointError` for none."""
    if any(regular_file(image, path) for path in (BIOS_BOOT["loader"], *UEFI_LOADERS)):
        return "loader"
    if regular_file(image, BIOS_BOOT["grub"]):
        return "grub"
    raise CheckpointError(
        "the image has no boot loader for media",
        f"it has none of these: {', '.join((*BIOS_BOOT.values(), *UEFI_LOADERS))}",
        "add the loader to the packages of the transfer: system/boot/loader (images before 2016: "
        "system/boot/grub)",
    )
