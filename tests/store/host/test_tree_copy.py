"""Copying a tree without GNU cp, compared with what GNU cp copies."""

import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.host.tree_copy import copy_tree

pytestmark = pytest.mark.root


def described(directory: Path) -> Iterator[tuple[object, ...]]:
    """All entries, with everything that a copy has to keep."""
    links: dict[int, str] = {}
    for path in sorted([directory, *directory.rglob("*")]):
        name, status = str(path.relative_to(directory)), path.lstat()
        first = links.setdefault(status.st_ino, name)
        attributes = {
            each: os.getxattr(path, each, follow_symlinks=False)
            for each in os.listxattr(path, follow_symlinks=False)
        }
        content: object = None
        if stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        if stat.S_ISLNK(status.st_mode):
            content = path.readlink()
        owners = (status.st_uid, status.st_gid, status.st_rdev)
        yield name, first, status.st_mode, owners, status.st_mtime_ns, attributes, content


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "file").write_text("content")
    os.link(root / "a" / "file", root / "a" / "b" / "second")
    os.setxattr(root / "a" / "file", "user.note", b"kept")
    (root / "su").write_text("program")
    os.chown(root / "su", 1, 2)
    (root / "su").chmod(0o4755)
    (root / "link").symlink_to("/etc/passwd")
    (root / "dangling").symlink_to("a/none")
    os.chown(root / "link", 5, 6, follow_symlinks=False)
    os.mkfifo(root / "fifo", 0o620)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "socket"))
    with (root / "sparse").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    (root / os.fsdecode(b"bytes-\xff")).write_text("x")
    (root / "closed").mkdir(mode=0o2711)
    for path in (*root.rglob("*"), root):
        os.utime(path, ns=(1, 1_234_567_890_123_456_789), follow_symlinks=False)
    return root


def test_everything_is_kept_as_by_gnu_cp(tree: Path) -> None:
    theirs, ours = tree.with_name("theirs"), tree.with_name("ours")
    subprocess.run(["cp", "--archive", "--no-target-directory", tree, theirs], check=True)
    copy_tree(tree, ours)
    assert list(described(ours)) == list(described(theirs)) == list(described(tree))
    assert (ours / "sparse").stat().st_blocks < 100


def test_a_tree_too_deep_for_a_path_is_copied(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    name, depth = "d" * 200, 40
    here = os.open(source, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("last", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    copy_tree(source, tmp_path / "copy")
    found = subprocess.run(
        ["find", "copy", "-name", "last", "-printf", "%d"], cwd=tmp_path, capture_output=True
    )
    assert found.stdout == str(depth + 1).encode()
    subprocess.run(["rm", "-rf", source, tmp_path / "copy"], check=True)
