"""The content manifest of a layer: what the whole tree of a workspace holds, as text with a digest.

The text is the same for the same tree, whatever back end and file system keep it. It has a line for each
entry below the root, a JSON object, and the lines are sorted by their bytes (`LC_ALL=C sort`). The keys, in
this order:

    path     from the root of the workspace; bytes that are not UTF-8 as lone surrogates (PEP 383)
    type     file, directory, link, char, block, fifo or socket
    mode     permissions, in octal; links have none
    uid, gid                 files of the media with mode 0640, of root, have no gid: it is that of the host's
                             readers of artifacts
    mtime    in whole seconds, which every format of images keeps
    size, sha256             of a file; from `PIECEWISE_BYTES` on `pieces` instead of sha256
    target                   of a link
    major, minor             of a device
    xattrs                   names to values in base64, without what the host's kernel writes by itself
    same_as                  for a file with several names in the tree, the first of these

One more line, with the path `/document.xml` and the type `document`, has the digest of the DOC's persistent
part, if the layer has one.

`pieces` is the SHA-256 of the SHA-256 digests of the pieces of a file, `PIECE_BYTES` each: large files are
disks with holes, whose pieces need not be read. Not in the text: times of access and change, the space that a
file takes, the root itself. Beside the text a layer keeps the *fingerprint* of the entries that it stores
itself: inode, size and times, by which unchanged entries are recognized without being read.

Source: RFC 8259; PEP 383; lstat(2), xattr(7).
"""

import bisect
import gzip
import hashlib
import json
import os
import threading
import time
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any

from store.host.regular import open_regular

CONTENT = "content.jsonl.gz"
"""The file of a layer with its manifest."""

FINGERPRINT = "fingerprint.gz"
"""The file of a layer with the fingerprint."""

DOCUMENT = "document.xml"
"""The file of a layer with the DOC's persistent part."""

_DOCUMENT_KEY = b"/document.xml"

PIECE_BYTES = 4 * 1024**2

Print = tuple[int, int, int, int]
"""Inode, size, mtime and ctime (both in nanoseconds) of an entry."""

TICK_NS, _COARSE_NS = 12_000_000, 2_000_000_000
"""More than a tick of the clock of file systems: of most, and of those that keep whole seconds."""

_BEFORE_KEY = b'{"path":"'
_BEFORE_GROUP = b',"same_as":"'

MOST_PACKED_BYTES = 32 * 1024**2
"""The size of a manifest, compressed, that is handed out, or read from elsewhere."""

_MOST_TEXT_BYTES = 256 * 1024**2


def key_of(path: str) -> bytes:
    """A path as it is written in the manifest."""
    text = os.fsencode(path).decode("utf-8", "surrogateescape")
    return encode_basestring_ascii(text)[1:-1].encode()


def key_in(line: bytes) -> bytes:
    """The path of a line."""
    return line[len(_BEFORE_KEY) : line.index(b'","')]


def line_of(key: bytes, facts: bytes) -> bytes:
    """A line from its path and the rest, as `rest_of` gives it."""
    return _BEFORE_KEY + key + facts


def rest_of(line: bytes) -> bytes:
    """A line without its path and without the other names of the file."""
    end = line.rfind(_BEFORE_GROUP)
    return line[line.index(b'","') :] if end < 0 else line[line.index(b'","') : end] + b"}"


def group_in(line: bytes) -> bytes | None:
    """The first name of the file of a line, if it has several."""
    start = line.rfind(_BEFORE_GROUP)
    return None if start < 0 else line[start + len(_BEFORE_GROUP) : -2]


def grouped(line: bytes, first: bytes) -> bytes:
    """A line without the other names of its file, with the first of them."""
    return line[:-1] + _BEFORE_GROUP + first + b'"}'


