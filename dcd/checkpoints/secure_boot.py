"""The programs with which UEFI firmware starts an image, as `secure_boot` of `<img_params>` wants them.

Without it, that is one GRUB, assembled for the one medium or disk, which nobody has signed. With
`distribution` they are the signed programs of the image's packages: the firmware checks shim by Microsoft's
key, shim checks GRUB by the distribution's, and GRUB, through shim, the kernel. A signed GRUB cannot carry
settings: it reads its first ones from a directory whose name is part of it, and these lead to the menu.
The other programs are copied as they are, so the same image gives the same bytes.
Source: UEFI specification 2.10, 3.5.1.1 and 32; shim's README; grub-install's grub_util_get_target_dirname.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from dcd.checkpoints import products
from dcd.checkpoints.interface import Context
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.objects import ImgParams
from dcd.platform.inside import regular_file
from dcd.platform.pe import is_signed
from statemachine.errors import CheckpointError

Way = Literal["distribution"]

READS = ("//img_params.secure_boot",)
"""The DOC paths that determine it."""

PRODUCTS: Mapping[Way, tuple[str, ...]] = {
    "distribution": (products.SIGNED_SHIM, products.SIGNED_GRUB),
}
"""The products of the image that each way needs."""

DEFAULT_PROGRAM = PurePosixPath("EFI/BOOT/BOOTX64.EFI")
"""Where all firmware of a PC looks for the first program."""

_LARGEST_BYTES = 64 << 20
_PREFIX = re.compile(rb"/EFI/([A-Za-z0-9][A-Za-z0-9._-]*)\0")


@dataclass(frozen=True, slots=True)
class _Program:
    """A program of the image's packages: its place in the EFI system partition, the paths where a package may
    have it, and the product that brings it."""

    target: PurePosixPath
    paths: tuple[str, ...]
    product: str


_SHIM = "usr/lib/shim"
_PROGRAMS: Mapping[Way, tuple[_Program, ...]] = {
    "distribution": (
        _Program(DEFAULT_PROGRAM, (f"{_SHIM}/shimx64.efi.signed",), products.SIGNED_SHIM),
        _Program(
            DEFAULT_PROGRAM.with_name("grubx64.efi"),
            ("usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed",),
            products.SIGNED_GRUB,
        ),
        _Program(
            DEFAULT_PROGRAM.with_name("mmx64.efi"),
            # Ubuntu signs it without another suffix.
            (f"{_SHIM}/mmx64.efi.signed", f"{_SHIM}/mmx64.efi"),
            products.SIGNED_SHIM,
        ),
    ),
}


def way_of(doc: DataObjectCache) -> Way | None:
    """How the image of the manifest starts with Secure Boot; None: not at all."""
    params = doc.volatile.get_descendants(class_type=ImgParams)
    return next((each.secure_boot for each in params if each.secure_boot), None)


def programs(context: Context, way: Way, first_settings: str) -> dict[PurePosixPath, Path]:
    """The files of the EFI system partition by their paths there. `first_settings` are GRUB's commands that
    find the menu. Raises `CheckpointError` for a program that the image lacks, or that is not signed."""
    found = {program.target: _found(context.pkg_image, program) for program in _PROGRAMS[way]}
    for path in found.values():
        _require_signed(path)
    settings = context.tmp / "first-grub.cfg"
    settings.write_text(first_settings, "utf-8")
    vendor = _vendor(found[DEFAULT_PROGRAM.with_name("grubx64.efi")])
    return {**found, PurePosixPath("EFI", vendor, "grub.cfg"): settings}


def require_signed_kernels(kernels: Collection[Path]) -> None:
    """Raise `CheckpointError` for a kernel without a signature, which the signed GRUB would refuse."""
    for kernel in kernels:
        if not is_signed(kernel):
            raise CheckpointError(
                f"the kernel {kernel.name} is not signed",
                'with secure_boot="distribution", GRUB starts only kernels that the distribution has signed',
                "install the distribution's signed kernel, such as <name>linux-image-amd64</name>",
            )


def _found(image: Path, program: _Program) -> Path:
    for path in program.paths:
        file = regular_file(image, path)
        if file is None:
            continue
        if file.stat().st_size > _LARGEST_BYTES:
            raise CheckpointError(
                f"/{path} of the image is too large for a boot loader",
                f"it has {file.stat().st_size} bytes, and at most {_LARGEST_BYTES} are expected",
                "install the unmodified packages of the boot loader",
            )
        return file
    raise products.missing(program.product, f"the image has no /{program.paths[0]}")


def _require_signed(path: Path) -> None:
    if not is_signed(path):
        raise CheckpointError(
            f"{path.name} of the image is not signed",
            f"{path} has no signature, and firmware with Secure Boot would refuse it",
            "install the unmodified packages of the boot loader",
        )


def _vendor(grub: Path) -> str:
    """The name of the directory below EFI from which a signed GRUB reads its first settings."""
    names = set(_PREFIX.findall(grub.read_bytes()))
    if len(names) != 1:
        raise CheckpointError(
            f"{grub.name} of the image does not say where it looks for its settings",
            f"of names below /EFI it has {len(names)}",
            "install the unmodified packages of the boot loader",
        )
    return str(names.pop().decode("ascii"))
