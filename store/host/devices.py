"""A /dev with only the devices that every program expects.

`mount_devices` mounts one for immediate use in the caller's mount namespace. It binds each device node
from the host; its file system is mounted nodev, so a node created in it, or anywhere in an image, gives
no access to a disk. `make_devices` creates the nodes of an image for the time before devtmpfs covers
them.
"""

import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

from store.host.mounts import NO_DEVICES, NO_SUID, READ_ONLY, bind, can_restrict, mount, restrict

ALL_DEVICES = "*"
"""Means the host's whole /dev: loop devices come and go, and appear only there."""

STANDARD = ("null", "zero", "full", "random", "urandom", "tty")

_NUMBERS = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
    "console": (5, 1),
    "ptmx": (5, 2),
}
"""Source: Linux, Documentation/admin-guide/devices.txt."""

LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}


def mount_devices(target: Path, more: Sequence[str] = ()) -> None:
    """Mount a /dev at `target`, with the standard devices and `more` (names in /dev), as far as the
    host has them. Raises OSError."""
    mount("tmpfs", target, "mode=755,size=1m", NO_SUID | NO_DEVICES)
    for name in (*STANDARD, *more):
        source, node = f"/dev/{name}", f"{target}/{name}"
        if os.access(source, os.F_OK):
            if "/" in name:
                Path(node).parent.mkdir(parents=True, exist_ok=True)
            os.mknod(node)
            bind(source, node)
            if can_restrict():
                # Writing to a device does not change its node; its mode and owner are the host's.
                restrict(node, READ_ONLY)
    for name, destination in LINKS.items():
        (target / name).symlink_to(destination)
    (target / "ptmx").symlink_to("pts/ptmx")
    for name in ("pts", "shm"):
        (target / name).mkdir()
    (target / "shm").chmod(0o1777)
    mount("devpts", target / "pts", "newinstance,ptmxmode=0666,mode=620", NO_SUID)


def make_devices(target: Path) -> None:
    """Create nodes, links and directories in the directory `target`, replacing different files in their
    places. Raises OSError."""
    for name, (major, minor) in _NUMBERS.items():
        node = target / name
        if not _is_node(node, os.makedev(major, minor)):
            _remove(node)
            os.mknod(node, stat.S_IFCHR, os.makedev(major, minor))
        node.chmod(0o666)
    for name, destination in LINKS.items():
        link = target / name
        if not (link.is_symlink() and str(link.readlink()) == destination):
            _remove(link)
            link.symlink_to(destination)
    for name in ("pts", "shm"):
        directory = target / name
        if directory.is_symlink() or not directory.is_dir():
            _remove(directory)
            directory.mkdir()


def _is_node(path: Path, device: int) -> bool:
    try:
        found = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == device


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
