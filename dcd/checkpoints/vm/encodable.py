"""A check, before the first write, whether a file system can hold a tree.

The tools report no error: mke2fs -d and mcopy write another time for one that is out of range; mcopy
takes `a:b` for a file `b` on a drive, leaves out dots and blanks at the end of a name, and writes README over
Readme.
Source: ext4(5) and the kernel's Documentation/filesystems/ext4, "Inode Timestamps"; mkfs.xfs(8), bigtime;
Microsoft's FAT specification, "FAT Long Directory Entries" and DIR_FileSize. FAT takes all times: they
become the nearest of its own (`dcd.checkpoints.times`).
"""

import os
import stat
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path

from dcd.checkpoints.vm.disk import FileSystem, VolumePartition
from dcd.platform.inside import readable
from statemachine.errors import CheckpointError

_TIMES: dict[FileSystem, tuple[int, int]] = {
    "ext4": (-(1 << 31), (1 << 34) - (1 << 31) - 1),
    "xfs": (-(1 << 31), 16299260424),
}
"""The first and the last second of a file's time, as Unix times."""
_MOST_FAT_BYTES = (1 << 32) - 1
_FAT_SIGNS = frozenset('"*/:<>?\\|') | {chr(number) for number in range(32)} | {"\x7f"}
_DEVICES = frozenset(
    ("CON", "PRN", "AUX", "NUL", *(f"{one}{n}" for one in ("COM", "LPT") for n in range(1, 10)))
)
_NAMED = 20
"""The most entries that a message names."""


def check_encodable(partition: VolumePartition, tree: Path, apart: Collection[Path]) -> None:
    """Raise `CheckpointError`, with entries and reasons, when the partition's file system cannot hold the
    content of the directory `tree`. The directories `apart` belong to other file systems."""
    kind = partition.volume.type
    found = list(_problems(kind, tree, frozenset(apart) - {tree}))
    if found:
        named = [f"/{readable(path.relative_to(tree))}: {why}" for path, why in found[:_NAMED]]
        if len(found) > _NAMED:
            named.append(f"and {len(found) - _NAMED} more")
        raise CheckpointError(
            f"{kind} cannot hold {len(found)} of the files for {partition.title} "
            f"({', '.join(partition.volume.mounts)})",
            "\n".join(named),
            "change them in a checkpoint before (mv, touch, rm), or use another file system",
        )


def _problems(kind: FileSystem, tree: Path, apart: frozenset[Path]) -> Iterator[tuple[Path, str]]:
    pending = [tree] if tree.is_dir() else []
    while pending:
        directory = pending.pop()
        with os.scandir(directory) as found:
            entries = sorted(found, key=lambda one: one.name)
        names: dict[str, str] = {}
        for one in entries:
            path = Path(one.path)
            status = one.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode) and path not in apart:
                pending.append(path)
            if why := _time(kind, status.st_mtime_ns // 1_000_000_000):
                yield path, why
            if kind == "vfat":
                if why := _fat_entry(one.name, status):
                    yield path, why
                same = names.setdefault(one.name.casefold(), one.name)
                if same != one.name:
                    yield path, f"for FAT the same name as {same}"


def _time(kind: FileSystem, seconds: int) -> str | None:
    first, last = _TIMES.get(kind, (seconds, seconds))
    if first <= seconds <= last:
        return None
    return f"its time ({seconds} s since 1970) is not in {_year(first)} to {_year(last)}"


def _year(seconds: float) -> int:
    return datetime.fromtimestamp(seconds, UTC).year


def _fat_entry(name: str, status: os.stat_result) -> str | None:
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        return "FAT holds files and directories only"
    if stat.S_ISREG(status.st_mode) and status.st_size > _MOST_FAT_BYTES:
        return f"it has {status.st_size} bytes, in FAT at most {_MOST_FAT_BYTES}"
    if not name.isascii() and os.fsencode(name).decode("utf-8", "replace") != name:
        return "its name is not UTF-8"
    if signs := sorted(_FAT_SIGNS & set(name)):
        return f"FAT has no {', '.join(map(repr, signs))} in names"
    if name[-1] in ". ":
        return "FAT has no names that end in a dot or blank"
    if name.partition(".")[0].upper() in _DEVICES:
        return "on FAT this is the name of a device"
    return None
