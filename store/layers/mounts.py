"""Mounting, by the system calls: mount(2), umount2(2), and which file system a path is on.

The calls are used directly because mount(8) breaks a long option string up for the kernel in ways
that differ between its versions. Callers are in a mount namespace of their own.
"""

import ctypes
import os
import re
from dataclasses import dataclass
from pathlib import Path

from store.layers.tool import run_tool

MNT_DETACH = 2

_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class FileSystem:
    """The file system a path is on: its type (`ext4`), source (device or dataset) and where it is
    mounted."""

    type: str
    source: str
    mounted_at: Path


def mount(kind: str, target: Path, options: str) -> None:
    """Mount a new file system of type `kind`, named after it. Relative paths in `options` are
    looked up from the current directory. Raises OSError."""
    arguments = (kind.encode(), os.fsencode(target), kind.encode(), 0, os.fsencode(options))
    _check(_libc().mount(*arguments), target)


def unmount(target: Path) -> None:
    """Take a mount, and all mounts below it, out of the namespace. Raises OSError."""
    _check(_libc().umount2(os.fsencode(target), MNT_DETACH), target)


def unmount_below(directory: Path) -> list[Path]:
    """Unmount everything below a directory, not what is mounted on itself. Returns where it was.

    Source: proc(5), mountinfo, where field 5 is the mount point.
    """
    prefix = os.fsencode(directory) + b"/"
    lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    points = [_ESCAPE.sub(_unescaped, line.split(b" ")[4]) for line in lines]
    below = [Path(os.fsdecode(point)) for point in points if point.startswith(prefix)]
    for point in reversed(below):  # a later mount may be on an earlier one
        unmount(point)
    return below


def file_system_of(path: Path) -> FileSystem:
    """The file system that holds `path`, as findmnt(8) tells."""
    command = ["findmnt", "--noheadings", "--raw", "--output", "FSTYPE,SOURCE,TARGET", "--target"]
    found = run_tool(f"looking up the file system of {path}", *command, path)
    # Raw output writes blanks in names as \x20.
    kind, source, target = (
        field.encode().decode("unicode_escape") for field in found.split("\n")[0].split(" ")
    )
    return FileSystem(kind, source, Path(target))


def _unescaped(escape: re.Match[bytes]) -> bytes:
    return bytes([int(escape[1], 8)])


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, target: Path) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))
