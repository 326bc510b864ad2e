"""A layer as one stream, and a layer again on another host.

The stream is compressed with zstd(1). It is an archive of `store.host.tar` with, in this order:

    content.jsonl.gz    the manifest of the content (`store.layers.content`)
    layer.json          the back end, and the layer's record
    document.xml        the DOC's persistent part, if the layer has one
    tree/...            what the layer itself stores: the upper directory of an overlay, or the whole tree

A stream comes from elsewhere, so nothing in it is relied on. The digest of the manifest has to be the
expected one; then nothing is taken but what the manifest lists, so its sizes limit what is written. The
record has to name the expected products, before anything is made. A small stream can become anything: the
entries have to come in time, and to leave the disk the space that it is to have. They are made in an empty
directory of root's that nobody else uses, each in a directory that was made before, under a name that
nothing had: no link is followed and no name leads out. The commit of the workspace computes the content
again from the tree. zstd reads the stream without any right.

Left out is what belongs to a host: attributes that its kernel writes by itself, and references of overlayfs
to files of a file system (`origin`), without which it works too. Source: the kernel's documentation of
overlayfs; zstd(1).
"""

import errno
import hashlib
import json
import os
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from statemachine.errors import NotFound, Refused, Unprepared
from store.host.durable import reporting_disk_full
from store.host.entries import entries_of
from store.host.forking import patiently
from store.host.plain import as_plain, from_plain
from store.host.process import BASE_ENVIRONMENT
from store.host.regular import read_regular
from store.host.removal import remove_tree
from store.host.tar import TarWriter
from store.host.tools import cannot_start
from store.host.untar import DamagedArchive, Member, TarReader
from store.layers.content import (
    CONTENT,
    DOCUMENT,
    MOST_PACKED_BYTES,
    key_of,
    parse,
    read_document,
    unpacked,
)
from store.layers.interface import ExpectedLayer, Layer, LayerRecord, LayerStore, Workspace
from store.layers.overlay import OverlayTrees
from store.layers.walk import ESCAPED, OF_THE_HOST, OPAQUE, OVERLAY, REDIRECT

MOST_ENTRIES = 2_000_000
"""The entries that a manifest lists."""

MOST_ATTRIBUTES_BYTES = 64 << 20
"""The attributes of all directories, which wait in memory for the end."""

FREELY_BYTES, SECOND_BYTES = 64 << 30, 256 << 20
"""The sizes of all files with their holes: so many, and more for each second that a layer may take, since the
commit reads them."""

MOST_WHITEOUTS = 1_000_000
"""The entries of an overlay that hide another one; the manifest does not list them."""

_RECORD, _TREE = "layer.json", "tree"
_MOST_RECORD_BYTES, _MOST_DOCUMENT_BYTES = 16 << 20, 64 << 20
_MOST_TEXT, _MOST_ATTEMPTS, _MOST_TIME = 200, 10**7, 1 << 40
_NOBODY = 65534
_NOTES = {OPAQUE: b"y", REDIRECT: None, f"{OVERLAY}impure": b"y", f"{OVERLAY}protattr": None}
"""What overlayfs notes at entries of an upper directory, with the only value, if there is one."""


@dataclass(frozen=True, slots=True)
class Moved:
    """The content of layer.json in a stream."""

    backend: str
    record: LayerRecord


def pack(store: LayerStore, key: str, sink: int) -> None:
    """Write the layer of that key as a stream to a descriptor, which stays open. Raises NotFound, also when
    it is removed meanwhile; Refused for a layer that cannot be moved; Unprepared."""
    layer = _found(store, key)
    backend = layer.directory.parent.name
    try:
        manifest = _manifest(layer)
        with _writing(sink) as stream:
            tar = TarWriter(
                stream.write,
                keeps=partial(_travels, stacked=backend == OverlayTrees.name),
                marks_sockets=True,
            )
            tar.add_bytes(CONTENT, manifest, 0)
            record = json.dumps(as_plain(Moved(backend, layer.record)), separators=(",", ":"))
            tar.add_bytes(_RECORD, record.encode(), 0)
            if (document := read_document(layer.directory)) is not None:
                tar.add_bytes(DOCUMENT, document, 0)
            for entry in entries_of((layer.directory / _TREE).resolve()):
                tar.add(entry, f"{_TREE}/{entry.name}" if entry.name else _TREE)
            tar.close()
    except OSError as error:
        _found(store, key)
        raise Unprepared(f"layer {key} cannot be packed", str(error)) from error
    _found(store, key)


