"""`LXCImage`: the image area as the two archives from which LXC makes containers.

The metadata has the settings of containers: `config` for those that root starts, `config-user` for those of
other users, whose devices LXC makes itself (`excludes-user`). LXC writes the name of the container in place
of `LXC_NAME` into the files that `templates` lists. The template `local` of lxc-create(1) reads both
archives; the template `download` reads them from a server with the same files. Both unpack xz only.
Source: the templates lxc-local and lxc-download of LXC 5.0; lxc.container.conf(5).
"""

import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from dcd.checkpoints import products
from dcd.checkpoints.image.compress import excluded_faults
from dcd.checkpoints.image.os_release import os_release
from dcd.checkpoints.interface import Checkpoint, Context, Report
from dcd.checkpoints.media.deliver import deliver_made, media_name
from dcd.checkpoints.rootfs.compression import check_level, compress
from dcd.checkpoints.rootfs.containers import architectures_of, warn_without_init
from dcd.checkpoints.rootfs.tree import Tree, completed_image, with_attributes
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.doc import DataObjectCache, distro
from dcd.manifest.forms import EXCLUDED
from store.host.tar import TarWriter

_HOST_NAME = "etc/hostname"
_WORD = re.compile(r"[A-Za-z0-9_./:@+-]+")
"""A path that the template, a shell script, reads as one word."""
_NAMED = 5


@dataclass(frozen=True)
class LXCImage(Checkpoint):
    """Make an image for LXC.

    Create a container with `lxc-create --name NAME --template local -- --metadata META --fstree ROOTFS`.
    System containers run init: the image needs one, such as systemd-sysv.
    """

    DESCRIPTION = "Make the image for LXC"
    EXPECTED_SECONDS = 30.0
    REQUIRES = (products.IMAGE,)
    PROVIDES = ()
    READS = ("//distro.name", "//distro.add_timestamp")
    TOOLS = ("pack-xz",)
    DISK_BYTES = 2 << 30

    level: int | None = None
    """The level of the compression by xz, 0 to 9; by default its own."""

    exclude: tuple[Annotated[str, EXCLUDED], ...] = ()
    """Paths of the image to leave out, as shell patterns: `var/cache/apt/*`."""

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        yield from check_level(doc, self, "xz", self.level)
        yield from excluded_faults(doc, self, self.exclude)

    def execute(self, context: Context) -> None:
        tree = completed_image(context, self.exclude)
        warn_without_init(context)
        if lost := with_attributes(tree):
            names = ", ".join(lost[:_NAMED])
            context.warn(f"lxc-create unpacks no capabilities and attributes: {names}")
        stem = f"{media_name(context.doc, tree.epoch)}-lxc"
        metadata = context.tmp / f"{stem}-meta.tar"
        files = _metadata(context, tree)
        with metadata.open("wb") as file:
            tar = TarWriter(file.write)
            for name, text in sorted(files.items()):
                tar.add_bytes(name, text.encode(), tree.epoch)
            tar.close()
        context.report(Report(0.1, f"packing {len(tree.entries)} files"))
        root = context.tmp / f"{stem}-rootfs.tar"
        with root.open("wb") as file:
            tar = TarWriter(file.write)
            for entry in tree.entries:
                if entry.name == _HOST_NAME:
                    tar.add_bytes(f"./{_HOST_NAME}", b"LXC_NAME\n", tree.epoch)
                else:
                    tar.add(entry, f"./{entry.name}".rstrip("/"))
            tar.close()
        context.report(Report(0.4, f"compressing {root.stat().st_size / (1 << 20):.1f} MiB"))
        for kind, plain in (("lxc-metadata", metadata), ("lxc", root)):
            deliver_made(context, compress(context, plain, "xz", self.level), kind)


def _metadata(context: Context, tree: Tree) -> Mapping[str, str]:
    """The files of the metadata."""
    architecture, machine = architectures_of(context)
    system = os_release(context.pkg_image)
    named = system.get("PRETTY_NAME", distro(context.doc).name)
    date = datetime.fromtimestamp(tree.epoch, UTC)
    common = f"lxc.include = LXC_TEMPLATE_CONFIG/common.conf\nlxc.arch = {machine}\n"
    devices = [
        f"./{entry.name}" for entry in tree.entries if entry.kind in (stat.S_IFCHR, stat.S_IFBLK)
    ]
    return {
        "build_id": f"{date:%Y%m%d_%H:%M}\n",
        "config": common,
        "config-user": f"{common}lxc.include = LXC_TEMPLATE_CONFIG/userns.conf\n",
        "create-message": f"A container of {named} ({architecture}) was created.\n",
        "excludes-user": "".join(f"{name}\n" for name in devices if _WORD.fullmatch(name)),
        "templates": f"/{_HOST_NAME}\n",
    }
