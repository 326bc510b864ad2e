"""`BootArchiveArchive`: the boot archive area becomes the file that the kernel of illumos starts with.

Result: platform/i86pc/amd64/boot_archive in the image area, compressed with gzip (the kernel unpacks it), and
boot_archive.hash beside it, the SHA-1 of the unpacked archive. The original wrote UFS, the only one of the
formats that a live system can write to. newfs(8) and lofiadm(8) of illumos make it; no tool of Linux does.
Elsewhere it is hsfs, which is read-only when it is mounted, or on demand cpio, which the kernel only reads
modules from; the checkpoint warns of this.
Source: the original's checkpoint boot_archive_archive, OpenIndiana's boot_archive_archive; illumos,
usr/src/uts/common/krtld/bootrd.c (ufs, hsfs, cpio).
"""

import gzip
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from dcd.checkpoints import products
from dcd.checkpoints.boot.illumos.odc import write_odc
from dcd.checkpoints.illumos_host import is_illumos, refuse_sparc
from dcd.checkpoints.image.illumos.hsfs import set_back_times, write_hsfs
from dcd.checkpoints.interface import Checkpoint, Context, Needs, Report
from dcd.checkpoints.times import source_date_epoch
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.forms import ENTRY
from dcd.platform.inside import new_file
from statemachine.errors import CheckpointError

ARCHIVE = "platform/i86pc/amd64/boot_archive"

_MIN_PADDING_KIB = 35 << 10
"""Free space for the live system, as in the original."""
_DEVICE_INODES = 42 * 500 * 2
"""Inodes for the devices of 500 disks with two paths: 5 partitions and 16 slices, each twice."""

_READ_ONLY = {
    "hsfs": "the boot archive is of type hsfs, which the live system cannot write to; installers need ufs, "
    "which only hosts with illumos make",
    "cpio": "the boot archive is a cpio archive: the kernel reads modules from it, but cannot mount it as "
    "the root of a live system",
}

Format = Literal["auto", "ufs", "hsfs", "cpio"]


