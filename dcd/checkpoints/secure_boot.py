"""The programs with which UEFI firmware starts an image, as `secure_boot` of `<img_params>` wants them.

Without it, that is one GRUB, assembled for the one medium or disk, which nobody has signed. With it, firmware
checks shim by its own keys, shim checks GRUB, and GRUB, through shim, the kernel:

- `distribution`: the programs of the image's packages, unchanged. Microsoft has signed shim, whose key all
  machines have, and the distribution GRUB and the kernel.
- `keys`: the same programs before their signature, signed with the user's key, and the kernels too.

GRUB is the distribution's own: it has its modules in it, since it may load no others, and the section that
revocations need (SBAT). It carries no settings of the medium: it reads its first ones from a directory whose
name is part of it, and these lead to the menu. From a network, shim loads a GRUB from beside itself, whose
directory is one of the server. The same image and key give the same bytes.
Source: UEFI specification 2.10, 3.5.1.1 and 32; shim's README and SBAT.md; the GRUB manual, "UEFI secure boot
and shim".
"""

import os
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from dcd.checkpoints import products
from dcd.checkpoints.areas import captured_file
from dcd.checkpoints.interface import Context
from dcd.checkpoints.recorded import recorded_media
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.objects import ImgParams, Signing
from dcd.manifest.secrets import secret_text
from dcd.platform import efi_signing
from dcd.platform.inside import regular_file, resolve
from dcd.platform.pe import is_signed
from statemachine.errors import CheckpointError

Way = Literal["distribution", "keys"]

READS = ("//img_params.secure_boot", "//signing")
"""The DOC paths that determine it."""

TOOLS = efi_signing.TOOLS
"""The tools for `keys`."""

PRODUCTS: Mapping[Way, tuple[tuple[str, ...], ...]] = {
    "distribution": ((products.SIGNED_SHIM,), (products.SIGNED_GRUB,)),
    "keys": ((products.SHIM, products.UNIFIED), (products.GRUB["uefi"], products.UNIFIED)),
}
"""The products that each way needs, one of each tuple."""

DEFAULT_PROGRAM = PurePosixPath("EFI/BOOT/BOOTX64.EFI")
"""Where all firmware of a PC looks for the first program."""
_GRUB = DEFAULT_PROGRAM.with_name("grubx64.efi")
_MOK_MANAGER = DEFAULT_PROGRAM.with_name("mmx64.efi")

NETWORK_PROGRAM = PurePosixPath("shimx64.efi")
"""The name of the first program in a netboot kit."""
NETWORK_SETTINGS = PurePosixPath("grub/grub.cfg")
"""Where the distribution's GRUB for networks looks for its settings on the server."""

_LARGEST_BYTES = 64 << 20
_PREFIX = re.compile(rb"(?<=\0)/(EFI/[A-Za-z0-9][A-Za-z0-9._-]*|grub)\0")


@dataclass(frozen=True, slots=True)
class _Program:
    """A program of the image's packages: the paths where a package may have it, and the product that
    brings it."""

    paths: tuple[str, ...]
    product: str


_SHIM, _GRUBS = "usr/lib/shim", "usr/lib/grub"
_PROGRAMS: Mapping[Way, Mapping[PurePosixPath, _Program]] = {
    "distribution": {
        DEFAULT_PROGRAM: _Program((f"{_SHIM}/shimx64.efi.signed",), products.SIGNED_SHIM),
        _GRUB: _Program((f"{_GRUBS}/x86_64-efi-signed/grubx64.efi.signed",), products.SIGNED_GRUB),
        # Ubuntu signs it without another suffix.
        _MOK_MANAGER: _Program(
            (f"{_SHIM}/mmx64.efi.signed", f"{_SHIM}/mmx64.efi"), products.SIGNED_SHIM
        ),
    },
    # Without the manager of further keys: the owner of these keys decides what starts.
    "keys": {
        DEFAULT_PROGRAM: _Program((f"{_SHIM}/shimx64.efi",), products.SHIM),
        _GRUB: _Program((f"{_GRUBS}/x86_64-efi/monolithic/grubx64.efi",), products.GRUB["uefi"]),
    },
}
"""By way, the programs by their places in the EFI system partition."""

_NETWORK_GRUBS: Mapping[Way, _Program] = {
    "distribution": _Program(
        (f"{_GRUBS}/x86_64-efi-signed/grubnetx64.efi.signed",), products.SIGNED_GRUB
    ),
    "keys": _Program((f"{_GRUBS}/x86_64-efi/monolithic/grubnetx64.efi",), products.GRUB["uefi"]),
}
"""By way, the program in place of GRUB's own when it comes from a network."""


def way_of(doc: DataObjectCache) -> Way | None:
    """How the image of the manifest starts with Secure Boot; None: not at all."""
    params = doc.volatile.get_descendants(class_type=ImgParams)
    return next((each.secure_boot for each in params if each.secure_boot), None)


def signing_of(doc: DataObjectCache) -> Signing | None:
    """The user's key, if it is used."""
    found = doc.volatile.get_descendants(class_type=Signing, max_count=1)
    return found[0] if found and way_of(doc) == "keys" else None


def secrets_of(doc: DataObjectCache) -> tuple[str, ...]:
    """The secrets that signing needs, as `Needs.secrets` names them."""
    signing = signing_of(doc)
    return () if signing is None else (signing.key,)


