"""Layers as directories: the code common to all back ends.

    DIRECTORY/KEY/{tree, document.xml, layer.json, ...} a layer, with its manifest (`store.layers.integrity`)
    DIRECTORY/.work/NAME/{parent, layer/, ...}          a workspace, or a layer being removed

A workspace's `layer` directory gets its key by one rename, after everything in it is on disk; removal
first renames back. So a directory named by a key is always a complete layer, and everything in `.work`
without an open attempt is garbage. The back ends implement `Trees`.

A key names a layer's inputs, and two instances with the same key may still differ (a download, the
time). So each instance has its own identity, and a layer records the identity of its parent. A layer is
valid only while exactly these layers exist below it: when one of them was lost and rebuilt, the layers
above it are rebuilt too. Layers of version 0.1.0 have the identity "".

Layers contain set-uid programs of images, so only root may access them; unprivileged helpers of tools
may traverse the workspace's mount point. Safe for several threads of one daemon.
"""

import contextlib
import os
import re
import secrets
import shutil
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from statemachine.errors import NotFound, Refused, Unprepared
from store.host.durable import reporting_disk_full, sync_directory, sync_file, write_file
from store.host.removal import remove_tree
from store.layers.content import save_fingerprint
from store.layers.integrity import (
    Contents,
    Sealed,
    checked_at,
    damage,
    mark_checked,
    mark_damaged,
    note_names,
    print_of,
)
from store.layers.interface import Check, Layer, LayerRecord, Workspace, nothing
from store.layers.plain import writing_back
from store.layers.stored import (
    Stored,
    checked_name,
    copy_if_there,
    parts_of,
    read_stored,
    seems_same,
    stands_on,
)
from store.layers.trees import Busy, Trees

_KEY = re.compile(r"[0-9a-f]{64}")
_RUBBISH = "removed-"
_SUPERSEDED = "superseded-"
"""Prefix of a layer replaced by another instance with its key while a workspace still uses its
files."""


