"""Delivery of files as artifacts, and the names of media."""

from datetime import UTC, datetime
from pathlib import Path

from dcd.checkpoints.interface import Context
from dcd.manifest.doc import DataObjectCache, distro
from dcd.platform.inside import new_file
from statemachine.results import Artifact
from store.host.sparse import PIECEWISE_BYTES, sha256_of


def deliver_file(context: Context, path: Path, kind: str, *, evidence: bool = False) -> None:
    """Deliver a file of the workspace as an artifact. `evidence` is no product but a record of a test of
    one."""
    context.deliver(as_artifact(context, path, kind, evidence=evidence))


def deliver_made(context: Context, made: Path, kind: str, name: str = "") -> Path:
    """Move a file that was made in `tmp` to the media, under this name or its own, and deliver it. Returns
    its place."""
    result = new_file(context.media, name or made.name)
    made.rename(result)
    deliver_file(context, result, kind)
    return result


def as_artifact(
    context: Context,
    path: Path,
    kind: str,
    *,
    name: str = "",
    evidence: bool = False,
) -> Artifact:
    """A file of the workspace as an artifact, for `context.deliver`. `name` is its delivered name, by default
    that of `path`. Only a large file is read: the commit knows the digests of the others."""
    size_bytes, sha256 = path.stat().st_size, ""
    if size_bytes >= PIECEWISE_BYTES:
        with path.open("rb") as file:
            sha256 = sha256_of(file.fileno())
    return Artifact(
        name=name or path.name,
        path=str(path.relative_to(context.root)),
        format=kind,
        size_bytes=size_bytes,
        sha256=sha256,
        evidence=evidence,
    )


def media_name(doc: DataObjectCache, epoch: int) -> str:
    """The name of the distribution's media, without a suffix: with `add_timestamp` it ends in the Unix time
    `epoch`."""
    described = distro(doc)
    if not described.add_timestamp:
        return described.name
    return f"{described.name}-{datetime.fromtimestamp(epoch, UTC):%Y%m%d-%H%M%S}"
