"""Directories of the submitter, added to an image from their captured archives.

The archive comes from a client: its names are checked, and every path is resolved in the image, so that
nothing is written outside it. New entries get the tree's owner; modes, links, hard links and times are those
of the archive. Directories that the image has already stay as they are. Source: pax(1).
"""

import os
import shutil
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from dcd.checkpoints.areas import captured_file
from dcd.checkpoints.image.accounts import owner_ids
from dcd.checkpoints.interface import Context
from dcd.manifest.objects.configuration import Tree
from dcd.platform.inside import listed, make_directory, may_set_owners, readable, resolve
from statemachine.errors import CheckpointError


def add_tree(context: Context, tree: Tree) -> None:
    """Add the directory to the image. Links that lead nowhere in the image are a warning. Raises
    `CheckpointError`, at the place of the tree in the manifest."""
    archive = captured_file(context.inputs, tree.source)
    try:
        added = _Added(context.pkg_image, tree)
        with tarfile.open(archive, "r:", errors="surrogateescape") as tar:
            for member in tar:
                added.add(tar, member)
        added.finish()
    # The others: for times and names that only a hostile archive has.
    except (tarfile.TarError, OverflowError, ValueError) as error:
        raise CheckpointError(
            f"the archive of {tree.source} is damaged", str(error), "submit the manifest again"
        ) from error
    except CheckpointError as error:
        raise CheckpointError(
            f"{tree.source} cannot be added at {tree.dest}: {error.brief}",
            ": ".join(filter(None, (str(tree.origin or ""), error.details))),
            error.resolution or "correct the directory, or name another dest",
        ) from error
    if dangling := list(added.dangling()):
        context.warn(f"links of {tree.source} lead nowhere in the image: {listed(dangling)}")


class _Added:
    """The entries of one tree that have been added so far."""

    def __init__(self, root: Path, tree: Tree) -> None:
        self._root = root
        self._dest = PurePosixPath(tree.dest)
        self._owner = owner_ids(root, tree.owner)
        self._mode = None if tree.mode is None else int(tree.mode, 8)
        self._places: dict[PurePosixPath, Path] = {}
        """The real directories of the image, by their path in the tree."""
        self._files: dict[str, Path] = {}
        self._links: list[str] = []
        self._times: list[tuple[Path, int]] = []

    def add(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Add one entry of the archive."""
        name = _checked(member.name)
        if member.isdir():
            self._directory(name, member)
            return
        target = self._parent(name.parent) / name.name
        if target.is_dir() and not target.is_symlink():
            raise CheckpointError(
                f"{self._path(name)} of the image is a directory",
                f"the tree has {_what(member)} of that name",
                "rename one of them",
            )
        target.unlink(missing_ok=True)
        if member.issym():
            target.symlink_to(member.linkname)
            self._links.append(self._path(name))
            self._own(target)
        elif member.islnk():
            first = self._files.get(str(_checked(member.linkname)))
            if first is None:
                raise CheckpointError(f"{readable(member.name)} is a link to no entry before it")
            target.hardlink_to(first)
            return
        elif member.isreg():
            self._file(tar, member, target)
            self._files[str(name)] = target
        else:
            raise CheckpointError(f"{readable(member.name)} is neither file, directory nor link")
        os.utime(target, (member.mtime, member.mtime), follow_symlinks=False)

    def finish(self) -> None:
        """Set the times of new directories, after all changes in them."""
        for directory, time in reversed(self._times):
            os.utime(directory, (time, time))

    def dangling(self) -> Iterator[str]:
        """The links that lead nowhere in the image."""
        for path in self._links:
            try:
                if not os.path.lexists(resolve(self._root, path)):
                    yield path
            except CheckpointError:  # A loop.
                yield path

    def _path(self, name: PurePosixPath) -> str:
        return str(self._dest / name)

    def _parent(self, name: PurePosixPath) -> Path:
        if name not in self._places:
            self._places[name] = make_directory(self._root, self._path(name))
        return self._places[name]

    def _directory(self, name: PurePosixPath, member: tarfile.TarInfo) -> None:
        there = resolve(self._root, self._path(name))
        is_new = not os.path.lexists(there)
        if not is_new and not there.is_dir():
            raise CheckpointError(
                f"{self._path(name)} of the image is not a directory",
                "the tree has a directory of that name",
                "rename one of them",
            )
        place = self._parent(name)
        if is_new:
            self._own(place)
            mode = member.mode if self._mode is None else self._mode | (self._mode & 0o444) >> 2
            place.chmod(stat.S_IMODE(mode))
            self._times.append((place, int(member.mtime)))

    def _file(self, tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
        content = tar.extractfile(member)
        assert content is not None  # it is a regular file
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with content, os.fdopen(descriptor, "wb") as sink:
            shutil.copyfileobj(content, sink, 1 << 20)
        self._own(target)
        target.chmod(stat.S_IMODE(member.mode if self._mode is None else self._mode))

    def _own(self, path: Path) -> None:
        if may_set_owners():
            os.chown(path, *self._owner, follow_symlinks=False)


def _checked(name: str) -> PurePosixPath:
    """The path of an entry below the tree. Raises `CheckpointError` for one that leaves it."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise CheckpointError(f"{readable(name)} is not a path in the directory")
    return path


def _what(member: tarfile.TarInfo) -> str:
    return "a link" if member.issym() else "a file"
