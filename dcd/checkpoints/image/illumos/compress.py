"""`TextPkgImgMod`, `LiveCDPkgImgMod`, `AIPkgImgMod`: the image area becomes the contents of a medium.

/usr becomes solaris.zlib; /opt, /etc and /var become solarismisc.zlib: file systems of type hsfs, compressed
as lofi(4D) reads them. /sbin, /kernel and /lib are removed, since the boot archive has them; of /platform
only the kernel and the boot archive stay. The image area is the root of the medium afterwards, as in the
original. On illumos lofiadm(8) compresses, elsewhere dcd itself (`lofi`).
Source: the original's checkpoint pkg_img_mod; lofiadm(8), live media of OpenIndiana.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from dcd.checkpoints import products
from dcd.checkpoints.illumos_host import is_illumos, refuse_sparc
from dcd.checkpoints.image.illumos import lofi
from dcd.checkpoints.image.illumos.hsfs import set_back_times, write_hsfs
from dcd.checkpoints.image.illumos.transfer_manifest import (
    NAME,
    files_of_medium,
    links_to_misc,
    saved_files,
    transfer_manifest,
)
from dcd.checkpoints.interface import Checkpoint, Context, Needs, Report
from dcd.checkpoints.media.largest import check_size
from dcd.checkpoints.times import source_date_epoch
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.forms import LINE
from dcd.platform.inside import entry, exists, new_file, regular_file, resolve
from statemachine.errors import CheckpointError

_VOLUME = "compress"
_KEPT = ("unix", "boot_archive", "boot_archive.hash")
"""The files of /platform that a medium needs: the loader starts the kernel with the archive."""
_IN_THE_ARCHIVE = ("sbin", "kernel", "lib")
_MISC = ("opt", "etc", "var")


@dataclass(frozen=True)
class _PkgImgMod(Checkpoint):
    """The arguments and steps that the three kinds of media share."""

    DESCRIPTION = "Compress the image into the contents of the medium"
    EXPECTED_SECONDS = 400.0
    DISK_BYTES = 2 << 30
    TOOLS = ("xorriso",)
    REQUIRES = (products.IMAGE, products.RAMDISK)
    PROVIDES = (products.LIVE_ROOT,)

    compression_type: Literal["gzip", "gzip-6", "gzip-9", "lzma"] = "gzip"
    """The algorithm. lzma is smaller and many times slower."""

    dist_iso_sort: Annotated[str, LINE] | None = None
    """Known from manifests of the original: a list of weights that placed files on the CD. It has no effect;
    the contents are the same."""

    def needs(self, doc: DataObjectCache) -> Needs:
        more = ("lofiadm",) if is_illumos() else ()
        return Needs(tools=(*self.TOOLS, *more), disk_bytes=self.DISK_BYTES)

    def execute(self, context: Context) -> None:
        image = context.pkg_image
        refuse_sparc(image)
        if not exists(image, "usr"):
            raise CheckpointError(
                "the image has no /usr to compress",
                f"there is none in {image}",
                "run a transfer before; this checkpoint runs once in a build",
            )
        epoch = source_date_epoch(context, 0)
        self._prepare(image)
        self._strip_root(context)
        context.report(Report(0.1, "compressing /usr"))
        self._archive(context, resolve(image, "usr"), "solaris.zlib", epoch)
        misc = context.tmp / "miscdirs"
        misc.mkdir()
        for name in _MISC:
            if exists(image, name):
                entry(image, name).rename(misc / name)
        context.report(Report(0.8, "compressing /opt, /etc and /var"))
        self._archive(context, misc, "solarismisc.zlib", epoch)
        shutil.rmtree(resolve(image, "usr"))
        if entry(image, "usr").is_symlink():
            entry(image, "usr").unlink()
        self._strip_platform(image)
        links = links_to_misc(context.boot_archive)
        list_file = new_file(image, NAME)
        list_file.write_bytes(transfer_manifest(links, self._contents(image)))
        context.report(Report(1.0, "the image area is the root of the medium"))

    def _prepare(self, image: Path) -> None:
        """What one kind of image does before."""

    def _contents(self, image: Path) -> list[str]:
        """The files of the medium that the installed system gets."""
        return files_of_medium(image)

    def _strip_root(self, context: Context) -> None:
        image = context.pkg_image
        volume = regular_file(context.boot_archive, ".volsetid")
        if volume is None:
            raise products.missing(products.ARCHIVE_SETTINGS, "it has no .volsetid")
        shutil.copy2(volume, new_file(image, ".volsetid"))
        entry(image, "etc/.pwd.lock").unlink(missing_ok=True)
        for name in _IN_THE_ARCHIVE:
            _remove(entry(image, name))

    def _strip_platform(self, image: Path) -> None:
        _keep_only(image, _KEPT)
        if exists(image, "boot/grub/menu.lst"):
            # GRUB does not follow links.
            copied = resolve(image, "boot/platform")
            shutil.rmtree(copied, ignore_errors=True)
            shutil.copytree(resolve(image, "platform"), copied, symlinks=True)

    def _archive(self, context: Context, directory: Path, name: str, epoch: int) -> None:
        plain = context.tmp / f"{name}.hsfs"
        set_back_times(directory, epoch)
        write_hsfs(context, directory, plain, epoch, volume_id=_VOLUME)
        target = new_file(context.pkg_image, name)
        if is_illumos():
            context.run(["lofiadm", "-C", self.compression_type, plain])
            shutil.move(plain, target)
        else:
            lofi.compress(plain, target, self.compression_type, self._stoppable(context))
            plain.unlink()
        target.chmod(0o644)
        size = target.stat().st_size
        check_size(context.doc, name, size, alone=False)
        context.report(Report(message=f"{name}: {size / (1 << 20):.1f} MiB"))

    def _stoppable(self, context: Context) -> lofi.OnSegment:
        def step(done: int, total: int) -> None:
            if self.stopping.is_set():
                raise CheckpointError("the compression was stopped")
            if done % 256 == 0:
                context.report(Report(message=f"compressed {done} of {total} segments"))

        return step


@dataclass(frozen=True)
class TextPkgImgMod(_PkgImgMod):
    """Make the contents of a medium with the text installer."""


@dataclass(frozen=True)
class LiveCDPkgImgMod(_PkgImgMod):
    """Make the contents of a live medium with a desktop. Caches of icons are removed before."""

    def _prepare(self, image: Path) -> None:
        for cache in _named(resolve(image, "usr"), "icon-theme.cache"):
            cache.unlink()


@dataclass(frozen=True)
class AIPkgImgMod(_PkgImgMod):
    """Make the contents of a medium with the automated installer. The installed system gets only the files
    that were saved for it."""

    def _contents(self, image: Path) -> list[str]:
        return saved_files(image)


def _named(directory: Path, name: str) -> Iterator[Path]:
    yield from (path for path in list(directory.rglob(name)) if not path.is_dir())


def _keep_only(image: Path, names: tuple[str, ...]) -> None:
    """Remove all other files below /platform; directories stay."""
    for path in sorted(resolve(image, "platform").rglob("*")):
        if path.name not in names and (path.is_symlink() or not path.is_dir()):
            path.unlink()


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