class LayerDirectory:
    """The layers in one directory. Implements LayerStore for any back end."""

    def __init__(self, directory: Path, trees: Trees) -> None:
        self.name = trees.name
        self.directory = directory
        self._work = directory / ".work"
        self._trees = trees
        self._contents = Contents(trees)
        self._lock = threading.RLock()
        self._known: dict[str, Stored] = {}
        self._opened: dict[str, Workspace] = {}
        self._held: set[str] = set()
        self._copied: Counter[str] = Counter()

    def prepare(self) -> None:
        """Create the directory if it does not exist (daemon side, once). Raises Unprepared when the
        back end cannot work there."""
        self._trees.prepare(self.directory)
        self._work.mkdir(mode=0o711, parents=True, exist_ok=True)

    def has_layers(self) -> bool:
        """Whether any layer exists."""
        return self.directory.exists() and any(self._keys())

    def holds_something(self) -> bool:
        """Whether any layer, or the remains of any workspace, exist."""
        return self._work.exists() and (self.has_layers() or any(self._work.iterdir()))

    def begin(self, parent: str | None, name: str) -> Workspace:
        with reporting_disk_full("making a workspace", self.directory), self._lock:
            chain = self._chain(parent)
            identity = self._identity(parent)
            directory = self._new_work(name, parent, identity)
        return self._populated(directory, parent, identity, chain)

    def branch(self, source: str, name: str) -> Workspace:
        origin = self._work / checked_name(source)
        with reporting_disk_full("making a workspace", self.directory), self._lock:
            self._require_free(source)
            try:
                parent, identity = stands_on(origin)
            except FileNotFoundError:
                raise NotFound(f"there is no workspace {source}") from None
            if identity != self._identity(parent):
                raise NotFound(f"the layer below workspace {source} has been rebuilt since")
            if not (origin / "sealed").exists():
                self._trees.seal(origin / "layer")
                (origin / "sealed").touch()
            chain = [origin / "layer", *self._chain(parent)]
            directory = self._new_work(name, parent, identity)
            self._copied[source] += 1
        try:
            return self._populated(directory, parent, identity, chain)
        finally:
            with self._lock:
                self._copied[source] -= 1

    def _new_work(self, name: str, parent: str | None, identity: str) -> Path:
        directory = self._work / checked_name(name)
        try:
            directory.mkdir(mode=0o711)
        except FileExistsError:
            raise Refused(f"the workspace {name} exists already") from None
        (directory / "parent").write_text(f"{parent or ''} {identity}".strip())
        # The kept workspace of a failed attempt outlives power cuts: an empty file would mean no
        # parent.
        sync_file(directory / "parent")
        return directory

    def _populated(
        self, directory: Path, parent: str | None, identity: str, chain: list[Path]
    ) -> Workspace:
        with reporting_disk_full("making a workspace", self.directory):
            try:
                self._trees.create(directory, chain)
                layer = directory / "layer"
                if chain:
                    copy_if_there(chain[0] / "document.xml", layer / "document.xml")
            except BaseException:
                self._erase_work(directory)
                raise
        workspace = Workspace(
            backend=self.name,
            name=directory.name,
            directory=directory,
            root=self._trees.root(directory),
            document=layer / "document.xml",
            parent=parent,
            parent_identity=identity,
            parents=tuple(chain),
        )
        self._opened[workspace.name] = workspace
        return workspace

    def opened(self, name: str) -> Workspace:
        try:
            return self._opened[name]
        except KeyError:
            raise NotFound(f"no workspace {name} is open") from None

    def hold(self, name: str) -> Workspace:
        with self._lock:
            workspace = self.opened(name)
            self._require_free(name)
            if self._copied[name]:
                raise Refused(f"the workspace {name} is being copied")
            self._held.add(name)
        return workspace

    def let_go(self, name: str) -> None:
        self._held.discard(name)

    def _require_free(self, name: str) -> None:
        """Raise Refused while another holds a workspace. A worker could turn the way to a file that this
        process is about to open into one that leads out of the tree."""
        if name in self._held:
            raise Refused(f"the workspace {name} is in use")

    def enter(self, workspace: Workspace) -> AbstractContextManager[Path]:
        return self._trees.enter(workspace)

    def commit(
        self,
        workspace: Workspace,
        record: LayerRecord,
        document: str | None = None,
        require: Callable[[], None] = nothing,
    ) -> Layer:
        if not _KEY.fullmatch(record.key) or record.parent != workspace.parent:
            raise ValueError(f"{record} does not describe {workspace}")
        layer, target = workspace.directory / "layer", self.directory / record.key
        with reporting_disk_full("committing a layer", self.directory):
            if self.find(record.key) is None:
                if document is not None:  # synced with the tree: nobody relies on it yet
                    workspace.document.write_text(document, "utf-8")
                    workspace.document.chmod(0o600)
                below = [*map(self._sealed, workspace.parents)]
                with writing_back(layer):
                    content, found = self._contents.record(layer, below, record.epoch)
                if record.content not in ("", content):
                    raise Refused(f"the content is not that of layer {record.key}")
                require()
                artifacts = self._contents.with_digests(
                    record.artifacts, [Sealed(layer, content), *below]
                )
                record = replace(record, content=content, artifacts=artifacts)
                self._trees.seal(layer)
                save_fingerprint(layer, found)
                stored = Stored(
                    record,
                    self._trees.size_bytes(layer),
                    identity=secrets.token_hex(16),
                    parent_identity=workspace.parent_identity,
                    made_at=time.time(),
                )
                write_file(layer / "layer.json", stored.text, 0o600)
                if workspace.document.exists():
                    sync_file(workspace.document)
                with self._lock:
                    # Another build may have committed this key first; its layer is kept.
                    if self.find(record.key) is None:
                        self._supersede(record.key)
                        layer.rename(target)
                        sync_directory(self.directory)
        self._erase_work(workspace.directory)
        return self._layer(record.key)

    def _supersede(self, key: str) -> None:
        """Remove a stale layer of that key, if it exists. Files that a workspace uses are kept until
        the next start."""
        if not (self.directory / key).exists():
            return
        in_use = any(key in self._ancestry(parent) for _, parent in self._workspaces())
        away = self._take_away(key, _SUPERSEDED if in_use else _RUBBISH)
        if not in_use:
            self._erase_rubbish(away)

    def own_file(self, workspace: Workspace, path: str) -> Path | None:
        parts = parts_of(path)
        real = self._trees.locate([workspace.directory / "layer"], parts)
        if real is None or not stat.S_ISREG(real.lstat().st_mode):
            return None
        below = self._trees.locate(workspace.parents, parts) if workspace.parents else None
        return None if below is not None and seems_same(below, real) else real

    def discard(self, workspace: Workspace) -> None:
        self._erase_work(workspace.directory)

    def release(self, name: str) -> None:
        self._require_free(name)
        self._erase_work(self._work / checked_name(name))

    def find(self, key: str) -> Layer | None:
        with contextlib.suppress(NotFound):  # removed since
            return None if self._line(key) is None else self._layer(key)
        return None

    def stale(self, key: str) -> bool:
        return self._stored(key) is not None and self._line(key) is None

    def check(self, key: str, whole: bool, idle: bool, expected: str) -> Check:
        if (stored := self._stored(key)) is None:
            raise NotFound(f"there is no layer {key}")
        chain = [self._sealed(self.directory / each) for each in self._ancestry(key)]
        layer = chain[0]
        made = (key, stored.record.made_by, stored.record.checkpoint)
        if found := damage(layer.directory):
            return Check(*made, "damaged", found)
        if not layer.digest and not expected:
            return Check(*made, "unrecorded")
        self._chain(key)
        if expected in ("", layer.digest):
            found = self._contents.check(chain, whole, idle)
        else:
            found = "layer.json: content is not as in the event log"
        with self._lock:
            # A layer that is being removed has left its place before the first of its files goes.
            if self._identity(key) != stored.identity:
                raise NotFound(f"there is no layer {key} any more")
            if found:
                mark_damaged(layer.directory, found)
            elif whole:
                mark_checked(layer.directory)
        return Check(*made, "damaged" if found else "unchanged", found)

    def touch(self, key: str) -> None:
        now = time.time()
        # The time may be lost in a power cut; it is only a hint for garbage collection.
        os.utime(self._found(key).directory / "layer.json", (now, now))

    @contextlib.contextmanager
    def open(self, key: str) -> Iterator[Path]:
        scratch = self._work / f"open-{secrets.token_hex(8)}"
        with self._lock:
            chain = self._chain(key)
            scratch.mkdir(mode=0o700)
            (scratch / "parent").write_text(key)
        try:
            with self._trees.show(chain, scratch) as tree:
                yield tree
        finally:
            shutil.rmtree(scratch)

    def file(self, key: str, path: str) -> Path:
        if not stat.S_ISREG((real := self.entry(key, path)).lstat().st_mode):
            raise NotFound(f"there is no file {path} in layer {key}")
        return real

    @contextlib.contextmanager
    def lent(self, key: str, path: str) -> Iterator[Path]:
        real = self.file(key, path)
        before = print_of(real)
        yield real
        owner, *_ = real.relative_to(self.directory).parts
        if _KEY.fullmatch(owner):
            note_names(self.directory / owner, real, before)

    def entry(self, key: str, path: str) -> Path:
        if (real := self._trees.locate(self._chain(key), parts_of(path))) is None:
            raise NotFound(f"there is no {path} in layer {key}")
        return real

    def document(self, key: str) -> str | None:
        file = self._found(key).directory / "document.xml"
        return file.read_text() if file.exists() else None

    def remove(self, key: str) -> None:
        with self._lock:
            self._layer(key)
            if standing := self._standing_on(key):
                raise Refused(
                    f"layer {key} is needed by another",
                    f"layers above it: {', '.join(standing)}",
                    "remove the layers above it first",
                )
            removed = self._take_away(key)
        for rubbish in [*self._work.glob(f"{_RUBBISH}*"), removed]:
            self._erase_rubbish(rubbish)

    def layers(self) -> Iterator[Layer]:
        for key in self._keys():
            if (layer := self.find(key)) is not None:
                yield layer

    def stale_layers(self) -> list[Layer]:
        stale = sorted(filter(self.stale, self._keys()), key=lambda key: -len(self._ancestry(key)))
        with contextlib.suppress(NotFound):
            return [self._layer(key) for key in stale]
        return []  # being removed at this moment: next time

    def workspaces(self) -> Iterator[tuple[str, int]]:
        for directory in sorted(self._work.iterdir()):
            if directory.name.startswith((_RUBBISH, _SUPERSEDED)):
                continue
            if not (directory / "layer").exists():
                continue
            # The files may be changed and removed while they are measured.
            with contextlib.suppress(FileNotFoundError, Unprepared):
                yield directory.name, self._trees.size_bytes(directory / "layer")

    def reconcile(self, known_keys: Collection[str], living: Collection[str]) -> list[str]:
        removed = []
        # A daemon that died between a layer's rename and its sync left a name that is not yet durable,
        # and an event is about to rely on it.
        sync_directory(self.directory)
        with self._lock:
            for directory in sorted(self._work.iterdir()):
                if directory.name not in living and directory.name not in self._held:
                    self._erase_work(directory)
                    removed.append(f"workspace {directory.name}")
            keys = self._keys()
            needed = {*known_keys, *(parent for _, parent in self._workspaces())}
            kept = {below for key in needed for below in self._line(key) or ()}
            # Each before its parent.
            for key in sorted(set(keys) - kept, key=lambda key: -len(self._ancestry(key))):
                self._erase_rubbish(self._take_away(key))
                removed.append(f"layer {key}")
        return removed

    def _keys(self) -> list[str]:
        return sorted(p.name for p in self.directory.iterdir() if _KEY.fullmatch(p.name))

    def _stored(self, key: str) -> Stored | None:
        """The content of layer.json, None when the layer does not exist; read once, since a layer never
        changes."""
        if not _KEY.fullmatch(key):
            return None
        file = self.directory / key / "layer.json"
        if not file.exists():
            self._known.pop(key, None)
        elif key not in self._known and (stored := read_stored(file)) is not None:
            self._known[key] = stored
        return self._known.get(key)

    def _sealed(self, layer: Path) -> Sealed:
        stored = self._stored(layer.name)
        return Sealed(layer, stored.record.content if stored else "")

    def _layer(self, key: str) -> Layer:
        """The layer of that key, stale or not. Raises NotFound."""
        directory = self.directory / key
        try:
            if (stored := self._stored(key)) is not None:
                used_at = (directory / "layer.json").stat().st_mtime
                checked = max(stored.made_at, checked_at(directory)) if stored.record.content else 0
                broken = damage(directory)
                return Layer(stored.record, directory, stored.size_bytes, used_at, checked, broken)
        except FileNotFoundError:
            pass
        raise NotFound(f"there is no layer {key}")

    def _found(self, key: str) -> Layer:
        if (layer := self.find(key)) is None:
            raise NotFound(f"there is no layer {key}")
        return layer

    def _identity(self, key: str | None) -> str:
        stored = None if key is None else self._stored(key)
        return stored.identity if stored else ""

    def _line(self, key: str | None) -> list[str] | None:
        """A layer and all layers below it, nearest first. None when one is missing, damaged, or not the
        instance on which the layer above it was built."""
        line: list[str] = []
        identity: str | None = None
        while key is not None:
            stored = self._stored(key)
            if stored is None or key in line or identity not in (None, stored.identity):
                return None
            if damage(self.directory / key):
                return None
            line.append(key)
            key, identity = stored.record.parent, stored.parent_identity
        return line

    def _ancestry(self, key: str | None) -> list[str]:
        """A layer and the existing layers below it, by key alone."""
        line: list[str] = []
        while key is not None and key not in line and (stored := self._stored(key)) is not None:
            line.append(key)
            key = stored.record.parent
        return line

    def _chain(self, key: str | None) -> list[Path]:
        """The directories of a layer and of all layers below it, nearest first."""
        if (line := self._line(key)) is None:
            raise NotFound(f"there is no layer {key}")
        return [self.directory / each for each in line]

    def _standing_on(self, key: str) -> list[str]:
        identity = self._identity(key)
        above = ((other, self._stored(other)) for other in self._keys())
        return [
            *(
                other
                for other, stored in above
                if stored and (stored.record.parent, stored.parent_identity) == (key, identity)
            ),
            *(name for name, parent in self._workspaces() if parent == key),
        ]

    def _workspaces(self) -> Iterator[tuple[str, str]]:
        """Names of workspaces that are based on a layer, with its key."""
        for directory in self._work.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if parent := stands_on(directory)[0]:
                    yield directory.name, parent

    def _take_away(self, key: str, prefix: str = _RUBBISH) -> Path:
        """Move a layer to a working directory, to be erased there. Returns that directory."""
        away = self._work / f"{prefix}{secrets.token_hex(8)}"
        away.mkdir(mode=0o711)
        (self.directory / key).rename(away / "layer")
        self._known.pop(key, None)
        return away

    def _erase_work(self, directory: Path) -> None:
        """Remove a workspace. When this returns, its name and its parent are free."""
        self._opened.pop(directory.name, None)
        rubbish = self._work / f"{_RUBBISH}{secrets.token_hex(8)}"
        with contextlib.suppress(FileNotFoundError):
            directory.rename(rubbish)
            (rubbish / "parent").unlink(missing_ok=True)
            self._erase_rubbish(rubbish)

    def _erase_rubbish(self, rubbish: Path) -> None:
        # The next removal tries busy directories again.
        with contextlib.suppress(Busy, FileNotFoundError):
            if (rubbish / "layer").exists():
                self._trees.erase(rubbish / "layer")
            remove_tree(rubbish)
