"""Describing a tree for its content manifest (`store.layers.content`), and setting back newer times.

The tree was written by code of images, and none of its processes lives any more. Links are not followed, and
what is read is what lstat(2) showed: an entry that another took the place of meanwhile is an error. Files are
digested in threads; entries with a known fingerprint are not read. Raises OSError.

Source: openat(2), utimensat(2), xattr(7); lseek(2) for holes; the kernel's documentation of overlayfs.
"""

import base64
import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from store.host.attributes import attributes_of
from store.host.sparse import PIECEWISE_BYTES, data_ranges, sha256_of, sha256_of_range
from store.layers.content import (
    PIECE_BYTES,
    Fingerprint,
    Print,
    key_of,
    rest_of,
)

OPAQUE, REDIRECT = "trusted.overlay.opaque", "trusted.overlay.redirect"
"""What overlayfs notes at a directory: that it hides the one below, or is another one, renamed."""

OVERLAY, ESCAPED = "trusted.overlay.", "trusted.overlay.overlay."
OF_THE_HOST = frozenset(
    {"security.selinux", "security.ima", "security.evm", "security.SMACK64", "system.nfs4_acl"}
)
"""Attributes that the kernel of a host adds by itself."""

_TYPES = {
    stat.S_IFREG: b"file",
    stat.S_IFDIR: b"directory",
    stat.S_IFLNK: b"link",
    stat.S_IFCHR: b"char",
    stat.S_IFBLK: b"block",
    stat.S_IFIFO: b"fifo",
    stat.S_IFSOCK: b"socket",
}
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_FILE |= getattr(os, "O_NOATIME", 0)

LARGEST_BYTES = 64 * 1024**4
"""The size of the largest file. A hole has no pieces to read, but as many digests to add: those of a file of
8 EiB, which some file systems allow, would never end."""

_SMALL_BYTES = 1024**2
_BATCH = 64
_THREADS = min(4, os.cpu_count() or 1)
_WINDOW_BYTES = 64 * PIECE_BYTES
"""How much of a large file is digested piece by piece at a time."""
_PIECE_OF_ZEROS = hashlib.sha256(bytes(PIECE_BYTES)).digest()


@dataclass(frozen=True, slots=True)
class Found:
    """An entry of a tree. `facts` is its line without the path, the digest and the end; `unread` tells that a
    digest belongs to it. `hides` marks an entry by which overlayfs hides one below; `opaque` and `redirect`
    are its notes at a directory."""

    path: str
    key: bytes
    fingerprint: Print
    facts: bytes
    unread: bool = False
    links: int = 1
    directory: bool = False
    hides: bool = False
    opaque: bool = False
    redirect: str | None = None


@dataclass(frozen=True, slots=True)
class Tree:
    """A described tree: its entries, each directory before what it holds, and digests by inode."""

    found: Sequence[Found]
    digests: Mapping[int, bytes]

    def rest(self, found: Found) -> bytes:
        """The line of an entry without its path."""
        return found.facts + (self.digests[found.fingerprint[0]] if found.unread else b"") + b"}"

    @property
    def prints(self) -> dict[bytes, Print]:
        """The fingerprints of all entries."""
        return {each.key: each.fingerprint for each in self.found}


@dataclass(frozen=True, slots=True)
class Known:
    """Entries whose content is known, by path: their fingerprints and their lines."""

    fingerprint: Fingerprint = field(default_factory=Fingerprint)
    lines: Mapping[bytes, bytes] = field(default_factory=dict)

    def facts(self, key: bytes, found: Print) -> bytes | None:
        """The line of an entry without its path and its end, if the entry is unchanged."""
        if not self.fingerprint.shows_unchanged(key, found) or key not in self.lines:
            return None
        return rest_of(self.lines[key])[:-1]


NOTHING = Known()


def describe(
    tree: Path,
    *,
    stacked: bool,
    newest: int | None = None,
    known: Known = NOTHING,
    from_disk: bool = False,
) -> Tree:
    """Describe a tree. `stacked`: it is the upper directory of an overlay. Times after `newest` (seconds
    since 1970) are set back to it first. `from_disk`: what the kernel has in memory is not used."""
    root = os.open(tree, _DIRECTORY)
    try:
        found = list(_entries(root, stacked, newest, known))
        unread = [each for each in found if each.unread]
        return Tree(found, _digests(root, unread, from_disk))
    finally:
        os.close(root)


Listing = tuple[str, Sequence[tuple[str, os.stat_result]]]
"""The path of a directory of a tree ("": the root), and the names and statuses of its entries."""


def listings(tree: Path) -> Iterator[Listing]:
    """Each directory of a tree, of which nothing is read."""
    root = os.open(tree, _DIRECTORY)
    try:
        for _, where, found in _directories(root):
            yield where, found
    finally:
        os.close(root)


