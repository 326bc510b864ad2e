"""Space reserved for the event log.

A file beside the database is removed when the disk is full, so that the log can still record why builds
pause. It is created again when twice its size is free. Blocking.
"""

import errno
import os
from pathlib import Path
from typing import BinaryIO

from store.host.durable import is_full

RESERVED_BYTES = 8 << 20


class Reserve:
    """The reserve file. Used by one thread."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def held(self) -> bool:
        """Whether the space is reserved now."""
        return self.path.exists()

    def take(self) -> bool:
        """Reserve the space if enough is free. Returns whether it is reserved now."""
        if self.held:
            return True
        free = os.statvfs(self.path.parent)
        if free.f_bavail * free.f_frsize < 2 * RESERVED_BYTES:
            return False
        aside = self.path.with_name(f".{self.path.name}.part")
        try:
            with aside.open("wb") as file:
                os.fchmod(file.fileno(), 0o600)
                _fill(file)
            aside.rename(self.path)
        except OSError as error:
            aside.unlink(missing_ok=True)
            if is_full(error):
                return False
            raise
        return True

    def release(self) -> bool:
        """Release the space to the log. Returns False when none was reserved."""
        held = self.held
        self.path.unlink(missing_ok=True)
        return held


def _fill(file: BinaryIO) -> None:
    try:
        os.posix_fallocate(file.fileno(), 0, RESERVED_BYTES)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        file.write(os.urandom(RESERVED_BYTES))  # ZFS: nothing to allocate, and zeros compress away
