"""Taking over the result of a checkpoint onto another layer: what it changed, applied without running it.

The result was made on one layer. On another one the checkpoint would make the same changes if no difference
between the two layers matters to it (`store.layers.inputs`). What it changed follows from the content
manifests of its layer and of the one below: files, links and directories that are new or changed. They are
copied into a new workspace, which becomes a layer as any other. A result that removes something, or that has
devices, extended attributes or files with several names, is not taken over.

The trees were written by code of images. Links on the way to a source are not followed; in the new workspace,
which nobody else uses, directories are entered only if they are directories. Back ends without mounts store
the whole tree there, an overlay its upper directory, in which the directories on the way are made first.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from statemachine.errors import Refused
from statemachine.plan import Inputs
from store.host.durable import reporting_disk_full
from store.host.regular import read_regular
from store.layers.content import Content, Difference, differences, key_of, parse, read_text
from store.layers.inputs import first_that_matters
from store.layers.interface import Layer, LayerRecord, LayerStore

Locate = Callable[[str], Path]
"""Finds the real entry of a layer by its path in the workspace. Raises NotFound."""

MOST_BYTES = 256 << 20
"""How much of a layer is read for a comparison."""

_KINDS = ("file", "link", "directory")


def take_over(
    store: LayerStore, record: LayerRecord, source: str, inputs: Inputs, name: str
) -> Layer:
    """Make the layer `record.key` on `record.parent` from the result `source` of the same checkpoint on
    another layer, in a workspace of that name. Raises Refused, with the reason, when a difference between the
    two layers matters by `inputs`, or the result's changes cannot be applied elsewhere; OSError, NotFound."""
    parent, result = record.parent, store.find(source)
    if parent is None or result is None or result.record.parent is None:
        raise Refused("it, or what it stands on, is gone")
    if result.record.artifacts:
        raise Refused("it delivers files")
    if store.check(source, False, False, "").state == "damaged":
        raise Refused("its layer is damaged")
    below, onto = _content(store, result.record.parent), _content(store, parent)

    left_bytes = MOST_BYTES

    def read(path: str) -> bytes:
        nonlocal left_bytes
        content = read_regular(store.file(parent, path), left_bytes)
        left_bytes -= len(content)
        return content

    if path := first_that_matters(inputs, below, onto, read):
        raise Refused(f"{path} differs")
    made = _content(store, source)
    if not _media(below) == _media(made) == _media(onto):
        raise Refused("other files are among the media")
    changes = changes_of(below, made, onto)
    workspace = store.begin(parent, name)
    try:
        with reporting_disk_full("taking over a result", workspace.directory):
            apply_changes(
                changes,
                workspace.stored_tree,
                partial(store.entry, source),
                partial(store.entry, parent),
            )
        return store.commit(workspace, record, store.document(source))
    finally:
        store.discard(workspace)


def _media(content: Content) -> set[bytes]:
    """The files among the media: a layer records those that nobody delivers."""
    return {key for key in content.lines if key.startswith(b"media/")}


def _content(store: LayerStore, key: str) -> Content:
    """The content manifest of a layer. Raises Refused when it has none, as layers of earlier versions."""
    layer = store.find(key)
    text = None if layer is None else read_text(layer.directory)
    if layer is None or text is None:
        raise Refused("a layer has no manifest of its content")
    content = parse(text)
    if content.digest != layer.record.content:
        raise Refused("the manifest of a layer is damaged")
    return content


def changes_of(below: Content, result: Content, onto: Content) -> list[Difference]:
    """What a result changed of the layer `below` it, to be applied onto another one, each directory before
    what it holds. Raises Refused when it cannot be."""
    found = [each for each in differences(below, result) if each.path != "/document.xml"]
    directories = {each.path for each in found if (each.after or {}).get("type") == "directory"}
    for each in found:
        key = key_of(each.path)
        if onto.lines.get(key) != below.lines.get(key):
            raise Refused(f"{each.path} differs, which the checkpoint changes")
        if not _is_plain(each.after) or (each.before and not _is_plain(each.before)):
            raise Refused(f"the change of {each.path} cannot be applied elsewhere")
        if each.before and each.after and each.before["type"] != each.after["type"]:
            raise Refused(f"{each.path} became something else")
        for above in PurePosixPath(each.path).parents[:-1]:
            line = onto.lines.get(key_of(str(above)), b"")
            if str(above) not in directories and not _is_plain_directory(line):
                raise Refused(f"{above} is not a plain directory")
    return found


def apply_changes(changes: Sequence[Difference], tree: Path, source: Locate, below: Locate) -> None:
    """Make the changes in the tree that a workspace stores. `source` finds entries of the result, `below`
    those of the layer below the workspace. Raises OSError and NotFound."""
    made: dict[str, Path] = {}
    for each in changes:
        assert each.after is not None
        path = PurePosixPath(each.path)
        for above in reversed(path.parents[:-1]):
            if str(above) not in made:
                _make_directory(tree / above)
                made[str(above)] = below(str(above))
        origin = source(each.path)
        _make(tree / path, each.after["type"], origin)
        if each.after["type"] == "directory":
            made[each.path] = origin
        else:
            _take_metadata(tree / path, origin)
    # Entries that were made in them have changed their times.
    for name, origin in sorted(made.items(), reverse=True):
        _take_metadata(tree / name, origin)


def _is_plain(entry: dict[str, Any] | None) -> bool:
    return (
        entry is not None
        and entry["type"] in _KINDS
        and "same_as" not in entry
        and "xattrs" not in entry
    )


def _is_plain_directory(line: bytes) -> bool:
    return b'","type":"directory"' in line and b'"xattrs"' not in line


def _make_directory(path: Path) -> None:
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise NotADirectoryError(f"{path} is not a directory")
    path.mkdir(exist_ok=True)


def _make(path: Path, kind: str, origin: Path) -> None:
    if kind == "directory":
        _make_directory(path)
        return
    path.unlink(missing_ok=True)
    if kind == "link":
        path.symlink_to(origin.readlink())
        return
    descriptor = os.open(origin, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as read, path.open("xb") as written:
        shutil.copyfileobj(read, written, 1 << 20)


def _take_metadata(path: Path, origin: Path) -> None:
    status = origin.lstat()
    os.chown(path, status.st_uid, status.st_gid, follow_symlinks=False)
    if not path.is_symlink():
        path.chmod(status.st_mode & 0o7777)
    times = (status.st_mtime_ns, status.st_mtime_ns)
    os.utime(path, ns=times, follow_symlinks=False)
