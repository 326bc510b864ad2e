"""Copying a whole tree without cp(1), whose options for this only GNU's has.

Owners, modes, times, hard links, links, devices, FIFOs, sockets, extended attributes and holes stay as they
are. Names are looked up in open directories, so no link in the tree leads out of it, and a path may be longer
than the system allows; each level of directories takes two open files. ACLs beside POSIX' (those of ZFS) are
not copied.

Source: openat(2), linkat(2), utimensat(2).
"""

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from store.host.attributes import attributes_of
from store.host.sparse import copy_content

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def copy_tree(source: Path, target: Path) -> None:
    """Copy a directory with all below it to a new one, which nothing changes meanwhile. Raises OSError,
    leaving what was copied."""
    target.mkdir(mode=0o700)
    with _opened(os.fspath(source)) as origin, _opened(os.fspath(target)) as copy:
        _Copy(copy).fill(origin, copy)
        _take_over(os.fspath(source), os.fspath(target), None, None)


@dataclass(slots=True)
class _Level:
    """A directory that is being copied: its name, both sides, and what is left of it."""

    name: str
    origin: int
    copy: int
    left: list[str]
    held: ExitStack


@dataclass(slots=True)
class _Copy:
    """`names` are the first names of files that have several, below the directory `root`."""

    root: int
    names: dict[tuple[int, int], str] = field(default_factory=dict)

    def fill(self, origin: int, copy: int) -> None:
        """Copy what is in a directory, which has no entries there yet."""
        with ExitStack() as everything:
            levels = [_Level("", origin, copy, os.listdir(origin), everything)]
            while levels:
                here = levels[-1]
                if not here.left:
                    levels.pop()
                    if levels:
                        above = levels[-1]
                        _take_over(here.name, here.name, above.origin, above.copy)
                        here.held.close()
                    continue
                name = here.left.pop()
                status = os.stat(name, dir_fd=here.origin, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    levels.append(_entered(here, name, everything))
                else:
                    parts = (*(level.name for level in levels[1:]), name)
                    self.entry(here, name, status, "/".join(parts))

    def entry(self, here: _Level, name: str, status: os.stat_result, path: str) -> None:
        """Copy an entry that is no directory."""
        identity = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and identity in self.names:
            first = self.names[identity]
            os.link(first, name, src_dir_fd=self.root, dst_dir_fd=here.copy, follow_symlinks=False)
            return
        if status.st_nlink > 1:
            self.names[identity] = path
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=here.origin), name, dir_fd=here.copy)
        elif stat.S_ISREG(status.st_mode):
            _copy_file(here, name, status.st_size)
        else:
            kind = stat.S_IFMT(status.st_mode)
            os.mknod(name, kind | 0o600, status.st_rdev, dir_fd=here.copy)
        _take_over(name, name, here.origin, here.copy)


def _entered(here: _Level, name: str, everything: ExitStack) -> _Level:
    os.mkdir(name, 0o700, dir_fd=here.copy)
    held = everything.enter_context(ExitStack())
    origin = held.enter_context(_opened(name, here.origin))
    copy = held.enter_context(_opened(name, here.copy))
    left = os.listdir(origin)  # noqa: PTH208 - an open directory
    return _Level(name, origin, copy, left, held)


@contextmanager
def _opened(name: str, directory: int | None = None, flags: int = _DIRECTORY) -> Iterator[int]:
    descriptor = os.open(name, flags, 0o600, dir_fd=directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _copy_file(here: _Level, name: str, size_bytes: int) -> None:
    new = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with (
        _opened(name, here.origin, os.O_RDONLY | os.O_NOFOLLOW) as source,
        _opened(name, here.copy, new) as sink,
    ):
        copy_content(source, sink, size_bytes)


def _take_over(name: str, as_name: str, origin: int | None, copy: int | None) -> None:
    """Give a copied entry what belongs to the original. The owner comes first: a change of it clears set-id
    bits and capabilities; the times come last."""
    status = os.stat(name, dir_fd=origin, follow_symlinks=False)
    os.chown(as_name, status.st_uid, status.st_gid, dir_fd=copy, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(as_name, stat.S_IMODE(status.st_mode), dir_fd=copy)
    for attribute, value in attributes_of(_path(name, origin)).items():
        os.setxattr(_path(as_name, copy), attribute, value, follow_symlinks=False)
    times = (status.st_atime_ns, status.st_mtime_ns)
    os.utime(as_name, ns=times, dir_fd=copy, follow_symlinks=False)


def _path(name: str, directory: int | None) -> str:
    """A path for functions that take no directory (Linux)."""
    return name if directory is None else f"/proc/self/fd/{directory}/{name}"
