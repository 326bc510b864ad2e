"""Artifacts: the files that builds deliver, in one directory a build.

`publish` makes a layer's file appear under the artifact's name, whole and on disk, or not at all; to
do it again (after a crash) is harmless. It costs no space where the file system can share: a reflink
first, since the layer then cannot be harmed through the artifact, else a hard link, else a copy. Names
are plain file names: nothing is ever written outside the build's directory. Blocking.
"""

import errno
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from statemachine.errors import UsageError
from statemachine.events import Artifact
from store.durable import disk_full_is_told, sync_directory, sync_file, write_file

_NAME = re.compile(r"[^./\x00-\x1f][^/\x00-\x1f]*")
_ASIDE = ".part-"

FICLONE = 0x40049409
"""ioctl_ficlone(2): share the source's extents."""

_NOT_SHARED = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM)
_NOT_LINKED = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an artifact is still what was published; `problem` is "" when it is."""

    artifact: Artifact
    problem: str

    @property
    def ok(self) -> bool:
        return not self.problem


class Artifacts:
    """The artifact directories of all builds below one directory, which is made when needed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def publish(self, build: str, artifact: Artifact, source: Path) -> Artifact:
        """Deliver the regular file `source` as `artifact.name`. Returns the artifact with its
        absolute path.

        Raises UsageError for a name that is not a plain file name, or when `source` has not the size
        that the artifact states; DiskFull.
        """
        target = self._directory(build) / _plain(artifact.name)
        with disk_full_is_told(f"publishing {artifact.name}", self.directory):
            target.parent.mkdir(parents=True, exist_ok=True)
            sync_directory(self.directory)
            if (size := source.lstat().st_size) != artifact.size_bytes:
                raise UsageError(
                    f"the artifact {artifact.name} is not as its checkpoint left it",
                    f"{source} has {size} bytes; {artifact.size_bytes} were stated",
                )
            aside = target.with_name(f"{_ASIDE}{target.name}")
            aside.unlink(missing_ok=True)
            try:
                _share(source, aside)
                sync_file(aside)
                aside.rename(target)
            finally:
                # Still there after a failure, and after rename(2) of two links of one file.
                aside.unlink(missing_ok=True)
            sync_directory(target.parent)
        return replace(artifact, path=str(target))

    def write(self, build: str, name: str, file_format: str, content: bytes) -> Artifact:
        """Deliver `content` as an artifact. Raises UsageError for a name that is not a plain file
        name; DiskFull."""
        target = self._directory(build) / _plain(name)
        with disk_full_is_told(f"publishing {name}", self.directory):
            target.parent.mkdir(parents=True, exist_ok=True)
            sync_directory(self.directory)
            write_file(target, content)
        digest = hashlib.sha256(content).hexdigest()
        return Artifact(name, str(target), file_format, len(content), digest)

    def verify(self, artifacts: Iterable[Artifact]) -> list[Verdict]:
        """Read every published artifact and compare it with what was published."""
        return [Verdict(artifact, _examine(artifact)) for artifact in artifacts]

    def remove(self, build: str) -> None:
        """Remove all artifacts of a build, if there are any."""
        directory = self._directory(build)
        if directory.exists():
            shutil.rmtree(directory)

    def _directory(self, build: str) -> Path:
        return self.directory / _plain(build)


def _plain(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name an artifact",
            "a plain file name is needed: no '/', no control characters, no '.' at the start",
        )
    return name


def _share(source: Path, target: Path) -> None:
    if _reflink(source, target):
        return
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NOT_LINKED:
            raise
        shutil.copyfile(source, target, follow_symlinks=False)


def _reflink(source: Path, target: Path) -> bool:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with source.open("rb") as origin, os.fdopen(os.open(target, flags, 0o644), "wb") as clone:
        try:
            fcntl.ioctl(clone, FICLONE, origin.fileno())
        except OSError as error:
            if error.errno not in _NOT_SHARED:
                raise
            target.unlink()
            return False
    return True


def _examine(artifact: Artifact) -> str:
    path = Path(artifact.path)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != artifact.size_bytes:
                return f"has {size} bytes instead of {artifact.size_bytes}"
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "" if digest == artifact.sha256 else f"has sha256 {digest}"