def unpack(workspace: Workspace, source: int, expected: ExpectedLayer) -> LayerRecord:
    """Fill a new workspace on the parent with the layer in the stream from a descriptor, which stays open.
    Returns its record, with the digest that the content must have at the commit. Raises Refused for another
    layer than expected, and for what is none; DiskFull; Unprepared."""
    if expected.backend != workspace.backend:
        raise Refused(
            f"layer {expected.key} cannot be taken from another host",
            f"it is of the back end {expected.backend}, and here layers are of {workspace.backend}",
        )
    try:
        with (
            reporting_disk_full("unpacking a layer", workspace.directory),
            _reading(source) as stream,
        ):
            return _unpack(TarReader(stream), workspace, expected)
    except DamagedArchive as error:
        raise Refused(
            f"what was taken from another host is not layer {expected.key}", str(error)
        ) from error
    except (OSError, OverflowError) as error:
        raise Unprepared(f"layer {expected.key} cannot be stored", str(error)) from error


def _unpack(tar: TarReader, workspace: Workspace, expected: ExpectedLayer) -> LayerRecord:
    text = unpacked(_part(tar, tar.next(), CONTENT, MOST_PACKED_BYTES))
    if text is None or hashlib.sha256(text).hexdigest() != expected.content:
        raise DamagedArchive("its content is another one")
    if text.count(b"\n") > MOST_ENTRIES:
        raise DamagedArchive("it has too many entries")
    moved = _moved(_part(tar, tar.next(), _RECORD, _MOST_RECORD_BYTES))
    found = (moved.record.key, moved.record.parent, moved.record.content, moved.backend)
    if found != (expected.key, expected.parent, expected.content, expected.backend):
        raise DamagedArchive(f"it is {found}")
    _check_record(moved.record)
    if expected.products not in (None, moved.record.products):
        raise DamagedArchive(
            "what it says of its products is not what the event of its checkpoint says"
        )
    member = tar.next()
    workspace.document.unlink(missing_ok=True)
    if member is not None and member.name == DOCUMENT.encode():
        workspace.document.write_bytes(_part(tar, member, DOCUMENT, _MOST_DOCUMENT_BYTES))
        workspace.document.chmod(0o600)
        member = tar.next()
    stacked = workspace.backend == OverlayTrees.name
    if not stacked:
        _empty(workspace.stored_tree)
    root = os.open(workspace.stored_tree, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        bounds = _Bounds(expected, root)
        plants = _Plants(tar, root, parse(text).lines, stacked, bounds)
        while member is not None:
            plants.add(member)
            member = tar.next()
        plants.finish()
    finally:
        os.close(root)
    return moved.record


class _Bounds:
    """What a layer may cost until it is stored; `root` is an open directory of its file system."""

    def __init__(self, expected: ExpectedLayer, root: int) -> None:
        self._expected, self._root = expected, root
        self._began = time.monotonic()
        self._size_bytes = self._held_bytes = 0

    def check(self) -> None:
        """Raise DamagedArchive when the time is over, OSError when the space is."""
        if time.monotonic() > self._began + self._expected.most_seconds:
            raise DamagedArchive(f"it takes more than {self._expected.most_seconds:g} s to unpack")
        found = os.fstatvfs(self._root)
        if found.f_bavail * found.f_frsize < self._expected.min_free_bytes:
            raise OSError(
                errno.ENOSPC, f"less than {self._expected.min_free_bytes} bytes would be left"
            )

    def add(self, member: Member) -> None:
        """Count an entry. Raises as `check`."""
        self.check()
        self._size_bytes += member.size
        if self._size_bytes > FREELY_BYTES + SECOND_BYTES * self._expected.most_seconds:
            raise DamagedArchive("its files are larger than can be read in time")
        if member.kind == stat.S_IFDIR:
            self._held_bytes += sum(map(len, member.attributes.values()))
            if self._held_bytes > MOST_ATTRIBUTES_BYTES:
                raise DamagedArchive("its directories have too many attributes")


@dataclass(slots=True)
class _Plants:
    """The entries that are being made below the open directory `root`. `directories` get their owners, times
    and attributes last: an ACL would be inherited, and each new entry changes the time."""

    tar: TarReader
    root: int
    lines: Any
    stacked: bool
    bounds: _Bounds
    directories: dict[bytes, Member] = field(default_factory=dict)
    files: set[bytes] = field(default_factory=set)
    whiteouts: int = 0

    def add(self, member: Member) -> None:
        """Make an entry. Raises DamagedArchive, OSError."""
        path = _path(member.name)
        self.bounds.add(member)
        if not self.directories:
            if path or member.kind != stat.S_IFDIR:
                raise DamagedArchive("the tree does not begin with its root")
            self._check(member, path)
            self.directories[path] = member
            return
        directory, _, name = path.rpartition(b"/")
        if not path or directory not in self.directories:
            raise DamagedArchive(f"no directory was made for {_shown(path)}")
        if path in self.directories or path in self.files:
            raise DamagedArchive(f"{_shown(path)} is in it twice")
        self._check(member, path)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        parent = os.open(directory or b".", flags, dir_fd=self.root)
        try:
            if member.kind == stat.S_IFDIR:
                os.mkdir(name, 0o700, dir_fd=parent)
                self.directories[path] = member
            else:
                self._make(member, parent, name)
                self.files.add(path)
        finally:
            os.close(parent)

    def finish(self) -> None:
        """Complete the directories, the last ones first."""
        for path, member in reversed(self.directories.items()):
            _complete(member, self.root, path or b".")

    def _make(self, member: Member, parent: int, name: bytes) -> None:
        if member.same_as is not None:
            first = _path(member.same_as)
            if first not in self.files:
                raise DamagedArchive(f"{_shown(first)} gets another name, and is not there")
            os.link(first, name, src_dir_fd=self.root, dst_dir_fd=parent, follow_symlinks=False)
            return
        if member.kind == stat.S_IFLNK:
            os.symlink(member.target, name, dir_fd=parent)
        elif member.kind == stat.S_IFREG:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with os.fdopen(os.open(name, flags, 0o600, dir_fd=parent), "wb") as file:
                for offset, piece in self.tar.content(member):
                    self.bounds.check()
                    file.seek(offset)
                    file.write(piece)
                file.truncate(member.size)
        else:
            os.mknod(name, member.kind | 0o600, member.device, dir_fd=parent)
        _complete(member, parent, name)

    def _check(self, member: Member, path: bytes) -> None:
        """Raise DamagedArchive for what the layer does not have by its manifest, or cannot have."""
        _check_attributes(member, self.stacked)
        if not path:
            if self.stacked and {OPAQUE, REDIRECT} & member.attributes.keys():
                raise DamagedArchive("its root hides the layer below")
            return
        if self.stacked and member.kind == stat.S_IFCHR and member.device == 0:
            self.whiteouts += 1
            if self.whiteouts > MOST_WHITEOUTS:
                raise DamagedArchive("it hides too many entries")
            return
        line = self.lines.get(key_of(os.fsdecode(path)))
        if line is None:
            raise DamagedArchive(f"{_shown(path)} does not belong to it")
        regular = member.kind == stat.S_IFREG and member.same_as is None
        if regular and json.loads(line).get("size") != member.size:
            raise DamagedArchive(f"{_shown(path)} has another size")


def _complete(member: Member, parent: int, name: bytes) -> None:
    """Give an entry its owner, its mode, its attributes and its time, in this order: a change of the owner
    clears set-id bits and capabilities."""
    os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
    if member.kind != stat.S_IFLNK:
        os.chmod(name, member.mode, dir_fd=parent)
    for attribute, value in member.attributes.items():
        place = os.fsencode(f"/proc/self/fd/{parent}/") + name
        os.setxattr(place, attribute, value, follow_symlinks=False)
    times = (member.mtime_ns, member.mtime_ns)
    os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)


