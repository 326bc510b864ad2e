"""`TransferSVR4`: packages in the format of System V into the image, with pkgadd(8) and pkgrm(8).

The origin of the software is a directory of packages, or a file that pkgtrans(1) made (a datastream), by its
path on the host. Scripts of packages run on the build host, as pkgadd runs them, so the sender needs the
right to run code there. The tools belong to illumos distributions.
Source: pkgadd(8), pkgrm(8), admin(5); the original's TransferSVR4.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dcd.checkpoints import products
from dcd.checkpoints.areas import area_directory
from dcd.checkpoints.interface import CHROOT, Checkpoint, Context, HostPath, Needs, Report
from dcd.checkpoints.transfer.listed import check_places, check_software, listed_bytes, software_of
from dcd.manifest.diagnostics import Diagnostic, error
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.objects.software import Destination, Dir, Origin, SoftwareData
from dcd.platform.asking import local_path, readable_paths
from statemachine.errors import Unprepared

_ADMIN = """mail=
instance=overwrite
partial=nocheck
runlevel=nocheck
idepend=nocheck
rdepend=nocheck
space=nocheck
setuid=nocheck
conflict=nocheck
action=nocheck
basedir=default
"""
"""Answers to the questions of pkgadd: whatever the manifest lists is wanted."""
_STATE = "packages"


@dataclass(frozen=True)
class TransferSVR4(Checkpoint):
    """Install or remove packages of System V."""

    DESCRIPTION = "Transfer packages of System V into the image"
    EXPECTED_SECONDS = 120.0
    NAMED = ("software",)
    TOOLS = ("pkgadd", "pkgrm")

    @property
    def runs_host_code(self) -> bool:
        return True

    def needs(self, doc: DataObjectCache) -> Needs:
        origin = self._origin(doc)
        return Needs(
            tools=self.TOOLS,
            disk_bytes=listed_bytes(software_of(doc, self, "SVR4")),
            capabilities=CHROOT,
            reads=(HostPath(origin, self.argument_place(doc)),) if origin else (),
        )

    def provides(self, doc: DataObjectCache) -> products.Provided:
        return products.in_area(self._place(doc))

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        yield from check_software(doc, self, "SVR4")
        software = software_of(doc, self, "SVR4")
        yield from check_places(software)
        if self._origin(doc) is None:
            yield error(
                software.origin or self.argument_place(doc),
                f"{self.name} has no packages to install from",
                "The origin of its publisher is a directory of packages, or a datastream.",
                '<source><publisher><origin name="/srv/packages"/></publisher></source>',
            )
        for data in software.get_descendants(class_type=SoftwareData):
            if data.action not in ("install", "uninstall"):
                message = f"{data.action} means nothing for packages of System V"
                yield error(data.place_of("action"), message, "", 'action="install"')
            for index, name in enumerate(data.names):
                if name.startswith("-"):
                    place = data.place_of("name", index)
                    yield error(place, f"{name!r} is no package", "", "write a package's name")

    def external_state(self, doc: DataObjectCache) -> Mapping[str, str]:
        origin = self._origin(doc)
        return {} if origin is None else {_STATE: _digest(origin)}

    def execute(self, context: Context) -> None:
        software = software_of(context.doc, self, "SVR4")
        origin = self._origin(context.doc)
        assert origin is not None  # `check` guarantees it.
        target = area_directory(context, self._place(context.doc))
        admin = context.tmp / "admin"
        admin.write_text(_ADMIN)
        for data in software.get_children(class_type=SoftwareData):
            names = data.names or (("all",) if data.action == "install" else ())
            if data.action == "install":
                context.run(["pkgadd", "-n", "-a", admin, "-d", origin, "-R", target, *names])
            else:
                context.run(["pkgrm", "-n", "-a", admin, "-R", target, *names])
        context.report(Report(fraction=1.0))

    def _origin(self, doc: DataObjectCache) -> Path | None:
        for origin in software_of(doc, self, "SVR4").get_descendants(class_type=Origin):
            return local_path(origin.name)
        return None

    def _place(self, doc: DataObjectCache) -> str:
        for destination in software_of(doc, self, "SVR4").get_children(class_type=Destination):
            for place in destination.get_children(class_type=Dir):
                return place.path
        return "{PKG_IMAGE_PATH}"


def _digest(origin: Path) -> str:
    """The digest of a datastream, or of the descriptions of all packages in a directory (pkginfo, and
    pkgmap, which has a checksum of each file)."""
    readable_paths([str(origin)])
    try:
        if origin.is_file():
            with origin.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        for described in sorted([*origin.glob("*/pkginfo"), *origin.glob("*/pkgmap")]):
            content = described.read_bytes()
            digest.update(f"{described.relative_to(origin)} {len(content)}\n".encode())
            digest.update(content)
        return digest.hexdigest()
    except OSError as failure:
        raise Unprepared(
            f"the packages in {origin} cannot be read", str(failure), "correct the origin"
        ) from None
