"""`DebianInstaller`: makes a live Debian system its own installer.

The installer does nothing on a live medium that is booted as usual. If a drive with answers is present at
boot, it installs without questions onto the disk that the answers name and no other; `InstallISCSI` boots the
medium so. This checkpoint belongs between those that configure the image and the one that compresses it.
`dcd.checkpoints.image.installer_script` describes installer and answers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from dcd.checkpoints import products
from dcd.checkpoints.architecture import check_hardware
from dcd.checkpoints.image.installer_script import (
    RULE,
    RULE_PATH,
    SCRIPT,
    SCRIPT_PATH,
    UNIT,
    UNIT_PATH,
)
from dcd.checkpoints.interface import Checkpoint, Context
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.doc import DataObjectCache
from dcd.platform.foreign import X86
from dcd.platform.inside import resolve, write
from statemachine.errors import CheckpointError

_PROGRAMS = {
    "sfdisk": "fdisk",
    "mke2fs": "e2fsprogs",
    "lsblk": "util-linux",
    "udevadm": "udev",
    "grub-install": "grub2-common",
    "update-grub": "grub2-common",
}
"""The programs that the installer always needs of the image, and their packages."""

_PLACES = ("usr/sbin", "usr/bin", "sbin", "bin")


@dataclass(frozen=True)
class DebianInstaller(Checkpoint):
    """Add an unattended installer to a live Debian image.

    The image needs the packages fdisk, grub2-common, and grub-pc-bin or grub-efi-amd64-bin for the
    firmware of the target machines; dosfstools for an EFI system partition, xfsprogs or
    btrfs-progs for these file systems.
    """

    DESCRIPTION = "Add an unattended installer to the image"
    EXPECTED_SECONDS = 1.0

    REQUIRES = (products.IMAGE,)
    PROVIDES = ()

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        yield from check_hardware(doc, self, "installs", only=X86)

    def execute(self, context: Context) -> None:
        image = context.pkg_image
        lacking = {
            package
            for program, package in _PROGRAMS.items()
            if not any(resolve(image, f"{place}/{program}").is_file() for place in _PLACES)
        }
        if lacking:
            names = " and ".join(f"<name>{name}</name>" for name in sorted(lacking))
            raise CheckpointError(
                "the image lacks programs to install itself",
                f"it has nothing of {', '.join(sorted(lacking))}",
                f"add {names} to the transfer",
            )
        write(image, SCRIPT_PATH, SCRIPT, mode=0o755)
        write(image, UNIT_PATH, UNIT)
        write(image, RULE_PATH, RULE)
