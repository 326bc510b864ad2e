"""Room on the file system of the state directory: bytes, and inodes where it counts them.

Either can be used up while there is plenty of the other; both count as want of space. Blocking, but at once.
"""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from statemachine.plan import PlannedCheckpoint

LEAST_INODES = 1024
"""Free inodes without which no checkpoint starts: its workspace alone takes some tens."""

MARGIN_BYTES = 64 * 1024**2
MARGIN_INODES = 4096
"""Room beyond what a starved build needs, so that it does not stop again at once."""


@dataclass(frozen=True, slots=True)
class Room:
    """Free bytes and inodes; `inodes` is None where the file system makes them as needed."""

    free_bytes: int
    inodes: int | None

    def suffices(self, needed: "Room") -> bool:
        """Whether there is as much of both."""
        enough = self.inodes is None or self.inodes >= (needed.inodes or 0)
        return enough and self.free_bytes >= needed.free_bytes

    def exceeds(self, earlier: "Room") -> bool:
        """Whether there is clearly more of one than there was."""
        if self.free_bytes >= earlier.free_bytes + MARGIN_BYTES:
            return True
        if self.inodes is None or earlier.inodes is None:
            return False
        return self.inodes >= earlier.inodes + MARGIN_INODES


def room(directory: Path) -> Room:
    """The room in a directory. Raises OSError."""
    status = os.statvfs(directory)
    inodes = status.f_favail if status.f_files else None
    return Room(shutil.disk_usage(directory).free, inodes)


def needed(planned: Iterable[PlannedCheckpoint], min_free_bytes: int) -> Room:
    """The room that the hungriest of some checkpoints is said to need, and `min_free_bytes` beside it."""
    most = max((checkpoint.disk_bytes for checkpoint in planned), default=0)
    return Room(min_free_bytes + most, LEAST_INODES)


def shortage(directory: Path, wanted: Room) -> str:
    """What a directory lacks, for people, or ""."""
    found = room(directory)
    if found.suffices(wanted):
        return ""
    if found.free_bytes < wanted.free_bytes:
        return (
            f"{wanted.free_bytes / 2**30:.1f} GiB are needed in {directory}, which has"
            f" {found.free_bytes / 2**30:.1f} GiB free"
        )
    return f"{wanted.inodes} inodes are needed in {directory}, which has {found.inodes} free"


def lacking(state_dir: Path, planned: PlannedCheckpoint, min_free_bytes: int) -> str:
    """Why a checkpoint cannot start for lack of space, for people, or ""."""
    short = shortage(state_dir, needed([planned], min_free_bytes))
    again = "the build goes on when there is more"
    return f"{planned.name} lacks space: {short}; {again}" if short else ""
