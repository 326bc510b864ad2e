"""`WriteSBOM`: what the image consists of, as CycloneDX 1.6 and SPDX 2.3.

The packages come from the image's own package database, dpkg's or that of pkg(7), as it is when the
checkpoint runs: what transfers and scripts before it have installed. Their digests and origins come from the
lists of the transfers (`Context.resolved`); a package that no transfer brought, such as one of an unpacked
archive, has none. Files of the host that entered the image (GRUB of a medium) are listed as the packages that
they belong to.

`dcd.checkpoints.sbom_writer`, a program of its own, writes the documents. It gets all it needs from here, so
it reads no file of the image and opens no link of it; and only it loads the libraries of the extra `sbom`.
Source: CycloneDX 1.6; SPDX 2.3; NTIA, "The Minimum Elements For a Software Bill of Materials"; BSI
TR-03183-2.
"""

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from dcd.checkpoints import products
from dcd.checkpoints.image.os_release import os_release
from dcd.checkpoints.interface import Checkpoint, Context, Needs, Report
from dcd.checkpoints.media.deliver import deliver_file
from dcd.checkpoints.packages import PACKAGE_LIST, architecture_of, debian_list
from dcd.checkpoints.times import source_date_epoch
from dcd.manifest.diagnostics import Diagnostic, warning
from dcd.manifest.doc import DataObjectCache, distro
from dcd.platform.host_parts import SUFFIX, entering_packages
from dcd.platform.inside import read, regular_file
from dcd.platform.sbom_libraries import REMEDY, library_versions, missing_libraries
from statemachine.errors import CheckpointError, NoPackageDatabase, Unprepared
from store.host.interpreter import module_command, module_environment
from store.host.tools import TOOLS
from store.resolved import Resolved, decoded, union

_STATUS = "var/lib/dpkg/status"
_STAGED = (_STATUS, "var/lib/dpkg/arch-native", "var/lib/apt/extended_states")
_COPYRIGHT = "usr/share/doc/{}/copyright"
_HOST_COPYRIGHT = "/usr/share/doc/{}/copyright"
_PACKAGE = re.compile(r"[a-z0-9A-Z][a-z0-9A-Z+.\-]*")
"""deb-control(5), Package; dpkg reads capitals too."""
_MOST_COPYRIGHT_BYTES = 4 << 20
_SUFFIXES = {"cdx": ".cdx.json", "spdx": ".spdx.json"}


