"""`OCILayer`: the image area as it is now becomes a layer of a container image.

Behind each transfer, it gives an image with one layer for each. `OCIImage` packs them, and what has changed
since.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from dcd.checkpoints import products
from dcd.checkpoints.image.compress import excluded_faults
from dcd.checkpoints.interface import Checkpoint, Context, Needs, Report
from dcd.checkpoints.rootfs.compression import check_level, tools_of
from dcd.checkpoints.rootfs.oci_layers import add_layer
from dcd.checkpoints.rootfs.tree import completed_image
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.forms import EXCLUDED


@dataclass(frozen=True)
class OCILayer(Checkpoint):
    """Make a layer of a container image from what has changed in the image.

    Images that begin with the same layers share them, in registries and in the stores of their users.
    """

    DESCRIPTION = "Make a layer of the container image"
    EXPECTED_SECONDS = 10.0
    REQUIRES = (products.IMAGE,)
    PROVIDES = ()
    TOOLS = ("pack-gzip", "pack-zstd")
    DISK_BYTES = 1 << 30

    compression: Literal["gzip", "zstd", "none"] = "gzip"
    """The compression of the layer. Every registry and runtime takes gzip."""

    level: int | None = None
    """The level of the compression: gzip 1 to 9, zstd 1 to 19; by default the compressor's own."""

    exclude: tuple[Annotated[str, EXCLUDED], ...] = ()
    """Paths of the image to leave out, as shell patterns: `var/cache/apt/*`."""

    def needs(self, doc: DataObjectCache) -> Needs:
        return Needs(tools=tools_of(self.compression), disk_bytes=self.DISK_BYTES)

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        yield from check_level(doc, self, self.compression, self.level)
        yield from excluded_faults(doc, self, self.exclude)

    def execute(self, context: Context) -> None:
        tree = completed_image(context, self.exclude)
        layer = add_layer(context, tree, self.name, self.compression, self.level)
        if layer is None:
            context.warn("nothing has changed since the layer before: there is no other")
        else:
            context.report(Report(1.0, f"a layer of {layer.size / (1 << 20):.1f} MiB"))
