"""Files inside an image area, with paths resolved as in the image itself.

A path of the image, and every symbolic link on the way, is resolved with the image area as the root: an
absolute link starts at the image area and `..` cannot leave it. So a link in the image (or a path in a
manifest) never leads to a file of the build host. The same applies to the other areas of a workspace. Only
for a workspace that no other process changes meanwhile.
"""

import os
import shutil
import stat
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path, PurePath, PurePosixPath

from statemachine.errors import CheckpointError

_MOST_LINKS = 40
"""The number of links that Linux follows before ELOOP."""


@cache
def may_set_owners() -> bool:
    """Whether this process can give files to other users: it is root, and not in a user namespace with a
    single user, as the workers of a daemon without root are. Source: user_namespaces(7), uid_map."""
    try:
        ranges = Path("/proc/self/uid_map").read_text().splitlines()
    except OSError:
        return os.geteuid() == 0
    return os.geteuid() == 0 and sum(int(line.split()[2]) for line in ranges) > 1


def resolve(root: Path, path: str | PurePosixPath) -> Path:
    """The real file behind a path of the image, after following all links. Missing parts are kept as
    written. Raises `CheckpointError` for a loop of links."""
    pending = _parts(path)
    done: list[str] = []
    links = 0
    while pending:
        part = pending.pop(0)
        if part == "..":
            done = done[:-1]
            continue
        here = root.joinpath(*done, part)
        if not here.is_symlink():
            done.append(part)
            continue
        links += 1
        if links > _MOST_LINKS:
            raise CheckpointError(f"{path} of the image is a loop of links", str(here))
        target = here.readlink()
        if target.is_absolute():
            done = []
        pending = _parts(target) + pending
    return root.joinpath(*done)


def entry(root: Path, path: str | PurePosixPath) -> Path:
    """The directory entry that a path of the image names: links are followed except in the last part."""
    parts = _parts(path)
    if not parts or parts[-1] == "..":
        return resolve(root, path)
    return resolve(root, PurePosixPath(*parts[:-1])) / parts[-1]


def make_directory(root: Path, path: str | PurePosixPath, *, private: bool = False) -> Path:
    """A directory of the image, created with its parents as needed. Returns the real one.

    A new directory has the owner of its parent, so that a user's home contains only the user's files (root's
    in the image's root). Its mode is 0755; with `private`, 0700 unless it is root's.
    """
    directory = resolve(root, path)
    missing = [
        part for part in (directory, *directory.parents) if not part.exists() and part != root
    ]
    for part in reversed(missing):
        around = part.parent.stat()
        owner = (0, 0) if part.parent == root else (around.st_uid, around.st_gid)
        part.mkdir()
        if may_set_owners():
            os.chown(part, *owner)
        closed = private and owner[0] != 0
        part.chmod((0o700 if closed else 0o755) | (around.st_mode & stat.S_ISGID))
    if not directory.is_dir():
        raise CheckpointError(f"{path} of the image is not a directory", str(directory))
    return directory


def new_file(root: Path, path: str | PurePosixPath, *, private: bool = False) -> Path:
    """The real path for a new file of the image: an existing file or link is removed, and missing parent
    directories are created as by `make_directory`."""
    parent = make_directory(root, PurePosixPath(path).parent, private=private)
    file = parent / PurePosixPath(path).name
    if file.is_dir() and not file.is_symlink():
        raise CheckpointError(f"{path} of the image is a directory, not a file", str(file))
    file.unlink(missing_ok=True)
    return file


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file another name, or copy it when the file system has no links, or none between layers."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def regular_file(root: Path, path: str | PurePosixPath) -> Path | None:
    """The real regular file behind a path of the image, after following all links, or None."""
    file = resolve(root, path)
    try:
        return file if stat.S_ISREG(file.lstat().st_mode) else None
    except (FileNotFoundError, NotADirectoryError):
        return None


def require_no_links(root: Path, paths: Iterable[str]) -> None:
    """Raise `CheckpointError` when one of these paths of the image, or a parent of one, is a link: for tools
    that would follow it on the build host."""
    for path in paths:
        here = root
        for part in _parts(path):
            here /= part
            if here.is_symlink():
                raise CheckpointError(
                    f"/{here.relative_to(root)} of the image is a link",
                    f"it leads to {here.readlink()}; tools of the build host would follow it there",
                    "replace it by a directory or file",
                )


def write(
    root: Path,
    path: str | PurePosixPath,
    content: str | bytes,
    *,
    mode: int = 0o644,
    owner: tuple[int, int] = (0, 0),
) -> Path:
    """Write a file of the image, replacing an existing file or link. Missing parent directories are created,
    with `private` if the file is. Returns the real file."""
    file = new_file(root, path, private=mode & 0o077 == 0)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content.encode() if isinstance(content, str) else content)
        if may_set_owners():
            os.fchown(descriptor, *owner)
        os.fchmod(descriptor, mode)
    return file


def read(root: Path, path: str | PurePosixPath) -> str | None:
    """The text of a file of the image, or None if it does not exist."""
    file = regular_file(root, path)
    return None if file is None else file.read_text("utf-8", "surrogateescape")


def exists(root: Path, path: str | PurePosixPath) -> bool:
    """Whether a path of the image leads to an existing file of any type."""
    return os.path.lexists(resolve(root, path))


def _parts(path: str | PurePath) -> list[str]:
    return [part for part in PurePosixPath(path).parts if part not in ("/", "//", ".")]


def listed(paths: Sequence[str], most: int = 10) -> str:
    """Paths of the image in a message: the first ones, and the number of the others."""
    more = len(paths) - most
    return readable(", ".join(paths[:most])) + (f" and {more} more" if more > 0 else "")


def readable(path: Path | str) -> str:
    """A path of the image as text for messages; bytes that are not UTF-8 become escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
