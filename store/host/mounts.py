"""Mounting by system calls of Linux (mount(2), umount2(2)), and finding the file system of a path.

The calls are used directly because versions of mount(8) split a long option string for the kernel in
different ways, and because a process per mount would take longer than all the mounts of a worker.
Callers have their own mount namespace. `copy_of`, `attach` and `restrict` need
Linux 5.12.
"""

import ctypes
import errno
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from store.host.filesystem_tools import run_tool

MNT_DETACH = 2

READ_ONLY, NO_SUID, NO_DEVICES, NO_PROGRAMS = 1, 2, 4, 8
"""Attributes of a mount, with the same values in mount(2) and mount_setattr(2)."""

_MS_REMOUNT, _MS_BIND, _MS_REC = 0x20, 0x1000, 0x4000
_MS_UNBINDABLE, _MS_PRIVATE, _MS_SLAVE, _MS_SHARED = 1 << 17, 1 << 18, 1 << 19, 1 << 20
_CLONE_NEWNS = 0x0002_0000
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442  # the numbers on every architecture
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000  # linux/fcntl.h
_OPEN_TREE_CLONE = 1  # linux/mount.h
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_SYMLINKS = 0x4, 0x10

_libc = ctypes.CDLL(None, use_errno=True)

MOUNTS, MNTTAB = Path("/proc/self/mountinfo"), Path("/etc/mnttab")
"""The tables of mounts of Linux and illumos."""

_MNTTAB_FIELDS = 5

_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class FileSystem:
    """The file system of a path: its type (`ext4`), source (device or dataset) and mount point."""

    type: str
    source: str
    mounted_at: Path


def new_mount_namespace() -> None:
    """Give this process a mount namespace of its own, which the host's unmounts still reach. Raises OSError.
    Source: unshare(2), mount_namespaces(7)."""
    _check(_libc.unshare(_CLONE_NEWNS), Path("/"))
    receive_mounts()


def receive_mounts() -> None:
    """Let the host's mounts and unmounts reach this mount namespace, but none from here the host. Raises
    OSError."""
    _check(_libc.mount(None, b"/", None, _MS_REC | _MS_SLAVE, None), Path("/"))


def mount(kind: str, target: Path | str, options: str, attributes: int = 0) -> None:
    """Mount a new file system of type `kind`, named after it. Relative paths in `options` are
    relative to the current directory. Raises OSError."""
    arguments = (
        kind.encode(),
        os.fsencode(target),
        kind.encode(),
        attributes,
        os.fsencode(options),
    )
    _check(_libc.mount(*arguments), target)


def bind(source: Path | str, target: Path | str) -> None:
    """Bind `source`, with all mounts below it, to `target`. Raises OSError."""
    arguments = (os.fsencode(source), os.fsencode(target), None, _MS_BIND | _MS_REC, None)
    _check(_libc.mount(*arguments), target)


def bind_without_devices(directory: Path) -> None:
    """Bind a directory to itself with nodev, so that no device can be opened below it. Raises
    OSError."""
    bind(directory, directory)
    path, flags = os.fsencode(directory), _MS_REMOUNT | _MS_BIND | NO_SUID | NO_DEVICES
    _check(_libc.mount(None, path, None, flags, None), directory)


def withhold_from_copies(mounted: Path) -> None:
    """Exclude a mount from binds and copies of the mounts around it. Raises OSError."""
    _check(_libc.mount(None, os.fsencode(mounted), None, _MS_UNBINDABLE, None), mounted)


def change_root(mounted: Path) -> None:
    """Make a mount the root of this mount namespace and of all processes in it, and unmount the old
    root with all its mounts.

    The current directory is then the root. Raises OSError. Source: pivot_root(2), which describes
    stacking the new root on the old one.
    """
    os.chdir(mounted)
    _check(_libc.pivot_root(b".", b"."), mounted)
    _check(_libc.umount2(b".", MNT_DETACH), mounted)
    os.chdir("/")
    _check(_libc.mount(None, b"/", None, _MS_PRIVATE, None), mounted)


def copy_of(path: Path, *, recursive: bool = True) -> int:
    """A descriptor of a detached copy of the mount at a path (file or directory), with all mounts below
    it if `recursive`, for `restrict` and `attach`. Raises OSError. Source: open_tree(2)."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    result = _libc.syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags)
    _check(min(result, 0), path)
    return int(result)


def attach(copy: int, target: Path | str) -> None:
    """Mount a copy from `copy_of` at a path. Raises OSError. Source: move_mount(2)."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_SYMLINKS
    result = _libc.syscall(_MOVE_MOUNT, copy, b"", _AT_FDCWD, os.fsencode(target), flags)
    _check(result, target)


