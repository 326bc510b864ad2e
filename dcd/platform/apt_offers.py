"""What repositories of Debian packages offer now in place of known packages.

Fetches the release file and the indexes of packages of each repository with apt-helper, as
`dcd.platform.apt_release` does, and looks there for the known packages. The answer is for people, who decide
about an update: signatures are not checked, since nothing is installed from it. The daemon calls `offers`
through `dcd.platform.asking`, in a confined process with a limit on files. Blocking; uses the network.

Source: Debian's repository format (wiki: DebianRepository/Format).
"""

import bz2
import gzip
import hashlib
import lzma
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cmp_to_key
from pathlib import Path
from typing import Any, BinaryIO

from dcd.platform.apt import Source
from dcd.platform.apt_release import BACK_OFF_SECONDS, fetch, fetching, unreachable
from statemachine.errors import Unprepared
from store.host.process import run

MOST_BYTES = 128 << 20
"""Size limit of an index, compressed and uncompressed; Debian's largest have some 60 MiB."""

_MOST_VERSIONS = 20
"""The number of versions of a package in one index that are looked at."""

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+:~-]*")

_OPENED: Mapping[str, Callable[..., Any]] = {
    ".xz": lzma.open,
    ".gz": gzip.open,
    ".bz2": bz2.open,
    "": open,
}
"""The compressions of indexes, the preferred first."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A known package."""

    name: str
    architecture: str
    version: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Offer:
    """What is offered for a known package: whether the `same` file is, and all `versions`; `automatic` are
    those in suites from which apt installs by itself (not NotAutomatic)."""

    name: str
    architecture: str
    same: bool
    versions: tuple[str, ...]
    automatic: tuple[str, ...]


@dataclass
class _Found:
    same: bool = False
    automatic: set[str] = field(default_factory=set)
    versions: set[str] = field(default_factory=set)


def offers(
    sources: Sequence[Source],
    settings: str,
    logins: str,
    wanted: Sequence[Wanted],
    architecture: str,
    http_proxy: str = "",
) -> tuple[Offer, ...]:
    """The offers for known packages of an image of this architecture that are not just the same package.
    `settings` and `logins` are those of the host. Raises Unprepared for a repository that does not answer or
    whose index is damaged."""
    found = {(each.name, each.architecture): _Found() for each in wanted}
    digests = {each.sha256 for each in wanted}
    with fetching(sources, settings, logins, http_proxy) as (directory, environment):
        for number, source in enumerate(sources):
            place = directory / f"{number}"
            place.mkdir()
            _look(source, place, environment, found, digests, architecture)
    return tuple(
        Offer(*name, one.same, tuple(sorted(one.versions)), tuple(sorted(one.automatic)))
        for each in wanted
        for name in [(each.name, each.architecture)]
        for one in [found[name]]
        if not one.same or one.versions != {each.version}
    )


def newest(versions: Iterable[str]) -> str:
    """The newest version, "" of none. Source: dpkg(1), --compare-versions."""
    return max(versions, key=_order, default="")


def is_newer(first: str, second: str) -> bool:
    """Whether the first version is newer than the second one, or that is no version: a lock may have any
    text."""
    return not _VERSION.fullmatch(second) or _compared(first, second) > 0


def _look(
    source: Source,
    directory: Path,
    environment: Mapping[str, str],
    found: Mapping[tuple[str, str], _Found],
    digests: set[str],
    architecture: str,
) -> None:
    release = directory / "InRelease"
    problem = fetch(source.release_uri + "InRelease", release, environment, BACK_OFF_SECONDS)
    if problem is not None:
        problem = fetch(source.release_uri + "Release", release, environment, BACK_OFF_SECONDS)
    if problem is not None:
        raise unreachable(problem, source)
    text = release.read_text("utf-8", "replace")
    automatic = not re.search(r"^NotAutomatic: *yes", text, re.MULTILINE)
    listed = {
        path: sha256
        for sha256, path in re.findall(r"^ ([0-9a-f]{64}) +[0-9]+ (\S+)$", text, re.MULTILINE)
    }
    by_hash = re.search(r"^Acquire-By-Hash: *yes", text, re.MULTILINE)
    separate = re.search(r"^Architectures:.*\ball\b", text, re.MULTILINE) and not re.search(
        r"^No-Support-for-Architecture-all: *Packages", text, re.MULTILINE
    )
    wanted = (architecture, "all") if separate else (architecture,)
    for path, suffix in _indexes(source, listed, wanted):
        file, place = directory / "index", f"{path}{suffix}"
        if by_hash:
            place = f"{path.rpartition('/')[0]}/by-hash/SHA256/{listed[place]}".lstrip("/")
        if problem := fetch(source.release_uri + place, file, environment, BACK_OFF_SECONDS):
            raise unreachable(problem, source)
        try:
            with file.open("rb") as packed:
                if hashlib.file_digest(packed, "sha256").hexdigest() != listed[path + suffix]:
                    raise ValueError("it is not the one in the release file")
            with _OPENED[suffix](file, "rb") as index:
                for name, architecture, version, sha256 in _stanzas(index, found):
                    package = found[name, architecture]
                    package.same |= sha256 in digests
                    if len(package.versions) < _MOST_VERSIONS and _VERSION.fullmatch(version):
                        package.versions.add(version)
                        if automatic:
                            package.automatic.add(version)
        except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
            raise Unprepared(
                f"the index of {source.name} cannot be read",
                f"{path}{suffix}: {error}",
                "try again",
            ) from error
        file.unlink()


def _indexes(
    source: Source, listed: Mapping[str, str], architectures: Iterable[str]
) -> Iterator[tuple[str, str]]:
    """The paths of the indexes of packages without their suffixes, and these."""
    paths = (
        ["Packages"]
        if source.suite.endswith("/")
        else [
            f"{component}/binary-{architecture}/Packages"
            for component in source.components
            for architecture in architectures
        ]
    )
    for path in paths:
        suffix = next((each for each in _OPENED if path + each in listed), None)
        if suffix is not None:
            yield path, suffix


def _stanzas(
    index: BinaryIO, found: Mapping[tuple[str, str], _Found]
) -> Iterator[tuple[str, str, str, str]]:
    """Name, architecture, version and digest of the known packages in an index. Raises ValueError for one
    that is too large."""
    fields: dict[bytes, str] = {}
    left = MOST_BYTES
    for line in index:
        left -= len(line)
        if left < 0:
            raise ValueError(f"it has more than {MOST_BYTES >> 20} MiB")
        if line.isspace():
            yield from _known(fields, found)
            fields = {}
        name, colon, value = line.partition(b":")
        if colon and name in (b"Package", b"Architecture", b"Version", b"SHA256"):
            fields[name] = value.strip().decode("utf-8", "replace")
    yield from _known(fields, found)


def _known(
    fields: Mapping[bytes, str], found: Mapping[tuple[str, str], _Found]
) -> Iterator[tuple[str, str, str, str]]:
    name, architecture = fields.get(b"Package", ""), fields.get(b"Architecture", "")
    if (name, architecture) in found:
        yield name, architecture, fields.get(b"Version", ""), fields.get(b"SHA256", "")


def _compared(first: str, second: str) -> int:
    if first == second:
        return 0
    command = ["dpkg", "--compare-versions", first, "lt", second]
    return -1 if run(command, capture=True, timeout_seconds=60, ok=(0, 1)).status == 0 else 1


_order = cmp_to_key(_compared)
