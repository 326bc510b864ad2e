"""`Convert`: the virtual machine's disk in every format that the manifest asks for, except `ova`.

The formats are made side by side, one for each processor, the slowest first. Each is checked and compared
with the disk before its delivery. The raw disk itself is delivered, without a copy or link.
Results: media/NAME.SUFFIX, recorded by kind.
"""

import os
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from dcd.checkpoints import products
from dcd.checkpoints.interface import Checkpoint, Context, Needs, Report, Variance
from dcd.checkpoints.media.deliver import as_artifact, media_name
from dcd.checkpoints.recorded import record_medium
from dcd.checkpoints.times import source_date_epoch
from dcd.checkpoints.vm.conversion import TOOLS, Level, convert, examine, make_stream
from dcd.checkpoints.vm.disk import DiskLayout, recorded_disk
from dcd.checkpoints.vm.format_ids import derive_ids
from dcd.checkpoints.vm.formats import (
    STREAM,
    Image,
    check_chosen,
    check_images,
    check_sizes,
    images_of,
    too_large,
)
from dcd.checkpoints.vm.layout import examine_layout, expected_image_bytes
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.forms import WORD
from dcd.platform.inside import new_file
from statemachine.errors import CheckpointError
from statemachine.results import Artifact

AZURE_STEP_BYTES = 1 << 20
"""A fixed VHD is for Azure, which takes only whole MiB."""

_POLL_SECONDS = 0.5
_CONVERSION_SHARE = 0.8
"""The share of the conversion in the work for an image; the rest is the check of the result."""


