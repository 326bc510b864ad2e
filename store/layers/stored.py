"""What a layer and a workspace note of themselves in files: `layer.json` and `parent`."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from statemachine.errors import NotFound
from store.host.plain import as_plain, from_plain
from store.layers.interface import LayerRecord

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Stored:
    """The content of layer.json. `identity` names this instance of the layer, `parent_identity` the
    instance of its parent on which it was built; `made_at` is the Unix time of the commit, 0 in layers of
    earlier versions."""

    record: LayerRecord
    size_bytes: int
    identity: str = ""
    parent_identity: str = ""
    made_at: float = 0.0

    @property
    def text(self) -> bytes:
        """The text of the file."""
        return json.dumps(as_plain(self), separators=(",", ":")).encode()


def read_stored(file: Path) -> Stored | None:
    """The content of a layer.json; None when it does not exist or is damaged."""
    try:
        return from_plain(Stored, json.loads(file.read_bytes()), newer=True)
    except (FileNotFoundError, ValueError):
        return None


def parts_of(path: str) -> Sequence[str]:
    """The parts of a path in a layer. Raises NotFound."""
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise NotFound(f"{path!r} is not a path in a layer")
    return parts


def checked_name(name: str) -> str:
    """The name of a workspace, checked. Raises ValueError."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot name a workspace")
    return name


def stands_on(workspace: Path) -> tuple[str | None, str]:
    """Key and identity of the layer on which a workspace is based. Raises FileNotFoundError."""
    key, _, identity = (workspace / "parent").read_text().partition(" ")
    return key or None, identity


def copy_if_there(source: Path, target: Path) -> None:
    """Copy a file if it exists."""
    with contextlib.suppress(FileNotFoundError):
        shutil.copyfile(source, target)


def seems_same(one: Path, other: Path) -> bool:
    """Whether an entry of a layer and the one of that path above it are the same, by all that a whole copy of
    the layer keeps."""
    before, after = one.lstat(), other.lstat()
    return _kept(before) == _kept(after)


def _kept(status: os.stat_result) -> tuple[int, ...]:
    owner = (status.st_mode, status.st_uid, status.st_gid)
    return (*owner, status.st_size, status.st_mtime_ns)
