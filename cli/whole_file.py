"""Files that `dcctl` writes: complete and on disk, or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cli.client import ClientError


@contextmanager
def whole_file(target: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A new file, which gets the name `target`, also in place of a file there, when the body ends without an
    error. Raises ClientError when it cannot be written; errors of connections in the body are passed on."""
    aside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.rename(target)
        _sync(target.parent)
    except (ConnectionError, TimeoutError):
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise ClientError("internal", f"cannot write {target}", reason) from None
    finally:
        with suppress(OSError):
            aside.unlink()


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
