"""Files that checkpoints record for those that come after: the disk of a virtual machine, and media.

Later checkpoints trust them: the kernel mounts the file systems of the disk, a hypervisor opens an image,
whose format may name other files. So only a checkpoint that makes such a file, or says that it changes
it, may leave another file under its name; whatever else does (an archive that is unpacked over it) fails.
A change is seen by the file's identity within the one attempt and its ctime, which no program can set.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dcd.checkpoints.interface import Context
from dcd.manifest.doc import DataObjectDict
from statemachine.errors import CheckpointError

MEDIA, DISK = "media", "disk"
"""Dictionaries of the DOC's persistent part: media by kind, and the disk's `path` and `layout`."""


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


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    times = status.st_mtime_ns, status.st_ctime_ns
    return status.st_dev, status.st_ino, status.st_mode, status.st_size, *times
