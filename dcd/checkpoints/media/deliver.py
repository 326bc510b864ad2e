"""How a media checkpoint hands on what it made: as an artifact, and by name in the DOC.

The persistent part's dictionary `media` maps the kind of a medium (`iso`, `usb`) to its path relative
to the workspace, for the checkpoints that come after.
"""

import hashlib
from pathlib import Path

from dcd.checkpoints.interface import Context
from dcd.manifest.doc import DataObjectDict
from statemachine.events import Artifact

_DICTIONARY = "media"


def deliver_file(context: Context, path: Path, kind: str) -> None:
    """Deliver a file of the workspace as an artifact. Reads it once, for its digest."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    context.deliver(
        Artifact(
            name=path.name,
            path=str(path.relative_to(context.root)),
            format=kind,
            size_bytes=path.stat().st_size,
            sha256=digest,
        )
    )


def record_medium(context: Context, kind: str, path: Path) -> None:
    """Tell later checkpoints of a medium."""
    media = context.doc.persistent.get_first_child(_DICTIONARY, DataObjectDict)
    if media is None:
        media = DataObjectDict(_DICTIONARY)
        context.doc.persistent.insert_children(media)
    media[kind] = str(path.relative_to(context.root))


def recorded_medium(context: Context, *kinds: str) -> Path | None:
    """The medium of the first of these kinds that was made, or None."""
    media = context.doc.persistent.get_first_child(_DICTIONARY, DataObjectDict)
    for kind in kinds:
        if media is not None and kind in media:
            return context.root / str(media[kind])
    return None
