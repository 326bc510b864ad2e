"""What apt or pkg resolved for a transfer: the packages, and the repository files that say so.

A *list* is one JSON document. It lies in the package store (`store.packages`) under its sha256, like every
package, and events, layers and exports name it by that digest alone. So the hash chain of the event log
covers every package, while the log, its fold and its streams stay small, a reused result names the same list
again, and an export copies it as one more file. `union` has what several transfers brought together.

The process with root reads lists that workers have written, so a list is bounded and strictly typed. Standard
library only. Pure.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from statemachine.errors import DcdError
from store.host.plain import as_plain, from_plain

MOST_BYTES = 64 << 20
"""Size limit of a list. One of 10,000 packages has about 4 MiB."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ResolvedPackage:
    """A package that entered the image. `kind` is `deb` or `ips`; `uri` is where it was downloaded, ""
    for one that the build brings itself: beside its manifest, among its captured inputs, or in a layer below;
    `sha256` is that of the downloaded file, for IPS of the manifest; `captured`: it is in the package
    store; `accepted` are the licences that were accepted for it."""

    kind: str
    name: str
    version: str
    architecture: str
    sha256: str
    size_bytes: int
    uri: str
    captured: bool = False
    accepted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RepositoryFile:
    """A file of a repository that the packages were chosen by. `repository` is the repository's URI, `suite`
    its suite, `path` is relative to the directory of its release file: `InRelease` (or `Release` and
    `Release.gpg`), `main/binary-amd64/Packages`. `sha256` and `size_bytes` are of the content, uncompressed,
    as the release file lists it; `stored` is the sha256 of the file in the package store, which is compressed
    (gzip) if its content is an index ("": not captured)."""

    repository: str
    suite: str
    path: str
    sha256: str
    size_bytes: int
    stored: str = ""

    @property
    def compressed(self) -> bool:
        """Whether the stored file is compressed."""
        return self.stored not in ("", self.sha256)


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository as a transfer used it: URI, suite and components, whether it was trusted without a
    signature; `keyrings` are the digests of the stored keyrings for its signature, `signed_by` is the key or
    the fingerprints where it had these instead, `keyring` the path of the host's keyring."""

    uri: str
    suite: str
    components: tuple[str, ...] = ()
    trusted: bool = False
    signed_by: str = ""
    keyrings: tuple[str, ...] = ()
    keyring: str = ""


@dataclass(frozen=True, slots=True)
class Resolved:
    """The list of one transfer, or the union of several."""

    packages: tuple[ResolvedPackage, ...] = ()
    files: tuple[RepositoryFile, ...] = ()
    repositories: tuple[Repository, ...] = ()

    def stored(self) -> dict[str, int | None]:
        """The digests of all files that the package store has of it, each with its size in bytes (None: of
        a compressed file, unknown)."""
        found: dict[str, int | None] = {
            package.sha256: package.size_bytes for package in self.packages if package.captured
        }
        for file in self.files:
            if file.stored:
                found[file.stored] = None if file.compressed else file.size_bytes
        for repository in self.repositories:
            found |= dict.fromkeys(repository.keyrings)
        return found


def encoded(resolved: Resolved) -> bytes:
    """The list as its document: sorted, so the same packages have the same digest."""
    ordered = {
        "version": 1,
        "packages": sorted(map(_plain_package, resolved.packages), key=_order),
        "files": sorted(map(as_plain, resolved.files), key=_order),
        # In the order of apt's preference.
        "repositories": as_plain(resolved.repositories),
    }
    return json.dumps(ordered, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def decoded(content: bytes) -> Resolved:
    """The list in a document, of a later version too. Raises DcdError."""
    try:
        if len(content) > MOST_BYTES:
            raise ValueError(f"it has {len(content)} bytes")
        found = from_plain(Resolved, json.loads(content), newer=True)
        for package in found.packages:
            _require_digest(package.sha256, optional=not package.captured)
        for file in found.files:
            _require_digest(file.sha256)
            _require_digest(file.stored, optional=True)
        for repository in found.repositories:
            for keyring in repository.keyrings:
                _require_digest(keyring)
    except (ValueError, RecursionError) as error:
        raise DcdError("a list of captured packages is damaged", str(error)) from error
    return found


def digest(content: bytes) -> str:
    """The name of a document in the package store."""
    return sha256(content).hexdigest()


def union(lists: Iterable[Resolved]) -> Resolved:
    """Everything in the lists, each once; what was captured by one of them is captured."""
    packages: dict[tuple[str, ...], ResolvedPackage] = {}
    files: dict[tuple[str, ...], RepositoryFile] = {}
    repositories: dict[Repository, None] = {}
    for each in lists:
        for package in each.packages:
            names = (package.kind, package.name, package.version, package.architecture)
            known = packages.get((*names, package.sha256))
            if known is None or not known.captured:
                packages[(*names, package.sha256)] = package
        for file in each.files:
            place = (file.repository, file.suite, file.path, file.sha256)
            if place not in files or not files[place].stored:
                files[place] = file
        repositories |= dict.fromkeys(each.repositories)
    return Resolved(tuple(packages.values()), tuple(files.values()), tuple(repositories))


def _plain_package(package: ResolvedPackage) -> dict[str, object]:
    plain: dict[str, object] = as_plain(package)
    # As before there were licences: the same packages keep their digest.
    return plain if package.accepted else {k: v for k, v in plain.items() if k != "accepted"}


def _order(plain: dict[str, object]) -> list[str]:
    return [str(value) for value in plain.values()]


def _require_digest(text: str, *, optional: bool = False) -> None:
    if not (_SHA256.fullmatch(text) or (optional and not text)):
        raise ValueError(f"{text[:100]!r} is not a sha256")