def prints_of(listing: Listing) -> Iterator[tuple[bytes, Print]]:
    """The path and the fingerprint of each entry of a directory."""
    where, found = listing
    for name, status in found:
        yield key_of(_joined(where, name)), fingerprint_of(status)


def state_of(listing: Listing) -> bytes:
    """What the fingerprints of a directory's entries are made of, with their names, as a text."""
    where, found = listing
    lines = [
        f"{name}/{each.st_ino} {each.st_size} {each.st_mtime_ns} {each.st_ctime_ns}"
        for name, each in found
    ]
    return os.fsencode("\0".join([where, *lines, "\0"]))


def _entries(root: int, stacked: bool, newest: int | None, known: Known) -> Iterator[Found]:
    for directory, name, path, status in _statuses(root, newest, stacked=stacked):
        key, fingerprint = key_of(path), fingerprint_of(status)
        kind = stat.S_IFMT(status.st_mode)
        if stacked and _hides(status):
            yield Found(path, key, fingerprint, b"", hides=True)
            continue
        is_directory = kind == stat.S_IFDIR
        attributes: dict[str, bytes] = {}
        facts = known.facts(key, fingerprint)
        if facts is None or (stacked and is_directory):
            attributes = attributes_of(f"/proc/self/fd/{directory}/{name}")
        unread = facts is None and kind == stat.S_IFREG
        if facts is None:
            facts = _facts(directory, path, status, attributes, stacked)
        yield Found(
            path,
            key,
            fingerprint,
            facts,
            unread,
            1 if is_directory else status.st_nlink,
            is_directory,
            opaque=stacked and attributes.get(OPAQUE) == b"y",
            redirect=os.fsdecode(attributes[REDIRECT])
            if stacked and REDIRECT in attributes
            else None,
        )


def _statuses(
    root: int, newest: int | None = None, *, stacked: bool = False
) -> Iterator[tuple[int, str, str, os.stat_result]]:
    """Each entry: the descriptor of its directory, its name, its path and its status, after its time has been
    set back."""
    newest_ns = None if newest is None else newest * 1_000_000_000
    for directory, where, found in _directories(root):
        for name, status in found:
            hides = stacked and _hides(status)
            if newest_ns is not None and status.st_mtime_ns > newest_ns and not hides:
                status = _set_back(directory, name, newest_ns)
            yield directory, name, _joined(where, name), status


def _directories(root: int) -> Iterator[tuple[int, str, Sequence[tuple[str, os.stat_result]]]]:
    """Each directory: its descriptor, its path, and its entries as in a `Listing`."""
    pending: list[tuple[str, os.stat_result]] = [("", os.fstat(root))]
    while pending:
        where, expected = pending.pop()
        with _opened(root, where, _DIRECTORY, expected) as directory:
            with os.scandir(directory) as entries:
                found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
            pending += [
                (_joined(where, name), status)
                for name, status in found
                if stat.S_ISDIR(status.st_mode)
            ]
            yield directory, where, found


def _joined(where: str, name: str) -> str:
    return f"{where}/{name}" if where else name


def _set_back(directory: int, name: str, newest_ns: int) -> os.stat_result:
    """The status of an entry, after its time has been set back."""
    look = partial(os.stat, name, dir_fd=directory, follow_symlinks=False)
    status = look()  # again: another name of the file may have come first
    if status.st_mtime_ns > newest_ns:
        times = (status.st_atime_ns, newest_ns)
        os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)
        status = look()
    return status


