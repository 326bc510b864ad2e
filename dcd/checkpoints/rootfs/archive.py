"""`RootfsArchive`: the image area as one archive or file system, for containers and chroots.

It needs neither kernel nor boot loader. From the image area only the identity of a machine is removed before
(`dcd.checkpoints.image.identity`). What a format cannot hold is named before anything is written: as an
error, or as a warning where only an attribute is lost. Result: media/NAME.SUFFIX, delivered.
Source: cpio(5), "New ASCII Format"; mkfs.erofs(1); `dcd.checkpoints.rootfs.tar` for tar.
"""

import os
import stat
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, cast

from dcd.checkpoints import products
from dcd.checkpoints.image.compress import SquashfsPkgImgMod, excluded_faults
from dcd.checkpoints.interface import Checkpoint, Context, Needs, Report, Variance
from dcd.checkpoints.media.deliver import deliver_made, media_name
from dcd.checkpoints.rootfs.compression import (
    check_level,
    compress,
    tools_of,
)
from dcd.checkpoints.rootfs.tree import Tree, completed_image, with_attributes
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.doc import DataObjectCache, distro
from dcd.manifest.forms import EXCLUDED
from dcd.manifest.values import SIZE, size_bytes
from dcd.platform.inside import listed
from statemachine.errors import CheckpointError
from store.host import tar
from store.host.entries import Entry

Format = Literal["tar", "cpio", "squashfs", "erofs"]

_POSSIBLE: Mapping[str, tuple[str, ...]] = {
    "tar": ("zstd", "xz", "gzip", "none"),
    "cpio": ("zstd", "xz", "gzip", "none"),
    "squashfs": ("zstd", "xz", "gzip", "lz4"),
    "erofs": ("lz4hc", "lz4", "none"),
}
"""The compressions of each format, the default first."""

_TIMES: Mapping[str, range] = {"cpio": range(1 << 32), "erofs": range(1 << 63)}
"""The times that a format holds; tar holds all, and `SquashfsPkgImgMod` checks its own."""
_LARGEST_CPIO_FILE = (1 << 32) - 1
_SQUASHFS_LEVELS = {"zstd": range(1, 23), "gzip": range(1, 10)}
_EROFS_LEVELS = range(13)


