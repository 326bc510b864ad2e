"""How far each webhook is: the position of the last event that it confirmed or does not want.

A cursor is a file beside the event log, written durably after the confirmation and before the next event is
sent. A kill in between repeats one delivery and loses none. Blocking.
"""

import threading
from collections.abc import Collection
from pathlib import Path

from store.host.durable import write_file

_SUFFIX = ".position"


class Cursors:
    """The cursors in a directory, one file for each name."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writing = threading.Lock()

    def read(self, name: str) -> int | None:
        """The cursor; None without one that can be read."""
        try:
            return int(self._path(name).read_text("ascii"))
        except (OSError, ValueError):
            return None

    def write(self, name: str, position: int) -> None:
        """Store the cursor. Raises OSError."""
        with self._writing:  # a task that was just cancelled may still write
            self._directory.mkdir(mode=0o700, exist_ok=True)
            write_file(self._path(name), b"%d\n" % position, 0o600)

    def keep(self, names: Collection[str]) -> None:
        """Remove the cursors of all other names. Raises OSError."""
        if self._directory.is_dir():
            for path in self._directory.glob(f"*{_SUFFIX}"):
                if path.name.removesuffix(_SUFFIX) not in names:
                    path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}{_SUFFIX}"
