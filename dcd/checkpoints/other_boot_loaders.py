"""Boot loaders in the image that a checkpoint does not use, and that somebody may count on.

Media and disks are made to start with GRUB, which is put together for the one medium or disk and not signed.
Packages in the image that bring a signed chain (shim, signed GRUB) or another boot loader make no
difference to that: it is said when the manifest is checked, and again when they are found in the image.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from dcd.checkpoints.interface import Checkpoint, Context, Report
from dcd.manifest.diagnostics import Diagnostic, warning
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.objects.software import Software, SoftwareData
from dcd.platform.inside import resolve

_SIGNED = re.compile(r"shim-signed|shim-helpers-\S+-signed|grub-efi-\S+-signed")
_OTHERS = re.compile(
    r"systemd-boot(-efi)?|refind|lilo|extlinux|isolinux|syslinux(-efi)?"
    r"|grub-(coreboot|ieee1275|xen)(-bin)?|grub-legacy"
)
_SIGNED_FILES = ("usr/lib/shim/*.signed", "usr/lib/grub/*-signed/*.signed")
_OTHER_FILES = {
    "usr/lib/systemd/boot/efi/systemd-boot*.efi*": "systemd-boot",
    "usr/share/refind/refind/refind_*.efi": "rEFInd",
    "usr/lib/ISOLINUX/isolinux.bin": "ISOLINUX",
    "usr/lib/EXTLINUX/mbr.bin": "EXTLINUX",
}

_REMEDY = "switch Secure Boot off in the firmware of the machine; it starts without"


def check_packages(
    doc: DataObjectCache, checkpoint: Checkpoint, result: str
) -> Iterator[Diagnostic]:
    """Warnings about packages that ask for another way to boot than the one that the checkpoint prepares.
    `result` is what it makes: `the disk`."""
    installed = [
        data
        for software in doc.volatile.get_descendants(None, Software)
        if software.type == "DEB"
        for data in software.get_descendants(class_type=SoftwareData)
        if data.action == "install"
    ]
    for data in installed:
        for item, listed in enumerate(data.names):
            name = re.split(r"[:=/]", listed)[0]
            where = data.place_of("name", item)
            if _SIGNED.fullmatch(name):
                yield warning(
                    where,
                    f"{name} is in the image, but {result} of {checkpoint.name} does not start with Secure"
                    " Boot",
                    "Its GRUB is put together for it and not signed; the signed one is not used.",
                    _REMEDY,
                )
            elif _OTHERS.fullmatch(name):
                yield warning(
                    where,
                    f"{name} is in the image, but {result} of {checkpoint.name} starts with GRUB",
                    "Another boot loader is not set up.",
                    "leave the package out, or set it up in a custom script",
                )


def report_found(context: Context, result: str) -> None:
    """Say which boot loaders of the image `result` does not start with."""
    if any(_matches(context.pkg_image, pattern) for pattern in _SIGNED_FILES):
        context.report(
            Report(
                message=f"{result} does not start with Secure Boot: the signed boot loader in the image is "
                f"not used; {_REMEDY}"
            )
        )
    for pattern, name in _OTHER_FILES.items():
        if _matches(context.pkg_image, pattern):
            context.report(Report(message=f"{result} starts with GRUB: {name} is not set up"))


def _matches(image: Path, pattern: str) -> bool:
    directory, _, name = pattern.rpartition("/")
    below, _, wild = directory.rpartition("/")
    if "*" in wild:
        return any(resolve(image, below).glob(f"{wild}/{name}"))
    return any(resolve(image, directory).glob(name))