@dataclass(frozen=True)
class BootArchiveArchive(Checkpoint):
    """Make the file of the boot archive."""

    DESCRIPTION = "Make the boot archive's file"
    EXPECTED_SECONDS = 60.0
    DISK_BYTES = 1 << 30
    TOOLS = ("xorriso", "newfs", "lofiadm")
    REQUIRES = (products.ARCHIVE_SETTINGS,)
    PROVIDES = (products.RAMDISK,)

    format: Format = "auto"
    """The format. `auto` is ufs on illumos, else hsfs."""

    compression_type: Literal["gzip", "none", "dcfs"] = "gzip"
    """The compression. dcfs is known from manifests for SPARC and not supported."""

    compression_level: int = 9
    """The level of gzip, 1 to 9."""

    size_pad: int = 0
    """Free space in an archive of type ufs beside the usual 35 MiB, in MiB."""

    bytes_per_inode: int = 0
    """The density of inodes of an archive of type ufs; 0: computed from the contents."""

    uncompressed_files: tuple[Annotated[str, ENTRY], ...] = ()
    """Known from manifests for SPARC machines, for which dcd makes no media."""

    def needs(self, doc: DataObjectCache) -> Needs:
        tools = {"ufs": ("newfs", "lofiadm"), "hsfs": ("xorriso",), "cpio": ()}[self._format()]
        # Workers of illumos that make files may mount too, without a namespace: that of type ufs is mounted
        # to fill it.
        return Needs(tools=tools, disk_bytes=self.DISK_BYTES)

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        if self.compression_type == "dcfs":
            yield self.fault(
                doc,
                "compression_type",
                "compression_type dcfs is for SPARC, for which dcd makes no media",
                "",
                '<arg name="compression_type">gzip</arg>',
            )
        if self.uncompressed_files:
            yield self.fault(
                doc,
                "uncompressed_files",
                "uncompressed_files is for SPARC machines, for which dcd makes no media",
                "Only their boot archives have files that are compressed one by one.",
                "leave it out if the image is for x86; else leave out this checkpoint and the later ones",
            )
        for name, most in (
            ("compression_level", 9),
            ("size_pad", 1 << 20),
            ("bytes_per_inode", 1 << 20),
        ):
            value = getattr(self, name)
            least = 1 if name == "compression_level" else 0
            if not least <= value <= most:
                message = f"{name} {value} is out of range"
                yield self.fault(doc, name, message, f"it is {least} to {most}")

    def execute(self, context: Context) -> None:
        image, archive = context.pkg_image, context.boot_archive
        refuse_sparc(image)
        if not (archive / ".volsetid").is_file():
            raise products.missing(products.ARCHIVE_SETTINGS, "it has no .volsetid")
        epoch = source_date_epoch(context, 0)
        set_back_times(archive, epoch)
        plain = context.tmp / "boot_archive"
        kind = self._format()
        context.report(Report(0.0, f"making the boot archive, {kind}"))
        match kind:
            case "hsfs":
                write_hsfs(context, archive, plain, epoch, volume_id="ramdisk")
            case "cpio":
                write_odc(archive, plain)
            case _:
                self._write_ufs(context, plain)
        if kind in _READ_ONLY:
            context.warn(_READ_ONLY[kind])
        with plain.open("rb") as file:
            digest = hashlib.file_digest(file, "sha1").hexdigest()
        target = new_file(image, ARCHIVE)
        size = plain.stat().st_size
        context.report(Report(0.5, f"compressing {size / (1 << 20):.1f} MiB"))
        if self.compression_type == "gzip":
            with (
                plain.open("rb") as source,
                target.open("wb") as sink,
                gzip.GzipFile("", "wb", self.compression_level, sink, mtime=0) as packed,
            ):
                shutil.copyfileobj(source, packed, 1 << 20)
        else:
            shutil.copyfile(plain, target)
        target.chmod(0o644)
        new_file(image, f"{ARCHIVE}.hash").write_text(f"{digest}\n")
        context.report(Report(1.0, f"{target.stat().st_size / (1 << 20):.1f} MiB"))

    def _format(self) -> Literal["ufs", "hsfs", "cpio"]:
        if self.format == "auto":
            return "ufs" if is_illumos() else "hsfs"
        return self.format

    def _write_ufs(self, context: Context, target: Path) -> None:
        """Make a file system of type ufs with the contents of the archive; on illumos only."""
        size_kib, density = ufs_size(
            context.boot_archive, self.size_pad << 10, self.bytes_per_inode
        )
        names = sorted(_relative(context.boot_archive))
        if strange := [name for name in names if "\n" in os.fspath(name)]:
            raise CheckpointError(
                f"a name in the boot archive has a line end: {strange[0]!r}",
                "cpio(1) reads names by lines",
                "rename the file, or leave it out of the boot archive",
            )
        with target.open("wb") as file:
            file.truncate(size_kib << 10)
        mountpoint = context.tmp / "ramdisk"
        mountpoint.mkdir()
        with _lofi_device(context, target) as device:
            raw = device.replace("/lofi/", "/rlofi/")
            context.run(["newfs", "-m", "0", "-i", str(density), raw], stdin=b"y\n")
            context.run(["mount", "-F", "ufs", device, mountpoint])
            try:
                context.run(
                    ["cpio", "-pdum", mountpoint],
                    cwd=context.boot_archive,
                    stdin=os.fsencode("".join(f"{name}\n" for name in names)),
                )
                lost = mountpoint / "lost+found"
                if lost.is_dir():
                    lost.rmdir()
            finally:
                context.run(["umount", mountpoint])


def ufs_size(directory: Path, padding_kib: int, density: int) -> tuple[int, int]:
    """The size in KiB of a file system for the directory, and its bytes for each inode (a power of two) if
    `density` is 0."""
    entries = size = 0
    for path in directory.rglob("*"):
        entries += 1
        status = path.lstat()
        size += status.st_size if not path.is_dir() or path.is_symlink() else 512
    size_kib = -(-size >> 10) + _MIN_PADDING_KIB + padding_kib
    if density == 0:
        exact = (size_kib << 10) // (entries + _DEVICE_INODES)
        density = 1 << max(exact.bit_length() - 1, 0)
    return size_kib, density


@contextmanager
def _lofi_device(context: Context, file: Path) -> Iterator[str]:
    device = context.run(["lofiadm", "-a", file], capture=True).stdout.strip()
    try:
        yield device
    finally:
        context.run(["lofiadm", "-d", device])


def _relative(directory: Path) -> Iterator[str]:
    for path in directory.rglob("*"):
        yield str(path.relative_to(directory))
