"""Files that checkpoints record for later ones: the disk of a virtual machine, and media by kind.

Later checkpoints trust them: the kernel mounts the file systems of the disk, a hypervisor opens an image,
whose format may name other files. So only a checkpoint that makes such a file, or declares that it changes
it, may replace or change it; any other change (an archive that is unpacked over it) fails its checkpoint.
A change shows in the file's identity within the one attempt and in its ctime, which no program can set.
"""

import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dcd.checkpoints import products
from dcd.checkpoints.interface import Context
from dcd.manifest.doc import DataObjectDict
from statemachine.errors import CheckpointError

_MOST_LEFT = 100

ISO_TREE = "iso"
"""The directory in the media area with the contents of the ISO."""

DISK = "disk"
"""The record of the disk: its `path` and `layout`."""

_MEDIA = "media"


def record(context: Context, name: str, values: dict[str, Any], made: Path) -> None:
    """Add values to the dictionary of that name in the DOC's persistent part, about the file `made` by this
    checkpoint."""
    context.made.add(made)
    record_values(context, name, values)


def record_values(context: Context, name: str, values: dict[str, Any]) -> None:
    """Add values to the dictionary of that name in the DOC's persistent part."""
    found = context.doc.persistent.get_first_child(name, DataObjectDict)
    if found is None:
        found = DataObjectDict(name)
        context.doc.persistent.insert_children(found)
    for key, value in values.items():
        found[key] = value


def recorded(context: Context, name: str) -> dict[str, Any]:
    """The dictionary of that name in the DOC's persistent part; empty if there is none."""
    found = context.doc.persistent.get_first_child(name, DataObjectDict)
    return {} if found is None else dict(found.data_dict)


def record_medium(context: Context, kind: str, path: Path) -> None:
    """Record a medium that this checkpoint has made, under its kind (`iso`, `usb`, `qcow2`)."""
    record(context, _MEDIA, {kind: str(path.relative_to(context.root))}, path)


def recorded_media(context: Context) -> dict[str, Path]:
    """All recorded media, by kind."""
    return {kind: context.root / path for kind, path in recorded(context, _MEDIA).items()}


def required_medium(context: Context, *kinds: str) -> Path:
    """The recorded medium of the first of these kinds that exists. Raises `CheckpointError` for none."""
    media = recorded_media(context)
    for kind in kinds:
        if kind in media:
            return media[kind]
    raise products.missing(kinds[-1])


def recorded_files(context: Context) -> set[Path]:
    """The disk, and all media."""
    disk = recorded(context, DISK)
    return {*recorded_media(context).values(), *([context.root / disk["path"]] if disk else [])}


@contextmanager
def recorded_files_kept(context: Context) -> Iterator[None]:
    """Require that recorded files stay unchanged inside, unless `context.made` names them. Raises
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
    """The files of the media area that are neither recorded nor among those delivered now, by their paths in
    the workspace, without the contents of the ISO; at most 100."""
    known = {str(path.relative_to(context.root)) for path in recorded_files(context)} | {*delivered}
    found: list[str] = []
    for where, directories, names in os.walk(context.media):
        if Path(where) == context.media:
            directories[:] = [name for name in directories if name != ISO_TREE]
        regular = (Path(where, name) for name in names)
        paths = {
            str(file.relative_to(context.root))
            for file in regular
            if stat.S_ISREG(file.lstat().st_mode)
        }
        found += paths - known
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