@dataclass(frozen=True)
class RootfsArchive(Checkpoint):
    """Pack the root file system.

    Tar keeps everything: owners, modes, times, links, devices, holes, extended attributes, capabilities and
    POSIX ACLs. erofs keeps the same without holes, squashfs without ACLs too, and cpio keeps no attributes.
    """

    DESCRIPTION = "Pack the root file system"
    EXPECTED_SECONDS = 15.0
    REQUIRES = (products.IMAGE,)
    PROVIDES = ()
    READS = ("//distro.name", "//distro.add_timestamp")
    TOOLS = ("mksquashfs", "mkfs.erofs", "pack-cpio", "pack-zstd", "pack-xz", "pack-gzip")
    DISK_BYTES = 2 << 30

    format: Format = "tar"
    """The format of the archive or file system."""

    compression: Literal["zstd", "xz", "gzip", "lz4", "lz4hc", "none"] | None = None
    """The compression: zstd, xz, gzip or none for tar and cpio; zstd, xz, gzip or lz4 for squashfs; lz4hc,
    lz4 or none for erofs. The first is the default."""

    level: int | None = None
    """The level of the compression, as the compressor counts; by default its own."""

    exclude: tuple[Annotated[str, EXCLUDED], ...] = ()
    """Paths of the image to leave out, as shell patterns: `var/cache/apt/*`."""

    lost_attributes: Literal["warn", "fail"] = "warn"
    """The treatment of files with attributes that the format does not keep (ACLs in squashfs; ACLs,
    capabilities and other extended attributes in cpio): a warning that names them, or an error."""

    max_size: Annotated[str, SIZE] | None = None
    """The largest size of the result. Where it is known before, a larger one is not written at all."""

    def needs(self, doc: DataObjectCache) -> Needs:
        tools = {"squashfs": ("mksquashfs",), "erofs": ("mkfs.erofs",)}.get(
            self.format, tools_of(self._compression)
        )
        cpio = ("pack-cpio",) if self.format == "cpio" else ()
        return Needs(tools=(*cpio, *tools), disk_bytes=self.DISK_BYTES)

    def variances(self, doc: DataObjectCache) -> Iterator[Variance]:
        if self.format == "erofs":
            yield Variance(
                "mkfs.erofs numbers files in the order in which the file system of the host lists them; the "
                "same copy of an image gives the same bytes"
            )

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        if self._compression not in _POSSIBLE[self.format]:
            yield self.fault(
                doc,
                "compression",
                f"{self.format} is not compressed with {self._compression}",
                f"possible are {', '.join(_POSSIBLE[self.format])}",
                f'<arg name="compression">{_POSSIBLE[self.format][0]}</arg>',
            )
        elif self.format in ("tar", "cpio"):
            yield from check_level(doc, self, self._compression, self.level)
        else:
            yield from self._check_level(doc)
        yield from excluded_faults(doc, self, self.exclude)

    def _check_level(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        """Errors for a level of a file system's compression."""
        levels = _SQUASHFS_LEVELS.get(self._compression, range(0))
        if self.format == "erofs":
            levels = _EROFS_LEVELS if self._compression == "lz4hc" else range(0)
        if self.level is not None and self.level not in levels:
            yield self.fault(
                doc,
                "level",
                f"{self._compression} has no level {self.level} in {self.format}",
                f"it has levels {levels[0]} to {levels[-1]}" if levels else "it has no levels",
                f'<arg name="level">{levels[-1]}</arg>' if levels else "leave level out",
            )

    def get_progress_estimate(self) -> float:
        return {"xz": 60.0, "none": 5.0}.get(self._compression, self.EXPECTED_SECONDS)

    def execute(self, context: Context) -> None:
        tree = completed_image(context, self.exclude)
        self._require_fit(context, tree)
        name = f"{media_name(context.doc, tree.epoch)}.{self.format}"
        plain = context.tmp / name
        context.report(Report(0.1, f"packing {len(tree.entries)} files"))
        match self.format:
            case "tar":
                with plain.open("wb") as file:
                    tar.write_tar(file.write, tree.entries)
            case "cpio":
                _write_cpio(context, tree, plain)
            case "squashfs":
                self._squashfs().pack(context, plain)
            case "erofs":
                self._write_erofs(context, tree, plain)
        if self.format in ("tar", "cpio"):
            context.report(Report(0.4, f"compressing {plain.stat().st_size / (1 << 20):.1f} MiB"))
            plain = compress(context, plain, self._compression, self.level)
        self._require_size(plain.stat().st_size)
        result = deliver_made(context, plain, self.format)
        context.report(Report(1.0, f"{result.name}: {result.stat().st_size / (1 << 20):.1f} MiB"))

    @property
    def _compression(self) -> str:
        return self.compression or _POSSIBLE[self.format][0]

    def _squashfs(self) -> SquashfsPkgImgMod:
        return SquashfsPkgImgMod(
            self.name,
            cast(Literal["zstd", "xz", "gzip", "lz4"], self._compression),
            self.level,
            exclude=self.exclude,
            posix_acls="drop" if self.lost_attributes == "warn" else "fail",
        )

    def _write_erofs(self, context: Context, tree: Tree, result: Path) -> None:
        identity = uuid.uuid5(uuid.NAMESPACE_OID, f"{distro(context.doc).name}\0{tree.epoch}")
        chosen = "" if self.level is None else f",{self.level}"
        context.run(
            [
                *("mkfs.erofs", "--quiet", "-U", str(identity)),
                *(() if self._compression == "none" else (f"-z{self._compression}{chosen}",)),
                *(f"--exclude-path={name}" for name in tree.left_out),
                *(result, tree.root),
            ],
            env={"SOURCE_DATE_EPOCH": str(tree.epoch)},
        )

    def _require_fit(self, context: Context, tree: Tree) -> None:
        """Raise `CheckpointError` for what the format cannot hold, or warn of what it loses."""
        if self._compression == "none" and self.format != "erofs":
            self._require_size(tree.content_bytes)
        times = _TIMES.get(self.format)
        odd = (
            [] if times is None else [one.name for one in tree.entries if one.seconds not in times]
        )
        if odd:
            raise CheckpointError(
                f"the image has times that {self.format} cannot hold",
                f"they are before 1970 or too late, on {listed(odd)}",
                "give these files another time (touch) in a checkpoint before, or leave them out (exclude)",
            )
        if self.format == "cpio":
            large = [
                one.name
                for one in tree.entries
                if one.kind == stat.S_IFREG and one.status.st_size > _LARGEST_CPIO_FILE
            ]
            if large:
                raise CheckpointError(
                    "the image has files that are too large for cpio",
                    f"it holds at most 4 GiB less a byte: {listed(large)}",
                    'use another format: <arg name="format">tar</arg>',
                )
            self._lose(context, with_attributes(tree), "extended attributes and capabilities")
        elif self.format == "tar":
            self._lose(context, tar.sockets(tree.entries), "sockets")

    def _lose(self, context: Context, names: list[str], what: str) -> None:
        if not names:
            return
        if self.lost_attributes == "fail" and what != "sockets":
            raise CheckpointError(
                f"the image has {what}, which {self.format} does not keep",
                f"they are on {listed(names)}",
                'use another format, or accept their loss: <arg name="lost_attributes">warn</arg>',
            )
        context.warn(f"{what} are not kept, {self.format} has none: {listed(names)}")

    def _require_size(self, found_bytes: int) -> None:
        if self.max_size is None or found_bytes <= size_bytes(self.max_size):
            return
        raise CheckpointError(
            "the root file system is larger than it may be",
            f"it has {found_bytes} bytes or more, and max_size is {self.max_size} "
            f"({size_bytes(self.max_size)} bytes)",
            "put less into the image, compress it better, leave paths out (exclude), or raise max_size",
        )


def _write_cpio(context: Context, tree: Tree, result: Path) -> None:
    """Write an archive in the format `newc`, which the kernel reads."""

    def named(entry: Entry) -> bytes:
        return os.fsencode(f"./{entry.name}" if entry.name else ".")

    context.run(
        [
            *("cpio", "--create", "--null", "--format=newc", "--reproducible", "--quiet"),
            f"--file={result}",
        ],
        cwd=tree.root,
        stdin=b"".join(named(entry) + b"\0" for entry in tree.entries),
    )
