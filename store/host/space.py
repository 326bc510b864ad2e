"""Free space on the file system of the state directory: bytes, and inodes if it counts them.

Either can be exhausted independently of the other; both count as lack of space. Blocking, but fast.
"""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from statemachine.plan import PlannedCheckpoint

LEAST_INODES = 1024
"""The free inodes that a checkpoint needs to start: its workspace alone takes several dozen."""

MARGIN_BYTES = 64 * 1024**2
MARGIN_INODES = 4096
"""Space beyond the need of a starved build, so that it does not stop again at once."""


@dataclass(frozen=True, slots=True)
class Room:
    """Free bytes and inodes; `inodes` is None if the file system allocates them as needed."""

    free_bytes: int
    inodes: int | None

    def suffices(self, needed: "Room") -> bool:
        """Whether both amounts are at least as large."""
        enough = self.inodes is None or self.inodes >= (needed.inodes or 0)
        return enough and self.free_bytes >= needed.free_bytes

    def exceeds(self, earlier: "Room") -> bool:
        """Whether one of the amounts is clearly larger."""
        if self.free_bytes >= earlier.free_bytes + MARGIN_BYTES:
            return True
        if self.inodes is None or earlier.inodes is None:
            return False
        return self.inodes >= earlier.inodes + MARGIN_INODES


def room(directory: Path) -> Room:
    """The free space in a directory. Raises OSError."""
    status = os.statvfs(directory)
    inodes = status.f_favail if status.f_files else None
    return Room(shutil.disk_usage(directory).free, inodes)


def needed(planned: Iterable[PlannedCheckpoint], min_free_bytes: int) -> Room:
    """The largest stated need of these checkpoints plus `min_free_bytes`."""
    most = max((checkpoint.disk_bytes for checkpoint in planned), default=0)
    return Room(min_free_bytes + most, LEAST_INODES)


def shortage(directory: Path, wanted: Room) -> str:
    """The shortage of space in a directory, for people, or ""."""
    found = room(directory)
    if found.suffices(wanted):
        return ""
    if found.free_bytes < wanted.free_bytes:
        return (
            f"{wanted.free_bytes / 2**30:.1f} GiB are needed in {directory}, which has"
            f" {found.free_bytes / 2**30:.1f} GiB free"
        )
    return f"{wanted.inodes} inodes are needed in {directory}, which has {found.inodes} free"


def lack_of_space(state_dir: Path, planned: PlannedCheckpoint, min_free_bytes: int) -> str:
    """The reason why a checkpoint cannot start for lack of space, for people, or ""."""
    short = shortage(state_dir, needed([planned], min_free_bytes))
    again = "the build continues when there is more"
    return f"{planned.name} lacks space: {short}; {again}" if short else ""