def _check_attributes(member: Member, stacked: bool) -> None:
    for name, value in member.attributes.items():
        if not _travels(name, stacked):
            raise DamagedArchive(f"it has the attribute {ascii(name)[:100]}")
        if stacked and name in _NOTES and _NOTES[name] not in (None, value):
            raise DamagedArchive(f"the attribute {name} is {value[:100]!r}")
    redirect = member.attributes.get(REDIRECT) if stacked else None
    if redirect is not None and not _are_names(redirect.removeprefix(b"/")):
        raise DamagedArchive(f"a directory leads to {_shown(redirect)}")


def _travels(attribute: str, stacked: bool) -> bool:
    """Whether an extended attribute belongs to a layer, on any host."""
    of_overlay = stacked and attribute.startswith(OVERLAY) and not attribute.startswith(ESCAPED)
    return attribute in _NOTES if of_overlay else attribute not in OF_THE_HOST


def _path(name: bytes) -> bytes:
    """The path below the root of the tree of a member with this name. Raises DamagedArchive."""
    tree = _TREE.encode()
    path = name.removeprefix(tree + b"/")
    if name == tree:
        return b""
    if path == name or not _are_names(path):
        raise DamagedArchive(f"the name {_shown(name)}")
    return path


def _are_names(path: bytes) -> bool:
    return b"\0" not in path and all(part not in (b"", b".", b"..") for part in path.split(b"/"))


