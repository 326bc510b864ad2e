"""`UnifiedKernelImage`: kernel, initramfs and kernel arguments as one program of UEFI firmware.

Its beginning is the stub of the image's systemd, which starts the kernel with what is in the sections after
it. `CreateISO` and `InstallOffline` make it the program that UEFI firmware starts, in place of GRUB: there is
no menu, and with the user's signature firmware checks the arguments and the initramfs too. BIOS starts GRUB
as before. Result: media/NAME.efi, delivered as an artifact. The same layer gives the same bytes.
The root hash of a verified root is known only when the disk is installed: `InstallOffline` then makes the
program again with it, signs it and delivers it.
Source: systemd-stub(7), the specification "Unified Kernel Image (UKI)" of the UAPI group, objcopy(1).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from dcd.checkpoints import products, secure_boot
from dcd.checkpoints.architecture import check_hardware
from dcd.checkpoints.boot.menu import check_length, menu_of
from dcd.checkpoints.interface import Checkpoint, Context, Needs, Report
from dcd.checkpoints.media.deliver import deliver_file, media_name
from dcd.checkpoints.recorded import DISK, record_medium, record_values, recorded
from dcd.checkpoints.times import FIRST_FAT_TIME, source_date_epoch
from dcd.checkpoints.vm.disk import VolumePartition, recorded_disk
from dcd.checkpoints.vm.opening import root_arguments
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.doc import DataObjectCache, checkpoints_of
from dcd.manifest.forms import KERNEL_ARGUMENTS
from dcd.platform import efi_signing
from dcd.platform.foreign import X86
from dcd.platform.inside import new_file, read, regular_file
from dcd.platform.pe import loaded_range
from statemachine.errors import CheckpointError

OBJCOPY = ("objcopy",)
_STUB = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"
_RECORD = "unified"
_PAGE_BYTES = 4096
_LIVE = "boot=live components quiet"


@dataclass(frozen=True)
class UnifiedKernelImage(Checkpoint):
    """Make one program of kernel, initramfs and arguments, which UEFI firmware starts.

    It starts like the default entry of the boot menu: the arguments of `boot_mods` are in it.
    """

    DESCRIPTION = "Make the unified kernel image"
    EXPECTED_SECONDS = 2.0
    REQUIRES = (products.BOOT_ARCHIVE, products.STUB)
    PROVIDES = (products.UNIFIED,)
    READS = ("//boot_mods", "//distro.name", "//distro.add_timestamp", *secure_boot.READS)
    TOOLS = (*OBJCOPY, *secure_boot.TOOLS)
    DISK_BYTES = 1 << 30

    kernel_args: Annotated[str, KERNEL_ARGUMENTS] | None = None
    """The kernel arguments, before those of the menu's default entry. Default: `boot=live components quiet`,
    or, after `CreateDisk`, the root file system of the disk and `quiet`; that root, and its root hash, are
    always added."""

    def needs(self, doc: DataObjectCache) -> Needs:
        return Needs(
            tools=(*OBJCOPY, *secure_boot.tools_of(doc)),
            disk_bytes=self.DISK_BYTES,
            secrets=secure_boot.secrets_of(doc),
        )

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        yield from check_hardware(doc, self, "makes a program for", only=X86)
        if secure_boot.way_of(doc) == "distribution":
            yield self.fault(
                doc,
                None,
                "no distribution signs a unified kernel image",
                'with secure_boot="distribution", firmware would refuse it',
                'sign it with a key of yours: <img_params secure_boot="keys">',
            )

    def execute(self, context: Context) -> None:
        root = _root_of_disk(context)
        line = self._line(context, root)
        if root is None or not root.verified:
            _finish(context, line)
            return
        result = _program(context, line, None)
        record_medium(context, products.UNIFIED, result)
        record_values(context, _RECORD, {"line": line})
        context.report(Report(1.0, "the installation of the disk adds its root hash"))

    def _line(self, context: Context, root: VolumePartition | None) -> str:
        """The kernel arguments on a line; those with blanks are in quotes, as the kernel reads them. Source:
        Linux, lib/cmdline.c, next_arg."""
        usual = "quiet" if root else _LIVE
        given = usual if self.kernel_args is None else self.kernel_args
        menu = menu_of(context, f"{root_arguments(root) if root else ''} {given}")
        words = menu.entries[menu.default].arguments
        return " ".join(f'"{word}"' if " " in word else word for word in words)


def is_wanted(doc: DataObjectCache) -> bool:
    """Whether the manifest has a `UnifiedKernelImage`."""
    return any(one.checkpoint_class == UnifiedKernelImage.__name__ for one in checkpoints_of(doc))


def add_root_hash(context: Context, arguments: str) -> None:
    """Add the kernel arguments for a root hash to the program of an earlier checkpoint, if there is one, sign
    it and deliver it."""
    if line := recorded(context, _RECORD).get("line"):
        _finish(context, f"{line} {arguments}")


def _finish(context: Context, line: str) -> None:
    """Make, sign, deliver and record the program with these kernel arguments."""
    result = _program(context, line, secure_boot.pair_of(context))
    deliver_file(context, result, "efi")
    record_medium(context, products.UNIFIED, result)
    context.report(Report(message=f"{result.name}: {result.stat().st_size / (1 << 20):.1f} MiB"))


def _program(context: Context, line: str, pair: efi_signing.Pair | None) -> Path:
    """Make the program in the media area, signed if there is a `pair`. Raises `CheckpointError`."""
    check_length(line)
    stub = regular_file(context.pkg_image, _STUB)
    kernel = regular_file(context.boot_archive, "vmlinuz")
    initramfs = regular_file(context.boot_archive, "initrd.img")
    if stub is None:
        raise products.missing(products.STUB, f"the image has no /{_STUB}")
    if kernel is None or initramfs is None:
        raise products.missing(products.BOOT_ARCHIVE)
    # The kernel is the last, since it may use the memory behind it.
    sections = {
        ".osrel": _text(context, "osrel", read(context.pkg_image, "etc/os-release") or ""),
        ".uname": _text(context, "uname", _version(context)),
        ".cmdline": _text(context, "cmdline", line),
        ".initrd": initramfs,
        ".linux": kernel,
    }
    epoch = source_date_epoch(context, FIRST_FAT_TIME)
    result = new_file(context.media, f"{media_name(context.doc, epoch)}.efi")
    program = context.tmp / "unified.efi"
    context.run([*OBJCOPY, "--preserve-dates", *_additions(stub, sections), stub, program])
    if pair is None:
        program.rename(result)
    else:
        efi_signing.sign(pair, program, result, epoch)
    return result


def _text(context: Context, name: str, text: str) -> Path:
    file = context.tmp / name
    file.write_text(text, "utf-8", "surrogateescape")
    return file


def _additions(stub: Path, sections: Mapping[str, Path]) -> Iterator[str | Path]:
    """The options of objcopy for sections that are loaded one after another behind the stub."""
    base, size_bytes = loaded_range(stub)
    at = base + _whole_pages(size_bytes)
    for name, file in sections.items():
        yield from ("--add-section", f"{name}={file}", "--change-section-vma", f"{name}={at:#x}")
        at += _whole_pages(file.stat().st_size)


def _whole_pages(size_bytes: int) -> int:
    return -(-max(size_bytes, 1) // _PAGE_BYTES) * _PAGE_BYTES


def _version(context: Context) -> str:
    return str(recorded(context, "boot_archive").get("kernel_version", ""))


def _root_of_disk(context: Context) -> VolumePartition | None:
    """The root file system of the disk, or None if there is no disk."""
    if not recorded(context, DISK):
        return None
    _, layout = recorded_disk(context)
    root = layout.mounted_at("/")
    if root is None:
        raise CheckpointError(
            "the disk has no root file system that a unified kernel image can start",
            "none of its partitions is mounted at /",
            'give one <format type="ext4" mountpoint="/"/>',
        )
    return root
