"""Captured files and packages of builds in the registry of a farm, so that every member can run a build that
needs them.

They are sent before the submit is acknowledged, together under one tag that follows from their digests, and
fetched by the member that takes the build. What is there already is offered again before any member may find
that no build needs it. Their digests are in the event of the submit, or in a list whose digest is there, so
nothing that the registry says about them is relied on. Blocking; raises CheckpointError and OSError.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

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
from dcd.platform.publishing.registry import MANIFEST, Registry, content_digest
from statemachine.errors import CheckpointError
from statemachine.plan import Locked

YOUNG_SECONDS = 86400.0
"""Files offered within this time may belong to a build that is being submitted; clocks differ."""

Receive = Callable[[BlobOf, IO[bytes]], object]
"""Writes a blob into a file, and goes back to its begin."""


def send_inputs(
    registry: Registry,
    stores: Stores,
    digests: Iterable[str],
    locked: Locked | None,
    check: Callable[[], object] = lambda: None,
) -> None:
    """Send captured files with these sha256, and what a locked build takes from the package store: what of
    them the registry does not have. `check` is called before each, and its errors end it. Raises NotFound."""
    names = sorted(set(digests))
    if names:
        paths = {name: stores.blobs.path(name) for name in names}
        _send(registry, inputs_tag(names), paths, check)
    if locked is None:
        return
    for name in locked.lists:
        packages = stores.packages
        stored = [] if locked.fetch else packages.resolved(name).stored()
        paths = {each: packages.path(each) for each in (name, *stored)}
        _send(registry, locked_tag(name, locked), paths, check)


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

    def receive(blob: BlobOf, file: IO[bytes]) -> None:
        require_space(2 * blob.size_bytes)
        file.writelines(registry.get_blob(blob.digest, blob.size_bytes))
        file.seek(0)

    if lacking := {each for each in digests if not stores.blobs.has(each)}:
        for blob in _offered(registry, inputs_tag(digests)):
            if _sha256(blob) in lacking:
                with stores.blobs.aside() as file:
                    receive(blob, file)
                    stores.blobs.put(file, _sha256(blob))
    if locked is None:
        return
    for name in locked.lists:
        offered = {_sha256(blob): blob for blob in _offered(registry, locked_tag(name, locked))}
        if name in offered:
            fetch_package(stores, offered[name], receive)
        stored = [] if locked.fetch else stores.packages.resolved(name).stored()
        for each in offered.keys() & set(stored):
            fetch_package(stores, offered[each], receive)


def fetch_package(stores: Stores, blob: BlobOf, receive: Receive) -> None:
    """Put a file into the package store, if it lacks it. It is no captured file on its way: a user may have
    uploaded the same."""
    if not stores.packages.has(_sha256(blob)):
        with stores.blobs.aside() as file:
            receive(blob, file)
            stores.privileged.adopt_package(_sha256(blob), file.fileno())


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


def _send(
    registry: Registry, tag: str, paths: Mapping[str, Path], check: Callable[[], object]
) -> None:
    found = registry.get_manifest(tag)
    if found and _is_offered(found[1], paths):
        return
    pieces = {f"sha256:{name}": Piece(path, 0, path.stat().st_size) for name, path in paths.items()}
    files = [BlobOf(digest, piece.size_bytes) for digest, piece in pieces.items()]
    manifest = inputs_manifest(files, int(time.time()))
    registry.put_artifact(tag, MANIFEST, manifest, pieces, check)
    if found and found[0] != content_digest(manifest):
        # Without a tag nobody would find it any more, and it would keep its blobs.
        with suppress(CheckpointError):
            registry.delete_manifest(found[0])


def _is_offered(manifest: bytes, names: Collection[str]) -> bool:
    """Whether it offers all of these, and no member removes it before the build is in the log."""
    try:
        files, offered = read_inputs(manifest)
    except BadManifest:
        return False
    recent = abs(time.time() - offered) < YOUNG_SECONDS / 2
    return recent and set(names) <= {_sha256(file) for file in files}


def _offered(registry: Registry, tag: str) -> Sequence[BlobOf]:
    found = registry.get_manifest(tag)
    return read_inputs(found[1])[0] if found else ()


def _sha256(blob: BlobOf) -> str:
    return blob.digest.removeprefix("sha256:")
