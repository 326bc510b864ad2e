"""`CreateISO`: a hybrid ISO that boots from CD and from USB stick, on PCs with BIOS and UEFI.

It holds the tree media/iso (the compressed image, the boot menu), the contents of the boot archive in
/live, and GRUB. Result: media/NAME.iso, delivered as an artifact. All its times and ids derive from one
time, SOURCE_DATE_EPOCH in the environment or else that of the compressed image; so the same layer always
gives the same bytes.
Source: xorrisofs(1); the El Torito and UEFI specifications.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

from dcd.checkpoints import architecture, other_boot_loaders, products, secure_boot
from dcd.checkpoints.architecture import check_hardware, hardware
from dcd.checkpoints.interface import Checkpoint, Context, Needs, Report
from dcd.checkpoints.media import grub, largest
from dcd.checkpoints.media.deliver import deliver_file, media_name
from dcd.checkpoints.mkisofs import MKISOFS
from dcd.checkpoints.recorded import record_medium
from dcd.checkpoints.times import source_date_epoch
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.doc import DataObjectCache, distro
from dcd.manifest.forms import VOLUME_ID
from dcd.platform.foreign import X86
from dcd.platform.hardware import PC, Hardware
from dcd.platform.inside import new_file, resolve
from statemachine.errors import CheckpointError

LIVE_FILE_SYSTEM = "live/filesystem.squashfs"

_SECTION_LIMIT_BYTES = 1 << 32
"""The length of a section of a file is a number of 32 bits."""


@dataclass(frozen=True)
class CreateISO(Checkpoint):
    """Make the ISO."""

    DESCRIPTION = "Make the hybrid ISO"
    EXPECTED_SECONDS = 3.0
    REQUIRES = (products.BOOT_MENU, products.SQUASHFS, products.LIVE_BOOT)
    PROVIDES = (products.ISO,)
    READS = (
        *("//distro.name", "//distro.add_timestamp", *largest.READS),
        *(*secure_boot.READS, *architecture.READS),
    )
    TOOLS = ("xorriso", *grub.PC_TOOLS, *secure_boot.TOOLS)
    DISK_BYTES = 1 << 30

    volume_id: Annotated[str, VOLUME_ID] | None = None
    """The medium's name in systems that mount it. Default: the distribution's name."""

    def needs(self, doc: DataObjectCache) -> Needs:
        boot = grub.PC_TOOLS if hardware(doc) is PC else grub.TOOLS
        return Needs(
            tools=("xorriso", *boot, *secure_boot.tools_of(doc)),
            disk_bytes=self.DISK_BYTES,
            secrets=secure_boot.secrets_of(doc),
        )

    def requires(self, doc: DataObjectCache) -> Iterator[tuple[str, ...]]:
        yield from super().requires(doc)
        if hardware(doc) is not PC:
            yield (products.GRUB["uefi"], products.UNIFIED)
        if way := secure_boot.way_of(doc):
            yield from secure_boot.PRODUCTS[way]

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        yield from check_hardware(doc, self, "makes a medium for")
        if secure_boot.way_of(doc):
            yield from check_hardware(doc, self, "has Secure Boot for", only=X86)
        yield from other_boot_loaders.check_packages(doc, self, "the medium")

    def execute(self, context: Context) -> None:
        tree = resolve(context.media, "iso")
        for part, product in (
            ("boot/grub/grub.cfg", products.BOOT_MENU),
            (LIVE_FILE_SYSTEM, products.SQUASHFS),
        ):
            if not _is_regular(tree / part):
                raise products.missing(product, f"there is no {part} for the ISO in {tree}")
        unified = secure_boot.unified_of(context)
        machine = hardware(context.doc)
        if machine is not PC and unified is None:
            grub.check_modules(context.pkg_image, machine, machine.firmware)
        parts = [*tree.rglob("*"), *context.boot_archive.iterdir(), *filter(None, [unified])]
        total = sum(part.lstat().st_size for part in parts if part.is_file())
        largest.check_size(context.doc, "the content of the medium", total, alone=False)
        level = needed_level(parts)
        epoch = source_date_epoch(context, int((tree / LIVE_FILE_SYSTEM).stat().st_mtime))
        result = new_file(context.media, f"{media_name(context.doc, epoch)}.iso")
        other_boot_loaders.report_found(context, "the medium")
        context.report(Report(0.1, f"making {result.name}"))
        self._make(context, tree, epoch, level, result)
        largest.check_size(context.doc, result.name, result.stat().st_size)
        context.report(Report(0.7, "computing its digest"))
        deliver_file(context, result, "iso")
        record_medium(context, "iso", result)
        context.report(Report(1.0, f"{result.stat().st_size / (1 << 20):.1f} MiB"))

    def _make(
        self, context: Context, tree: Path, epoch: int, level: tuple[str, ...], result: Path
    ) -> None:
        volume_id = distro(context.doc).name if self.volume_id is None else self.volume_id
        menu_digest = hashlib.sha256((tree / "boot/grub/grub.cfg").read_bytes()).hexdigest()
        identity = f"{volume_id}\0{epoch}\0{menu_digest}"
        # GRUB finds the medium among others in the machine by this file.
        marker = f"/.disk/dcd-{hashlib.sha256(identity.encode()).hexdigest()[:32]}"
        live = {file.name: file for file in _boot_files(context.boot_archive)}
        way = secure_boot.way_of(context.doc)
        if way and not secure_boot.unified_of(context):
            live["vmlinuz"] = secure_boot.kernel_of_medium(context, way, epoch)
        marker_file = context.tmp / "marker"
        marker_file.touch()
        machine = hardware(context.doc)
        esp = context.tmp / "efi.img"
        files = _uefi_files(context, machine, marker, epoch)
        grub.efi_system_partition(context, files, epoch, esp)
        boot: list[str | Path] = []
        images = [f"boot/grub/efi.img={_escaped(esp)}"]
        if "bios" in machine.grub:
            bios = context.tmp / "bios.img"
            grub.bios_image(context, marker, bios)
            images.insert(0, f"boot/grub/bios.img={_escaped(bios)}")
            boot = [
                *("-b", "boot/grub/bios.img", "-no-emul-boot", "-boot-load-size", "4"),
                *("-boot-info-table", "--grub2-boot-info", "--grub2-mbr", grub.HYBRID_RECORD),
                # Some BIOSes start no stick without an active partition.
                "--mbr-force-bootable",
            ]
        context.run(
            [
                *(*MKISOFS, "-r", *level),
                *("-V", volume_id, "-o", result),
                *("--set_all_file_dates", f"={epoch}"),
                *(*boot, "--protective-msdos-label"),
                *("--efi-boot", "boot/grub/efi.img", "-efi-boot-part", "--efi-boot-image"),
                *("-graft-points", f"/={_escaped(tree)}"),
                *images,
                f"{marker.lstrip('/')}={_escaped(marker_file)}",
                *(f"live/{_escaped(name)}={_escaped(file)}" for name, file in live.items()),
            ],
            env={"SOURCE_DATE_EPOCH": str(epoch)},
        )


def _uefi_files(
    context: Context, machine: Hardware, marker: str, epoch: int
) -> dict[PurePosixPath, Path]:
    """The files of the EFI system partition."""
    if unified := secure_boot.unified_of(context):
        return {machine.uefi_path: unified}
    way = secure_boot.way_of(context.doc)
    if way is None:
        return {machine.uefi_path: grub.uefi_program(context, machine, marker)}
    to_menu = f"{grub.find_medium(marker)}configfile $prefix/grub.cfg\n"
    return secure_boot.programs(context, way, to_menu, epoch)


def needed_level(files: Iterable[Path]) -> tuple[str, ...]:
    """The option for the level of ISO 9660 that the files need. Only level 3 has files of several sections,
    such as all of 4 GiB and more. Linux and GRUB read them, and firmware needs none of them.
    Source: ECMA-119, 6.5.1 and 10.3; xorrisofs(1), -iso-level; Linux, fs/isofs/inode.c,
    isofs_read_level3_size; GRUB, grub-core/fs/iso9660.c, FLAG_MORE_EXTENTS."""
    if any(_is_regular(file) and file.stat().st_size >= _SECTION_LIMIT_BYTES for file in files):
        return ("-iso-level", "3")
    return ()


def _is_regular(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _boot_files(boot_archive: Path) -> list[Path]:
    """The entries of the boot archive. xorriso would follow links among its arguments on the build host."""
    files = sorted(boot_archive.iterdir())
    if links := [file.name for file in files if file.is_symlink()]:
        raise CheckpointError(
            f"{', '.join(links)} in the boot archive is a link",
            f"{boot_archive / links[0]} leads to {(boot_archive / links[0]).readlink()}",
            "put the file itself there",
        )
    return files


def _escaped(path: object) -> str:
    """A path in an argument of the form target=source."""
    return str(path).replace("\\", "\\\\").replace("=", "\\=")