def tools_of(doc: DataObjectCache) -> tuple[str, ...]:
    """The tools that signing needs, as `Needs.tools` names them."""
    return () if signing_of(doc) is None else TOOLS


def certificate_of(context: Context) -> Path | None:
    """The file of the user's certificate, if it is used."""
    signing = signing_of(context.doc)
    return None if signing is None else captured_file(context.inputs, signing.certificate)


def unified_of(context: Context) -> Path | None:
    """The unified kernel image of an earlier checkpoint, which then is the only program."""
    return recorded_media(context).get(products.UNIFIED)


def programs(
    context: Context, way: Way, first_settings: str, epoch: int
) -> dict[PurePosixPath, Path]:
    """The files of the EFI system partition by their paths there. `first_settings` are GRUB's commands that
    find the menu; `epoch` is the Unix time of signatures. Raises `CheckpointError` for a program that the
    image lacks, or that is not signed."""
    signed, settings_directory = _signed(context, way, _PROGRAMS[way], epoch)
    settings = context.tmp / "first-grub.cfg"
    settings.write_text(first_settings, "utf-8")
    return {**signed, settings_directory / "grub.cfg": settings}


def network_programs(context: Context, way: Way, epoch: int) -> dict[PurePosixPath, Path]:
    """The programs of a netboot kit by their names in it; GRUB reads `NETWORK_SETTINGS` first. `epoch` is the
    Unix time of signatures. Raises `CheckpointError` for a program that the image lacks, or that is not
    signed."""
    wanted = {**_PROGRAMS[way], _GRUB: _NETWORK_GRUBS[way]}
    signed, settings_directory = _signed(context, way, wanted, epoch)
    if settings_directory != NETWORK_SETTINGS.parent:
        raise _odd_grub(signed[_GRUB], f"it looks for them in /{settings_directory}")
    return {
        NETWORK_PROGRAM if place == DEFAULT_PROGRAM else PurePosixPath(place.name): path
        for place, path in signed.items()
    }


def _signed(
    context: Context, way: Way, wanted: Mapping[PurePosixPath, _Program], epoch: int
) -> tuple[dict[PurePosixPath, Path], PurePosixPath]:
    """The signed programs by their places, and the directory from which GRUB reads its first settings."""
    found = {place: _found(context.pkg_image, each) for place, each in wanted.items()}
    settings_directory = _settings_directory(found[_GRUB])
    if way == "distribution":
        for path in found.values():
            _require_signed(path)
        return found, settings_directory
    pair = _required_pair(context)
    signed = {place: context.tmp / place.name for place in found}
    for place, path in found.items():
        efi_signing.sign(pair, path, signed[place], epoch)
    return signed, settings_directory


def kernel_of_medium(context: Context, way: Way, epoch: int) -> Path:
    """The kernel of the boot archive, or a signed copy of it. Raises `CheckpointError` for one that GRUB
    would refuse."""
    kernel = regular_file(context.boot_archive, "vmlinuz")
    if kernel is None:
        raise products.missing(products.BOOT_ARCHIVE, "it has no vmlinuz")
    if way == "distribution":
        _require_signed_kernels([kernel])
        return kernel
    signed = context.tmp / kernel.name
    efi_signing.sign(_required_pair(context), kernel, signed, epoch)
    return signed


def prepare_kernels(context: Context, way: Way, epoch: int) -> None:
    """Sign the kernels of the image, for a disk. Raises `CheckpointError` for one that GRUB would refuse."""
    boot = resolve(context.pkg_image, "boot")
    kernels = [
        each for each in sorted(boot.glob("vmlinuz-*")) if each.is_file() and not each.is_symlink()
    ]
    if way == "distribution":
        _require_signed_kernels(kernels)
        return
    pair = _required_pair(context)
    for kernel in kernels:
        status = kernel.stat()
        signed = context.tmp / kernel.name
        efi_signing.sign(pair, kernel, signed, epoch)
        shutil.copyfile(signed, kernel)
        os.utime(kernel, ns=(status.st_mtime_ns, status.st_mtime_ns))


def pair_of(context: Context) -> efi_signing.Pair | None:
    """The user's key and certificate, if they are used. Raises `CheckpointError` when they do not belong
    together: the key may have changed since the manifest was planned."""
    signing, certificate = signing_of(context.doc), certificate_of(context)
    if signing is None or certificate is None:
        return None
    key = secret_text(Path(signing.key))
    return efi_signing.checked_pair(signing.key, key, certificate, signing.certificate)


def _required_pair(context: Context) -> efi_signing.Pair:
    pair = pair_of(context)
    if pair is None:
        raise CheckpointError(
            "there is no key to sign with",
            'the manifest has secure_boot="keys" and no <signing>',
            '<signing key="/etc/dcd/secrets/db.key" certificate="db.crt"/>',
        )
    return pair


def _require_signed_kernels(kernels: Collection[Path]) -> None:
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


def _settings_directory(grub: Path) -> PurePosixPath:
    """The directory from which the distribution's GRUB reads its first settings."""
    names = set(_PREFIX.findall(grub.read_bytes()))
    if len(names) != 1:
        raise _odd_grub(grub, f"of names of such directories it has {len(names)}")
    return PurePosixPath(names.pop().decode("ascii"))


def _odd_grub(grub: Path, details: str) -> CheckpointError:
    return CheckpointError(
        f"{grub.name} of the image does not say where it looks for its settings",
        details,
        "install the unmodified packages of the boot loader",
    )
