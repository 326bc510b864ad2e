"""The outputs of builds in the registry of a farm: the log and the files of each attempt that has ended, and
the artifacts.

    build.BUILD.CHECKPOINT.ATTEMPT    an attempt; CHECKPOINT is the begin of the sha256 of its name
    build.BUILD.DIGEST.artifact       an artifact; DIGEST is the begin of the sha256 of its content

The event of an artifact has its digest, so the registry is not relied on. Nothing vouches for the log of an
attempt: who may write to the registry can forge what people read there, and no build reads it. Blocking;
raises CheckpointError and OSError.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from dcd.engine.sharing import SharedOutput
from dcd.farm.shared_layers import BadManifest, BlobOf, artifact_manifest, read_blob
from dcd.platform.publishing.http import Piece
from dcd.platform.publishing.registry import MANIFEST, Registry, content_digest
from statemachine.results import Artifact

LOG = "application/vnd.dcd.log.v1"
FILE = "application/vnd.dcd.attempt-file.v1"
ARTIFACT = "application/vnd.dcd.artifact.v1"

MOST_FILE_BYTES = 16 << 20
"""Of a longer log its end is sent, and a larger file stays."""

MOST_BYTES = 64 << 20
"""The files of an attempt that would be more together stay too."""

MOST_FILES = 256
_TITLE = "org.opencontainers.image.title"
_CHANGED, _HOST, _BUILD = "io.dcd.changed", "io.dcd.host", "io.dcd.build"
_TAG = re.compile(r"build\.([A-Za-z0-9_-]{1,64})\.[0-9a-f]{16}\.(?:[0-9]{1,7}|artifact)")
_NAME = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9._+-]{0,199}")
_OF_HOST = re.compile(r"[A-Za-z0-9._-]{1,63}")
_LATEST = 1 << 40


def attempt_tag(build: str, checkpoint: str, attempt: int) -> str:
    """The tag of an attempt's outputs."""
    return f"build.{build}.{hashlib.sha256(checkpoint.encode()).hexdigest()[:16]}.{attempt}"


def artifact_tag(build: str, artifact: Artifact) -> str:
    """The tag of an artifact of a build."""
    return f"build.{build}.{artifact.sha256[:16]}.artifact"


def build_of_tag(tag: str) -> str | None:
    """The build whose output has this tag; None for a tag of something else."""
    found = _TAG.fullmatch(tag)
    return found[1] if found else None


def send_outputs(
    registry: Registry, tag: str, host: str, files: Iterable[tuple[str, BinaryIO]]
) -> bool:
    """Send the outputs of an attempt on this host: their names ("" for the log), and open files, which are
    closed. Returns False when there are none."""
    blobs: dict[str, Piece] = {}
    named = []
    left = MOST_BYTES
    for name, file in files:
        with file:
            changed = int(os.fstat(file.fileno()).st_mtime)
            content = _content(file, host, limit=min(left, MOST_FILE_BYTES), cut=not name)
        if content is None:
            continue
        left -= len(content)
        digest = content_digest(content)
        blobs[digest] = Piece(Path(), 0, len(content), content)
        titles = {_TITLE: name or "log", _CHANGED: str(max(0, changed))}
        named.append((FILE if name else LOG, BlobOf(digest, len(content)), titles))
    if named:
        manifest = artifact_manifest(LOG, named, {_HOST: host, _BUILD: tag})
        registry.put_artifact(tag, MANIFEST, manifest, blobs)
    return bool(named)


def send_artifact(registry: Registry, build: str, artifact: Artifact, path: Path) -> None:
    """Send an artifact of a build, whose file has its digest."""
    digest, tag = f"sha256:{artifact.sha256}", artifact_tag(build, artifact)
    if registry.digest_of(tag):
        return
    named = [(ARTIFACT, BlobOf(digest, artifact.size_bytes), {_TITLE: artifact.name})]
    # With the build in it, since a manifest is deleted with all its tags.
    manifest = artifact_manifest(ARTIFACT, named, {_BUILD: build})
    piece = Piece(path, 0, artifact.size_bytes)
    registry.put_artifact(tag, MANIFEST, manifest, {digest: piece})


def read_outputs(content: bytes) -> Iterator[SharedOutput]:
    """The outputs in a manifest. Raises BadManifest."""
    try:
        plain = json.loads(content)
        host = plain["annotations"][_HOST]
        for each in plain["layers"][:MOST_FILES]:
            log = each["mediaType"] == LOG
            blob = read_blob(LOG if log else FILE, each)
            name = "" if log else each["annotations"][_TITLE]
            changed = int(each["annotations"][_CHANGED])
            sound = _OF_HOST.fullmatch(host) and (log or _NAME.fullmatch(name))
            if not sound or not 0 <= changed < _LATEST or blob.size_bytes > 2 * MOST_FILE_BYTES:
                raise BadManifest("a file in it is none")
            yield SharedOutput(name, blob.digest, blob.size_bytes, changed, host)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadManifest(f"it does not describe outputs: {type(error).__name__}") from error


def _content(file: BinaryIO, host: str, *, limit: int, cut: bool) -> bytes | None:
    """The content of a file; of one that is longer its end if it may be `cut`, else None."""
    size = os.fstat(file.fileno()).st_size
    if size <= limit:
        return file.read(limit)
    if not cut:
        return None
    file.seek(size - limit)
    told = f"[the first {size - limit} bytes of this log are only on {host}]\n"
    return told.encode() + file.read(limit)
