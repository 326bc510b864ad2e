"""Mounting, by the system calls: mount(2), umount2(2), and which file system a path is on.

The calls are used directly because mount(8) breaks a long option string up for the kernel in ways
that differ between its versions, and because a process for each would cost more than all the mounts
of a worker. Callers are in a mount namespace of their own. `copy_of`, `attach` and `restrict` need
Linux 5.12.
"""

import ctypes
import errno
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from store.host.filesystem_tools import run_tool

MNT_DETACH = 2

READ_ONLY, NO_SUID, NO_DEVICES = 1, 2, 4
"""Attributes of a mount. The same in mount(2) and mount_setattr(2)."""

_MS_REMOUNT, _MS_BIND, _MS_REC = 0x20, 0x1000, 0x4000
_MS_UNBINDABLE, _MS_PRIVATE = 1 << 17, 1 << 18
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442  # the numbers on every architecture
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000  # linux/fcntl.h
_OPEN_TREE_CLONE = 1  # linux/mount.h
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_SYMLINKS = 0x4, 0x10

_libc = ctypes.CDLL(None, use_errno=True)

_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class FileSystem:
    """The file system a path is on: its type (`ext4`), source (device or dataset) and where it is
    mounted."""

    type: str
    source: str
    mounted_at: Path


def mount(kind: str, target: Path, options: str, attributes: int = 0) -> None:
    """Mount a new file system of type `kind`, named after it. Relative paths in `options` are
    looked up from the current directory. Raises OSError."""
    arguments = (
        kind.encode(),
        os.fsencode(target),
        kind.encode(),
        attributes,
        os.fsencode(options),
    )
    _check(_libc.mount(*arguments), target)


def bind(source: Path, target: Path) -> None:
    """Show at `target` what is seen at `source`, with all mounts below it. Raises OSError."""
    arguments = (os.fsencode(source), os.fsencode(target), None, _MS_BIND | _MS_REC, None)
    _check(_libc.mount(*arguments), target)


def bind_without_devices(directory: Path) -> None:
    """Show a directory on itself, so that no device can be opened below it. Raises OSError."""
    bind(directory, directory)
    path, flags = os.fsencode(directory), _MS_REMOUNT | _MS_BIND | NO_SUID | NO_DEVICES
    _check(_libc.mount(None, path, None, flags, None), directory)


def withhold_from_copies(mounted: Path) -> None:
    """Leave a mount out wherever what is around it is bound or copied. Raises OSError."""
    _check(_libc.mount(None, os.fsencode(mounted), None, _MS_UNBINDABLE, None), mounted)


def change_root(mounted: Path) -> None:
    """Make a mount the root of this mount namespace and of all processes in it, and take what was the root
    out of it, with all its mounts. The current directory is then the root. Raises OSError.

    Source: pivot_root(2), which describes the new root over the old one, without a place for that.
    """
    os.chdir(mounted)
    _check(_libc.pivot_root(b".", b"."), mounted)
    _check(_libc.umount2(b".", MNT_DETACH), mounted)
    os.chdir("/")
    _check(_libc.mount(None, b"/", None, _MS_PRIVATE, None), mounted)


def copy_of(path: Path, *, recursive: bool = True) -> int:
    """A descriptor of a copy of what is seen at a path, a file or a directory, with all mounts below it if
    `recursive`, for `restrict` and `attach`. Raises OSError. Source: open_tree(2)."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    result = _libc.syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags)
    _check(min(result, 0), path)
    return int(result)


def attach(copy: int, target: Path) -> None:
    """Mount what `copy_of` returned at a path. Raises OSError. Source: move_mount(2)."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_SYMLINKS
    result = _libc.syscall(_MOVE_MOUNT, copy, b"", _AT_FDCWD, os.fsencode(target), flags)
    _check(result, target)


def restrict(
    mounted: Path | int, attributes: int, *, lift: int = 0, recursive: bool = True
) -> None:
    """Give the mount at a path, or a copy, and all below it `attributes`, and take those in `lift` from
    it. Raises OSError. Source: mount_setattr(2)."""
    at, path = (mounted, b"") if isinstance(mounted, int) else (_AT_FDCWD, os.fsencode(mounted))
    flags = (_AT_RECURSIVE if recursive else 0) | (0 if path else _AT_EMPTY_PATH)
    wanted = (ctypes.c_uint64 * 4)(attributes, lift, 0, 0)
    result = _libc.syscall(
        _MOUNT_SETATTR, at, path, flags, ctypes.byref(wanted), ctypes.sizeof(wanted)
    )
    _check(result, Path(os.fsdecode(path)))


def can_restrict() -> bool:
    """Whether the kernel has the calls behind `copy_of`, `attach` and `restrict`."""
    if sys.platform != "linux":  # the number is another call there, or none
        return False
    # No such descriptor: only a kernel that knows the call says so.
    result = _libc.syscall(_MOUNT_SETATTR, -1, b"", 0, None, 0)
    return bool(result < 0 and ctypes.get_errno() != errno.ENOSYS)


def unmount(target: Path) -> None:
    """Take a mount, and all mounts below it, out of the namespace. Raises OSError."""
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH), target)


def unmount_below(directory: Path) -> list[Path]:
    """Unmount everything below a directory, not what is mounted on itself. Returns where it was.

    Source: proc(5), mountinfo, where field 5 is the mount point.
    """
    prefix = os.fsencode(directory) + b"/"
    below = [Path(os.fsdecode(point)) for point in _points() if point.startswith(prefix)]
    for point in reversed(below):  # a later mount may be on an earlier one
        unmount(point)
    return below


def _points() -> list[bytes]:
    """Where file systems are mounted, those on others after these."""
    lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    return [_ESCAPE.sub(_unescaped, line.split(b" ")[4]) for line in lines]


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


def _check(result: int, target: Path) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))
