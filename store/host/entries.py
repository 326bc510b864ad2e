"""The entries of a tree, in the one order in which archives hold them.

The order is that of the bytes of their names, each directory with its content, so the file system does not
matter. Links are never followed.
"""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a tree: its path below the root ("" for the root itself), its real path, and its status."""

    name: str
    path: Path
    status: os.stat_result

    @property
    def kind(self) -> int:
        """The type of the file, as `stat.S_IFMT` has it."""
        return stat.S_IFMT(self.status.st_mode)

    @property
    def seconds(self) -> int:
        """The Unix time of its last modification."""
        return self.status.st_mtime_ns // _NANOSECONDS

    @property
    def shown(self) -> str:
        """The name as text for messages; bytes that are not UTF-8 become escapes."""
        return os.fsencode(self.name).decode("utf-8", "backslashreplace")


def entries_of(root: Path, is_left_out: Callable[[str], bool] = lambda name: False) -> list[Entry]:
    """The entries of a tree, with its root, without those whose name is left out and what is below these.
    Raises OSError."""
    entries = [Entry("", root, root.lstat())]
    pending = entries[:]
    while pending:
        above = pending.pop()
        with os.scandir(above.path) as directory:
            for found in directory:
                name = f"{above.name}/{found.name}" if above.name else found.name
                if is_left_out(name):
                    continue
                one = Entry(name, Path(found.path), found.stat(follow_symlinks=False))
                entries.append(one)
                if one.kind == stat.S_IFDIR:
                    pending.append(one)
    # What is below a directory follows it at once: GNU tar would forget its time between `etc`, `etc.d` and
    # `etc/passwd`.
    return sorted(entries, key=lambda one: os.fsencode(one.name).split(b"/"))