@dataclass(frozen=True)
class WriteSBOM(Checkpoint):
    """Write the software bill of materials of the image: `NAME.cdx.json` (CycloneDX 1.6) and
    `NAME.spdx.json` (SPDX 2.3).

    An image with Debian or IPS packages gets this checkpoint after its last one by itself, unless `<distro
    sbom="none">`. The root component has the name, `version` and `supplier` of `<distro>`.
    """

    DESCRIPTION = "Write the SBOM of the image"
    EXPECTED_SECONDS = 4.0
    DISK_BYTES = 16 << 20
    VERSION = 3
    READS = ("//distro.name", "//distro.version", "//distro.supplier")
    REQUIRES = (products.IMAGE,)
    PROVIDES = ()

    formats: tuple[Literal["cdx", "spdx"], ...] = ("cdx", "spdx")
    """The documents: CycloneDX, SPDX."""

    optional: bool = False
    """Warn instead of failing where no SBOM can be written: without the extra `sbom` of dcd, or without a
    package database in the image."""

    def needs(self, doc: DataObjectCache) -> Needs:
        return Needs(disk_bytes=self.DISK_BYTES, contents=True)

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        if not self.formats or len(set(self.formats)) != len(self.formats):
            yield self.fault(
                doc,
                "formats",
                "formats names cdx, spdx or both, each once",
                "",
                '<arglist name="formats"><argitem>cdx</argitem></arglist>',
            )
        if (lacking := missing_libraries()) and self.optional:
            yield warning(
                self.argument_place(doc),
                "no SBOM will be written for this image",
                f"dcd is installed without {', '.join(lacking)}",
                f'{REMEDY}; or leave it out: <distro sbom="none">',
            )
        elif lacking:
            why = f"dcd is installed without {', '.join(lacking)}"
            yield self.fault(doc, None, "the SBOM cannot be written", why, REMEDY)

    def external_state(self, doc: DataObjectCache) -> Mapping[str, str]:
        state = {
            f"{name}{SUFFIX}": found or "not installed"
            for name, found in library_versions().items()
        }
        for package, about in entering_packages().items():
            state[f"package {package}{SUFFIX}"] = about
        return state

    def execute(self, context: Context) -> None:
        try:
            self._write(context)
        except (CheckpointError, Unprepared) as error:
            if not self.optional:
                raise
            context.warn(f"no SBOM was written: {error.brief}. {error.details}".strip())

    def _write(self, context: Context) -> None:
        if lacking := missing_libraries():
            why = f"dcd is installed without {', '.join(lacking)}"
            raise Unprepared("the SBOM cannot be written", why, REMEDY)
        resolved = union(decoded(file.read_bytes()) for file in context.resolved)
        order = self._order(context, resolved)
        context.report(Report(0.2, "writing the SBOM"))
        context.run(
            module_command("dcd.checkpoints.sbom_writer"),
            # Sets of the libraries then have one order.
            env={**module_environment(), "PYTHONHASHSEED": "0"},
            stdin=json.dumps(order).encode(),
            timeout_seconds=1800,
        )
        for kind in self.formats:
            file = context.media / f"{order['name']}{_SUFFIXES[kind]}"
            shutil.move(context.tmp / f"sbom.{kind}", file)
            deliver_file(context, file, kind)
        self._report_gaps(context, order)

    def _order(self, context: Context, resolved: Resolved) -> dict[str, object]:
        described = distro(context.doc)
        epoch = source_date_epoch(context, 0)
        staged = context.tmp / "root"
        dpkg = bool(debian_list(context.pkg_image))
        ips = [] if dpkg else _ips_packages(context, resolved)
        if dpkg:
            _stage(context.pkg_image, staged)
        elif not ips:
            raise NoPackageDatabase(
                "the image has no package database",
                f"it has neither {_STATUS} nor a list of IPS packages, so its contents are unknown",
                'write the SBOM before a script removes it, or leave it out: <distro sbom="none">',
            )
        return {
            "name": described.name,
            "version": described.version or f"{datetime.fromtimestamp(epoch, UTC):%Y-%m-%d}",
            "supplier": described.supplier or f"{described.name} (supplier not stated)",
            "epoch": epoch,
            "tool_version": version("dcd"),
            "root": str(staged) if dpkg else "",
            "host_root": str(context.tmp / "host"),
            "architecture": architecture_of(context.pkg_image),
            "vendor": os_release(context.pkg_image).get("ID", "debian"),
            "release": os_release(context.pkg_image).get("VERSION_ID", ""),
            "resolved": [asdict(each) for each in resolved.packages if each.kind == "deb"],
            "ips": ips,
            "host": _host_packages(context),
            "products": {
                name: sha256
                for name, sha256 in sorted(context.products.items())
                if name != PACKAGE_LIST
            },
            "formats": list(self.formats),
            "directory": str(context.tmp),
        }

    def _report_gaps(self, context: Context, order: Mapping[str, object]) -> None:
        """A warning for packages without a digest, which an SBOM should have."""
        gaps = json.loads((context.tmp / "sbom.gaps").read_text())
        if gaps:
            names = ", ".join(gaps[:5]) + (f" and {len(gaps) - 5} more" if len(gaps) > 5 else "")
            context.warn(
                f"{len(gaps)} packages have no digest in the SBOM, since no transfer of this build has "
                f"recorded them (see the setting capture): {names}"
            )


def _stage(image: Path, staged: Path) -> None:
    """Copy what the documents are made from, with links resolved as in the image."""
    for path in _STAGED:
        if (text := read(image, path)) is not None:
            _put(staged / path, text.encode("utf-8", "surrogateescape"))
    for line in debian_list(image).splitlines():
        name = line.split("\t")[0]
        if not _PACKAGE.fullmatch(name):
            continue  # The image's scripts may have written anything there.
        path = _COPYRIGHT.format(name)
        file = regular_file(image, path)
        if file is not None and file.stat().st_size <= _MOST_COPYRIGHT_BYTES:
            _put(staged / path, file.read_bytes())


def _host_packages(context: Context) -> list[str]:
    """The packages of the host whose files entered the image, with their copyright files copied."""
    found = {
        name: state
        for name in dict.fromkeys(TOOLS[tool].package for tool in context.host_files)
        if (state := context.external.get(f"package {name}{SUFFIX}"))
    }
    for name in found:
        with suppress(OSError):
            content = Path(_HOST_COPYRIGHT.format(name)).read_bytes()
            _put(context.tmp / "host" / _COPYRIGHT.format(name), content)
    return [*found.values()]


def _put(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    # The libraries read UTF-8 only.
    file.write_text(content.decode("utf-8", "replace"))


def _ips_packages(context: Context, resolved: Resolved) -> Sequence[dict[str, Any]]:
    """The IPS packages of the image by the last list of a transfer, with their recorded digests."""
    known = {(each.name, each.version): each for each in resolved.packages if each.kind == "ips"}
    found = []
    for line in (read(context.media, PACKAGE_LIST) or "").splitlines():
        publisher, name, release = line.split("\t")
        package = known.get((name, release))
        found.append(
            {
                "publisher": publisher,
                "name": name,
                "version": release,
                "fmri": f"pkg://{publisher}/{name}@{release}",
                "sha256": package.sha256 if package else "",
                "accepted": list(package.accepted) if package else [],
            }
        )
    return found
