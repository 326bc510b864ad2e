"""Captured inputs, each stored once under its sha256.

`put` returns only after the blob is complete, digested and on disk; a blob never changes and may be put
any number of times, by several threads at once. A blob is a read-only file that workers read in place.

Digests are not secret, contents are: a blob exists for the users who have put it, and for the daemon
itself (no owner). For every other user it does not exist: neither `path` nor `put` reveals the
difference. An empty file in a directory of the user records ownership, on disk before `put` returns.
Blocking.
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
from typing import IO

from statemachine.errors import NotFound, UsageError
from store.host.durable import reporting_disk_full, sync_directory

_SHA256 = re.compile(r"[0-9a-f]{64}")
_ASIDE = ".part-"
_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob. `stored_at` is the Unix time of the last put."""

    sha256: str
    size_bytes: int
    stored_at: float


class Blobs:
    """The blobs in one directory, which is created if it does not exist."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._owners = directory / ".owners"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Only one daemon uses this directory: a partial file was left by a dead daemon.
        for leftover in directory.glob(f"{_ASIDE}*"):
            leftover.unlink()
        # A file that it had just renamed is not yet durable, but counts as stored.
        sync_directory(directory)

    def put(self, content: bytes | IO[bytes], sha256: str, owner: int | None = None) -> bool:
        """Store a blob with the stated digest for the user with id `owner`. Returns whether it is new
        to that user.

        Raises UsageError, without storing anything, when the digest differs, and DiskFull.
        """
        path = self._path(sha256)
        stream: IO[bytes] = io.BytesIO(content) if isinstance(content, bytes) else content
        with reporting_disk_full("storing a captured input", self.directory):
            new = not self._touch(stream, path)
            if new:
                self._store(stream, path)
            return new if owner is None else self._own(sha256, owner)

    @contextlib.contextmanager
    def aside(self) -> Iterator[IO[bytes]]:
        """A named file, for reading and writing, for what is on its way to or from another place. It is
        removed at the end, and by the next start after a crash. Raises OSError."""
        with tempfile.NamedTemporaryFile(prefix=_ASIDE, dir=self.directory) as file:
            yield file

    def give(self, sha256: str, owner: int) -> None:
        """Record a user as owner of a blob that belongs to one of the user's builds."""
        if self.has(sha256):
            self._own(sha256, owner)

    def has(self, sha256: str) -> bool:
        """Whether the blob exists."""
        return self._path(sha256).exists()

    def path(self, sha256: str, owner: int | None = None) -> Path:
        """The blob's read-only file, for the user with id `owner`. Raises NotFound."""
        path = self._path(sha256)
        if not path.exists() or not (owner is None or self._owned(sha256, owner).exists()):
            raise NotFound(
                f"there is no blob {sha256}",
                "you have not uploaded a file with that digest",
                "upload it",
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
        """Remove a blob if it exists."""
        path = self._path(sha256)
        # Owners first: after a crash a blob without owners counts as not put.
        for owned in self._owners.glob(f"*/{sha256}"):
            owned.unlink(missing_ok=True)
        path.unlink(missing_ok=True)

    def _path(self, sha256: str) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise UsageError(
                f"{sha256!r} is not a sha256", "a sha256 has 64 lower-case hexadecimal digits"
            )
        return self.directory / sha256

    def _owned(self, sha256: str, owner: int) -> Path:
        return self._owners / str(owner) / sha256

    def _own(self, sha256: str, owner: int) -> bool:
        """Record an owner. Returns whether it is new."""
        owned = self._owned(sha256, owner)
        if owned.exists():
            return False
        owned.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        owned.touch(mode=0o600)
        for directory in (owned.parent, self._owners, self.directory):
            sync_directory(directory)
        return True

    def _touch(self, content: IO[bytes], path: Path) -> bool:
        """Whether the blob exists; its time of storage is updated. The content's digest is checked in
        any case."""
        if not path.exists():
            return False
        _require_digest(_digest_of(content), path.name)
        try:
            os.utime(path)
        except FileNotFoundError:  # removed just now
            content.seek(0)
            return False
        return True

    def _store(self, content: IO[bytes], path: Path) -> None:
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


def _digest_of(content: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := content.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def _require_digest(found: str, stated: str) -> None:
    if found != stated:
        raise UsageError(
            "the content does not match its digest",
            f"expected sha256 {stated}, the content has {found}",
            "send the file again; it may have changed while it was read",
        )
