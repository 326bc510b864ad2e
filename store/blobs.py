"""Captured inputs, each stored once under its sha256.

`put` answers only after the blob is whole, digested and on disk; a blob never changes and may be put
any number of times, by several threads at once. A blob is a read-only file that workers read where it
lies. Blocking.
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
from store.durable import disk_full_is_told, sync_directory

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
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Only one daemon has this directory: what is half-written was left by a dead one.
        for leftover in directory.glob(f"{_ASIDE}*"):
            leftover.unlink()
        # And what it had just renamed is not yet durable, but counts as stored.
        sync_directory(directory)

    def put(self, content: bytes | BinaryIO, sha256: str) -> bool:
        """Store a blob whose digest the caller states. Returns whether it is new.

        Raises UsageError when the content has another digest (nothing is stored then), and DiskFull.
        """
        path = self._path(sha256)
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)
            return False
        with disk_full_is_told("storing a captured input", self.directory):
            self._store(io.BytesIO(content) if isinstance(content, bytes) else content, path)
        return True

    def has(self, sha256: str) -> bool:
        """Whether there is such a blob."""
        return self._path(sha256).exists()

    def path(self, sha256: str) -> Path:
        """The blob's file, to be read only. Raises NotFound."""
        path = self._path(sha256)
        if not path.exists():
            raise NotFound(f"there is no blob {sha256}", f"no file {path}")
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
        self._path(sha256).unlink(missing_ok=True)

    def _path(self, sha256: str) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise UsageError(f"{sha256!r} is not a sha256", "64 lower-case hexadecimal digits are")
        return self.directory / sha256

    def _store(self, content: BinaryIO, path: Path) -> None:
        digest = hashlib.sha256()
        descriptor, name = tempfile.mkstemp(prefix=_ASIDE, dir=self.directory)
        aside = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                while chunk := content.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    file.write(chunk)
                if digest.hexdigest() != path.name:
                    raise UsageError(
                        "the content is not what its digest says",
                        f"expected sha256 {path.name}, the content has {digest.hexdigest()}",
                        "send the file again; it may have changed while it was read",
                    )
                file.flush()
                os.fchmod(file.fileno(), 0o444)
                os.fsync(file.fileno())
            aside.rename(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        sync_directory(self.directory)
