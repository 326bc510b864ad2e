"""The content manifests of the layers of one back end: made at commit, and held against the layers later.

A layer directory keeps its manifest and its fingerprint beside its tree (`store.layers.content`). What a
layer stores itself is its whole tree, or for an overlay only the upper directory; the manifest always
describes the whole tree. Blocking; safe for several threads.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from store.layers.content import (
    CONTENT,
    EMPTY,
    Content,
    parse,
    read_document,
    read_fingerprint,
    read_text,
    save_content,
    save_fingerprint,
    with_document,
)
from store.layers.delta import merged, whole
from store.layers.trees import Trees
from store.layers.walk import NOTHING, Known, Tree, describe

_REMEMBERED = 2
"""The number of manifests in memory: the commit of a checkpoint needs that of the one before."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A layer: its directory, and the digest of its content ("" for one without a manifest)."""

    directory: Path
    digest: str


class Contents:
    """See the module. An instance remembers the last manifests."""

    def __init__(self, trees: Trees) -> None:
        self._trees = trees
        self._lock = threading.Lock()
        self._remembered: OrderedDict[str, Content] = OrderedDict()

    def record(self, layer: Path, chain: Sequence[Sealed], newest: int | None) -> str:
        """Set times in the tree of a finished workspace back to `newest`, and write its manifest and its
        fingerprint, not yet synced. Returns the digest of the manifest. `chain` is what it stands on, nearest
        first. Raises OSError."""
        tree = self._described(layer, self._inheritance(chain), newest)
        save_fingerprint(layer, tree.fingerprint)
        if self._is_as_below(layer, tree, chain) and _linked(chain[0], layer):
            return chain[0].digest
        content = self._content(layer, chain, tree)
        self._remember(content)
        if not (chain and content.digest == chain[0].digest and _linked(chain[0], layer)):
            save_content(layer, content)
        return content.digest

    def of(self, chain: Sequence[Sealed]) -> Content:
        """The manifest of the first layer of a chain. One that is missing or damaged is made again from the
        tree. Raises OSError."""
        if not chain:
            return EMPTY
        with self._lock:
            if (found := self._remembered.get(chain[0].digest)) is not None:
                return found
        if (content := _recorded(chain[0])) is None:
            directory = chain[0].directory
            content = self._content(directory, chain[1:], self._described(directory, NOTHING))
        self._remember(content)
        return content

    def _described(self, layer: Path, known: Known, newest: int | None = None) -> Tree:
        tree = self._trees.tree(layer)
        return describe(tree, stacked=self._trees.stacked, newest=newest, known=known)

    def _content(self, layer: Path, chain: Sequence[Sealed], tree: Tree) -> Content:
        content = merged(self.of(chain), tree) if self._trees.stacked else whole(tree)
        return with_document(content, read_document(layer))

    def _is_as_below(self, layer: Path, tree: Tree, chain: Sequence[Sealed]) -> bool:
        """Whether an upper directory is empty, and the document that of the layer below."""
        if not chain or not self._trees.stacked or tree.found:
            return False
        return read_document(layer) == read_document(chain[0].directory)

    def _inheritance(self, chain: Sequence[Sealed]) -> Known:
        """What a new tree has from the layer below, by inode."""
        if not chain or self._trees.stacked or not self._trees.keeps_inodes:
            return NOTHING
        fingerprint = read_fingerprint(chain[0].directory)
        return NOTHING if fingerprint is None else Known(fingerprint, self.of(chain).lines)

    def _remember(self, content: Content) -> None:
        with self._lock:
            self._remembered[content.digest] = content
            self._remembered.move_to_end(content.digest)
            while len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)


def _recorded(layer: Sealed) -> Content | None:
    """The manifest that a layer keeps, if it is the one that its digest names."""
    if (text := read_text(layer.directory)) is None:
        return None
    try:
        content = parse(text)
    except ValueError:
        return None
    return content if content.digest == layer.digest else None


def _linked(below: Sealed, layer: Path) -> bool:
    """Whether the layer could share the manifest of the one below."""
    try:
        os.link(below.directory / CONTENT, layer / CONTENT)
    except OSError:
        return False
    return True
