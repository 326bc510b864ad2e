"""Copying parts of one tree into another, with links, hard links, devices, attributes and holes.

Names are paths below the source; a directory includes all its contents. Directories and links on the way to a
name are copied too (`bin` for `bin/ls`, if it leads to `usr/bin`), so that a name leads to the same file in
the copy. Nothing outside the two trees is read or written, whatever their links are. Sockets are skipped:
they mean nothing without their process.
"""

import errno
import os
import stat
import struct
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from dcd.platform.inside import entry, make_directory, may_set_owners, resolve
from statemachine.errors import CheckpointError
from store.host.sparse import copy_content, copy_range, data_ranges

_SOME_ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, 6, who)
    for tag, who in ((1, 2**32 - 1), (2, 0), (4, 2**32 - 1), (16, 2**32 - 1), (32, 2**32 - 1))
)
"""Version 2; tag, permissions and id of owner, a user, group, mask and others. Source: Linux,
include/uapi/linux/posix_acl_xattr.h."""

_NO_ATTRIBUTE = {errno.ENOTSUP, errno.EPERM, errno.EINVAL}


@dataclass
class Copied:
    """The result of a copy so far."""

    entries: int = 0
    size_bytes: int = 0
    lost: list[str] = field(default_factory=list)
    """Attributes that the destination's file system does not accept."""


def copy_entries(
    source: Path,
    destination: Path,
    names: Sequence[str],
    *,
    excluded: Collection[str] = (),
    on_name: Callable[[int, Copied], None] = lambda done, copied: None,
) -> Copied:
    """Copy the entries `names` of `source` to the same paths below `destination`, replacing existing files.
    `excluded` entries are skipped with all their contents. `on_name` is called after each name with the
    number of names done. Raises `CheckpointError` with the names of all missing entries."""
    missing = [name for name in names if not os.path.lexists(entry(source, name))]
    if missing:
        raise CheckpointError(
            f"{len(missing)} of the {len(names)} entries to copy do not exist",
            "\n".join(f"{name} (below {source})" for name in missing),
            "correct the names, or have an earlier checkpoint provide them",
        )
    copy = _Copy(source, destination, {_normal(name) for name in excluded})
    for done, name in enumerate(names, start=1):
        copy.name(_normal(name))
        on_name(done, copy.copied)
    copy.finish()
    return copy.copied


def copy_skeleton(
    source: Path, destination: Path, names: Sequence[str], *, excluded: Collection[str] = ()
) -> Copied:
    """The same for what is below the named directories and no regular file: directories, links, FIFOs and
    devices. Names that are no directories of the source are skipped."""
    copy = _Copy(source, destination, {_normal(name) for name in excluded}, skeleton=True)
    for name in names:
        if resolve(source, name).is_dir():
            copy.name(_normal(name))
    copy.finish()
    return copy.copied


def copy_into(
    origin: Path, target: Path, at: int, *, begin: int = 0, end: int | None = None
) -> None:
    """Copy a file's bytes, from `begin` to `end`, into the existing file `target`, from its byte `at` on.
    Bytes of the target in place of the origin's holes are not changed."""
    with origin.open("rb") as source, target.open("r+b") as sink:
        stop = os.fstat(source.fileno()).st_size if end is None else end
        for first, last in data_ranges(source.fileno(), stop, begin):
            copy_range(source.fileno(), sink.fileno(), first, last, at - begin)


def _normal(name: str) -> PurePosixPath:
    return PurePosixPath(*(part for part in PurePosixPath(name).parts if part not in ("/", ".")))


