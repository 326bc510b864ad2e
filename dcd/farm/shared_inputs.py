"""Captured files and packages of builds in the registry of a farm, so that every member can run a build that
needs them.

They are sent before the submit is acknowledged, together under one tag that follows from their digests, and
fetched by the member that takes the build. Their digests are in the event of the submit, or in a list whose
digest is there, so nothing that the registry says about them is relied on. Blocking; raises CheckpointError
and OSError.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from dcd.engine.stores import Stores
from dcd.farm.shared_layers import (
    BadManifest,
    BlobOf,
    inputs_manifest,
    inputs_tag,
    is_inputs_tag,
    read_inputs,
)
from dcd.platform.publishing.http import Piece
from dcd.platform.publishing.registry import MANIFEST, Registry
from statemachine.plan import Locked

YOUNG_SECONDS = 86400.0
"""Files offered within this time may belong to a build that is being submitted; clocks differ."""


def send_inputs(
    registry: Registry, stores: Stores, digests: Iterable[str], locked: Locked | None
) -> None:
    """Send captured files with these sha256, and what a locked build takes from the package store: what of
    them the registry does not have. Raises NotFound."""
    names = sorted(set(digests))
    if names:
        _send(registry, inputs_tag(names), {name: stores.blobs.path(name) for name in names})
    if locked is None:
        return
    for name in locked.lists:
        packages = stores.packages
        stored = [] if locked.fetch else packages.resolved(name).stored()
        paths = {each: packages.path(each) for each in (name, *stored)}
        _send(registry, locked_tag(name, locked), paths)


def fetch_inputs(
    registry: Registry,
    stores: Stores,
    digests: Collection[str],
    locked: Locked | None,
    require_space: Callable[[int], object],
) -> None:
    """Fetch what is not here of the captured files and the packages of a build, as far as it was offered.
    `require_space` raises when there is too little space for so many bytes. Raises BadManifest too, and
    NotFound without a list of packages."""

    def fetch(blob: BlobOf) -> None:
        require_space(2 * blob.size_bytes)
        with stores.blobs.aside() as part:
            part.writelines(registry.get_blob(blob.digest, blob.size_bytes))
            part.seek(0)
            stores.blobs.put(part, _sha256(blob))

    if lacking := {each for each in digests if not stores.blobs.has(each)}:
        for blob in _offered(registry, inputs_tag(digests)):
            if _sha256(blob) in lacking:
                fetch(blob)
    if locked is None:
        return
    for name in locked.lists:
        offered = {_sha256(blob): blob for blob in _offered(registry, locked_tag(name, locked))}
        if name in offered:
            fetch_package(stores, offered[name], fetch)
        stored = [] if locked.fetch else stores.packages.resolved(name).stored()
        for each in offered.keys() & set(stored):
            fetch_package(stores, offered[each], fetch)


def fetch_package(stores: Stores, blob: BlobOf, fetch: Callable[[BlobOf], object]) -> None:
    """Put a file into the package store, if it lacks it, by way of the captured files, where the launcher
    takes it; `fetch` puts it there."""
    sha256 = _sha256(blob)
    if stores.packages.has(sha256):
        return
    known = stores.blobs.has(sha256)
    if not known:
        fetch(blob)
    stores.privileged.adopt_package(sha256)
    if not known:
        stores.blobs.remove(sha256)


def locked_tag(name: str, locked: Locked) -> str:
    """The tag of a list of packages, and of what it names if a build takes that from the package store."""
    return inputs_tag([name] if locked.fetch else [name, "packages"])


def unneeded_inputs(
    registry: Registry, tags: Sequence[str], named: Collection[str]
) -> Iterator[str]:
    """The digests of the manifests of captured files that are not `named` any more."""
    for tag in filter(is_inputs_tag, tags):
        if found := registry.get_manifest(tag):
            try:
                files, offered = read_inputs(found[1])
            except BadManifest:
                continue
            digests = {file.digest.removeprefix("sha256:") for file in files}
            if not digests & set(named) and offered < time.time() - YOUNG_SECONDS:
                yield found[0]


def _send(registry: Registry, tag: str, paths: Mapping[str, Path]) -> None:
    if registry.digest_of(tag):
        return
    pieces = {f"sha256:{name}": Piece(path, 0, path.stat().st_size) for name, path in paths.items()}
    files = [BlobOf(digest, piece.size_bytes) for digest, piece in pieces.items()]
    registry.put_artifact(tag, MANIFEST, inputs_manifest(files, int(time.time())), pieces)


def _offered(registry: Registry, tag: str) -> Sequence[BlobOf]:
    found = registry.get_manifest(tag)
    return read_inputs(found[1])[0] if found else ()


def _sha256(blob: BlobOf) -> str:
    return blob.digest.removeprefix("sha256:")
