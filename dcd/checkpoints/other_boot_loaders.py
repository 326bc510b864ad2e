"""Boot loaders in the image that a checkpoint does not use, although a user may expect it.

Media and disks start with a GRUB that is assembled for the one medium or disk and not signed, unless
`secure_boot` wants the signed one. Packages in the image with a signed chain (shim, signed GRUB) or another
boot loader do not change that: the check of the manifest says so, and the checkpoint again when it finds
their files.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from dcd.checkpoints.boot.unified import is_wanted
from dcd.checkpoints.interface import Checkpoint, Context, Report
from dcd.checkpoints.secure_boot import unified_of, way_of
from dcd.manifest.diagnostics import Diagnostic, warning
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.objects.software import Software, SoftwareData
from dcd.platform.inside import resolve

_SIGNED = re.compile(r"shim-signed|shim-helpers-\S+-signed|grub-efi-\S+-signed")
_OTHERS = re.compile(
    r"systemd-boot(-efi)?|refind|lilo|extlinux|isolinux|syslinux(-efi)?"
    r"|grub-(coreboot|ieee1275|xen)(-bin)?|grub-legacy"
)
_SYSTEMD_BOOT = "systemd-boot"
_STUB = "systemd-boot-efi"
"""The package that also has the stub of unified kernel images."""
_SIGNED_FILES = ("usr/lib/shim/*.signed", "usr/lib/grub/*-signed/*.signed")
_OTHER_FILES = {
    "usr/lib/systemd/boot/efi/systemd-boot*.efi*": _SYSTEMD_BOOT,
    "usr/share/refind/refind/refind_*.efi": "rEFInd",
    "usr/lib/ISOLINUX/isolinux.bin": "ISOLINUX",
    "usr/lib/EXTLINUX/mbr.bin": "EXTLINUX",
}

_REMEDY = 'write <img_params secure_boot="distribution">, or leave the package out'


def check_packages(
    doc: DataObjectCache, checkpoint: Checkpoint, result: str
) -> Iterator[Diagnostic]:
    """Warnings about packages with a boot loader that the checkpoint does not use. `result` is its product:
    `the disk`."""
    installed = [
        (data.place_of("name", item), re.split(r"[:=/]", listed)[0])
        for software in doc.volatile.get_descendants(None, Software)
        if software.type == "DEB"
        for data in software.get_descendants(class_type=SoftwareData)
        if data.action == "install"
        for item, listed in enumerate(data.names)
    ]
    unified = is_wanted(doc)
    for place, name in installed:
        found = f"{name} is in the image, but {result} of {checkpoint.name}"
        if _SIGNED.fullmatch(name) and way_of(doc) is None:
            yield warning(
                place,
                f"{found} does not start with Secure Boot",
                "Its GRUB is assembled for it and not signed; the signed one is not used.",
                _REMEDY,
            )
        elif _OTHERS.fullmatch(name) and not (unified and name == _STUB):
            yield warning(
                place,
                f"{found} starts with GRUB",
                "Another boot loader is not set up.",
                "leave the package out, or set it up in a custom script",
            )


def report_found(context: Context, result: str) -> None:
    """Report the boot loaders of the image that `result` does not use."""
    signed = any(_matches(context.pkg_image, pattern) for pattern in _SIGNED_FILES)
    if signed and way_of(context.doc) is None:
        unused = "the signed boot loader in the image is not used"
        message = f"{result} does not start with Secure Boot: {unused}; {_REMEDY}"
        context.warn(message)
    for pattern, name in _OTHER_FILES.items():
        used = name == _SYSTEMD_BOOT and unified_of(context) is not None
        if not used and _matches(context.pkg_image, pattern):
            context.report(Report(message=f"{result} starts with GRUB: {name} is not set up"))


def _matches(image: Path, pattern: str) -> bool:
    # The last two parts may have wildcards.
    below, *wild = pattern.rsplit("/", 2)
    return any(resolve(image, below).glob("/".join(wild)))
