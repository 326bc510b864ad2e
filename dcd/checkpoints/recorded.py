"""Files that checkpoints record for those that come after: the disk of a virtual machine, and media.

Later checkpoints trust them: the kernel mounts the file systems of the disk, a hypervisor opens an image,
whose format may name other files. So only a checkpoint that makes such a file, or says that it changes
it, may leave another file under its name; whatever else does (an archive that is unpacked over it) fails.
A change is seen by the file's identity within the one attempt and its ctime, which no program can set.
"""

import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from dcd.checkpoints.interface import Context
from dcd.manifest.doc import DataObjectDict
from statemachine.errors import CheckpointError

_MOST_LEFT = 100

ISO_TREE = "iso"
"""The directory in the media area with what goes onto the ISO."""

MEDIA, DISK = "media", "disk"
"""Dictionaries of the DOC's persistent part: media by kind, and the disk's `path` and `layout`."""


def record(context: Context, name: str) -> DataObjectDict:
    """The dictionary of that name, made where there is none."""
    found = context.doc.persistent.get_first_child(name, DataObjectDict)
    if found is None:
        found = DataObjectDict(name)
        context.doc.persistent.insert_children(found)
    return found


def recorded_files(context: Context) -> set[Path]:
    """The disk, and all media."""
    paths: set[str] = set()
    media = context.doc.persistent.get_first_child(MEDIA, DataObjectDict)
    if media is not None:
        paths.update(map(str, media.data_dict.values()))
    disk = context.doc.persistent.get_first_child(DISK, DataObjectDict)
    if disk is not None:
        paths.add(str(disk["path"]))
    return {context.root / path for path in paths}


@contextmanager
def recorded_files_kept(context: Context) -> Iterator[None]:
    """Inside, recorded files stay as they are, unless `context.made` names them. Raises
    `CheckpointError`."""
    before = {path: _identity(path) for path in recorded_files(context)}
    yield
    for path, identity in before.items():
        if path not in context.made and _identity(path) != identity:
            raise CheckpointError(
                f"{path.relative_to(context.root)} was replaced or changed",
                "an earlier checkpoint made it and recorded it for later ones, which rely on its content",
                "put files into the image area, or under other names in the media area",
            )


def left_among_media(context: Context, delivered: Collection[str]) -> tuple[str, ...]:
    """The files of the media area, by their path in the workspace, that are neither recorded nor among those
    delivered now, as far as it makes sense to name them. What is to go onto the ISO is none of them."""
    recorded = {str(path.relative_to(context.root)) for path in recorded_files(context)}
    found: list[str] = []
    for where, directories, names in os.walk(context.media):
        here = Path(where).relative_to(context.root)
        if here == Path(context.media.name):
            directories[:] = [name for name in directories if name != ISO_TREE]
        found += [
            path
            for name in names
            if (path := str(here / name)) not in recorded
            and path not in delivered
            and stat.S_ISREG(Path(where, name).lstat().st_mode)
        ]
        if len(found) >= _MOST_LEFT:
            break
    return tuple(sorted(found)[:_MOST_LEFT])


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    times = status.st_mtime_ns, status.st_ctime_ns
    return status.st_dev, status.st_ino, status.st_mode, status.st_size, *times
