"""Walking through trees that code of images has written."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from statemachine.errors import CheckpointError
from store.layers import walk
from store.layers.content import PIECE_BYTES, differences, parse
from store.layers.delta import whole
from tests.store.deep import fill
from tests.store.layers.conftest import Subject, key_of

pytestmark = pytest.mark.root


def described(tree: Path, newest: int | None = None) -> dict[str, dict[str, object]]:
    content = whole(walk.describe(tree, stacked=False, newest=newest))
    return {each.path: each.after or {} for each in differences(parse(b""), content)}


def test_links_are_described_and_never_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    os.utime(outside / "secret", (2_000_000_000, 2_000_000_000))
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "to-file").symlink_to(outside / "secret")
    (tree / "to-directory").symlink_to(outside)

    found = described(tree, newest=1_000)

    assert {path: each["type"] for path, each in found.items()} == {
        "to-file": "link",
        "to-directory": "link",
    }
    assert (outside / "secret").stat().st_mtime == 2_000_000_000
    assert (tree / "to-file").lstat().st_mtime == 1_000


def test_what_takes_the_place_of_a_file_meanwhile_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("secret")
    tree = tmp_path / "tree"
    (tree / "directory").mkdir(parents=True)
    (tree / "directory" / "file").write_text("of the image")
    digests = walk._digests

    def swapped(*arguments: object) -> object:
        (tree / "directory").rename(tree / "gone")
        (tree / "directory").symlink_to(tmp_path)
        (tmp_path / "secret").rename(tmp_path / "file")
        return digests(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(walk, "_digests", swapped)
    with pytest.raises(OSError, match="changed while it was read"):
        described(tree)


def test_a_pipe_or_device_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.mknod(tmp_path / "tty", 0o600 | 0o020000, os.makedev(5, 0))
    assert {each["type"] for each in described(tmp_path).values()} == {"fifo", "char"}


def test_capabilities_and_access_lists_are_described(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    os.setxattr(file, "security.capability", bytes.fromhex("0100000200200000" + "00" * 12))
    subprocess.run(["setfacl", "-m", "u:77:rx", file], check=True)
    os.setxattr(file, "user.one", b"\x00\xff")
    assert described(tmp_path)["file"]["xattrs"] == {
        "security.capability": "AQAAAgAgAAAAAAAAAAAAAAAAAAA=",
        "system.posix_acl_access": "AgAAAAEABgD/////AgAFAE0AAAAEAAQA/////xAABQD/////IAAEAP////8=",
        "user.one": "AP8=",
    }


@pytest.mark.parametrize("size", [0, 1, 2**20 - 1, 2**20, 2**20 + 1, 5 * 2**20])
def test_a_file_has_its_sha256(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    found = described(tmp_path)["file"]
    assert (found["size"], found["sha256"]) == (size, hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("extra", [0, 1, PIECE_BYTES // 2])
def test_a_large_file_is_digested_by_pieces_whatever_its_holes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: int
) -> None:
    monkeypatch.setattr(walk, "PIECEWISE_BYTES", 10 * PIECE_BYTES)
    monkeypatch.setattr(walk, "_WINDOW_BYTES", 3 * PIECE_BYTES)
    size = 10 * PIECE_BYTES + extra
    places = (PIECE_BYTES - 1, 4 * PIECE_BYTES, 7 * PIECE_BYTES + 12345)
    for name in ("holes", "none"):
        with (tmp_path / name).open("wb") as file:
            if name == "none":
                file.write(bytes(size))
            file.truncate(size)
            for place in places:
                file.seek(place)
                file.write(b"data")
    content = (tmp_path / "none").read_bytes()
    pieces = (content[start : start + PIECE_BYTES] for start in range(0, size, PIECE_BYTES))
    expected = hashlib.sha256(b"".join(hashlib.sha256(each).digest() for each in pieces))

    found = described(tmp_path)

    assert found["holes"]["pieces"] == found["none"]["pieces"] == expected.hexdigest()
    assert "sha256" not in found["holes"]
    assert (tmp_path / "holes").stat().st_blocks * 512 < size // 2


def test_directories_too_deep_for_a_path_fail_the_checkpoint(subject: Subject) -> None:
    workspace = subject.begin(None)
    subject.change(workspace, lambda root: fill(root, 300))
    with pytest.raises(CheckpointError, match="so deep that no path leads to the last one"):
        subject.commit(workspace, "one")
    assert subject.store.find(key_of("one")) is None


def test_newer_times_are_set_back_and_older_ones_stay(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("")
    os.utime(tmp_path / "old", ns=(5, 1_999_999_999))
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "file").write_text("")
    os.utime(tmp_path / "new" / "file", (7, 3_000))

    described(tmp_path, newest=2_000)

    assert (tmp_path / "old").stat().st_mtime_ns == 1_999_999_999
    assert (tmp_path / "new").stat().st_mtime_ns == 2_000 * 10**9
    file = (tmp_path / "new" / "file").stat()
    assert (file.st_mtime_ns, file.st_atime_ns) == (2_000 * 10**9, 7 * 10**9)


def test_a_file_whose_hole_would_never_be_read_to_its_end_fails_the_checkpoint(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "LARGEST_BYTES", 1024**2)
    workspace = subject.begin(None)

    def leave_a_hole(root: Path) -> None:
        with (root / "hole").open("wb") as file:
            file.truncate(1024**2 + 1)

    subject.change(workspace, leave_a_hole)
    with pytest.raises(CheckpointError, match="too large"):
        subject.commit(workspace, "one")
    assert subject.store.find(key_of("one")) is None
