"""How a checkpoint hands on the media it made: as artifacts, and by kind in the DOC.

The persistent part's dictionary `media` maps the kind of a medium (`iso`, `usb`, `qcow2`) to its path
relative to the workspace, for the checkpoints that come after.
"""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from dcd.checkpoints.interface import Context
from dcd.checkpoints.recorded import MEDIA, record
from dcd.manifest.doc import DataObjectCache, DataObjectDict, distro
from statemachine.events import Artifact


def deliver_file(context: Context, path: Path, kind: str, *, evidence: bool = False) -> None:
    """Deliver a file of the workspace as an artifact. Reads it once, for its digest. `evidence` is no
    product: it tells what became of one."""
    context.deliver(replace(as_artifact(context, path, kind), evidence=evidence))


def as_artifact(
    context: Context, path: Path, kind: str, *, name: str | None = None, sha256: str | None = None
) -> Artifact:
    """A file of the workspace as an artifact, for `context.deliver`. `name` is the name under which it
    is delivered, `path`'s own by default. Without its `sha256` it is read once."""
    if sha256 is None:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Artifact(
        name=name or path.name,
        path=str(path.relative_to(context.root)),
        format=kind,
        size_bytes=path.stat().st_size,
        sha256=sha256,
    )


def media_name(doc: DataObjectCache, epoch: int) -> str:
    """The name of the distribution's media, without a suffix: with `add_timestamp` it ends in the time
    `epoch`."""
    described = distro(doc)
    if not described.add_timestamp:
        return described.name
    return f"{described.name}-{datetime.fromtimestamp(epoch, UTC):%Y%m%d-%H%M%S}"


def record_medium(context: Context, kind: str, path: Path) -> None:
    """Tell later checkpoints of a medium that this one has made."""
    context.made.add(path)
    record(context, MEDIA)[kind] = str(path.relative_to(context.root))


def recorded_medium(context: Context, *kinds: str) -> Path | None:
    """The medium of the first of these kinds that was made, or None."""
    media = context.doc.persistent.get_first_child(MEDIA, DataObjectDict)
    for kind in kinds:
        if media is not None and kind in media:
            return context.root / str(media[kind])
    return None


def recorded_media(context: Context) -> dict[str, Path]:
    """All media that were made, by kind."""
    media = context.doc.persistent.get_first_child(MEDIA, DataObjectDict)
    if media is None:
        return {}
    return {kind: context.root / str(path) for kind, path in media.data_dict.items()}
