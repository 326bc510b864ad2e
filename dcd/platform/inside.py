"""Files inside an image area, found as the image itself would find them.

A path of the image, and every symbolic link met on its way, is resolved with the image area as the root:
an absolute link begins at the image area again and `..` cannot leave it. So a link in the image (or
a path in a manifest) never reaches a file of the build host. The same holds for the other areas of a
workspace. Meant for a workspace that nobody else changes meanwhile; commands in the image have ended by
then.
"""

import os
import stat
from collections.abc import Iterable
from pathlib import Path, PurePath, PurePosixPath

from statemachine.errors import CheckpointError

_MOST_LINKS = 40
"""As many as Linux follows before it says ELOOP."""


def resolve(root: Path, path: str | PurePosixPath) -> Path:
    """The real file behind a path of the image, all links followed. What does not exist (yet) is taken
    as it is written. Raises `CheckpointError` for a loop of links."""
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
    """The directory entry that a path of the image names: links are followed, but not the last part."""
    parts = _parts(path)
    if not parts or parts[-1] == "..":
        return resolve(root, path)
    return resolve(root, PurePosixPath(*parts[:-1])) / parts[-1]


def make_directory(root: Path, path: str | PurePosixPath, *, private: bool = False) -> Path:
    """A directory of the image, made with its parents where it is not there. Returns the real one.

    Each that is made belongs to whoever the directory around it belongs to, so that what is added to a user's
    home stays the user's (the image's own root makes root's). Their mode is 0755; with `private`, those that
    are not root's are 0700.
    """
    directory = resolve(root, path)
    missing = [
        part for part in (directory, *directory.parents) if not part.exists() and part != root
    ]
    for part in reversed(missing):
        around = part.parent.stat()
        owner = (0, 0) if part.parent == root else (around.st_uid, around.st_gid)
        part.mkdir()
        if os.geteuid() == 0:
            os.chown(part, *owner)
        closed = private and owner[0] != 0
        part.chmod((0o700 if closed else 0o755) | (around.st_mode & stat.S_ISGID))
    if not directory.is_dir():
        raise CheckpointError(f"{path} of the image is not a directory", str(directory))
    return directory


def new_file(root: Path, path: str | PurePosixPath, *, private: bool = False) -> Path:
    """Where a file can be made at a path of the image: nothing is there any more (a link is removed, not
    followed), and the directories on the way are, as `make_directory` makes them."""
    parent = make_directory(root, PurePosixPath(path).parent, private=private)
    file = parent / PurePosixPath(path).name
    if file.is_dir() and not file.is_symlink():
        raise CheckpointError(f"{path} of the image is a directory, not a file", str(file))
    file.unlink(missing_ok=True)
    return file


def regular_file(root: Path, path: str | PurePosixPath) -> Path | None:
    """The real regular file behind a path of the image, all links followed, or None."""
    file = resolve(root, path)
    try:
        return file if stat.S_ISREG(file.lstat().st_mode) else None
    except (FileNotFoundError, NotADirectoryError):
        return None


def require_no_links(root: Path, paths: Iterable[str]) -> None:
    """Raise `CheckpointError` when one of these paths of the image, or a directory on the way to it, is a
    link: for tools that would follow it on the build host."""
    for path in paths:
        here = root
        for part in _parts(path):
            here /= part
            if here.is_symlink():
                raise CheckpointError(
                    f"/{here.relative_to(root)} of the image is a link",
                    f"it leads to {here.readlink()}; tools of the build host would follow it there",
                    "leave a directory or file in its place",
                )


def write(
    root: Path,
    path: str | PurePosixPath,
    content: str | bytes,
    *,
    mode: int = 0o644,
    owner: tuple[int, int] = (0, 0),
) -> Path:
    """Put a file at a path of the image, in place of what is there (a link is replaced, not followed).
    Missing directories are made, closed to others like the file where they are a user's. Returns the real
    file."""
    file = new_file(root, path, private=mode & 0o077 == 0)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content.encode() if isinstance(content, str) else content)
        if os.geteuid() == 0:
            os.fchown(descriptor, *owner)
        os.fchmod(descriptor, mode)
    return file


def read(root: Path, path: str | PurePosixPath) -> str | None:
    """The text of a file of the image, or None when it is not there."""
    file = regular_file(root, path)
    return None if file is None else file.read_text("utf-8", "surrogateescape")


def exists(root: Path, path: str | PurePosixPath) -> bool:
    """Whether a path of the image leads to something."""
    return os.path.lexists(resolve(root, path))


def _parts(path: str | PurePath) -> list[str]:
    return [part for part in PurePosixPath(path).parts if part not in ("/", "//", ".")]


def readable(path: Path | str) -> str:
    """A path of the image as text for messages; bytes that are not UTF-8 become escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
