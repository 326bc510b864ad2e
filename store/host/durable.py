"""Writing files so that they survive a power cut complete.

A file gets its name only when it is completely on disk: written under a temporary name, synced,
renamed, and then the directory synced. A full disk raises `DiskFull` in every function. Blocking.
"""

import contextlib
import ctypes
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from statemachine.errors import Unprepared

FULL = (errno.ENOSPC, errno.EDQUOT)
"""The error numbers for a lack of space or quota."""

_FEW_BYTES = 16 * 1024 * 1024
_FEW_INODES = 64


class DiskFull(Unprepared):
    """No space or quota is left. `cause` has the errno."""

    def __init__(self, doing: str, where: Path | str, cause: OSError) -> None:
        super().__init__(
            f"no space left while {doing}",
            f"{where}: {cause.strerror or cause}",
            f"free some space on the file system of {where}, then resume the build",
        )
        self.cause = cause


def is_full(error: OSError) -> bool:
    """Whether the error means a lack of space or quota."""
    return error.errno in FULL


def used_up(directory: Path) -> str:
    """The exhausted resource of a file system (`space`, `inodes`), or "". Raises OSError."""
    status = os.statvfs(directory)
    if status.f_files and status.f_favail < _FEW_INODES:
        return "inodes"
    return "space" if shutil.disk_usage(directory).free < _FEW_BYTES else ""


@contextlib.contextmanager
def reporting_disk_full(doing: str, where: Path) -> Iterator[None]:
    """Convert an OSError for lack of space to `DiskFull`; other errors pass unchanged."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise DiskFull(doing, where, error) from error
        raise


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable (fsync(2) of a directory)."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the content of a file durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(path: Path) -> None:
    """Write back all dirty data on the file system of `path` and report write errors (syncfs(2)).
    Systems without syncfs use sync(2), which also waits but reports no errors."""
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        os.sync()
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


def write_file(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write `content` to `path` atomically and durably, replacing an existing file. Not for concurrent
    writers of one path: they share the temporary file."""
    aside = path.with_name(f".{path.name}.part")
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
