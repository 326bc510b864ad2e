"""The high-water mark: the last committed position, in a separate file beside the log.

SQLite cannot tell a log without its -wal file, or an older copy in its place, from a complete one. The
mark is written after each commit and not synced: after a power cut it may be lower than the log's last
position, or unreadable, but never higher. So a log that ends before its mark has lost events. Used by
one thread.
"""

import contextlib
import os
from pathlib import Path

_WIDTH = 20
"""Number of digits; the file is always written in full, in place."""


class HighWater:
    """The mark of the log in the file `log`. The file is created at the first commit."""

    def __init__(self, log: Path) -> None:
        self.path = log.with_name(f"{log.name}.position")

    def read(self) -> int:
        """The position; 0 when the file is missing or unreadable."""
        try:
            text = self.path.read_text()
        except (OSError, UnicodeDecodeError):
            return 0
        return int(text) if len(text.strip()) == _WIDTH and text.strip().isdecimal() else 0

    def write(self, position: int) -> None:
        """Record a position. Errors are ignored: the log itself is authoritative."""
        with contextlib.suppress(OSError):
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                os.pwrite(descriptor, f"{position:0{_WIDTH}}\n".encode(), 0)
            finally:
                os.close(descriptor)

    def forget(self) -> None:
        """Remove the mark, because another log deliberately replaces this one."""
        self.path.unlink(missing_ok=True)
