"""The products that checkpoints make for later ones, by name, so that planning detects an impossible order.

A checkpoint declares the products that it needs (`Checkpoint.requires`) and makes (`Checkpoint.provides`).
Their names are texts: a plug-in may add its own. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from statemachine.errors import CheckpointError

Odds = Literal["surely", "perhaps", "hardly"]
"""Whether a checkpoint makes a product. `perhaps`: the manifest does not determine it, and there is no
warning. `hardly`: it is unlikely, and a need for it is a warning."""

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
NETBOOT = "netboot"
DISK = "disk"
ARCHIVE_TREE = "illumos_archive_tree"
ARCHIVE_SETTINGS = "illumos_archive_settings"
RAMDISK = "illumos_ramdisk"
ILLUMOS_MENU = "illumos_menu"
LIVE_ROOT = "illumos_live_root"
CRYPTSETUP = "cryptsetup"
LVM = "lvm"
VERITYSETUP = "veritysetup"
GRUB = {"bios": "grub_bios", "uefi": "grub_uefi"}
SHIM = "shim"
SIGNED_SHIM = "signed_shim"
SIGNED_GRUB = "signed_grub"
STUB = "stub"
UNIFIED = "unified"


@dataclass(frozen=True, slots=True)
class Product:
    """A product in messages: a noun phrase, and the way to get one."""

    name: str
    remedy: str


def _made_by(name: str, checkpoint: str, verb: str = "makes") -> Product:
    return Product(name, f"run a checkpoint that {verb} it ({checkpoint}) before")


def _in_package(name: str, package: str) -> Product:
    return Product(name, f"add <name>{package}</name> to the packages of the transfer")


PRODUCTS: Mapping[str, Product] = {
    IMAGE: Product("an image", "run a transfer (TransferDEB, TransferIPS, TransferArchive) before"),
    KERNEL: Product(
        "a kernel in the image",
        "add a kernel to the packages of the transfer, such as <name>linux-image-amd64</name>",
    ),
    LIVE_BOOT: _in_package(
        "live-boot in the image, without which a live medium does not start", "live-boot"
    ),
    BOOT_ARCHIVE: _made_by("a boot archive, which is kernel and initramfs", "DebianBootArchive"),
    KERNEL_RECORD: _made_by("a boot archive with a kernel of the image", "DebianBootArchive"),
    BOOT_MENU: _made_by("a boot menu", "GrubBootMenu", "writes"),
    SQUASHFS: _made_by("the compressed image", "SquashfsPkgImgMod"),
    ISO: _made_by("an ISO", "CreateISO"),
    USB: _made_by("the image of a USB stick", "CreateUSB"),
    NETBOOT: _made_by("a netboot kit", "NetbootKit"),
    DISK: _made_by("a disk", "CreateDisk"),
    ARCHIVE_TREE: _made_by("the contents of the boot archive", "TransferCPIO", "copies"),
    ARCHIVE_SETTINGS: _made_by(
        "a configured boot archive", "TextBootArchiveConfigure and others", "configures"
    ),
    RAMDISK: _made_by("a boot archive for the kernel of illumos", "BootArchiveArchive"),
    ILLUMOS_MENU: _made_by("a boot menu", "TextISOImageBootMenu and others", "writes"),
    LIVE_ROOT: _made_by("the contents of the medium", "TextPkgImgMod and others"),
    CRYPTSETUP: _in_package(
        "cryptsetup in the initramfs, which opens the encrypted disk", "cryptsetup-initramfs"
    ),
    LVM: _in_package("lvm2 in the image, which opens the volume group", "lvm2"),
    VERITYSETUP: _in_package(
        "veritysetup in the image, which opens the verified root", "cryptsetup-bin"
    ),
    GRUB["bios"]: _in_package("GRUB for BIOS in the image", "grub-pc-bin"),
    GRUB["uefi"]: Product(
        "GRUB for UEFI in the image",
        "add it to the packages of the transfer: <name>grub-efi-amd64-bin</name>, or that of the image's "
        "architecture, such as <name>grub-efi-arm64-bin</name>",
    ),
    SHIM: _in_package("shim without its signature in the image", "shim-unsigned"),
    SIGNED_SHIM: _in_package("the signed shim in the image", "shim-signed"),
    SIGNED_GRUB: _in_package("the signed GRUB in the image", "grub-efi-amd64-signed"),
    STUB: _in_package("systemd's stub in the image", "systemd-boot-efi"),
    UNIFIED: _made_by("a unified kernel image", "UnifiedKernelImage"),
}
"""The formats of a machine's disk are products too, by kind: `qcow2`, `ova`."""

IN_AREAS: Mapping[str, tuple[str, ...]] = {
    "PKG_IMAGE_PATH": (
        *(IMAGE, KERNEL, LIVE_BOOT, *GRUB.values(), SHIM, SIGNED_SHIM, SIGNED_GRUB, STUB),
        *(CRYPTSETUP, LVM, VERITYSETUP),
        *(RAMDISK, ILLUMOS_MENU, LIVE_ROOT),
    ),
    # Its maker may need no kernel in the image.
    "BOOT_ARCHIVE": (BOOT_ARCHIVE, KERNEL, LIVE_BOOT, ARCHIVE_TREE, ARCHIVE_SETTINGS),
    "MEDIA_DIR": (BOOT_MENU, SQUASHFS),
}
"""The products that are files of an area of the workspace: any writer there can make them."""


def product(name: str) -> Product:
    """The product of that name, a plug-in's too."""
    return PRODUCTS.get(name, Product(name, f"run a checkpoint that makes {name} before"))


def missing(name: str, details: str = "no earlier checkpoint has made one") -> CheckpointError:
    """The error of a running checkpoint that lacks a product."""
    lacking = product(name)
    return CheckpointError(f"{lacking.name} is missing", details, lacking.remedy)


def in_area(path: str, odds: Odds = "perhaps") -> Provided:
    """The products of a checkpoint that puts files into a directory of the workspace (`{BOOT_ARCHIVE}/x`)."""
    for area, made in IN_AREAS.items():
        if f"{{{area}}}" in path:
            return dict.fromkeys(made, odds)
    return {name: odds for made in IN_AREAS.values() for name in made}
