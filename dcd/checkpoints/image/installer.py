"""`DebianInstaller`: makes a live Debian system its own installer.

What is added does nothing on a live medium that is booted as usual. It installs when a drive with answers is
there at boot, without asking, onto the disk that these name and no other; `InstallISCSI` boots the medium so.
It belongs between the checkpoints that configure the image and the one that compresses it. What the
installer is, and what answers are, is in `dcd.checkpoints.image.installer_script`.
"""

from dataclasses import dataclass
from pathlib import Path

from dcd.checkpoints import products
from dcd.checkpoints.image.installer_script import (
    RULE,
    RULE_PATH,
    SCRIPT,
    SCRIPT_PATH,
    UNIT,
    UNIT_PATH,
)
from dcd.checkpoints.interface import Checkpoint, Context
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
"""What the installer needs of the image whatever it installs, and the packages that bring it."""

_PLACES = ("usr/sbin", "usr/bin", "sbin", "bin")


@dataclass(frozen=True)
class DebianInstaller(Checkpoint):
    """Add an unattended installer to a live Debian image.

    The image needs the packages fdisk, grub2-common, and grub-pc-bin or grub-efi-amd64-bin for the
    firmware of the machines it is installed on; dosfstools for an EFI system partition, xfsprogs or
    btrfs-progs for these file systems.
    """

    DESCRIPTION = "Add an unattended installer to the image"
    EXPECTED_SECONDS = 1.0

    REQUIRES = (products.IMAGE,)
    PROVIDES = ()

    def execute(self, context: Context) -> None:
        image = context.pkg_image
        _check_programs(image)
        write(image, SCRIPT_PATH, SCRIPT, mode=0o755)
        write(image, UNIT_PATH, UNIT)
        write(image, RULE_PATH, RULE)


def _check_programs(image: Path) -> None:
    lacking = {
        package
        for program, package in _PROGRAMS.items()
        if not any(resolve(image, f"{place}/{program}").is_file() for place in _PLACES)
    }
    if lacking:
        raise CheckpointError(
            "the image lacks what it needs to install itself",
            f"it has nothing of {', '.join(sorted(lacking))}",
            f"add {' and '.join(f'<name>{name}</name>' for name in sorted(lacking))} to the transfer",
        )
