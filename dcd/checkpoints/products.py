"""What checkpoints make for those after them, by name, so that planning knows what an order cannot work.

A checkpoint says what it needs of earlier ones (`Checkpoint.requires`) and what it makes
(`Checkpoint.provides`). Names of products are texts: a plug-in may add its own. Pure data.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Odds = Literal["surely", "perhaps", "hardly"]
"""Whether a checkpoint makes a product. `perhaps` is what a manifest does not say, and nobody is told;
`hardly` is unlikely, and a need for it is warned of."""

Provided = Mapping[str, Odds]

IMAGE = "image"
KERNEL = "kernel"
LIVE_BOOT = "live_boot"
BOOT_ARCHIVE = "boot_archive"
KERNEL_RECORD = "kernel_record"
BOOT_MENU = "boot_menu"
SQUASHFS = "squashfs"
ISO = "iso"
USB = "usb"
DISK = "disk"
GRUB = {"bios": "grub_bios", "uefi": "grub_uefi"}


@dataclass(frozen=True, slots=True)
class Product:
    """A product for people: a noun phrase, and how to get one."""

    name: str
    remedy: str


PRODUCTS: Mapping[str, Product] = {
    IMAGE: Product("an image", "run a transfer (TransferDEB, TransferIPS, TransferArchive) before"),
    KERNEL: Product(
        "a kernel in the image",
        "add a kernel to the packages of the transfer, such as <name>linux-image-amd64</name>",
    ),
    LIVE_BOOT: Product(
        "live-boot in the image, without which a live medium does not start",
        "add <name>live-boot</name> to the packages of the transfer",
    ),
    BOOT_ARCHIVE: Product(
        "a boot archive, which is kernel and initramfs",
        "run a checkpoint that makes it (DebianBootArchive) before",
    ),
    KERNEL_RECORD: Product(
        "a boot archive with a kernel of the image",
        "run a checkpoint that makes it (DebianBootArchive) before",
    ),
    BOOT_MENU: Product("a boot menu", "run a checkpoint that writes it (GrubBootMenu) before"),
    SQUASHFS: Product(
        "the compressed image", "run a checkpoint that makes it (SquashfsPkgImgMod) before"
    ),
    ISO: Product("an ISO", "run a checkpoint that makes it (CreateISO) before"),
    USB: Product("the image of a USB stick", "run a checkpoint that makes it (CreateUSB) before"),
    DISK: Product("a disk", "run a checkpoint that makes it (CreateDisk) before"),
    GRUB["bios"]: Product(
        "GRUB for BIOS in the image",
        "add <name>grub-pc-bin</name> to the packages of the transfer",
    ),
    GRUB["uefi"]: Product(
        "GRUB for UEFI in the image",
        "add <name>grub-efi-amd64-bin</name> to the packages of the transfer",
    ),
}
"""Beside these there are the formats of a machine's disk, by kind: `qcow2`, `ova`."""

IN_AREAS: Mapping[str, tuple[str, ...]] = {
    "PKG_IMAGE_PATH": (IMAGE, KERNEL, LIVE_BOOT, *GRUB.values()),
    # Whoever makes a boot archive can have made it without a kernel in the image.
    "BOOT_ARCHIVE": (BOOT_ARCHIVE, KERNEL, LIVE_BOOT),
    "MEDIA_DIR": (BOOT_MENU, SQUASHFS),
}
"""Which products are files of an area of the workspace, so that whoever writes there can make them."""


def product(name: str) -> Product:
    """The product of that name; one of a plug-in goes by its name."""
    return PRODUCTS.get(name, Product(name, f"run a checkpoint that makes {name} before"))


def in_area(path: str, odds: Odds = "perhaps") -> Provided:
    """What whoever puts files into a directory of the workspace (`{BOOT_ARCHIVE}/x`) can make by that."""
    for area, made in IN_AREAS.items():
        if f"{{{area}}}" in path:
            return dict.fromkeys(made, odds)
    return {name: odds for made in IN_AREAS.values() for name in made}
