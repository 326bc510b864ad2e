"""Files that are attached as block devices: loop devices of Linux, lofi devices of illumos.

Source: loop(4), linux/loop.h; lofiadm(8) of illumos.
"""

import contextlib
import fcntl
import os
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from statemachine.errors import DcdError
from store.host.filesystem_tools import run_tool
from store.host.mounts import unmount_device

_LOOP_CLR_FD, _LOOP_GET_STATUS64 = 0x4C01, 0x4C05
_STATUS64_BYTES, _FILE_NAME = 232, slice(56, 120)

_NOT_OURS = (FileNotFoundError, PermissionError)
"""A loop device that is gone, or that a daemon without root cannot open and so never attached."""


@dataclass(frozen=True, slots=True)
class Attached:
    """A device and its file, as the kernel shows its path. `noted` is the beginning of the path that was
    given when it was attached, `device` and `inode` are those of the file (0: unknown)."""

    name: str
    shown: str
    noted: str = ""
    device: int = 0
    inode: int = 0


def any_attached() -> bool:
    """Whether there is any such device."""
    return bool(_names()) if sys.platform != "sunos5" else any(_lofi())


def detach_files(ours: Callable[[Attached], bool]) -> list[str]:
    """Detach the devices for which `ours` says so, of those that this process can open. Returns their names.
    On illumos, where no namespace ends with a worker, unmount them before. Raises OSError, and Unprepared
    when lofiadm(8) or umount(8) fails."""
    detached = []
    if sys.platform == "sunos5":
        for found in filter(ours, _lofi()):
            unmount_device(found.name)
            run_tool(f"detaching {found.name}", "lofiadm", "-d", found.name)
            detached.append(found.name)
        return detached
    for name in _names():
        # Held open from the look to the detachment: it cannot become somebody else's in between.
        with contextlib.suppress(*_NOT_OURS), Path("/dev", name).open("rb") as opened:
            shown = Path("/sys/block", name, "loop/backing_file").read_text()
            device, inode, noted = _backing(opened.fileno())
            if ours(Attached(name, shown, noted, device, inode)):
                fcntl.ioctl(opened, _LOOP_CLR_FD)
                detached.append(name)
    return detached


def _names() -> list[str]:
    return sorted(
        path.parent.parent.name for path in Path("/sys/block").glob("loop*/loop/backing_file")
    )


def parse_lofiadm(listing: str) -> Iterator[Attached]:
    """The devices that lofiadm(8) lists without an option: a heading, then device, file and options in
    columns. A file's name may have blanks, the options after it are words or `-`."""
    for line in listing.splitlines()[1:]:
        device, _, rest = line.partition(" ")
        path = rest.strip().rpartition(" ")[0].rstrip()
        if device.startswith("/dev/") and path:
            yield Attached(device, path, path)


def _lofi() -> Iterator[Attached]:
    try:
        listing = run_tool("listing lofi devices", "lofiadm")
    except DcdError:  # no driver in this zone, so no device either
        return
    yield from parse_lofiadm(listing)


def _backing(loop: int) -> tuple[int, int, str]:
    """Device and inode numbers and noted name of the file behind a loop device (struct loop_info64). They
    are unknown (0, 0, "") if the file system has died, as FUSE's can; that of layers cannot."""
    try:
        status = fcntl.ioctl(loop, _LOOP_GET_STATUS64, bytes(_STATUS64_BYTES))
    except OSError:
        return 0, 0, ""
    name = status[_FILE_NAME].split(b"\0")[0]
    device, inode = struct.unpack_from("=QQ", status)
    return device, inode, os.fsdecode(name)
