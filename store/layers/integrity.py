"""The content manifests of the layers of one back end: made at commit, and held against the layers later.

A layer directory keeps its manifest and its fingerprint beside its tree (`store.layers.content`). What a
layer stores itself is its whole tree, or for an overlay only the upper directory; the manifest always
describes the whole tree. Blocking; safe for several threads.
"""

import errno
import hashlib
import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from statemachine.errors import CheckpointError
from statemachine.results import Artifact
from store.host.durable import write_file
from store.host.idle import run_idle
from store.layers.content import (
    CONTENT,
    EMPTY,
    FINGERPRINT,
    TICK_NS,
    Content,
    Difference,
    Fingerprint,
    Print,
    differences,
    document_line,
    key_of,
    line_of_document,
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
from store.layers.walk import (
    LARGEST_BYTES,
    NOTHING,
    Known,
    Tree,
    describe,
    fingerprint_of,
    listings,
    prints_of,
    state_of,
)

_REMEMBERED, _MOST_LINES = 2, 50_000
"""The number of manifests in memory, and the lines of the longest: the commit of a checkpoint needs that of
the one before. A line takes about half a kilobyte."""


_DAMAGED, _CHECKED = "damaged", "checked"
"""Files of a layer: the mark of a damaged one, and one with the time of the last check that read it all."""

_OF_THE_DISK = (errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
"""Errors of files that are gone or that the file system cannot read, such as a wrong checksum of btrfs."""

_NAMED = 5
"""How many differences a summary names."""


_FILES = 1000
"""The number of manifests whose digests are in memory, and of fingerprints with the state of a tree that was
found unchanged by them, as a digest."""

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

_File = tuple[int, ...]
"""A tuple that changes when a file does."""


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
        self._files: OrderedDict[_File, tuple[str, bytes | None]] = OrderedDict()
        self._states: OrderedDict[_File | None, bytes] = OrderedDict()

    def record(
        self, layer: Path, chain: Sequence[Sealed], newest: int | None
    ) -> tuple[str, dict[bytes, Print]]:
        """Set times in the tree of a finished workspace back to `newest`, and write its manifest, not yet
        synced. Returns the digest of the manifest, and the fingerprints of the tree. `chain` is what it
        stands on, nearest first. Raises CheckpointError for a tree that cannot be walked, OSError."""
        try:
            tree = self._described(layer, self._inheritance(chain), newest)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise _too_deep() from error
            if error.errno == errno.EFBIG:
                raise _too_large(error) from error
            raise
        if self._is_as_below(layer, tree, chain) and _linked(chain[0], layer):
            return chain[0].digest, tree.prints
        content = self._content(layer, chain, tree)
        self._remember(content)
        if not (chain and content.digest == chain[0].digest and _linked(chain[0], layer)):
            save_content(layer, content)
        return content.digest, tree.prints

    def check(self, chain: Sequence[Sealed], whole: bool, idle: bool) -> str:
        """What is wrong with the first layer of a chain, for people; "" when it is as its manifest says.
        Reads what its fingerprint does not show to be unchanged, or with `whole` everything; with `idle`
        other work goes first. A lost manifest of an unchanged layer is written again, and so is a
        fingerprint. Raises OSError."""
        try:
            if idle:
                return _summarized(run_idle(lambda: self._differences(chain, whole)))
            return _summarized(self._differences(chain, whole))
        except OSError as error:
            return _unreadable(error)

    def _differences(self, chain: Sequence[Sealed], whole: bool) -> list[Difference]:
        layer = chain[0]
        file = _identity(layer.directory / FINGERPRINT)
        if not whole and self._is_as_found(layer, file):
            return []
        fingerprint = None if whole else read_fingerprint(layer.directory)
        if fingerprint is not None and self._is_unchanged(layer, file, fingerprint):
            return []
        recorded, known = _recorded(layer), NOTHING
        if recorded is not None and fingerprint is not None:
            known = Known(fingerprint, recorded.lines)
        tree = self._described(layer.directory, known, from_disk=whole)
        content = self._content(layer.directory, chain[1:], tree)
        if content.digest == layer.digest:
            if recorded is None:
                save_content(layer.directory, content)
            save_fingerprint(layer.directory, tree.prints)
            return []
        if recorded is None:
            return [Difference(CONTENT, ("removed",))]
        return differences(recorded, content)

    def _is_as_found(self, layer: Sealed, file: _File | None) -> bool:
        """Like `_is_unchanged`, for a layer that an earlier check found unchanged by the fingerprint in the
        same `file`, which is not read again."""
        with self._lock:
            known = self._states.get(file)
        if known is None:
            return False
        state = hashlib.sha256()
        for listing in listings(self._trees.tree(layer.directory)):
            state.update(state_of(listing))
        return state.digest() == known and self._has_files(layer)

    def _is_unchanged(self, layer: Sealed, file: _File | None, fingerprint: Fingerprint) -> bool:
        """Whether a layer certainly has the entries of its fingerprint, its document and its manifest."""
        found, state = 0, hashlib.sha256()
        for listing in listings(self._trees.tree(layer.directory)):
            state.update(state_of(listing))
            for key, entry in prints_of(listing):
                if not fingerprint.shows_unchanged(key, entry):
                    return False
                found += 1
        if found != len(fingerprint.prints):
            return False
        with self._lock:
            _remember(self._states, file, state.digest())
        return self._has_files(layer)

    def _has_files(self, layer: Sealed) -> bool:
        """Whether a layer has its manifest, and the document that this describes."""
        digest, document = self._file_of(layer.directory)
        return digest == layer.digest and document == document_line(read_document(layer.directory))

    def _file_of(self, layer: Path) -> tuple[str, bytes | None]:
        """The digest of the manifest that a layer keeps ("" for none), and its line for the document.
        Remembered for a file, which many layers may share."""
        if (file := _identity(layer / CONTENT)) is None:
            return "", None
        with self._lock:
            if (known := self._files.get(file)) is not None:
                return known
        text = read_text(layer) or b""
        described = hashlib.sha256(text).hexdigest(), line_of_document(text)
        with self._lock:
            _remember(self._files, file, described)
        return described

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

    def with_digests(
        self, artifacts: Sequence[Artifact], chain: Sequence[Sealed]
    ) -> tuple[Artifact, ...]:
        """Artifacts with the digests that their files have in the manifest of a chain's first layer. Those of
        large files, which it describes by pieces, keep their own. Raises CheckpointError for an artifact
        without a file; OSError."""
        lines = self.of(chain).lines if artifacts else {}
        return tuple(_with_digest(each, lines.get(key_of(each.path), b"{}")) for each in artifacts)

    def _described(
        self, layer: Path, known: Known, newest: int | None = None, *, from_disk: bool = False
    ) -> Tree:
        return describe(
            self._trees.tree(layer),
            stacked=self._trees.stacked,
            newest=newest,
            known=known,
            from_disk=from_disk,
        )

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
        if len(content.lines) > _MOST_LINES:
            return
        with self._lock:
            self._remembered[content.digest] = content
            self._remembered.move_to_end(content.digest)
            while len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)


def _identity(path: Path) -> _File | None:
    """The identity of a file; None for none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, *fingerprint_of(status)


def _remember(known: OrderedDict[_Key, _Value], key: _Key, value: _Value) -> None:
    while len(known) >= _FILES:
        known.popitem(last=False)
    known[key] = value


def _recorded(layer: Sealed) -> Content | None:
    """The manifest that a layer keeps, if it is the one that its digest names."""
    if (text := read_text(layer.directory)) is None:
        return None
    try:
        content = parse(text)
    except ValueError:
        return None
    return content if content.digest == layer.digest else None


def _with_digest(artifact: Artifact, line: bytes) -> Artifact:
    sha256 = json.loads(line).get("sha256", artifact.sha256)
    if not sha256:
        raise CheckpointError(
            f"the checkpoint left no file for its artifact {artifact.name}",
            f"there is no regular file {artifact.path}",
            "have it deliver a file that it keeps",
        )
    return replace(artifact, sha256=sha256)


def _too_deep() -> CheckpointError:
    return CheckpointError(
        "the checkpoint left directories so deep that no path leads to the last one",
        "paths in a workspace have at most about 4000 bytes",
        "have it remove what it does not need",
    )


def _too_large(error: OSError) -> CheckpointError:
    return CheckpointError(
        "the checkpoint left a file that is too large",
        f"{ascii(error.filename)[1:-1]} has more than {LARGEST_BYTES >> 40} TiB, most of them a hole",
        "have it remove the file, or make it smaller",
    )


def mark_damaged(layer: Path, damage: str) -> None:
    """Mark a layer as damaged, durably, with what is wrong for people. Raises OSError."""
    write_file(layer / _DAMAGED, damage.encode("utf-8", "backslashreplace"), 0o600)


def damage(layer: Path) -> str:
    """What is wrong with a layer that was marked as damaged, for people; "" without a mark."""
    try:
        return (layer / _DAMAGED).read_text() or "damaged"
    except FileNotFoundError:
        return ""


def mark_checked(layer: Path) -> None:
    """Note, durably, that all of a layer has been read and is unchanged. Raises OSError."""
    write_file(layer / _CHECKED, str(time.time()).encode(), 0o600)


def checked_at(layer: Path) -> float:
    """The Unix time of the last check that read all of a layer; 0 for none."""
    try:
        return float((layer / _CHECKED).read_text())
    except (FileNotFoundError, ValueError):
        return 0.0


def _summarized(differs: Sequence[Difference]) -> str:
    """Differences for people: the first ones, and the number of others; "" for none."""
    named = [f"{ascii(each.path)[1:-1]}: {', '.join(each.kinds)}" for each in differs[:_NAMED]]
    more = len(differs) - len(named)
    return "; ".join([*named, f"and {more} more"] if more else named)


def _unreadable(error: OSError) -> str:
    """What is wrong with a layer that cannot be read, for people. Raises the error unless the layer or its
    disk is the reason."""
    if error.errno not in _OF_THE_DISK:
        raise error
    return f"{ascii(error.filename or 'its tree')[1:-1]}: {error.strerror}"


def print_of(path: Path) -> Print:
    """The fingerprint of an entry. Raises OSError."""
    return fingerprint_of(path.lstat())


def note_names(layer: Path, file: Path, before: Print) -> None:
    """Note that a file of a layer, whose fingerprint was `before`, may have got other names since, so that it
    is not read for that. Raises OSError."""
    after = print_of(file)
    key = key_of(str(file.relative_to(layer / "tree")))
    fingerprint = read_fingerprint(layer)
    only_names = before != after and before[:3] == after[:3]
    if only_names and fingerprint is not None and fingerprint.prints.get(key) == before:
        # A change in the same tick of the clock would not show.
        time.sleep(max(0.0, (after[3] + TICK_NS - time.time_ns()) / 1e9))
        save_fingerprint(layer, {**fingerprint.prints, key: after})


def _linked(below: Sealed, layer: Path) -> bool:
    """Whether the layer could share the manifest of the one below."""
    try:
        os.link(below.directory / CONTENT, layer / CONTENT)
    except OSError:
        return False
    return True
