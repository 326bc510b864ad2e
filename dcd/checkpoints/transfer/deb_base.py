"""The base of a transfer of Debian packages: a layer with what the variant brings, which all manifests share
that differ only in the packages that they list.

The base layer keeps the package lists beside the image area, out of reach of the packages' scripts, so the
rest needs no second download of them. The rest is installed onto the base only if that gives the packages
that one installation of both would give: a listed package may replace one of the variant, or may make apt
choose another alternative of a dependency.
"""

import shutil
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from lxml import etree

from dcd.checkpoints.interface import Base, UnsuitedBase
from dcd.checkpoints.packages import debian_list
from dcd.manifest.objects.software import Software, SoftwareData
from dcd.manifest.registry import write
from dcd.platform.apt_root import (
    LISTS,
    Environment,
    Place,
    wanted_files,
    with_nothing_installed,
)
from dcd.platform.inside import resolve

KEPT = "lists"
"""The directory of the lists in the workspace, beside the areas."""

_NAMED = 5
"""How many packages a message names."""


def base_of(software: Software) -> Base:
    """The base of a software: everything in it except the listed packages."""
    element = write(software)
    assert element is not None
    element.attrib.pop("name", "")
    for data in element.findall(SoftwareData.TAG):
        if data.get("action", "install") == "install":
            element.remove(data)
    decides = etree.tostring(element, method="c14n2")
    return Base(sha256(decides).hexdigest(), tuple(dict.fromkeys(software.names("install"))))


def keep_lists(root: Path, image: Path) -> None:
    """Copy the lists of the image into the workspace `root`. No program of the image may have run yet."""
    skipped = shutil.ignore_patterns("partial", "lock", "auxfiles")
    shutil.copytree(resolve(image, LISTS), root / KEPT, symlinks=True, ignore=skipped)


def kept_lists(root: Path) -> Path | None:
    """The lists that the base has kept in the workspace, if any."""
    lists = root / KEPT
    return lists if lists.is_dir() and not lists.is_symlink() else None


def drop_lists(root: Path) -> None:
    """Remove them: they are no part of the result."""
    shutil.rmtree(root / KEPT, ignore_errors=True)


@contextmanager
def same_packages(
    place: Place, variant: Sequence[str], listed: Sequence[str], rest: Set[str]
) -> Iterator[None]:
    """Require the same packages, in a thread beside the body: apt takes as long as a download. Raises
    `UnsuitedBase` at the end."""
    with ThreadPoolExecutor(1) as beside:
        same = beside.submit(_require_same_packages, place, variant, listed, rest)
        yield
        same.result()


def _require_same_packages(
    place: Place, variant: Sequence[str], listed: Sequence[str], rest: Set[str]
) -> None:
    """Raise `UnsuitedBase` unless the packages in the root, and the files `rest` that `listed` adds, are
    exactly those of one installation of `variant` and `listed`."""
    together = _names(with_nothing_installed(place), [*variant, *listed])
    there = {_file_name(line) for line in debian_list(place.root).splitlines()}
    if not (together or rest):
        return  # apt finds no solution, and the download tells why
    apart = there | rest
    if differing := sorted(together ^ apart):
        names = ", ".join(name.removesuffix(".deb") for name in differing[:_NAMED])
        more = f" and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
        raise UnsuitedBase(f"the listed packages change what the variant brings: {names}{more}")


def _names(apt: Environment, packages: Sequence[str]) -> set[str]:
    return {file.name for file in wanted_files(apt, packages)}


def _file_name(line: str) -> str:
    """The name in apt's cache of a package in `debian_list`. Source: apt, QuoteString and pkgAcqArchive."""
    name, version, architecture = line.split("\t")
    return f"{name}_{version.replace(':', '%3a')}_{architecture}.deb"
