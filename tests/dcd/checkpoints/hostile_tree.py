"""A tree with all that an archive of a root file system must keep, and what identifies a tree."""

import hashlib
import os
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from store.host.attributes import attributes_of

EPOCH = 1_700_000_000
OLD = 86_400
"""A time of 1970."""

# struct posix_acl_xattr: version 2, then (tag, permissions, id). The user is one that the build host has.
_NOBODY = 2**32 - 1
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, may, who)
    for tag, may, who in (
        *((1, 6, _NOBODY), (2, 7, 1), (4, 4, _NOBODY)),
        *((16, 7, _NOBODY), (32, 4, _NOBODY)),
    )
)
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
"""CAP_NET_RAW, permitted and effective."""
MIB = 1 << 20


def plant(root: Path) -> None:
    """Fill a directory. The times are old, and the order of making is not that of names."""
    (root / "usr/bin").mkdir(parents=True)
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "zeta").write_text("last")
    (root / "empty").touch()
    (root / "etc.d").touch()
    (root / "usr-x").mkdir()
    (root / "usr/bin/ping").write_bytes(b"\x7fELF" + bytes(100))
    os.chown(root / "usr/bin/ping", 7, 8)
    os.setxattr(root / "usr/bin/ping", "security.capability", CAPABILITY)
    (root / "usr/bin/su").write_text("su")
    (root / "usr/bin/su").chmod(0o4755)
    (root / "usr/bin/wall").write_text("wall")
    os.chown(root / "usr/bin/wall", 0, 70_000)
    (root / "usr/bin/wall").chmod(0o2755)
    (root / "shared").mkdir()
    (root / "shared").chmod(0o3777)
    os.setxattr(root / "shared", "system.posix_acl_default", ACL)
    (root / "acl").write_text("acl")
    os.setxattr(root / "acl", "system.posix_acl_access", ACL)
    (root / "note").write_text("note")
    os.setxattr(root / "note", "user.note", b"a=b\n\xff\0c")
    os.chown(root / "note", 4_000_000_000, 3_000_000)
    os.link(root / "note", root / "a-note")
    os.link(root / "note", root / "-note")
    with (root / "sparse").open("wb") as file:
        file.truncate(8 * MIB + 5)
        os.pwrite(file.fileno(), b"begin", 0)
        os.pwrite(file.fileno(), hashlib.shake_256(b"x").digest(9000), 3 * MIB + 77)
    with (root / "hole").open("wb") as file:
        file.truncate(MIB)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "loop", stat.S_IFBLK | 0o660, os.makedev(7, 300))
    os.mkfifo(root / "fifo")
    (root / "link").symlink_to("/etc//./passwd")
    (root / "dangling").symlink_to("x" * 150)
    os.lchown(root / "dangling", 5, 6)
    Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9\nline")).write_text("latin")
    (root / "gr\u00fc\u00dfe").write_text("umlaut")
    deep = root / ("d" * 120) / ("e" * 120)
    deep.mkdir(parents=True)
    (deep / ("f" * 120)).write_text("deep")
    Path(os.fsdecode(os.fsencode(deep) + b"/\xff" + b"g" * 110)).write_text("deep latin")
    (deep / "link").symlink_to("h" * 120)
    for where, directories, files in os.walk(root):
        for name in (*directories, *files):
            seconds = OLD if name == "zeta" else EPOCH - 1000
            os.utime(Path(where, name), (seconds, seconds), follow_symlinks=False)
    os.utime(root / "etc/passwd", ns=(0, (EPOCH - 5) * 10**9 + 250_000_000))
    os.utime(root, (EPOCH - 2000, EPOCH - 2000))


def add_socket(root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        where = os.open(root, os.O_PATH)
        try:
            one.bind(f"/proc/self/fd/{where}/socket")
        finally:
            os.close(where)


def fingerprint(
    root: Path, *, attributes: Callable[[str], bool] = lambda name: True, holes: bool = True
) -> dict[bytes, tuple[Any, ...]]:
    """What identifies each entry of a tree: kind, mode, owner, time, content, attributes, links, holes."""
    names: dict[tuple[int, int], list[bytes]] = {}
    found: dict[bytes, tuple[Any, ...]] = {}
    top = os.fsencode(root)
    for where, directories, files in os.walk(top):
        for name in (*directories, *files):
            path = where + b"/" + name
            below = os.path.relpath(path, top)
            status = os.lstat(path)
            content: Any = b""
            if stat.S_ISREG(status.st_mode):
                content = hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).hexdigest()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)  # noqa: PTH115 - as it is written
            elif not stat.S_ISDIR(status.st_mode):
                content = (os.major(status.st_rdev), os.minor(status.st_rdev))
            if not stat.S_ISDIR(status.st_mode):
                names.setdefault((status.st_dev, status.st_ino), []).append(below)
            sparse = stat.S_ISREG(status.st_mode) and status.st_blocks * 512 < status.st_size
            found[below] = (
                status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, content,
                sparse if holes else None,
                tuple(
                    (one, value)
                    for one, value in sorted(attributes_of(os.fsdecode(path)).items())
                    if attributes(one)
                ),
            )  # fmt: skip
    for group in names.values():
        for one in group:
            found[one] += (tuple(sorted(group)),)
    return found
