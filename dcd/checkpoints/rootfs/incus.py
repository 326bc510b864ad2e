"""`IncusImage`: the image area as an image of system containers, for Incus and LXD.

Unified, it is one archive with the metadata and the root file system below `rootfs`; split, the same metadata
and a squashfs beside it. The metadata is JSON, which is YAML too. A template gives each container its own
name.
Source: Incus' documentation, "Image format" (metadata.yaml, templates) and "How to copy and import images".
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal

from dcd.checkpoints import products
from dcd.checkpoints.image.compress import SquashfsPkgImgMod, excluded_faults
from dcd.checkpoints.image.os_release import os_release
from dcd.checkpoints.interface import Checkpoint, Context, Needs, Report
from dcd.checkpoints.media.deliver import deliver_file, deliver_made, media_name
from dcd.checkpoints.rootfs.compression import check_level, compress, tools_of
from dcd.checkpoints.rootfs.containers import architectures_of, warn_without_init
from dcd.checkpoints.rootfs.tree import Tree, completed_image
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.doc import DataObjectCache, distro
from dcd.manifest.forms import EXCLUDED, LINE
from dcd.platform.inside import new_file
from store.host.tar import TarWriter

_HOST_NAME = "{{ container.name }}\n"


@dataclass(frozen=True)
class IncusImage(Checkpoint):
    """Make an image for Incus and LXD.

    Import a unified one with `incus image import FILE --alias NAME`, a split one with both files. System
    containers run init: the image needs one, such as systemd-sysv.
    """

    DESCRIPTION = "Make the image for Incus"
    EXPECTED_SECONDS = 30.0
    REQUIRES = (products.IMAGE,)
    PROVIDES = ()
    READS = ("//distro.name", "//distro.add_timestamp")
    TOOLS = ("pack-xz", "pack-zstd", "pack-gzip", "mksquashfs")
    DISK_BYTES = 2 << 30

    form: Literal["unified", "split"] = "unified"
    """One archive with all, or one with the metadata and a squashfs beside it."""

    compression: Literal["xz", "zstd", "gzip"] = "xz"
    """The compression of the archive. Older versions read no zstd."""

    level: int | None = None
    """The level of the compression: xz 0 to 9, zstd 1 to 19, gzip 1 to 9; by default the compressor's own."""

    description: Annotated[str, LINE] | None = None
    """The description of the image, in lists of images. Default: the system's name and the build's date."""

    exclude: tuple[Annotated[str, EXCLUDED], ...] = ()
    """Paths of the image to leave out, as shell patterns: `var/cache/apt/*`."""

    def needs(self, doc: DataObjectCache) -> Needs:
        file_system = ("mksquashfs",) if self.form == "split" else ()
        return Needs(tools=(*tools_of(self.compression), *file_system), disk_bytes=self.DISK_BYTES)

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        yield from check_level(doc, self, self.compression, self.level)
        yield from excluded_faults(doc, self, self.exclude)

    def execute(self, context: Context) -> None:
        tree = completed_image(context, self.exclude)
        warn_without_init(context)
        stem = f"{media_name(context.doc, tree.epoch)}-incus"
        plain = context.tmp / f"{stem}.tar"
        context.report(Report(0.1, f"packing {len(tree.entries)} files"))
        with plain.open("wb") as file:
            tar = TarWriter(file.write)
            tar.add_bytes("metadata.yaml", self._metadata(context, tree), tree.epoch)
            tar.add_directory("templates", tree.epoch)
            tar.add_bytes("templates/hostname.tpl", _HOST_NAME.encode(), tree.epoch)
            if self.form == "unified":
                for entry in tree.entries:
                    tar.add(entry, f"rootfs/{entry.name}".rstrip("/"))
            tar.close()
        context.report(Report(0.4, f"compressing {plain.stat().st_size / (1 << 20):.1f} MiB"))
        packed = compress(context, plain, self.compression, self.level)
        deliver_made(context, packed, "incus")
        if self.form == "split":
            file_system = new_file(context.media, f"{stem}.squashfs")
            SquashfsPkgImgMod(self.name, exclude=self.exclude).pack(context, file_system)
            deliver_file(context, file_system, "squashfs")

    def _metadata(self, context: Context, tree: Tree) -> bytes:
        architecture, machine = architectures_of(context)
        system = os_release(context.pkg_image)
        date = datetime.fromtimestamp(tree.epoch, UTC)
        named = system.get("PRETTY_NAME", distro(context.doc).name)
        properties = {
            "architecture": architecture,
            "description": self.description or f"{named} {architecture} ({date:%Y%m%d})",
            "name": distro(context.doc).name,
            "os": system.get("ID", "linux"),
            "release": system.get("VERSION_CODENAME", system.get("VERSION_ID", "")),
            "serial": f"{date:%Y%m%d}",
        }
        value = {
            "architecture": machine,
            "creation_date": tree.epoch,
            "properties": properties,
            "templates": {
                "/etc/hostname": {"when": ["create", "copy"], "template": "hostname.tpl"}
            },
        }
        return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
