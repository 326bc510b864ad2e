"""Artifacts: the files that builds deliver, in one directory per build.

`publish` delivers a layer's file under the artifact's name, complete and on disk, or not at all; it is
idempotent. Names are plain file names: nothing is ever written outside the build's directory. Blocking.

Artifacts pass from one user to another, so they do not keep the mode, owner or inode that a checkpoint
chose: before it gets its name, each file is regular, owned by root, mode 0640, readable by one group;
directories have mode 0750. Delivery takes no space where the file system can share: a reflink first,
else a hard link, else a copy. A link shares the inode, so a file is linked only if it already has the
final owner and mode in the layer; `adopt` sets these while the file still belongs to a workspace.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from statemachine.errors import UsageError
from statemachine.results import Artifact
from store.host.durable import reporting_disk_full, sync_directory, sync_file
from store.host.regular import open_regular
from store.host.sparse import copy_content, sha256_of

SUMS = "SHA256SUMS"
EVIDENCE_SUMS = f"{SUMS}.evidence"
"""The artifacts that list digests: of the products, and of the evidence."""

_NAME = re.compile(r"[^./\x00-\x1f][^/\x00-\x1f]*")
_ASIDE = ".part-"

FILE_MODE, DIRECTORY_MODE = 0o640, 0o750

FICLONE = 0x40049409
"""ioctl_ficlone(2): share the source's extents."""

_NOT_SHARED = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM)
_NOT_LINKED = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP)

_RIGHTS = {"system.posix_acl_access", "security.capability"}
"""Extended attributes that grant permissions beyond the mode."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of comparing an artifact with its record; `problem` is "" when it is unchanged."""

    artifact: Artifact
    problem: str

    @property
    def ok(self) -> bool:
        return not self.problem


