"""`GCEImage`: the disk as Google Compute Engine imports it.

It is a tar in the old format of GNU, compressed by gzip, with one sparse file disk.raw whose size is a whole
number of GiB. Result: media/NAME-gce.tar.gz, delivered.
Source: Google Cloud's documentation, "Manually import virtual disks" and "Requirements to build custom
images".
"""

from collections.abc import Iterator
from dataclasses import dataclass

from dcd.checkpoints import products
from dcd.checkpoints.interface import Checkpoint, Context, Report
from dcd.checkpoints.media.deliver import deliver_file, media_name
from dcd.checkpoints.rootfs.compression import check_level, compress
from dcd.checkpoints.times import source_date_epoch
from dcd.checkpoints.vm.disk import recorded_disk
from dcd.checkpoints.vm.layout import examine_layout
from dcd.checkpoints.vm.volume_rules import GIB
from dcd.manifest.diagnostics import Diagnostic, error
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.objects.target import DiskImage
from dcd.platform.inside import new_file
from statemachine.errors import CheckpointError

_MOST_BYTES = 2048 * GIB


@dataclass(frozen=True)
class GCEImage(Checkpoint):
    """Pack the disk for Google Compute Engine.

    Upload it to a bucket, then: `gcloud compute images create NAME --source-uri gs://BUCKET/NAME-gce.tar.gz`.
    """

    DESCRIPTION = "Pack the disk for Google Compute Engine"
    EXPECTED_SECONDS = 40.0
    REQUIRES = (products.DISK,)
    PROVIDES = ()
    READS = ("//disk_image.size", "//vm_im/max_size", "//distro.name", "//distro.add_timestamp")
    TOOLS = ("pack-tar", "pack-gzip")
    DISK_BYTES = 2 << 30

    level: int | None = None
    """The level of gzip, 1 to 9; by default its own."""

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        yield from check_level(doc, self, "gzip", self.level)
        images = doc.get_descendants(class_type=DiskImage, max_count=1)
        if found := _misfit(examine_layout(doc)[0].size):
            yield error(
                images[0].place_of("size") if images else self.argument_place(doc),
                f"{self.name}: {found[0]}",
                *found[1:],
            )

    def execute(self, context: Context) -> None:
        disk, layout = recorded_disk(context)
        if found := _misfit(layout.size):
            raise CheckpointError(*found)
        epoch = source_date_epoch(context, int(disk.stat().st_mtime))
        plain = context.tmp / f"{media_name(context.doc, epoch)}-gce.tar"
        context.report(Report(0.1, f"packing {disk.name}"))
        context.run(
            [
                *("tar", "--create", "--format=oldgnu", "--sparse", "--hole-detection=raw"),
                *("--owner=0", "--group=0", "--numeric-owner", "--mode=0644", f"--mtime=@{epoch}"),
                *("--transform=s,.*,disk.raw,", f"--file={plain}"),
                *("--directory", disk.parent, "--", disk.name),
            ]
        )
        context.report(Report(0.4, "compressing"))
        packed = compress(context, plain, "gzip", self.level)
        result = new_file(context.media, packed.name)
        packed.rename(result)
        deliver_file(context, result, "gce")
        context.report(Report(1.0, f"{result.name}: {result.stat().st_size / (1 << 20):.1f} MiB"))


def _misfit(size_bytes: int) -> tuple[str, str, str] | None:
    """The error for a disk that cannot be imported; or None."""
    whole = -(-size_bytes // GIB)
    if size_bytes > _MOST_BYTES:
        return (
            "the disk is too large for Compute Engine",
            f"it has {size_bytes} bytes, an imported disk at most {_MOST_BYTES // GIB} GiB",
            f'<disk_image size="{_MOST_BYTES // GIB}gb" .../>',
        )
    if size_bytes % GIB:
        return (
            "Compute Engine imports disks of a whole number of GiB",
            f"the disk has {size_bytes} bytes, {size_bytes / GIB:.2f} GiB",
            f'<disk_image size="{whole}gb" .../>',
        )
    return None
