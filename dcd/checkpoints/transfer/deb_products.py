"""The products that Debian packages bring for later checkpoints, by the packages' names. Pure."""

import re
from collections.abc import Mapping, Sequence

from dcd.checkpoints import products

_BRINGING: Mapping[str, tuple[str, str]] = {
    products.KERNEL: (r"linux-image-.+", r"linux-|kernel|task-|live-task|pve-|proxmox"),
    products.LIVE_BOOT: (r"live-boot(-initramfs-tools)?|casper", r"live-|task-"),
    products.CRYPTSETUP: (r"cryptsetup-initramfs|cryptsetup-run", r"task-|clevis-initramfs"),
    products.LVM: (r"lvm2", r"task-|clevis"),
    products.VERITYSETUP: (r"cryptsetup(-bin|-initramfs)?", r"task-|clevis"),
    products.GRUB["bios"]: (r"grub-pc(-bin)?|grub2|grub-cloud-amd64", r"task-|proxmox"),
    products.GRUB["uefi"]: (
        r"grub-efi(-(amd64|arm64|riscv64)(-bin|-signed)?)?|grub-cloud-amd64",
        r"shim-|task-|proxmox",
    ),
    products.SHIM: (r"shim-(unsigned|signed|helpers-amd64-signed)", r"task-"),
    products.SIGNED_SHIM: (r"shim-signed", r"task-"),
    products.SIGNED_GRUB: (r"grub-efi-amd64-signed", r"task-"),
    products.STUB: (r"systemd-boot(-efi)?", r"task-"),
}
"""The packages with a product (the whole name), and those that may depend on one (its beginning)."""

_NO_DEPENDENCIES = (
    *products.GRUB.values(),
    *(products.SHIM, products.SIGNED_SHIM, products.SIGNED_GRUB, products.STUB),
)
"""Products that no other package depends on."""


def brought(names: Sequence[str]) -> products.Provided:
    """The products of the packages for later checkpoints; `hardly` for those that only a dependency could
    have."""
    found: dict[str, products.Odds] = {}
    for product, (certain, likely) in _BRINGING.items():
        if any(re.fullmatch(certain, name) for name in names):
            found[product] = "surely"
        elif any(re.match(likely, name) for name in names):
            found[product] = "perhaps"
        elif names and product not in _NO_DEPENDENCIES:
            found[product] = "hardly"
    return found