def _text(lines: Iterable[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in sorted(lines))


@dataclass(frozen=True, slots=True)
class Content:
    """A manifest: its lines by path. `digest` is the SHA-256 of its text."""

    lines: Mapping[bytes, bytes]
    digest: str

    @classmethod
    def of(cls, lines: Mapping[bytes, bytes]) -> "Content":
        """The manifest of these lines."""
        return cls(lines, hashlib.sha256(_text(lines.values())).hexdigest())

    @property
    def text(self) -> bytes:
        """The text: all lines, sorted, each with a line feed."""
        return _text(self.lines.values())


EMPTY = Content.of({})


class Subtrees:
    """The paths of a manifest, to find those below a directory."""

    def __init__(self, content: Content) -> None:
        self.lines = content.lines
        self._keys: list[bytes] | None = None

    def below(self, key: bytes) -> list[bytes]:
        """The paths below a directory."""
        if self._keys is None:
            self._keys = sorted(self.lines)
        start = bisect.bisect_left(self._keys, key + b"/")
        return self._keys[start : bisect.bisect_left(self._keys, key + b"0", start)]

    def is_directory(self, key: bytes) -> bool:
        """Whether a directory has this path; the root has none."""
        return self.lines.get(key, b"").startswith(b'","type":"directory"', len(key) + 9)


def parse(text: bytes) -> Content:
    """The manifest with this text. Raises ValueError."""
    lines = {key_in(line): line for line in text.splitlines()}
    return Content(lines, hashlib.sha256(text).hexdigest())


def document_line(document: bytes | None) -> bytes | None:
    """The line of a document; None for none."""
    if document is None:
        return None
    digest = hashlib.sha256(document).hexdigest()
    facts = f'","type":"document","size":{len(document)},"sha256":"{digest}"}}'
    return line_of(_DOCUMENT_KEY, facts.encode())


def line_of_document(text: bytes) -> bytes | None:
    """The line of the document in a manifest's text; None for none."""
    begin = _BEFORE_KEY + _DOCUMENT_KEY + b'","type":"document"'
    start = 0 if text.startswith(begin) else text.find(b"\n" + begin) + 1
    if start == 0 and not text.startswith(begin):
        return None
    return text[start : text.index(b"\n", start)]


def with_document(content: Content, document: bytes | None) -> Content:
    """A manifest with the line of this document, in place of another one."""
    line = document_line(document)
    if content.lines.get(_DOCUMENT_KEY) == line:
        return content
    lines = {key: each for key, each in content.lines.items() if key != _DOCUMENT_KEY}
    return Content.of(lines if line is None else lines | {_DOCUMENT_KEY: line})


def read_document(layer: Path) -> bytes | None:
    """The document of a layer, or None. Raises OSError."""
    try:
        with open_regular(layer / DOCUMENT) as file:
            return file.read()
    except FileNotFoundError:
        return None


def read_text(layer: Path) -> bytes | None:
    """The text of a layer's manifest; None when there is none, or it is damaged. Raises OSError."""
    return _unpacked(layer / CONTENT)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The fingerprints of entries by path, and when they were still right, in nanoseconds since 1970."""

    prints: Mapping[bytes, Print] = field(default_factory=dict)
    taken_at_ns: int = 0

    def shows_unchanged(self, key: bytes, found: Print) -> bool:
        """Whether an entry is certainly unchanged. A change in the same tick of the file system's clock as
        the fingerprint would not show in the times."""
        grain_ns = _COARSE_NS if found[3] % 1_000_000_000 == 0 else TICK_NS
        return self.prints.get(key) == found and found[3] < self.taken_at_ns - grain_ns


def read_fingerprint(layer: Path) -> Fingerprint | None:
    """The fingerprint of a layer; None when there is none, or it is damaged. Raises OSError."""
    text = _unpacked(layer / FINGERPRINT)
    if text is None:
        return None
    try:
        head, *lines = text.splitlines()
        return Fingerprint(dict(map(_print, lines)), int(head))
    except ValueError:
        return None


def _print(line: bytes) -> tuple[bytes, Print]:
    inode, size, mtime, ctime, key = line.split(b" ", 4)
    return key, (int(inode), int(size), int(mtime), int(ctime))


def save_content(layer: Path, content: Content) -> None:
    """Write the manifest of a layer, not yet synced. Raises OSError."""
    _replace(layer / CONTENT, gzip.compress(content.text, 1, mtime=0))


def save_fingerprint(layer: Path, prints: Mapping[bytes, Print]) -> None:
    """Write the fingerprint of a layer, which nothing has changed since it was taken. It is not synced: one
    that is lost is made again. Raises OSError."""
    lines = (b"%d %d %d %d %s" % (*each, key) for key, each in prints.items())
    text = b"\n".join([b"%d" % time.time_ns(), *lines, b""])
    _replace(layer / FINGERPRINT, gzip.compress(text, 1, mtime=0))


def _replace(path: Path, data: bytes) -> None:
    """Write a file under another name first: an earlier one may be shared with other layers."""
    aside = path.with_name(f".{path.name}.{threading.get_native_id()}.part")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    aside.rename(path)


def unpacked(packed: bytes) -> bytes | None:
    """The text of a compressed manifest from elsewhere; None for one that is damaged, or too large."""
    reader = zlib.decompressobj(wbits=31)
    try:
        text = reader.decompress(packed, _MOST_TEXT_BYTES)
    except zlib.error:
        return None
    return text if reader.eof else None


def _unpacked(path: Path) -> bytes | None:
    try:
        with open_regular(path) as file:
            return gzip.decompress(file.read())
    except (FileNotFoundError, gzip.BadGzipFile, EOFError, zlib.error):
        return None


@dataclass(frozen=True, slots=True)
class Difference:
    """A path at which two manifests differ. `kinds` are `added`, `removed`, or keys of a line whose values
    differ (`type`, `mode`, `uid`, `gid`, `mtime`, `size`, `sha256`, `target`, ...); `before` and `after` are
    the lines as dictionaries."""

    path: str
    kinds: tuple[str, ...]
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None


def differences(before: Content, after: Content) -> list[Difference]:
    """All differences between two manifests, sorted by path."""
    changed = {key for key, line in before.lines.items() if after.lines.get(key) != line} | (
        after.lines.keys() - before.lines.keys()
    )
    return [_difference(before.lines.get(key), after.lines.get(key)) for key in sorted(changed)]


def _difference(before: bytes | None, after: bytes | None) -> Difference:
    old: dict[str, Any] | None = None if before is None else json.loads(before)
    new: dict[str, Any] | None = None if after is None else json.loads(after)
    if old is None or new is None:
        entry = old or new
        assert entry is not None
        return Difference(entry["path"], ("added" if old is None else "removed",), old, new)
    keys = dict.fromkeys([*old, *new])
    kinds = tuple(key for key in keys if old.get(key) != new.get(key))
    return Difference(old["path"], kinds, old, new)