def _hides(status: os.stat_result) -> bool:
    """Whether overlayfs takes an entry of an upper directory for a whiteout; no program can make one."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


@contextmanager
def _opened(root: int, path: str, flags: int, expected: os.stat_result) -> Iterator[int]:
    """The file or directory that had this status, open."""
    descriptor = os.open(path or ".", flags, dir_fd=root)
    try:
        if not os.path.samestat(os.fstat(descriptor), expected):
            raise _changed(path)
        yield descriptor
    finally:
        os.close(descriptor)


def _changed(path: str) -> OSError:
    return OSError(errno.ESTALE, "changed while it was read", path)


def fingerprint_of(status: os.stat_result) -> Print:
    """The fingerprint of an entry with this status."""
    size = status.st_size if stat.S_ISREG(status.st_mode) else 0
    return status.st_ino, size, status.st_mtime_ns, status.st_ctime_ns


def _facts(
    directory: int, path: str, status: os.stat_result, attributes: dict[str, bytes], stacked: bool
) -> bytes:
    """The line of an entry without its path, its digest and its end."""
    kind = stat.S_IFMT(status.st_mode)
    mode = b"" if kind == stat.S_IFLNK else b',"mode":"%04o"' % stat.S_IMODE(status.st_mode)
    group = b"" if _is_delivered(path, status) else b',"gid":%d' % status.st_gid
    facts = b'","type":"%s"%s,"uid":%d%s,"mtime":%d' % (
        *(_TYPES[kind], mode),
        *(status.st_uid, group, status.st_mtime_ns // 1_000_000_000),
    )
    if kind == stat.S_IFREG:
        facts += b',"size":%d' % status.st_size
    elif kind == stat.S_IFLNK:
        facts += b',"target":"%s"' % key_of(os.readlink(path.rpartition("/")[2], dir_fd=directory))
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        device = status.st_rdev
        facts += b',"major":%d,"minor":%d' % (os.major(device), os.minor(device))
    kept = dict(_kept(attributes, stacked))
    if kept:
        values = {each: base64.b64encode(kept[each]).decode() for each in sorted(kept)}
        facts += b',"xattrs":%s' % json.dumps(values, separators=(",", ":")).encode()
    return facts


def _is_delivered(path: str, status: os.stat_result) -> bool:
    """Whether a file may be an artifact, whose group `store.artifacts` sets as this host is configured."""
    of_artifacts = stat.S_IFREG | 0o640
    return path.startswith("media/") and (status.st_mode, status.st_uid) == (of_artifacts, 0)


def _kept(attributes: Mapping[str, bytes], stacked: bool) -> Iterator[tuple[str, bytes]]:
    """The attributes that belong to the entry, as they appear in a mounted overlay."""
    for name, value in attributes.items():
        if stacked and name.startswith(ESCAPED):
            yield OVERLAY + name.removeprefix(ESCAPED), value
        elif name not in OF_THE_HOST and not (stacked and name.startswith(OVERLAY)):
            yield name, value


def _digests(root: int, unread: Sequence[Found], from_disk: bool) -> dict[int, bytes]:
    """The digests of files by inode, as they are written in a line."""
    files = list({each.fingerprint[0]: each for each in unread}.values())
    large = [[each] for each in files if each.fingerprint[1] > _SMALL_BYTES]
    large.sort(key=lambda each: -each[0].fingerprint[1])
    small = [each for each in files if each.fingerprint[1] <= _SMALL_BYTES]
    work = [*large, *(small[i : i + _BATCH] for i in range(0, len(small), _BATCH))]
    if len(work) < 2:
        return {
            inode: digest for each in work for inode, digest in _digested(root, each, from_disk)
        }
    with ThreadPoolExecutor(_THREADS, "digest") as threads:
        done = threads.map(lambda batch: _digested(root, batch, from_disk), work)
        return {inode: digest for batch in done for inode, digest in batch}


def _digested(root: int, files: Sequence[Found], from_disk: bool) -> list[tuple[int, bytes]]:
    return [(each.fingerprint[0], _digest(root, each, from_disk)) for each in files]


def _digest(root: int, found: Found, from_disk: bool) -> bytes:
    try:
        return _digest_of(root, found, from_disk)
    except OSError as error:
        raise OSError(error.errno, error.strerror, found.path) from error


def _digest_of(root: int, found: Found, from_disk: bool) -> bytes:
    descriptor = os.open(found.path, _FILE, dir_fd=root)
    try:
        status = os.fstat(descriptor)
        size = found.fingerprint[1]
        # A published artifact may be a new name of the file, which changes its ctime.
        if not stat.S_ISREG(status.st_mode) or fingerprint_of(status)[:3] != found.fingerprint[:3]:
            raise _changed(found.path)
        if from_disk and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        if size > LARGEST_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), found.path)
        if size >= PIECEWISE_BYTES:
            return b',"pieces":"%s"' % _of_pieces(descriptor, size).encode()
        if size <= _SMALL_BYTES:
            content = os.read(descriptor, size) if size else b""
            if len(content) == size:
                return b',"sha256":"%s"' % hashlib.sha256(content).hexdigest().encode()
        return b',"sha256":"%s"' % sha256_of(descriptor).encode()
    finally:
        os.close(descriptor)


def _of_pieces(descriptor: int, size: int) -> str:
    """The value of `pieces`, digested on several processors: a disk is often the only file of its layer."""
    whole = hashlib.sha256()

    def digest(start: int) -> bytes:
        return sha256_of_range(descriptor, start, min(start + PIECE_BYTES, size))

    with ThreadPoolExecutor(_THREADS, "pieces") as threads:
        for window in range(0, size, _WINDOW_BYTES):
            end = min(window + _WINDOW_BYTES, size)
            read = _pieces_with_data(descriptor, window, end)
            digests = dict(zip(read, threads.map(digest, read), strict=True))
            for start in range(window, end, PIECE_BYTES):
                whole.update(digests.get(start, _PIECE_OF_ZEROS))
    return whole.hexdigest()


def _pieces_with_data(descriptor: int, begin: int, end: int) -> list[int]:
    """The offsets of the pieces in a range that are not all hole, or are shorter than others."""
    found: dict[int, None] = {}
    for first, last in data_ranges(descriptor, end, begin):
        found |= dict.fromkeys(range(first - first % PIECE_BYTES, last, PIECE_BYTES))
    if short := end % PIECE_BYTES:
        found[end - short] = None
    return list(found)
