"""`SquashfsPkgImgMod`: the image area, compressed into the file system that the live system runs from.

Result: media/iso/live/filesystem.squashfs. In the image area only the identity of the machine is removed
before (`dcd.checkpoints.image.identity`). With SOURCE_DATE_EPOCH in the environment the same image gives the
same bytes (later times are set back to it). Squashfs cannot hold POSIX ACLs: depending on the manifest they
are lost, with a warning, or an error. Times before 1970 and after 2106 are errors too.
Source: mksquashfs(1).
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

from dcd.checkpoints import products
from dcd.checkpoints.image.identity import NO_HOST_KEYS, remove_identity, without_host_keys
from dcd.checkpoints.interface import Checkpoint, Context, Report
from dcd.checkpoints.media.largest import check_size
from dcd.checkpoints.times import source_date_epoch
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.forms import EXCLUDED
from dcd.platform.inside import listed, new_file
from statemachine.errors import CheckpointError
from store.host.attributes import names_of_attributes

_LEVELS = {"zstd": range(1, 23), "gzip": range(1, 10)}
_REPORTS = 100
"""The most progress reports."""
_LATEST = (1 << 32) - 1
"""Squashfs has times of 32 bits since 1970; mksquashfs writes the lower bits of others, after it has set
back those after SOURCE_DATE_EPOCH."""


@dataclass(frozen=True)
class SquashfsPkgImgMod(Checkpoint):
    """Compress the image.

    Low levels of zstd are many times faster and a few per cent larger.
    """

    DESCRIPTION = "Compress the image"
    REQUIRES = (products.IMAGE,)
    PROVIDES = (products.SQUASHFS,)
    TOOLS = ("mksquashfs",)
    DISK_BYTES = 1 << 30

    compression_type: Literal["zstd", "xz", "gzip", "lz4"] = "zstd"
    """The compressor to use."""

    compression_level: int | None = None
    """The compressor's own level: zstd 1 to 22, gzip 1 to 9; xz and lz4 have none. Without one mksquashfs
    chooses (zstd 15, gzip 9)."""

    block_size_kib: Literal[4, 8, 16, 32, 64, 128, 256, 512, 1024] = 1024
    """The size of a block in KiB."""

    exclude: tuple[Annotated[str, EXCLUDED], ...] = ()
    """Paths of the image to leave out, as shell patterns: `var/cache/apt/*`."""

    posix_acls: Literal["drop", "fail"] = "drop"
    """The treatment of files with POSIX ACLs, which squashfs does not keep: `drop` the ACLs with a warning
    that names the files, or `fail`."""

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        levels = _LEVELS.get(self.compression_type)
        if self.compression_level is not None:
            if levels is None:
                yield self.fault(
                    doc,
                    "compression_level",
                    f"{self.compression_type} has no compression_level",
                    "mksquashfs has levels for zstd and gzip only",
                    "leave compression_level out",
                )
            elif self.compression_level not in levels:
                yield self.fault(
                    doc,
                    "compression_level",
                    f"compression_level {self.compression_level} is out of range",
                    f"{self.compression_type} has levels {levels[0]} to {levels[-1]}",
                    f'<arg name="compression_level">{levels[-1]}</arg>',
                )
        yield from excluded_faults(doc, self, self.exclude)

    def get_progress_estimate(self) -> float:
        if self.compression_type == "xz":
            return 80.0
        if self.compression_type == "zstd" and (self.compression_level or 15) > 9:
            return 25.0
        return 10.0

    def execute(self, context: Context) -> None:
        result = new_file(context.media, "iso/live/filesystem.squashfs")
        self.pack(context, result)
        check_size(context.doc, "the compressed image", result.stat().st_size, alone=False)

    def pack(self, context: Context, result: Path) -> None:
        """Compress the image area into the new file `result`. Raises `CheckpointError`."""
        image = context.pkg_image
        set_back = source_date_epoch(context, None) is not None
        found = survey(image, self.exclude, latest=None if set_back else _LATEST)
        if not found.entries:
            raise CheckpointError(
                "the image is empty", str(image), "run a transfer checkpoint before"
            )
        self._check(context, found)
        remove_identity(image)
        if without_host_keys(image):
            context.warn(NO_HOST_KEYS)
        context.run(
            self.command(image, result),
            # The lines, one for each file, count the progress and are not for the log.
            capture=True,
            on_line=_progress(context, found.entries),
        )
        size_mib = result.stat().st_size / (1 << 20)
        context.report(Report(1.0, f"{size_mib:.1f} MiB from {found.entries} files"))

    def command(self, image: Path, result: Path) -> list[str | Path]:
        """The command that compresses `image` into the file `result`."""
        command: list[str | Path] = [
            *("mksquashfs", image, result, "-noappend", "-no-progress", "-info"),
            *("-comp", self.compression_type, "-b", f"{self.block_size_kib}K"),
        ]
        if self.compression_level is not None:
            command += ["-Xcompression-level", str(self.compression_level)]
        if self.exclude:
            # -e takes all that follows.
            command += ["-wildcards", "-e", *(pattern.strip("/") for pattern in self.exclude)]
        return command

    def _check(self, context: Context, found: "Found") -> None:
        """Raise `CheckpointError` for times that squashfs cannot hold, and for POSIX ACLs, or warn."""
        if found.with_acls and self.posix_acls == "fail":
            raise CheckpointError(
                "the image has POSIX ACLs, which squashfs cannot hold",
                f"they are on {listed(found.with_acls)}",
                'remove them in a checkpoint before, or accept their loss: posix_acls "drop"',
            )
        if found.with_odd_times:
            raise CheckpointError(
                "the image has times that squashfs cannot hold",
                f"they are before 1970 or after 2106, on {listed(found.with_odd_times)}",
                "give these files another time (touch) in a checkpoint before, or leave them out (exclude)",
            )
        if found.with_acls:
            context.warn(f"POSIX ACLs are not kept, squashfs has none: {listed(found.with_acls)}")


@dataclass(frozen=True, slots=True)
class Found:
    """The compressed part of a tree: the number of entries, and the paths of those with POSIX ACLs and of
    those with a time that squashfs does not have."""

    entries: int
    with_acls: Sequence[str]
    with_odd_times: Sequence[str]


def survey(image: Path, exclude: Sequence[str] = (), *, latest: int | None = None) -> Found:
    """Read every entry of the tree except those that match `exclude`. Times before 1970 and after `latest`
    are odd."""
    patterns = [pattern.strip("/").split("/") for pattern in exclude]
    entries = 0
    with_acls: list[str] = []
    with_odd_times: list[str] = []
    pending: list[tuple[str, list[str]]] = [(os.fspath(image), [])]
    while pending:
        path, above = pending.pop()
        with os.scandir(path) as directory:
            for entry in directory:
                parts = [*above, entry.name]
                if any(matches(parts, pattern) for pattern in patterns):
                    continue
                entries += 1
                seconds = entry.stat(follow_symlinks=False).st_mtime_ns // 1_000_000_000
                if seconds < 0 or (latest is not None and seconds > latest):
                    with_odd_times.append("/".join(parts))
                if entry.is_symlink():
                    continue
                if entry.is_dir(follow_symlinks=False):
                    pending.append((entry.path, parts))
                attributes = names_of_attributes(entry.path)
                if any(name.startswith("system.posix_acl_") for name in attributes):
                    with_acls.append("/".join(parts))
    return Found(entries, sorted(with_acls), sorted(with_odd_times))


def excluded_faults(
    doc: DataObjectCache, checkpoint: Checkpoint, exclude: Sequence[str]
) -> Iterator[Diagnostic]:
    """Errors for patterns of the argument `exclude` that leave nothing of an image."""
    for item, pattern in enumerate(exclude):
        if not pattern.strip("/"):
            yield checkpoint.fault(
                doc,
                "exclude",
                f"exclude {pattern!r} leaves nothing of the image",
                "",
                "name paths below the root of the image",
                item,
            )


def matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether mksquashfs leaves an entry out for a pattern. Forms of ksh, which only mksquashfs knows, match
    nothing here. Source: mksquashfs(1), -wildcards; fnmatch(3), FNM_PERIOD."""
    return len(parts) == len(pattern) and all(
        fnmatchcase(part, wanted) and (part[0] != "." or wanted[0] == ".")
        for part, wanted in zip(parts, pattern, strict=True)
    )


def _progress(context: Context, entries: int) -> Callable[[str], None]:
    step = max(1, entries // _REPORTS)
    done = 0

    def count(line: str) -> None:
        nonlocal done
        if line.startswith(("file ", "directory ", "symbolic link ")):
            done += 1
            if done % step == 0:
                context.report(Report(min(done / entries, 1.0)))

    return count