class Artifacts:
    """The artifact directories of all builds below one directory. `group` is the id of the group that
    may read them; None: the daemon's own group."""

    def __init__(self, directory: Path, group: int | None = None) -> None:
        self.directory = directory
        self._owner = os.geteuid()
        self._group = os.getegid() if group is None else group

    def prepare(self) -> None:
        """Create the directory, accessible to the group only. Existing content from an earlier version
        or another group setting gets the same owner and mode; an interrupted change is repeated."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._is_closed(self.directory.lstat(), DIRECTORY_MODE):
            return
        for build in self.directory.iterdir():
            if build.is_dir() and not build.is_symlink():
                for file in build.iterdir():
                    self._close_file(file)
                self._close_directory(build)
        self._close_directory(self.directory)

    def adopt(self, file: Path) -> None:
        """Give a file of an idle workspace the owner and mode of an artifact, so that its layer can
        share it. A file with other hard links in the workspace is left unchanged: they may be files of
        the image."""
        with open_regular(file) as opened:
            if os.fstat(opened.fileno()).st_nlink == 1:
                self._close(opened.fileno(), FILE_MODE)

    def publish(self, build: str, artifact: Artifact, source: Path) -> Artifact:
        """Deliver the regular file `source` as `artifact.name`. Returns the artifact with its path
        relative to the directory above that of all artifacts.

        Raises UsageError for a name that is not a plain file name, or when `source` is not a regular file of
        the size that the artifact states; DiskFull.
        """
        target = self._directory(build) / _plain(artifact.name)
        with reporting_disk_full(f"publishing {artifact.name}", self.directory):
            self._make_directory(target.parent)
            with _stated(artifact, source) as content, _aside(target) as aside:
                if artifact.path.rpartition("/")[0] == "media":
                    self._give_group(content.fileno())
                self._share(content, source, aside)
                sync_file(aside)
                aside.rename(target)
            sync_directory(target.parent)
        return replace(artifact, path=self._named(target))

    def write(self, build: str, name: str, file_format: str, content: bytes) -> Artifact:
        """Deliver `content` as an artifact. Raises UsageError for a name that is not a plain file
        name; DiskFull."""
        target = self._directory(build) / _plain(name)
        with reporting_disk_full(f"publishing {name}", self.directory):
            self._make_directory(target.parent)
            with _aside(target) as aside:
                with _created(aside) as file:
                    file.write(content)
                    file.flush()
                    self._close(file.fileno(), FILE_MODE)
                    os.fsync(file.fileno())
                aside.rename(target)
            sync_directory(target.parent)
        digest = hashlib.sha256(content).hexdigest()
        return Artifact(name, self._named(target), file_format, len(content), digest)

    def path(self, build: str, artifact: Artifact) -> Path:
        """The path of a published artifact of a build. Raises UsageError."""
        return self._directory(build) / _plain(artifact.name)

    def verify(self, build: str, artifacts: Iterable[Artifact]) -> list[Verdict]:
        """Read every published artifact of a build and compare it with its record."""
        return [
            Verdict(artifact, _examine(artifact, self.path(build, artifact)))
            for artifact in artifacts
        ]

    def remove(self, build: str) -> None:
        """Remove all artifacts of a build, if there are any."""
        directory = self._directory(build)
        while directory.exists():
            # Another thread may remove the same files at the same time.
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(directory)

    def _directory(self, build: str) -> Path:
        return self.directory / _plain(build)

    def _named(self, target: Path) -> str:
        return str(target.relative_to(self.directory.parent))

    def _make_directory(self, directory: Path) -> None:
        self.prepare()
        directory.mkdir(mode=0o700, exist_ok=True)
        self._close_directory(directory)
        sync_directory(self.directory)

    def _share(self, content: BinaryIO, source: Path, aside: Path) -> None:
        if not _reflinked(content, aside):
            if self._may_be_linked(content.fileno()) and _linked(content, source, aside):
                return
            _copy(content, aside)
        with open_regular(aside) as shared:
            self._close(shared.fileno(), FILE_MODE)

    def _give_group(self, descriptor: int) -> None:
        """Give a file that lacks only the group of an artifact this group, so that it may be hard-linked.
        The content manifest of its layer does not have that of a file of the media. Such a file was made
        by another checkpoint than the one that delivers it, so `adopt` has left it unchanged. Files further
        down may be contents of an ISO."""
        status = os.fstat(descriptor)
        own = (status.st_uid, stat.S_IMODE(status.st_mode)) == (0, FILE_MODE)
        if own and status.st_nlink == 1 and status.st_gid != self._group:
            os.fchown(descriptor, -1, self._group)

    def _may_be_linked(self, descriptor: int) -> bool:
        """Whether the file already has the owner and mode of an artifact, so that it may be
        hard-linked."""
        if not self._is_closed(os.fstat(descriptor), FILE_MODE):
            return False
        return not _extra_permissions(descriptor)

    def _is_closed(self, status: os.stat_result, mode: int) -> bool:
        owned = (status.st_uid, status.st_gid) == (self._owner, self._group)
        return owned and stat.S_IMODE(status.st_mode) == mode

    def _close_file(self, path: Path) -> None:
        try:
            opened = open_regular(path)
        except OSError:
            return  # Not an artifact.
        # A file that version 0.1.0 linked gets this mode in the layer too, where the mode does not
        # matter.
        with opened:
            self._close(opened.fileno(), FILE_MODE)

    def _close_directory(self, directory: Path) -> None:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            self._close(descriptor, DIRECTORY_MODE)
        finally:
            os.close(descriptor)

    def _close(self, descriptor: int, mode: int) -> None:
        """Set owner and mode. The owner comes first: the old owner could undo the mode."""
        status = os.fstat(descriptor)
        if (status.st_uid, status.st_gid) != (self._owner, self._group):
            os.fchown(descriptor, self._owner, self._group)
        for attribute in _extra_permissions(descriptor):
            os.removexattr(descriptor, attribute)
        os.fchmod(descriptor, mode)


def _plain(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name an artifact",
            "a plain file name is needed: no '/', no control characters, no '.' at the start",
        )
    return name


def _stated(artifact: Artifact, source: Path) -> BufferedReader:
    """The file of a layer, open. Raises UsageError unless it is what its checkpoint declared."""
    try:
        content = open_regular(source)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise _differs_from_declared(artifact, f"{source} is not a regular file") from error
    if (size := os.fstat(content.fileno()).st_size) != artifact.size_bytes:
        content.close()
        raise _differs_from_declared(
            artifact, f"{source} has {size} bytes; {artifact.size_bytes} were declared"
        )
    return content


def _differs_from_declared(artifact: Artifact, details: str) -> UsageError:
    return UsageError(
        f"the artifact {artifact.name} differs from what its checkpoint declared", details
    )


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """A temporary name beside `target` for a file that is then renamed; unused before and after."""
    aside = target.with_name(f"{_ASIDE}{target.name}")
    aside.unlink(missing_ok=True)
    try:
        yield aside
    finally:
        # Still there after a failure, and after rename(2) of two links of one file.
        aside.unlink(missing_ok=True)


def _created(path: Path) -> BinaryIO:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    return os.fdopen(os.open(path, flags, 0o600), "w+b")


def _reflinked(content: BinaryIO, aside: Path) -> bool:
    with _created(aside) as clone:
        try:
            fcntl.ioctl(clone, FICLONE, content.fileno())
        except OSError as error:
            if error.errno not in _NOT_SHARED:
                raise
            aside.unlink()
            return False
    return True


def _linked(content: BinaryIO, source: Path, aside: Path) -> bool:
    try:
        os.link(source, aside, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NOT_LINKED:
            raise
        return False
    if os.path.samestat(os.fstat(content.fileno()), aside.lstat()):
        return True
    aside.unlink()
    return False


def _copy(content: BinaryIO, aside: Path) -> None:
    with _created(aside) as copy:
        size_bytes = os.fstat(content.fileno()).st_size
        copy_content(content.fileno(), copy.fileno(), size_bytes)


def _extra_permissions(descriptor: int) -> set[str]:
    """The attributes of a file that grant permissions; empty if the file system has none."""
    try:
        return _RIGHTS.intersection(os.listxattr(descriptor))
    except (OSError, AttributeError):
        return set()


def _examine(artifact: Artifact, path: Path) -> str:
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size != artifact.size_bytes:
                return f"has {size} bytes instead of {artifact.size_bytes}"
            digest = sha256_of(file.fileno())
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "" if digest == artifact.sha256 else f"has sha256 {digest}"