class _Copy:
    def __init__(
        self,
        source: Path,
        destination: Path,
        excluded: set[PurePosixPath],
        skeleton: bool = False,
    ) -> None:
        self._skeleton = skeleton
        self._source = source
        self._destination = destination
        self._excluded = excluded
        self._linked: dict[tuple[int, int], Path] = {}
        self._directories: dict[Path, os.stat_result] = {}
        self.copied = Copied()

    def name(self, name: PurePosixPath) -> None:
        """Copy the entry of that name, and the directories and links on the way to it."""
        for link in self._parents(name.parent):
            self._entry(link)
        self._tree(self._relative(entry(self._source, name)))

    def finish(self) -> None:
        """Set the times of directories, after all changes in them."""
        for directory, status in reversed(self._directories.items()):
            os.utime(directory, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _relative(self, path: Path) -> PurePosixPath:
        return PurePosixPath(path.relative_to(self._source))

    def _parents(self, directory: PurePosixPath) -> Iterator[PurePosixPath]:
        """The directories and links themselves on the way to a directory."""
        for depth in range(1, len(directory.parts) + 1):
            prefix = PurePosixPath(*directory.parts[:depth])
            here = self._relative(entry(self._source, prefix))
            yield here
            if (self._source / here).is_symlink():
                target = self._relative(resolve(self._source, prefix))
                if target != here:
                    yield from self._parents(target)

    def _tree(self, name: PurePosixPath) -> None:
        pending = [name]
        while pending:
            name = pending.pop()
            if name in self._excluded or not self._entry(name):
                continue
            with os.scandir(self._source / name) as found:
                pending += sorted((name / one.name for one in found), reverse=True)

    def _entry(self, name: PurePosixPath) -> bool:
        """Copy one entry. Returns whether it is a directory, which may already exist."""
        origin = self._source / name
        status = origin.lstat()
        if stat.S_ISDIR(status.st_mode):
            self._directory(origin, status, name)
            return True
        if self._skeleton and stat.S_ISREG(status.st_mode):
            return False
        target = entry(self._destination, name)
        if target.is_dir() and not target.is_symlink():
            raise _cannot_replace(target, "a link" if origin.is_symlink() else "a file")
        if stat.S_ISSOCK(status.st_mode):
            return False
        target.unlink(missing_ok=True)
        self.copied.entries += 1
        identity = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and identity in self._linked:
            target.hardlink_to(self._linked[identity])
            return False
        self._linked[identity] = target
        self._make(origin, status, target)
        self._attributes(origin, status, target)
        return False

    def _make(self, origin: Path, status: os.stat_result, target: Path) -> None:
        if stat.S_ISLNK(status.st_mode):
            target.symlink_to(origin.readlink())
        elif stat.S_ISREG(status.st_mode):
            _copy_content(origin, target, status)
            self.copied.size_bytes += status.st_size
        elif stat.S_ISFIFO(status.st_mode):
            os.mkfifo(target, 0o600)
        else:
            os.mknod(target, stat.S_IFMT(status.st_mode) | 0o600, status.st_rdev)

    def _directory(self, origin: Path, status: os.stat_result, name: PurePosixPath) -> None:
        target = resolve(self._destination, name)
        if target in self._directories or target == self._destination:
            return
        if not target.is_dir():
            if os.path.lexists(target):
                raise _cannot_replace(target, "a directory")
            make_directory(self._destination, name)
            self.copied.entries += 1
        self._attributes(origin, status, target)
        self._directories[target] = status

    def _attributes(self, origin: Path, status: os.stat_result, target: Path) -> None:
        if may_set_owners():
            os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            target.chmod(stat.S_IMODE(status.st_mode))
        if hasattr(os, "listxattr"):
            self._extended_attributes(origin, target)
        times = (status.st_atime_ns, status.st_mtime_ns)
        os.utime(target, ns=times, follow_symlinks=False)

    def _extended_attributes(self, origin: Path, target: Path) -> None:
        try:
            names = os.listxattr(origin, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_ATTRIBUTE:
                raise
            return
        for name in names:
            try:
                value = os.getxattr(origin, name, follow_symlinks=False)
                os.setxattr(target, name, value, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _NO_ATTRIBUTE:
                    raise
                self.copied.lost.append(f"{name} of {self._relative(origin)}")


def has_acls(directory: Path) -> bool:
    """Whether the directory's file system accepts POSIX ACLs, tried on a temporary file without a name.
    Raises OSError when no file can be created there."""
    if not hasattr(os, "setxattr"):
        return False
    with tempfile.TemporaryFile(dir=directory) as file:
        try:
            os.setxattr(file.fileno(), "system.posix_acl_access", _SOME_ACL)
        except OSError as error:
            if error.errno not in _NO_ATTRIBUTE:
                raise
            return False
    return True


def refuse_losses(lost: Sequence[str]) -> None:
    """Raise `CheckpointError`, with the list, when attributes could not be copied."""
    if lost:
        raise CheckpointError(
            f"{len(lost)} attributes of files could not be copied",
            "\n".join(lost[:20]),
            "keep the state directory on a file system with extended attributes and POSIX ACLs, such as"
            " ext4, xfs or btrfs",
        )


def _cannot_replace(target: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{what} cannot replace an existing file of another type",
        str(target),
        "omit one of the two",
    )


def _copy_content(origin: Path, target: Path, status: os.stat_result) -> None:
    """Copy a file's bytes; holes are kept, and extents are shared if the file system can."""
    new = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with (
        os.fdopen(os.open(origin, os.O_RDONLY | os.O_NOFOLLOW), "rb") as source,
        os.fdopen(os.open(target, new, 0o600), "wb") as sink,
    ):
        copy_content(source.fileno(), sink.fileno(), status.st_size)
