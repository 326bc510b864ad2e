"""`CompressedDisk`: the raw disk, compressed, with a map of its blocks for bmaptool.

Results: media/NAME.raw.zst (.xz, .gz) and media/NAME.raw.bmap, both delivered.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from dcd.checkpoints import products
from dcd.checkpoints.cloud import bmap
from dcd.checkpoints.interface import Checkpoint, Context, Needs, Report
from dcd.checkpoints.media.deliver import deliver_file, media_name
from dcd.checkpoints.rootfs.compression import check_level, compress, tools_of
from dcd.checkpoints.times import source_date_epoch
from dcd.checkpoints.vm.disk import recorded_disk
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.doc import DataObjectCache
from dcd.platform.inside import new_file, write


@dataclass(frozen=True)
class CompressedDisk(Checkpoint):
    """Compress the raw disk.

    With the map, `bmaptool copy NAME.raw.zst DEVICE` writes only what has to be there, and checks it.
    """

    DESCRIPTION = "Compress the raw disk"
    EXPECTED_SECONDS = 20.0
    REQUIRES = (products.DISK,)
    PROVIDES = ()
    READS = ("//distro.name", "//distro.add_timestamp")
    TOOLS = ("pack-zstd", "pack-xz", "pack-gzip", *bmap.TOOLS)
    DISK_BYTES = 1 << 30

    compression: Literal["zstd", "xz", "gzip"] = "zstd"
    """The compression of the disk. bmaptool of Debian 12 reads all three."""

    level: int | None = None
    """The level of the compression: zstd 1 to 19, xz 0 to 9, gzip 1 to 9; by default the compressor's own."""

    bmap: bool = True
    """Deliver a map of the blocks, NAME.raw.bmap, in the format 2.0 of bmap-tools."""

    def needs(self, doc: DataObjectCache) -> Needs:
        mapping = bmap.TOOLS if self.bmap else ()
        return Needs(tools=(*tools_of(self.compression), *mapping), disk_bytes=self.DISK_BYTES)

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        yield from check_level(doc, self, self.compression, self.level)

    def execute(self, context: Context) -> None:
        disk, layout = recorded_disk(context)
        stem = media_name(context.doc, source_date_epoch(context, int(disk.stat().st_mtime)))
        if self.bmap:
            context.report(Report(0.1, "mapping the blocks"))
            text = bmap.block_map(context, disk, layout)
            deliver_file(context, write(context.media, f"{stem}.raw.bmap", text), "bmap")
        context.report(Report(0.3, f"compressing {disk.name}"))
        link = context.tmp / f"{stem}.raw"
        link.symlink_to(disk)
        packed = compress(context, link, self.compression, self.level)
        result = new_file(context.media, packed.name)
        packed.rename(result)
        deliver_file(context, result, "raw")
        context.report(Report(1.0, f"{result.name}: {result.stat().st_size / (1 << 20):.1f} MiB"))
