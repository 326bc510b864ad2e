"""Captured inputs, each stored once under its sha256.

`put` answers only after the blob is whole, digested and on disk; a blob never changes and may be put
any number of times, by several threads at once. A blob is a read-only file that workers read where it
lies.

Digests are no secrets, contents are: a blob is there for those who have put it, and for the daemon itself
(no owner). To everybody else it is as one that nobody has put: neither `path` nor `put` tells the
difference. An owner is an empty file in a directory of the user's, on disk before `put` answers. Blocking.
"""

import contextlib
import hashlib
import io
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from statemachine.errors import NotFound, UsageError
from store.host.durable import disk_full_is_told, sync_directory

_SHA256 = re.compile(r"[0-9a-f]{64}")
_ASIDE = ".part-"
_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob. `stored_at` is the Unix time at which it was put last, new or again."""

    sha256: str
    size_bytes: int
    stored_at: float


class Blobs:
    """The blobs in one directory, which is made when it is not there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._owners = directory / ".owners"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Only one daemon has this directory: what is half-written was left by a dead one.
        for leftover in directory.glob(f"{_ASIDE}*"):
            leftover.unlink()
        # And what it had just renamed is not yet durable, but counts as stored.
        sync_directory(directory)

    def put(self, content: bytes | BinaryIO, sha256: str, owner: int | None = None) -> bool:
        """Store a blob whose digest the caller states, for the user with id `owner`. Returns whether it
        is new to that user.

        Raises UsageError when the content has another digest (nothing is stored then), and DiskFull.
        """
        path = self._path(sha256)
        stream = io.BytesIO(content) if isinstance(content, bytes) else content
        with disk_full_is_told("storing a captured input", self.directory):
            new = not self._touch(stream, path)
            if new:
                self._store(stream, path)
            return new if owner is None else self._own(sha256, owner)

    def give(self, sha256: str, owner: int) -> None:
        """Let a user have a blob that is in a build of that user's."""
        if self.has(sha256):
            self._own(sha256, owner)

    def has(self, sha256: str) -> bool:
        """Whether there is such a blob."""
        return self._path(sha256).exists()

    def path(self, sha256: str, owner: int | None = None) -> Path:
        """The blob's file, to be read only, for the user with id `owner`. Raises NotFound."""
        path = self._path(sha256)
        if not path.exists() or not (owner is None or self._owned(sha256, owner).exists()):
            raise NotFound(
                f"there is no blob {sha256}", "you have uploaded none of that digest", "upload it"
            )
        return path

    def stored(self) -> Iterator[Blob]:
        """All blobs."""
        for path in self.directory.iterdir():
            if _SHA256.fullmatch(path.name):
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    yield Blob(path.name, status.st_size, status.st_mtime)

    def remove(self, sha256: str) -> None:
        """Remove a blob, if it is there."""
        path = self._path(sha256)
        # Owners first: what a crash leaves may be a blob without any, as if it had not been put.
        for owned in self._owners.glob(f"*/{sha256}"):
            owned.unlink(missing_ok=True)
        path.unlink(missing_ok=True)

    def _path(self, sha256: str) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise UsageError(f"{sha256!r} is not a sha256", "64 lower-case hexadecimal digits are")
        return self.directory / sha256

    def _owned(self, sha256: str, owner: int) -> Path:
        return self._owners / str(owner) / sha256

    def _own(self, sha256: str, owner: int) -> bool:
        """Note an owner. Returns whether that is new."""
        owned = self._owned(sha256, owner)
        if owned.exists():
            return False
        owned.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        owned.touch(mode=0o600)
        for directory in (owned.parent, self._owners, self.directory):
            sync_directory(directory)
        return True

    def _touch(self, content: BinaryIO, path: Path) -> bool:
        """Whether the blob is there; then it counts as put now. The content is digested all the same."""
        if not path.exists():
            return False
        _require_digest(_digest_of(content), path.name)
        try:
            os.utime(path)
        except FileNotFoundError:  # removed just now
            content.seek(0)
            return False
        return True

    def _store(self, content: BinaryIO, path: Path) -> None:
        digest = hashlib.sha256()
        descriptor, name = tempfile.mkstemp(prefix=_ASIDE, dir=self.directory)
        aside = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                while chunk := content.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    file.write(chunk)
                _require_digest(digest.hexdigest(), path.name)
                file.flush()
                os.fchmod(file.fileno(), 0o444)
                os.fsync(file.fileno())
            aside.rename(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        sync_directory(self.directory)


def _digest_of(content: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := content.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def _require_digest(found: str, stated: str) -> None:
    if found != stated:
        raise UsageError(
            "the content is not what its digest says",
            f"expected sha256 {stated}, the content has {found}",
            "send the file again; it may have changed while it was read",
        )
