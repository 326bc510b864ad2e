"""`AIPublishPackages`: the contents of the medium of the automated installer as an IPS package.

Install servers get the image from a repository. pkgsend(1) publishes the image area as one package, with the
name of the install service; without a repository of its own, the result is delivered as an archive,
media/NAME.p5p.
Source: pkgrepo(1), pkgsend(1), pkgrecv(1); the original's checkpoint ai_publish_pkg.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from dcd.checkpoints import products
from dcd.checkpoints.image.illumos.configure import ARCHITECTURE, SERVICE
from dcd.checkpoints.interface import Checkpoint, Context, Needs, Report, Variance
from dcd.checkpoints.media.deliver import deliver_file, media_name
from dcd.checkpoints.recorded import recorded
from dcd.checkpoints.times import source_date_epoch
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.forms import IPS_ORIGIN, IPS_PACKAGE, WORD
from dcd.platform.asking import local_path
from dcd.platform.inside import new_file

_SERVICE_NAME = "com.oracle.install.service_name"
_DEFAULT_NAME = "install-image/solaris-auto-install"


@dataclass(frozen=True)
class AIPublishPackages(Checkpoint):
    """Publish the contents of the medium as a package."""

    DESCRIPTION = "Publish the installer's image as a package"
    EXPECTED_SECONDS = 60.0
    REQUIRES = (products.LIVE_ROOT,)
    PROVIDES = ()
    TOOLS = ("pkgrepo", "pkgsend", "pkgrecv")
    DISK_BYTES = 2 << 30

    pkg_name: Annotated[str, IPS_PACKAGE] | None = None
    """The package's name, with or without its version. Default: install-image/solaris-auto-install with the
    version of the installer in the image."""

    pkg_repo: Annotated[str, IPS_ORIGIN] | None = None
    """The URI of the repository to publish to. Default: a new one, delivered as an archive (NAME.p5p)."""

    prefix: Annotated[str, WORD] | None = None
    """The publisher. Default: that of `publisher`, else ai-image."""

    publisher: Annotated[str, WORD] | None = None
    """Another name of `prefix`, as in comments of the original's manifests."""

    service_name: Annotated[str, WORD] | None = None
    """The name of the install service. Default: the one that AIPrePkgImgMod has recorded."""

    def needs(self, doc: DataObjectCache) -> Needs:
        return Needs(
            tools=self.TOOLS, network=self.pkg_repo is not None, disk_bytes=self.DISK_BYTES
        )

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        if self.prefix and self.publisher and self.prefix != self.publisher:
            yield self.fault(
                doc, "publisher", "publisher and prefix differ", "they mean the same", "give one"
            )

        if self.pkg_repo is not None and local_path(self.pkg_repo) is not None:
            yield self.fault(
                doc,
                "pkg_repo",
                "dcd writes to no repository in the files of the build host",
                "checkpoints run as root, and manifests are written by others",
                "leave it out and take the archive NAME.p5p, or give the http address of a pkg.depotd(8)",
            )

    def variances(self, doc: DataObjectCache) -> Iterator[Variance]:
        yield Variance("pkgsend(1) puts the time of publication into the package's version")

    def execute(self, context: Context) -> None:
        image = context.pkg_image
        known = recorded(context, SERVICE)
        own = context.tmp / "repository"
        repository = self.pkg_repo or str(own)
        publisher = self.prefix or self.publisher or "ai-image"
        if self.pkg_repo is None:
            context.run(["pkgrepo", "create", repository])
            context.run(["pkgrepo", "-s", repository, "add-publisher", publisher])
            context.run(["pkgrepo", "-s", repository, "set", f"publisher/prefix={publisher}"])
        name = self.pkg_name or _DEFAULT_NAME
        if "@" not in name and (version := known.get("auto_install")):
            name += f"@{version}"
        service = self.service_name or known.get("service_name") or ""
        generated = context.run(["pkgsend", "generate", image], capture=True).stdout
        lines = [
            *generated.splitlines(),
            f"set name=pkg.fmri value={_with_publisher(name, publisher)}",
            f"set name=variant.arch value={ARCHITECTURE}",
        ]
        if service:
            lines.append(f"set name={_SERVICE_NAME} value={service} variant.arch={ARCHITECTURE}")
        else:
            context.warn("the package names no install service: AIPrePkgImgMod has recorded none")
        manifest = context.tmp / "image.p5m"
        manifest.write_text("\n".join(lines) + "\n", "utf-8", "surrogateescape")
        context.report(Report(0.4, f"publishing {name}"))
        context.run(["pkgsend", "-s", repository, "publish", "-d", image, manifest])
        if self.pkg_repo is None:
            epoch = source_date_epoch(context, 0)
            archive = new_file(context.media, f"{media_name(context.doc, epoch)}.p5p")
            context.run(["pkgrecv", "-s", repository, "-a", "-d", archive, "*"])
            deliver_file(context, archive, "p5p")
        context.report(Report(1.0, f"published {name}"))


def _with_publisher(name: str, publisher: str) -> str:
    if name.startswith("pkg://"):
        return name
    return f"pkg://{publisher}/{name.removeprefix('pkg:/')}"
