"""Captured files of builds in the registry of a farm, so that every member can run a build that needs them.

They are sent before the submit is acknowledged, together under one tag that follows from their digests, and
fetched by the member that takes the build. Their digests are in the event of the submit, so nothing that the
registry says about them is relied on. Blocking; raises CheckpointError and OSError.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from dcd.farm.shared_layers import (
    MANIFEST,
    BadManifest,
    BlobOf,
    inputs_manifest,
    inputs_tag,
    is_inputs_tag,
    read_inputs,
)
from dcd.platform.publishing.http import Piece
from dcd.platform.publishing.registry import Registry
from store.blobs import Blobs

YOUNG_SECONDS = 86400.0
"""Files offered within this time may belong to a build that is being submitted; clocks differ."""


def send_inputs(registry: Registry, blobs: Blobs, digests: Iterable[str]) -> None:
    """Send the captured files with these sha256, those that the registry does not have."""
    names = sorted(set(digests))
    tag = inputs_tag(names)
    if registry.digest_of(tag):
        return
    paths = {f"sha256:{name}": blobs.path(name) for name in names}
    pieces = {digest: Piece(path, 0, path.stat().st_size) for digest, path in paths.items()}
    files = [BlobOf(digest, piece.size_bytes) for digest, piece in pieces.items()]
    registry.put_artifact(tag, MANIFEST, inputs_manifest(files, int(time.time())), pieces)


def fetch_inputs(
    registry: Registry,
    blobs: Blobs,
    digests: Collection[str],
    require_space: Callable[[int], object] = lambda size_bytes: None,
) -> None:
    """Fetch those of the captured files of a build that are not here, as far as they were offered.
    `require_space` raises when there is too little space for so many bytes. Raises BadManifest too."""
    found = registry.get_manifest(inputs_tag(digests))
    for file in read_inputs(found[1])[0] if found else ():
        sha256 = file.digest.removeprefix("sha256:")
        if sha256 in digests and not blobs.has(sha256):
            require_space(2 * file.size_bytes)
            with blobs.aside() as part:
                part.writelines(registry.get_blob(file.digest, file.size_bytes))
                part.seek(0)
                blobs.put(part, sha256)


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
