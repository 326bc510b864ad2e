"""What a layer back end promises.

A *layer* is the immutable state of the workspace after a completed checkpoint, addressed by the
checkpoint's key. A *workspace* is the writable tree of one attempt, begun on a parent layer; it ends
by `commit` (it becomes the layer, atomically) or by `discard` (nothing of it remains). A back end
mounts nothing itself outside the worker: `enter` is called in the worker's own mount namespace, so a
mount cannot outlive it. All methods are blocking; the daemon calls them from threads.
"""

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from statemachine.events import Artifact


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """What is known of a layer beside its tree; stored with it, so that a layer whose event was lost
    with the daemon can be adopted. `made_by` is the build, `seconds` the attempt's duration."""

    key: str
    parent: str | None
    made_by: str
    checkpoint: str
    attempt: int
    seconds: float
    artifacts: tuple[Artifact, ...] = ()
    left: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Layer:
    """A committed layer. `directory` holds the back end's files and belongs to it."""

    record: LayerRecord
    directory: Path
    size_bytes: int
    used_at: float
    """Unix time of the last use, for least-recently-used removal."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """An attempt's writable tree. JSON-encodable: the daemon sends it to the worker.

    `name` is unique among living attempts; `directory` belongs to the back end; `root` is where the
    tree appears once entered (`pkg_image`, `boot_archive`, `media`, `tmp` below it); `parents` are the
    directories of the layers below, nearest first (back ends that need none leave it empty).
    `document` is the file that holds the DOC's persistent part: the parent's copy at first, what the
    checkpoint leaves there is committed with the layer. `parent_identity` says which making of the parent
    it stands on.
    """

    backend: str
    name: str
    directory: Path
    root: Path
    document: Path
    parent: str | None = None
    parent_identity: str = ""
    parents: tuple[Path, ...] = field(default=())


class LayerStore(Protocol):
    """A back end. Errors: `statemachine.errors.Unprepared` when the disk is full (its `cause`
    attribute errno ENOSPC), `NotFound` for a key that is not there."""

    name: str
    directory: Path
    """Where it keeps them."""

    def prepare(self) -> None:
        """Make ready what the back end needs (daemon side, once, before all else). Raises Unprepared
        when it cannot work there."""
        ...

    def begin(self, parent: str | None, name: str) -> Workspace:
        """A fresh workspace on the layer with key `parent`, or on nothing."""
        ...

    def branch(self, source: str, name: str) -> Workspace:
        """A fresh workspace on what the workspace `source` holds, which nothing has entered now or will
        enter again. It stands on it: `source` has to outlive it. Raises NotFound."""
        ...

    def enter(self, workspace: Workspace) -> AbstractContextManager[Path]:
        """Make the tree appear at `workspace.root` (worker side); gone again on exit."""
        ...

    def commit(self, workspace: Workspace, record: LayerRecord) -> Layer:
        """Make the workspace the layer `record.key`: whole and on disk before it has that name.
        When a layer of that key exists already, that one wins and the workspace is discarded; one that
        is stale is replaced."""
        ...

    def own_file(self, workspace: Workspace, path: str) -> Path | None:
        """The real file behind the regular file `path` of a workspace that nothing has entered now; None
        when it is not there, or belongs to a layer below."""
        ...

    def discard(self, workspace: Workspace) -> None:
        """Remove every trace of the workspace. Idempotent."""
        ...

    def release(self, name: str) -> None:
        """Discard the workspace of that name, if there is one."""
        ...

    def find(self, key: str) -> Layer | None:
        """The layer of that key, or None when there is none or it is stale. Marks nothing as used."""
        ...

    def stale(self, key: str) -> bool:
        """Whether a layer of that key is there that does not count: a layer below it was lost, or has been
        made again since it was built on it."""
        ...

    def touch(self, key: str) -> None:
        """Note that the layer was used now."""
        ...

    def open(self, key: str) -> AbstractContextManager[Path]:
        """The layer's tree for reading, at a path valid inside the context. Needs the right to mount
        on some back ends, in a mount namespace of the caller's own."""
        ...

    def file(self, key: str, path: str) -> Path:
        """The real file behind the regular file `path` (relative to the workspace root) in the
        layer, without a mount, for hard links and reflinks. Raises NotFound."""
        ...

    def document(self, key: str) -> str | None:
        """The DOC's persistent part as XML text as saved with the layer, or None."""
        ...

    def remove(self, key: str) -> None:
        """Remove a layer. Refused (`Refused`) while another layer or a workspace stands on it."""
        ...

    def layers(self) -> Iterator[Layer]:
        """All committed layers but stale ones."""
        ...

    def stale_layers(self) -> list[Layer]:
        """All stale layers, each before the one that it stands on."""
        ...

    def workspaces(self) -> Iterator[tuple[str, int]]:
        """Names of all workspaces, with the disk space that belongs to each alone, in bytes."""
        ...

    def reconcile(self, known_keys: Collection[str], living: Collection[str]) -> list[str]:
        """Remove half-written and stale layers, layers whose key is not among the known (top down, never
        one that a kept layer stands on), and workspaces whose name is not among the living. Returns what
        was removed, for the daemon's log. Run at start, before any build goes on."""
        ...
