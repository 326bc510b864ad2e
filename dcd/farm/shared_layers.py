"""The form of shared layers and captured files in a registry.

A layer is an artifact whose tag is its key and its back end. Its first blob is the packed layer
(`store.layers`), the others are the files of the package store that the layer's list of packages names.
Annotations say what it is; none of them is trusted: the key follows from the build here, the digest of the
content from the event log, and what is unpacked is held against both.
Source: the OCI image and distribution specifications 1.1, "Guidelines for Artifact Usage". Pure.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dcd.platform.publishing.registry import EMPTY_CONFIG, MANIFEST

LAYER = "application/vnd.dcd.layer.v1+tar+zstd"
PACKAGE = "application/vnd.dcd.package.v1"
INPUT = "application/vnd.dcd.input.v1"
MOST_BLOBS = 20_000

_PREFIX, _OFFERED = "io.dcd.layer.", "io.dcd.inputs.offered"
_INPUTS = "inputs-"
_TEXTS = ("key", "parent", "content", "backend", "build", "seconds")
_KEY = re.compile(r"[0-9a-f]{64}")
_BUILD = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TAG = re.compile(r"([0-9a-f]{64})-([a-z]+)")


class BadManifest(ValueError):
    """It does not describe a shared layer."""


@dataclass(frozen=True, slots=True)
class BlobOf:
    """A blob: its digest (sha256:...) and size."""

    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class SharedLayer:
    """A layer that is shared. `parent` is "" for none, `content` the digest of its content, `build` the build
    whose event names it, `seconds` what it took to make."""

    key: str
    parent: str
    content: str
    backend: str
    build: str
    seconds: float
    packed: BlobOf
    packages: tuple[BlobOf, ...] = ()

    def manifest(self) -> bytes:
        """Its manifest."""
        blobs = [(LAYER, self.packed), *((PACKAGE, each) for each in self.packages)]
        annotations = {_PREFIX + name: str(getattr(self, name)) for name in _TEXTS}
        return artifact_manifest(LAYER, [(*each, {}) for each in blobs], annotations)


def inputs_tag(digests: Iterable[str]) -> str:
    """The tag of the captured files with these sha256."""
    return _INPUTS + hashlib.sha256("\n".join(sorted(set(digests))).encode()).hexdigest()


def is_inputs_tag(tag: str) -> bool:
    """Whether a tag is one of captured files."""
    return tag.startswith(_INPUTS)


def inputs_manifest(files: Iterable[BlobOf], time: int) -> bytes:
    """The manifest of captured files that are offered at a Unix time."""
    return artifact_manifest(INPUT, [(INPUT, each, {}) for each in files], {_OFFERED: str(time)})


def read_inputs(content: bytes) -> tuple[list[BlobOf], int]:
    """The captured files in a manifest, and when they were offered. Raises BadManifest."""
    try:
        plain = json.loads(content)
        files = [read_blob(INPUT, each) for each in plain["layers"][:MOST_BLOBS]]
        return files, int(plain["annotations"][_OFFERED])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadManifest(f"it does not describe captured files: {type(error).__name__}") from error


def tag_of(key: str, backend: str) -> str:
    """The tag of a layer."""
    return f"{key}-{backend}"


def key_of_tag(tag: str) -> str | None:
    """The key in a tag; None for a tag of something else."""
    found = _TAG.fullmatch(tag)
    return found[1] if found else None


def read_manifest(content: bytes) -> SharedLayer:
    """The layer in a manifest. Raises BadManifest."""
    try:
        plain = json.loads(content)
        said = {name: plain["annotations"][_PREFIX + name] for name in _TEXTS}
        first, *others = plain["layers"]
        if len(others) > MOST_BLOBS:
            raise BadManifest("it has too many blobs")
        layer = SharedLayer(
            **{**said, "seconds": float(said["seconds"])},
            packed=read_blob(LAYER, first),
            packages=tuple(read_blob(PACKAGE, each) for each in others),
        )
        keys = (layer.key, layer.content, *([layer.parent] if layer.parent else ()))
        if not all(map(_KEY.fullmatch, keys)) or not _BUILD.fullmatch(layer.build):
            raise BadManifest("a key or digest in it is none")
        if not (math.isfinite(layer.seconds) and layer.seconds >= 0):
            raise BadManifest("it took no time")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadManifest(f"it does not describe a layer: {type(error).__name__}") from error
    return layer


def artifact_manifest(
    kind: str,
    blobs: Iterable[tuple[str, BlobOf, Mapping[str, str]]],
    annotations: Mapping[str, str],
) -> bytes:
    """The manifest of an artifact of that type, with its blobs, each with its media type and annotations."""
    plain = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": kind,
        "config": EMPTY_CONFIG,
        "layers": [
            {"mediaType": media_type, "digest": blob.digest, "size": blob.size_bytes}
            | ({"annotations": dict(more)} if more else {})
            for media_type, blob, more in blobs
        ],
        "annotations": dict(annotations),
    }
    return json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()


def read_blob(media_type: str, plain: Any) -> BlobOf:
    """The blob in a descriptor of that type. Raises BadManifest, KeyError, TypeError."""
    digest, size = plain["digest"], plain["size"]
    fits = isinstance(digest, str) and digest.startswith("sha256:") and _KEY.fullmatch(digest[7:])
    if plain["mediaType"] != media_type or not fits or type(size) is not int or size < 0:
        raise BadManifest("a blob in it is none")
    return BlobOf(digest, size)
