"""`TransferP5I`: the packages that a file of type p5i names, into an existing IPS image.

A p5i file is JSON: publishers, and names of their packages. The `software` of type P5I names it as the origin
of its first publisher, a path of the host; the argument `p5i` names it beside the manifest instead. Packages
come from the publishers that the image has; further publishers of the software replace these before.
Source: pkg(7), p5i; the original's TransferP5I.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from dcd.checkpoints import products
from dcd.checkpoints.areas import captured_file
from dcd.checkpoints.interface import CHROOT, Checkpoint, Context, HostPath, Needs, Report, Variance
from dcd.checkpoints.transfer.ips import TransferIPS, set_publishers
from dcd.checkpoints.transfer.ips_pkg import NOTHING_TO_DO, Pkg
from dcd.checkpoints.transfer.listed import check_software, software_of
from dcd.manifest.diagnostics import Diagnostic, error
from dcd.manifest.doc import DataObjectCache, distro
from dcd.manifest.forms import CLIENT_PATH
from dcd.manifest.objects.software import Image, Origin, Publisher
from dcd.manifest.values import InputPath
from dcd.platform.asking import ask_catalogs, local_path, readable_paths
from statemachine.errors import CheckpointError, Unprepared
from store.host.regular import read_regular

_VERSION = 1
_STATE = "p5i file"
_MOST_BYTES = 1 << 20
_PACKAGE = re.compile(
    r"(pkg:/+)?[A-Za-z0-9][A-Za-z0-9_.+-]*(/[A-Za-z0-9][A-Za-z0-9_.+-]*)*(@[0-9A-Za-z.,:-]+)?"
)
"""An FMRI, with or without its scheme, publisher and version; see pkg(7)."""


@dataclass(frozen=True)
class TransferP5I(Checkpoint):
    """Install the packages that a p5i file names into the image."""

    DESCRIPTION = "Transfer IPS packages that a file names"
    EXPECTED_SECONDS = 120.0
    NAMED = ("software",)
    TOOLS = ("pkg",)
    REQUIRES = (products.IMAGE,)
    DISK_BYTES = 1 << 30

    p5i: Annotated[InputPath, CLIENT_PATH] | None = None
    """The file. Default: the origin of the software's first publisher, a path of the host."""

    def needs(self, doc: DataObjectCache) -> Needs:
        file = self._host_file(doc)
        return Needs(
            tools=self.TOOLS,
            network=True,
            proxy_logins=True,
            packages=True,
            disk_bytes=self.DISK_BYTES,
            # The actuators of packages run programs of the image.
            capabilities=CHROOT,
            reads=(HostPath(file, self.argument_place(doc)),) if file else (),
        )

    def provides(self, doc: DataObjectCache) -> products.Provided:
        return products.in_area("{PKG_IMAGE_PATH}")

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        yield from check_software(doc, self, "P5I")
        if self.p5i is None and self._host_file(doc) is None:
            software = software_of(doc, self, "P5I")
            yield error(
                software.origin or self.argument_place(doc),
                f"{self.name} names no p5i file",
                "It is the origin of the software's first publisher, or the argument p5i.",
                '<source><publisher><origin name="/srv/FILE.p5i"/></publisher></source>',
            )

    def variances(self, doc: DataObjectCache) -> Iterator[Variance]:
        yield from TransferIPS(self.name).variances(doc)

    def external_state(self, doc: DataObjectCache) -> Mapping[str, str]:
        repositories = TransferIPS(self.name).repositories(doc)
        proxy = distro(doc).http_proxy or ""
        state = dict(ask_catalogs(repositories, proxy, patient=self.patient))
        file = self._host_file(doc)
        if self.p5i is None and file is not None:
            state[_STATE] = hashlib.sha256(_content(file)).hexdigest()
        return state

    def execute(self, context: Context) -> None:
        if self.p5i is not None:
            content = _read(captured_file(context.inputs, self.p5i))
        else:
            file = self._host_file(context.doc)
            assert file is not None  # `check` guarantees it.
            content = _content(file)
            if context.external.get(_STATE) not in (None, hashlib.sha256(content).hexdigest()):
                raise CheckpointError(
                    f"{file} changed after the checkpoint was started", "", "resume the build"
                )
        names = packages_of(content)
        software = software_of(context.doc, self, "P5I")
        pkg = Pkg(context, context.pkg_image, show=False)
        further = software.get_descendants(class_type=Publisher)[self.p5i is None :]
        if further:
            set_publishers(pkg, Image(action="use_existing"), further, refresh=True)
        pkg.run("install", "--accept", "--no-index", *names, ok=(0, NOTHING_TO_DO))
        pkg.run("purge-history")
        pkg.settle_files()
        pkg.deliver_lists()
        pkg.forget_host()
        context.report(Report(fraction=1.0))

    def _host_file(self, doc: DataObjectCache) -> Path | None:
        for publisher in software_of(doc, self, "P5I").get_descendants(class_type=Publisher):
            for origin in publisher.get_children(class_type=Origin):
                return local_path(origin.name)
        return None


def packages_of(content: bytes) -> list[str]:
    """The packages that a p5i file names, each with its publisher. Raises `CheckpointError`."""
    try:
        data = json.loads(content)
        if data["Version"] != _VERSION:
            raise _damaged(f"it has version {data['Version']!r}; known is {_VERSION}")
        found = [
            _named(str(publisher.get("name") or ""), str(name))
            for publisher in data["publishers"]
            for name in publisher["packages"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as failure:
        raise _damaged(f"{type(failure).__name__}: {failure}") from None
    if not found:
        raise _damaged("it names no packages")
    if strange := [name for name in found if not _PACKAGE.fullmatch(name)]:
        raise _damaged(f"{strange[0]!r} is no package")
    return found


def _named(publisher: str, name: str) -> str:
    plain = name.removeprefix("pkg:/")
    return f"pkg://{publisher}/{plain.lstrip('/')}" if publisher and name == plain else name


def _damaged(why: str) -> CheckpointError:
    return CheckpointError(
        "the p5i file cannot be used",
        why,
        "make it with a pkg(7) client, or correct it: it is JSON",
    )


def _content(file: Path) -> bytes:
    readable_paths([str(file)])
    return _read(file)


def _read(file: Path) -> bytes:
    try:
        return read_regular(file, _MOST_BYTES, follow=True)
    except OSError as failure:
        raise Unprepared(
            f"the p5i file {file} cannot be read",
            str(failure),
            "correct its path or its permissions",
        ) from None