def restrict(
    mounted: Path | str | int, attributes: int, *, lift: int = 0, recursive: bool = True
) -> None:
    """Set `attributes` on the mount at a path, or on a copy, and on all mounts below it, and clear
    those in `lift`. Raises OSError. Source: mount_setattr(2)."""
    at, path = (mounted, b"") if isinstance(mounted, int) else (_AT_FDCWD, os.fsencode(mounted))
    flags = (_AT_RECURSIVE if recursive else 0) | (0 if path else _AT_EMPTY_PATH)
    wanted = (ctypes.c_uint64 * 4)(attributes, lift, 0, 0)
    result = _libc.syscall(
        _MOUNT_SETATTR, at, path, flags, ctypes.byref(wanted), ctypes.sizeof(wanted)
    )
    _check(result, os.fsdecode(path))


def can_restrict() -> bool:
    """Whether the kernel has the calls behind `copy_of`, `attach` and `restrict`."""
    if sys.platform != "linux":  # the number belongs to another call there, or to none
        return False
    # EBADF: only a kernel that has the call returns it.
    result = _libc.syscall(_MOUNT_SETATTR, -1, b"", 0, None, 0)
    return bool(result < 0 and ctypes.get_errno() != errno.ENOSYS)


def unmount(target: Path) -> None:
    """Detach a mount and all mounts below it from the namespace. Raises OSError, and Unprepared when
    umount(8) of illumos fails, which unmounts only this one."""
    if sys.platform == "sunos5":
        run_tool(f"unmounting {target}", "umount", "-f", target)
        return
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH), target)


def unmount_below(directory: Path) -> list[Path]:
    """Unmount everything below a directory, but not the directory itself. Returns the mount points. Raises
    OSError, and Unprepared when umount(8) of illumos fails."""
    prefix = f"{directory}/"
    below = [Path(point) for point in _points() if point.startswith(prefix)]
    for point in reversed(below):  # a later mount may be on an earlier one
        unmount(point)
    return below


def unmount_device(device: str) -> None:
    """Unmount the file systems on a device. Raises OSError, and Unprepared when umount(8) of illumos
    fails."""
    for each in reversed([each for each in _table() if each.source == device]):
        unmount(each.mounted_at)


def file_system_of(path: Path) -> FileSystem:
    """The file system of `path`, which exists: that of the last mount at the longest mount point above it.
    Raises OSError."""
    real = path.resolve(strict=True)
    above = [each for each in _table() if real.is_relative_to(each.mounted_at)]
    if not above:
        raise OSError(errno.ENOENT, "no file system is mounted there", str(path))
    longest = max(len(each.mounted_at.parts) for each in above)
    return [each for each in above if len(each.mounted_at.parts) == longest][-1]


def share(mounted: Path) -> None:
    """On Linux, let a later unmount of this mount, and of those below it, reach every mount namespace. Raises
    OSError. Source: mount_namespaces(7)."""
    if sys.platform == "linux":
        _check(_libc.mount(None, os.fsencode(mounted), None, _MS_REC | _MS_SHARED, None), mounted)


def _table() -> Iterator[FileSystem]:
    """All mounted file systems, each after those on which it is stacked. Source: proc_pid_mountinfo(5);
    mnttab(5) of illumos: device, mount point, type, options and time, separated by tabs."""
    if sys.platform == "sunos5":
        for line in MNTTAB.read_bytes().splitlines():
            if len(fields := line.split(b"\t")) == _MNTTAB_FIELDS:
                source, point, kind = map(os.fsdecode, fields[:3])
                yield FileSystem(kind, source, Path(point))
        return
    for line in MOUNTS.read_bytes().splitlines():
        before, _, after = line.partition(b" - ")
        kind, source = (_plain(field) for field in after.split(b" ")[:2])
        yield FileSystem(kind, source, Path(_plain(before.split(b" ")[4])))


def _points() -> Iterator[str]:
    """The mount points of `_table` alone: a worker has a hundred, and looks at them at its end."""
    if sys.platform == "sunos5":
        return (str(each.mounted_at) for each in _table())
    return (_plain(line.split(b" ", 5)[4]) for line in MOUNTS.read_bytes().splitlines())


def _plain(field: bytes) -> str:
    if b"\\" not in field:
        return os.fsdecode(field)
    return os.fsdecode(_ESCAPE.sub(_unescaped, field))


def _unescaped(escape: re.Match[bytes]) -> bytes:
    return bytes([int(escape[1], 8)])


def _check(result: int, target: Path | str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))
