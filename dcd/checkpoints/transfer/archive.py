"""`TransferArchive`: unpacks an archive into a directory of the workspace.

It reads tar and cpio archives, plain or compressed with gzip, bzip2, xz or zstd, and recognizes them by their
first bytes, not by name. Members cannot leave the destination: neither by absolute names or `..`, nor through
links in the archive or the destination.
"""

import bz2
import gzip
import lzma
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from dcd.checkpoints import products
from dcd.checkpoints.areas import area_directory, captured_file
from dcd.checkpoints.interface import Checkpoint, Context, Report
from dcd.checkpoints.transfer.listed import check_places, check_software
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.doc import DataObjectCache, software_for
from dcd.manifest.forms import CLIENT_PATH
from dcd.manifest.objects.software import Dir
from dcd.manifest.values import InputPath
from dcd.platform.copying import copy_entries, has_acls, refuse_losses
from dcd.platform.cpio_archive import MAGICS, unpack_cpio
from dcd.platform.inside import readable
from statemachine.errors import CheckpointError
from store.host.process import ToolFailed

_OPENERS: Mapping[bytes, Callable[[Path], gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}
_ZSTD = b"\x28\xb5\x2f\xfd"
_TAR_OPTIONS = (
    *("--preserve-permissions", "--same-owner", "--numeric-owner", "--delay-directory-restore"),
    # GNU tar of a system without these attributes would warn of every file.
    *(("--xattrs", "--xattrs-include=*", "--acls") if hasattr(os, "listxattr") else ()),
)

_BLOCK_BYTES = 512
_LOST = "extended attribute for file"
"""A part of tar's message about an attribute that cannot be set."""


@dataclass(frozen=True)
class TransferArchive(Checkpoint):
    """Unpack an archive.

    The destination is the `dir` in the destination of the `software` of the checkpoint's name, by default
    the image area.
    """

    DESCRIPTION = "Unpack an archive into the workspace"
    VERSION = 3
    NAMED = ("software",)
    TOOLS = ("tar", "zstd")

    archive: Annotated[InputPath, CLIENT_PATH]
    """The archive file; it is captured when the build is submitted."""

    def provides(self, doc: DataObjectCache) -> products.Provided:
        found = products.in_area(_destination(doc, self.name))
        return {**found, products.IMAGE: "surely"} if products.IMAGE in found else found

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        software = software_for(doc, self.name)
        if software is not None:
            yield from check_software(doc, self, "ARCHIVE")
            yield from check_places(software)

    def execute(self, context: Context) -> None:
        where = _destination(context.doc, self.name)
        archive = captured_file(context.inputs, str(self.archive))
        destination = area_directory(context, where)
        context.report(Report(0.0, f"unpacking {self.archive}"))
        if not any(destination.iterdir()):
            self._unpack(context, archive, destination)
            return
        # Existing links could lead tar out of the workspace; the copy does not follow them.
        aside = context.tmp / "unpacked"
        aside.mkdir()
        self._unpack(context, archive, aside)
        names = sorted(found.name for found in aside.iterdir())
        copied = copy_entries(aside, destination, names)
        shutil.rmtree(aside)
        refuse_losses(copied.lost)

    def _unpack(self, context: Context, archive: Path, destination: Path) -> None:
        """Unpack the archive. Errors name it as the manifest does."""
        try:
            self._unpack_kind(context, archive, destination)
        except CheckpointError as error:
            place = self.argument_place(context.doc, "archive")
            named = f"the archive is named at {place}" if place else ""
            reason = error.output if isinstance(error, ToolFailed) else error.details
            raise CheckpointError(
                f"{self.archive} cannot be unpacked: {error.brief}",
                "\n".join(filter(None, (named, reason))),
                error.resolution or "make the archive again, or name another",
            ) from error

    def _unpack_kind(self, context: Context, archive: Path, destination: Path) -> None:
        plain = self._decompressed(context, archive)
        with plain.open("rb") as stream:
            head = stream.read(_BLOCK_BYTES)
        if head.startswith(MAGICS):
            with plain.open("rb") as stream:
                unpack_cpio(stream, destination)
        elif head[257:262] == b"ustar":
            _check_end(context, plain)
            if not has_acls(destination):
                refuse_losses(_with_acls(plain))
            lost: list[str] = []

            def note_loss(line: str) -> None:
                if _LOST in line:
                    lost.append(line)

            context.run(
                ["tar", "--extract", *_TAR_OPTIONS, "--file", plain, "--directory", destination],
                on_line=note_loss,
            )
            # tar ignores this.
            refuse_losses(lost)
        else:
            raise CheckpointError(
                "it is not an archive",
                "it is neither tar nor cpio, plain or compressed with gzip, bzip2, xz or zstd",
                "name a tar or cpio archive",
            )
        if plain != archive:
            plain.unlink()

    def _decompressed(self, context: Context, archive: Path) -> Path:
        with archive.open("rb") as stream:
            head = stream.read(6)
        plain = context.tmp / "archive"
        if head.startswith(_ZSTD):
            context.run(["zstd", "--quiet", "--decompress", "--force", "-o", plain, archive])
        elif head.startswith(tuple(_OPENERS)):
            try:
                opened = next(kind for magic, kind in _OPENERS.items() if head.startswith(magic))
                with opened(archive) as source, plain.open("wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
            except (EOFError, lzma.LZMAError, OSError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise  # The disk's error, not the archive's.
                raise CheckpointError(
                    "it is damaged", str(error), "make the archive again"
                ) from error
        else:
            return archive
        return plain


def _destination(doc: DataObjectCache, checkpoint: str) -> str:
    software = software_for(doc, checkpoint)
    places = software.get_descendants(class_type=Dir) if software is not None else []
    return places[0].path if places else "{PKG_IMAGE_PATH}"


def _check_end(context: Context, archive: Path) -> None:
    """Raise `CheckpointError` for a tar archive that is cut off in a header, which tar itself takes for the
    end. Warn about one that is cut off between members, or made by a program that writes no end. Source:
    pax(1), two blocks of zeros end an archive; tar accepts one as well."""
    size_bytes = archive.stat().st_size
    if size_bytes % _BLOCK_BYTES:
        raise CheckpointError(
            "it is cut off", f"{size_bytes} bytes are no number of whole blocks of a tar archive"
        )
    with archive.open("rb") as stream:
        stream.seek(-_BLOCK_BYTES, os.SEEK_END)
        if any(stream.read()):
            context.warn("the tar archive has no end; it may be cut off")


def _with_acls(archive: Path) -> list[str]:
    """The members of a tar archive with POSIX ACLs, which tar silently loses on a file system without.
    Source: tar(1), --acls; the keywords SCHILY.acl.access and SCHILY.acl.default of star(5)."""
    with tarfile.open(archive, "r:") as tar:
        return [
            f"POSIX ACL of {readable(member.name)}"
            for member in tar
            if any(key.startswith("SCHILY.acl.") for key in member.pax_headers)
        ]