@dataclass(frozen=True)
class Convert(Checkpoint):
    """Convert the disk to the formats that `vm_im` lists."""

    DESCRIPTION = "Convert the disk to the formats it is delivered in"
    VERSION = 2
    EXPECTED_SECONDS = 20.0
    READS = ("//vm_format", "//distro.name", "//distro.add_timestamp")
    TOOLS = TOOLS
    REQUIRES = (products.DISK,)

    formats: tuple[Annotated[str, WORD], ...] = ()
    """A selection of the formats, as `TYPE` or `TYPE-SUBFORMAT`. Default: all."""

    level: Level = 6
    """The level of the compression, from 1 (fast) to 9 (small), for a streamOptimized VMDK."""

    out_of_order: bool = False
    """Write the clusters of a compressed qcow2 in the order in which several processors finish them: faster,
    with the same contents, but with other bytes each time."""

    def needs(self, doc: DataObjectCache) -> Needs:
        made = sum(image.type != "raw" for image in self._images(doc))
        tools = self.TOOLS if made else ()
        return Needs(tools=tools, disk_bytes=made * expected_image_bytes(doc))

    def provides(self, doc: DataObjectCache) -> products.Provided:
        return {image.kind: "surely" for image in self._images(doc)}

    def variances(self, doc: DataObjectCache) -> Iterator[Variance]:
        compressed = any(image.compression and image != STREAM for image in self._images(doc))
        if self.out_of_order and compressed:
            yield Variance(
                "out_of_order: the clusters of a qcow2 are in the order of their compression"
            )

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        yield from check_images(doc, self)
        # CreateDisk reports the other errors of the layout.
        yield from check_sizes(doc, examine_layout(doc)[0].size)
        offered = _offered(doc)
        if images_of(doc) and not offered:
            yield self.fault(
                doc,
                None,
                "the manifest asks for no format but ova",
                "CreateOVA makes what it needs itself",
                "leave this checkpoint out, or add a vm_format to vm_im",
            )
        yield from check_chosen(doc, self, self.formats, offered)

    def execute(self, context: Context) -> None:
        images = self._images(context.doc)
        kinds = ", ".join(image.kind for image in images)
        disk, layout = recorded_disk(context)
        _check_disk(disk, layout, images)
        context.report(Report(0.0, f"converting {disk.name} to {kinds}"))
        done = self._carry_out(context, disk, layout, images)
        for image in images:
            artifact = done[image]
            context.deliver(artifact)
            record_medium(context, image.kind, context.root / artifact.path)

    def _images(self, doc: DataObjectCache) -> tuple[Image, ...]:
        """The images to make."""
        return tuple(one for one in _offered(doc) if not self.formats or one.kind in self.formats)

    def _carry_out(
        self, context: Context, disk: Path, layout: DiskLayout, images: tuple[Image, ...]
    ) -> dict[Image, Artifact]:
        """Make all images; the first failure ends the work for the others."""
        fractions = dict.fromkeys(images, 0.0)
        total = sum(map(_expected_seconds, images))
        epoch = source_date_epoch(context, int(disk.stat().st_mtime))
        stem = media_name(context.doc, epoch)

        def make(image: Image) -> Artifact:
            def on_progress(fraction: float) -> None:
                if self.stopping.is_set():
                    raise CheckpointError("stopped while the disk was being converted")
                fractions[image] = fraction * _CONVERSION_SHARE

            on_progress(0.0)
            name = image.file_name(stem)
            if image.type == "raw":
                return as_artifact(context, disk, "raw", name=name)
            path = new_file(context.media, name)
            if image == STREAM:
                make_stream(path, disk, layout, level=self.level, on_progress=on_progress)
            else:
                convert(
                    *(context, disk, image, path),
                    out_of_order=self.out_of_order,
                    on_progress=on_progress,
                )
                derive_ids(path, image.type, layout.uuid, epoch)
            examine(context, disk, image, path)
            return as_artifact(context, path, image.type)

        made: dict[Image, Artifact] = {}
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            slowest_first = sorted(images, key=_expected_seconds, reverse=True)
            futures: dict[Future[Artifact], Image] = {
                pool.submit(make, image): image for image in slowest_first
            }
            pending = set(futures)
            try:
                while pending:
                    ended, pending = wait(pending, _POLL_SECONDS, FIRST_EXCEPTION)
                    for future in ended:
                        image = futures[future]
                        made[image] = future.result()
                        fractions[image] = 1.0
                    share = sum(fractions[image] * _expected_seconds(image) for image in images)
                    names = [made[futures[future]].name for future in ended]
                    message = f"{', '.join(names)}: equal to the disk" if names else ""
                    context.report(Report(share / total, message))
            finally:
                self.stopping.set()
                pool.shutdown(cancel_futures=True)
        return made


def _offered(doc: DataObjectCache) -> list[Image]:
    return [image for image in images_of(doc) if image.type != "ova"]


def _expected_seconds(image: Image) -> float:
    """The rough duration for an image, relative to others."""
    return {"zlib": 6.0, "zstd": 4.0}.get("zlib" if image == STREAM else image.compression, 2.0)


def _check_disk(disk: Path, layout: DiskLayout, images: tuple[Image, ...]) -> None:
    """Raise `CheckpointError` when the disk cannot be converted."""
    if not disk.is_file():
        remedy = "look for an earlier checkpoint that removes it"
        raise CheckpointError(f"the disk {disk.name} no longer exists", str(disk), remedy)
    size = disk.stat().st_size
    if size != layout.size:
        raise CheckpointError(
            f"the disk {disk.name} is corrupt: it has another size than its partition table",
            f"it has {size} bytes, its layout {layout.size}",
            "rewind the build to the checkpoint that makes the disk",
        )
    for image in images:
        if problem := too_large(image, size):
            raise CheckpointError(*problem)
    fixed = [image for image in images if (image.type, image.subformat) == ("vhd", "fixed")]
    if fixed and size % AZURE_STEP_BYTES:
        raise CheckpointError(
            "a fixed VHD is a whole number of MiB",
            f"the disk has {size} bytes",
            'give disk_image a size in mb: <disk_image size="4096mb" .../>',
        )