def _shown(path: bytes) -> str:
    return repr(path[:200])[1:]


def _empty(tree: Path) -> None:
    """Remove what a workspace has of its parent."""
    for entry in tree.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            remove_tree(entry)
        else:
            entry.unlink()


def _part(tar: TarReader, member: Member | None, name: str, most_bytes: int) -> bytes:
    if member is None or member.name != name.encode():
        raise DamagedArchive(f"it has no {name}")
    return tar.whole(member, most_bytes)


def _moved(text: bytes) -> Moved:
    try:
        return from_plain(Moved, json.loads(text), newer=True)
    except (ValueError, RecursionError) as error:
        raise DamagedArchive(f"{_RECORD} cannot be read: {error}") from error


def _check_record(record: LayerRecord) -> None:
    """Raise DamagedArchive for what a build could not record in its events when it uses the layer."""
    texts = (record.made_by, record.checkpoint, record.base, record.own, record.taken_from)
    sound = (
        max(map(len, texts)) <= _MOST_TEXT
        and 0 <= record.attempt < _MOST_ATTEMPTS
        and 0 <= record.seconds < _MOST_TIME
        and 0 <= (record.epoch or 0) < _MOST_TIME
    )
    if not sound:
        raise DamagedArchive("its record says what none can")


def _found(store: LayerStore, key: str) -> Layer:
    if (layer := store.find(key)) is None:
        raise NotFound(f"there is no layer {key}")
    return layer


def _manifest(layer: Layer) -> bytes:
    """The manifest of a layer as it is stored. Raises Refused, OSError."""
    packed = read_regular(layer.directory / CONTENT, MOST_PACKED_BYTES)
    text = unpacked(packed)
    if text is None or hashlib.sha256(text).hexdigest() != layer.record.content:
        raise Refused(
            f"layer {layer.record.key} cannot be moved",
            "its manifest of its content is missing, damaged or too large",
        )
    return packed


@contextmanager
def _writing(sink: int) -> Iterator[BinaryIO]:
    """A stream that is compressed and goes to a descriptor."""
    with _zstd("-1", stdin=subprocess.PIPE, stdout=sink) as process:
        stream = cast(BinaryIO, process.stdin)
        yield stream
        stream.close()
        if process.wait() != 0:
            raise Unprepared(
                "the stream of a layer was not taken", "zstd failed, or its reader ended"
            )


@contextmanager
def _reading(source: int) -> Iterator[BinaryIO]:
    """The stream that comes compressed from a descriptor."""
    with _zstd("-d", stdin=source, stdout=subprocess.PIPE) as process:
        yield cast(BinaryIO, process.stdout)
        if process.wait() != 0:
            raise DamagedArchive("zstd cannot decompress it")


@contextmanager
def _zstd(what: str, *, stdin: int, stdout: int) -> Iterator[subprocess.Popen[bytes]]:
    """zstd(1) without rights. It is killed when this is left by an error."""
    user = _NOBODY if os.geteuid() == 0 else None
    try:
        process = patiently(
            lambda: subprocess.Popen(
                ["zstd", "-q", "-c", what],
                env=BASE_ENVIRONMENT,
                cwd="/",
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.DEVNULL,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
            )
        )
    except FileNotFoundError as error:
        raise cannot_start(error) from error
    with process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise
