"""The contract of a layer back end.

A *layer* is the immutable state of the workspace after a completed checkpoint, addressed by the
checkpoint's key. A *workspace* is the writable tree of one attempt, begun on a parent layer; it ends
by `commit` (it becomes the layer, atomically) or by `discard` (it is removed completely). A back end
does not mount outside the worker: `enter` is called in the worker's own mount namespace, so a mount
cannot outlive it. All methods are blocking; the daemon calls them from threads.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from statemachine.results import Artifact, Publication


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """The metadata of a layer, stored with it, so that the daemon can adopt a layer whose event was lost
    in a crash. `made_by` is the build, `seconds` the attempt's duration, `resolved` and `publications` as
    in CheckpointCompleted. `base` is the key of the base that it has, itself or another ("" for none),
    and `listed` what it has beside that, sorted. `own` digests what decides it apart from the layer
    below, if it is known what it reads of that; `taken_from` is the key of the result that it was taken
    over from. `epoch` is the build's time: the commit sets newer times in the tree back to it. `content`
    is the digest of the manifest of the whole tree (`store.layers.content`), which the commit fills in,
    or refuses when it was given another one; "" in layers of earlier versions. The commit also fills in
    the digests of `artifacts`, but those of files that the manifest describes by pieces.
    `brought`: it was made on another build server, whose builds this log may not have."""

    key: str
    parent: str | None
    made_by: str
    checkpoint: str
    attempt: int
    seconds: float
    artifacts: tuple[Artifact, ...] = ()
    left: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    resolved: str = ""
    publications: tuple[Publication, ...] = ()
    base: str = ""
    listed: tuple[str, ...] = ()
    own: str = ""
    taken_from: str = ""
    epoch: int | None = None
    content: str = ""
    brought: bool = False

    @property
    def products(self) -> "Products":
        """What an event says of it too."""
        return Products(
            self.checkpoint,
            self.artifacts,
            self.left,
            self.warnings,
            self.resolved,
            self.publications,
        )


@dataclass(frozen=True, slots=True)
class Layer:
    """A committed layer. `directory` holds the back end's files and belongs to it; `used_at` is the Unix time
    of the last use, for least-recently-used removal; `checked_at` that of the commit or of the last check
    that read all of it (0: it has no manifest). `damage` says what is wrong with a damaged layer."""

    record: LayerRecord
    directory: Path
    size_bytes: int
    used_at: float
    checked_at: float = 0.0
    damage: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of holding a layer against its manifest. `state` is `unchanged`, `damaged` or `unrecorded`
    (a layer of an earlier version, without a manifest); `damage` names the first differences, for people."""

    key: str
    made_by: str
    checkpoint: str
    state: str
    damage: str = ""


@dataclass(frozen=True, slots=True)
class Products:
    """What the event of a checkpoint says of its result, which the content of the layer does not cover."""

    checkpoint: str
    artifacts: tuple[Artifact, ...]
    left: tuple[str, ...]
    warnings: tuple[str, ...]
    resolved: str
    publications: tuple[Publication, ...]


@dataclass(frozen=True, slots=True)
class ExpectedLayer:
    """What identifies a layer on all hosts: its key, that of its parent, the digest of its content, as in
    CheckpointCompleted, and the name of its back end, which stores trees in its own way. `products` are those
    that its record has to name (None: no event says them). It may take `most_seconds` to unpack, and leaves
    `min_free_bytes` of the disk free."""

    key: str
    parent: str | None
    content: str
    backend: str
    products: Products | None = None
    most_seconds: float = 3600.0
    min_free_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Workspace:
    """An attempt's writable tree. JSON-encodable: the daemon sends it to the worker.

    `name` is unique among open attempts; `directory` belongs to the back end; the tree appears at
    `root` once entered (`pkg_image`, `boot_archive`, `media`, `tmp` below it); `parents` are the
    directories of the layers below, nearest first (empty for back ends that need none). `document` is
    the file with the DOC's persistent part: it starts as the parent's copy and is committed with the
    layer. `parent_identity` identifies the instance of the parent layer on which it is based.
    """

    backend: str
    name: str
    directory: Path
    root: Path
    document: Path
    parent: str | None = None
    parent_identity: str = ""
    parents: tuple[Path, ...] = field(default=())

    @property
    def place(self) -> Path:
        """The directory with the directories of back ends."""
        return self.directory.parents[2]

    @property
    def stored_tree(self) -> Path:
        """The directory with what it stores itself: its whole tree, or the upper directory of an overlay."""
        return (self.directory / "layer" / "tree").resolve()


def nothing() -> None:
    """Require nothing."""


class Layers(Protocol):
    """The layers and workspaces of one back end, by key and name: all that the engine needs. Errors:
    `statemachine.errors.Unprepared` when the disk is full (its `cause` attribute errno ENOSPC), `NotFound`
    for a key without a layer."""

    @property
    def name(self) -> str:
        """The name of the back end."""
        ...

    @property
    def directory(self) -> Path:
        """The directory of its layers and workspaces."""
        ...

    def prepare(self) -> None:
        """Prepare the back end (once, before any other call). Raises Unprepared when it cannot work
        there."""
        ...

    def begin(self, parent: str | None, name: str) -> Workspace:
        """Create a workspace on the layer with key `parent`; None for an empty one."""
        ...

    def branch(self, source: str, name: str) -> Workspace:
        """Create a workspace on the contents of the workspace `source`, which is not entered and will
        not be entered again. `source` has to outlive the new workspace. Raises NotFound."""
        ...

    def release(self, name: str) -> None:
        """Remove the workspace of that name completely, if it exists."""
        ...

    def find(self, key: str) -> Layer | None:
        """The layer of that key; None when it does not exist, is stale or damaged. Does not mark it as
        used."""
        ...

    def stale(self, key: str) -> bool:
        """Whether the layer of that key exists but is stale: it is damaged, or a layer below it is damaged or
        was lost or rebuilt after it was created."""
        ...

    def check(self, key: str, whole: bool, idle: bool, expected: str) -> Check:
        """Hold a layer against its manifest: what its fingerprint does not show to be unchanged, or with
        `whole` everything. The digest of the manifest has to be `expected`, if it is not "". A layer that
        differs is damaged from then on: it is stale, and so is each layer above it. With `idle` other work
        goes first. Raises NotFound."""
        ...

    def touch(self, key: str) -> None:
        """Mark the layer as used now."""
        ...

    def document(self, key: str) -> str | None:
        """The DOC's persistent part as XML text, as saved with the layer, or None."""
        ...

    def remove(self, key: str) -> None:
        """Remove a layer. Raises Refused while another layer or a workspace is based on it."""
        ...

    def layers(self) -> Iterable[Layer]:
        """All committed layers except stale ones."""
        ...

    def stale_layers(self) -> Sequence[Layer]:
        """All stale layers, each before its parent."""
        ...

    def workspaces(self) -> Iterable[tuple[str, int]]:
        """Names of all workspaces, each with its exclusive disk space in bytes."""
        ...

    def reconcile(self, known_keys: Collection[str], living: Collection[str]) -> Sequence[str]:
        """Remove partial and stale layers, layers whose key is not in `known_keys` (top down, never the
        parent of a kept layer), and workspaces whose name is not in `living`. Returns the removed items
        for the daemon's log. Runs at start, before any build continues."""
        ...


class LayerStore(Layers, Protocol):
    """The same with access to the trees, which needs the privileges for the files of images."""

    def enter(self, workspace: Workspace) -> AbstractContextManager[Path]:
        """Show the tree at `workspace.root` (worker side) until the context exits."""
        ...

    def opened(self, name: str) -> Workspace:
        """The workspace that this process has begun or branched under that name. Raises NotFound."""
        ...

    def hold(self, name: str) -> Workspace:
        """The same for one user, until `let_go`: meanwhile it cannot be held, branched or released. Raises
        NotFound, and Refused when somebody has it."""
        ...

    def let_go(self, name: str) -> None:
        """End what `hold` began."""
        ...

    def commit(
        self,
        workspace: Workspace,
        record: LayerRecord,
        document: str | None = None,
        require: Callable[[], None] = nothing,
    ) -> Layer:
        """Turn the workspace into the layer `record.key`: complete and on disk before it gets that
        name. `document` is the DOC's persistent part as XML text (None: that of the parent). An existing
        layer of that key is kept and the workspace is discarded; a stale one is replaced. `require` is called
        when the tree has been described, and raises what has to prevent the layer."""
        ...

    def own_file(self, workspace: Workspace, path: str) -> Path | None:
        """The real file behind the regular file `path` of a workspace that is not entered; None when it
        does not exist or belongs to a layer below."""
        ...

    def discard(self, workspace: Workspace) -> None:
        """Remove the workspace completely. Idempotent."""
        ...

    def open(self, key: str) -> AbstractContextManager[Path]:
        """The layer's tree for reading, at a path valid inside the context. Some back ends mount it,
        which needs the privilege and a mount namespace of the caller."""
        ...

    def lent(self, key: str, path: str) -> AbstractContextManager[Path]:
        """Like `file`, while the file may get other names, which changes its ctime."""
        ...

    def entry(self, key: str, path: str) -> Path:
        """The real entry, of any type, behind a path in a layer; links are not followed. Raises NotFound."""
        ...

    def file(self, key: str, path: str) -> Path:
        """The real file behind the regular file `path` (relative to the workspace root) in the
        layer, without a mount, for hard links and reflinks. Raises NotFound."""
        ...
