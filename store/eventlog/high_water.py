"""The high-water mark: the last position that was committed, in a file of its own beside the log.

SQLite takes a log whose -wal file is gone for a whole one, only older, and so it takes an older copy that was
put in its place. The mark is written after each commit and not synced: after a power cut it may say less
than the log holds, or nothing that can be read, but never more. So a log that holds less than its mark has
lost events. Used by one thread.
"""

import contextlib
import os
from pathlib import Path

_WIDTH = 20
"""Digits; the file is always written whole, in place."""


class HighWater:
    """The mark of the log in the file `log`. Nothing is made before the first commit."""

    def __init__(self, log: Path) -> None:
        self.path = log.with_name(f"{log.name}.position")

    def read(self) -> int:
        """The position; 0 when there is none that can be read."""
        try:
            text = self.path.read_text()
        except (OSError, UnicodeDecodeError):
            return 0
        return int(text) if len(text.strip()) == _WIDTH and text.strip().isdecimal() else 0

    def write(self, position: int) -> None:
        """Note a position. What cannot be noted is not: the log is the truth."""
        with contextlib.suppress(OSError):
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                os.pwrite(descriptor, f"{position:0{_WIDTH}}\n".encode(), 0)
            finally:
                os.close(descriptor)

    def forget(self) -> None:
        """Remove the mark: another log takes the place of this one, on purpose."""
        self.path.unlink(missing_ok=True)
