"""Unpacking cpio archives, safely, and the members of those that become an initramfs.

cpio(1) follows symbolic links in the archive, so an archive can make it write anywhere; here all members stay
inside the destination. Formats: `newc` with and without checksums, and the portable `odc`. Source: cpio(5).
"""

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dcd.platform.inside import entry, make_directory, may_set_owners
from statemachine.errors import CheckpointError

MAGICS = (b"070701", b"070702", b"070707")
"""The first bytes of archives."""

_CHUNK_BYTES = 1 << 20
_IMPOSSIBLE = {
    *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EEXIST),
    errno.ENOENT,  # an empty target of a symbolic link
}
"""Errors of the system for a member that no file system can hold."""
_TRAILER = "TRAILER!!!"
LONGEST_MEMBER_BYTES = (1 << 32) - 1
"""The longest file of a `newc` archive: sizes have eight hexadecimal digits."""
_NEWC_FIELDS, _ODC_WIDTHS = 13, (6, 6, 6, 6, 6, 6, 6, 11, 6, 11)


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    file: tuple[int, ...]
    """Device and inode, which are the same for hard links."""
    mode: int
    uid: int
    gid: int
    links: int
    mtime: int
    size: int
    device: int
    padding: int


def newc_member(name: str, mode: int, size: int, mtime: int, number: int) -> bytes:
    """The head of root's file or directory in a `newc` archive, whose content of `size` bytes and `padding`
    follow. `number` is its inode number, unique in the archive."""
    text = os.fsencode(name) + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    values = (number, mode, 0, 0, links, mtime & 0xFFFFFFFF, size, 0, 0, 0, 0, len(text), 0)
    head = b"070701" + b"".join(b"%08X" % value for value in values) + text
    return head + padding(len(head))


def padding(length: int) -> bytes:
    """The zeros after a head or a content of that length."""
    return bytes(-length % 4)


TRAILER = newc_member(_TRAILER, 0, 0, 0, 0)
"""The end of a `newc` archive."""


def unpack_cpio(stream: BinaryIO, destination: Path) -> int:
    """Unpack an archive below `destination`; returns the number of members. Owners are kept if this process
    may set them. Raises `CheckpointError` for a damaged archive, `OSError` for a disk that fails or is
    full."""
    try:
        return _unpack(stream, destination)
    except (ValueError, OverflowError) as error:
        raise _damaged(str(error)) from error
    except OSError as error:
        if error.errno in _IMPOSSIBLE:
            raise _damaged(str(error)) from error
        raise


def _unpack(stream: BinaryIO, destination: Path) -> int:
    linked: dict[tuple[int, ...], Path] = {}
    directories: list[tuple[Path, int]] = []
    count = 0
    for member in _members(stream):
        count += 1
        if stat.S_ISDIR(member.mode):
            target = make_directory(destination, member.name)
            directories.append((target, member.mtime))
            _skip(stream, member.size + member.padding)
        else:
            target = _place(destination, member.name)
            target.unlink(missing_ok=True)
            # Any of several hard links may have the content (newc: the last one).
            if member.links > 1 and member.file in linked:
                target.hardlink_to(linked[member.file])
                if stat.S_IFMT(target.lstat().st_mode) != stat.S_IFMT(member.mode):
                    raise _damaged(f"{member.name} is a hard link to a file of another type")
            linked[member.file] = target
            _fill(stream, member, target)
        _attributes(member, target)
    for directory, mtime in reversed(directories):
        os.utime(directory, (mtime, mtime))
    return count


def _members(stream: BinaryIO) -> Iterator[_Member]:
    while True:
        magic = _read(stream, 6)
        if magic not in MAGICS:
            raise _damaged(f"a member begins with {magic!r}")
        member = _odc(stream) if magic == b"070707" else _newc(stream)
        if member.name == _TRAILER:
            return
        yield member


def _newc(stream: BinaryIO) -> _Member:
    header = _read(stream, 8 * _NEWC_FIELDS)
    try:
        values = [int(header[at : at + 8], 16) for at in range(0, len(header), 8)]
    except ValueError:
        raise _damaged("a header is not in hexadecimal digits") from None
    ino, mode, uid, gid, links, mtime, size, major, minor, rmajor, rminor, length, _ = values
    name = _name(stream, length)
    _skip(stream, -(6 + len(header) + length) % 4)
    device = os.makedev(rmajor, rminor)
    return _Member(name, (major, minor, ino), mode, uid, gid, links, mtime, size, device, -size % 4)


def _odc(stream: BinaryIO) -> _Member:
    values = []
    for width in _ODC_WIDTHS:
        try:
            values.append(int(_read(stream, width), 8))
        except ValueError:
            raise _damaged("a header is not in octal digits") from None
    dev, ino, mode, uid, gid, links, rdev, mtime, length, size = values
    return _Member(_name(stream, length), (dev, ino), mode, uid, gid, links, mtime, size, rdev, 0)


def _name(stream: BinaryIO, length: int) -> str:
    if not 1 <= length <= 4097:
        raise _damaged(f"a name is {length} bytes long")
    return os.fsdecode(_read(stream, length).rstrip(b"\0"))


def _place(destination: Path, name: str) -> Path:
    target = entry(destination, name)
    make_directory(destination, os.path.relpath(target.parent, destination))
    if target.is_dir() and not target.is_symlink():
        raise CheckpointError(f"the archive has a file in place of a directory: {name}")
    return target


def _fill(stream: BinaryIO, member: _Member, target: Path) -> None:
    if stat.S_ISLNK(member.mode):
        target.symlink_to(os.fsdecode(_read(stream, member.size)))
        _skip(stream, member.padding)
    elif stat.S_ISREG(member.mode):
        if member.size or not target.exists():
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            with os.fdopen(os.open(target, flags, 0o600), "wb") as sink:
                for chunk in _chunks(stream, member.size):
                    sink.write(chunk)
        _skip(stream, member.padding)
    elif not target.exists():
        kind = stat.S_IFMT(member.mode)
        if kind not in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO):
            raise _damaged(f"{member.name} is of an unknown type ({member.mode:o})")
        os.mknod(target, kind | 0o600, member.device)


def _attributes(member: _Member, target: Path) -> None:
    if may_set_owners():
        os.chown(target, member.uid, member.gid, follow_symlinks=False)
    if not stat.S_ISLNK(member.mode):
        target.chmod(stat.S_IMODE(member.mode))
    os.utime(target, (member.mtime, member.mtime), follow_symlinks=False)


def _chunks(stream: BinaryIO, size: int) -> Iterator[bytes]:
    while size > 0:
        chunk = _read(stream, min(size, _CHUNK_BYTES))
        size -= len(chunk)
        yield chunk


def _read(stream: BinaryIO, size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise _damaged("it ends in the middle of a member")
    return content


def _skip(stream: BinaryIO, size: int) -> None:
    for _ in _chunks(stream, size):
        pass


def _damaged(why: str) -> CheckpointError:
    return CheckpointError("the cpio archive is damaged", why, "create the archive again")
