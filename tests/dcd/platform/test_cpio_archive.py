"""cpio archives: what cpio(1) writes is read back, and no bytes at all lead out of the destination."""

import contextlib
import io
import os
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcd.platform.cpio_archive import unpack_cpio
from statemachine.errors import CheckpointError


def packed(tree: Path, form: str) -> bytes:
    names = b"\n".join(
        os.fsencode(path.relative_to(tree)) for path in [tree, *sorted(tree.rglob("*"))]
    )
    command = ["cpio", "--create", "--quiet", "--format", form]
    return subprocess.run(command, input=names, cwd=tree, capture_output=True, check=True).stdout


def make_tree(tree: Path) -> None:
    (tree / "dir").mkdir()
    (tree / "dir/file").write_bytes(b"content\0" * 1000)
    (tree / "empty").touch()
    (tree / "link").symlink_to("dir/../no such")
    (tree / "one").write_text("shared")
    (tree / "two").hardlink_to(tree / "one")
    os.utime(tree / "dir", (1_000_000_000, 1_000_000_000))


@pytest.mark.parametrize("form", ["newc", "crc", "odc"])
def test_what_cpio_packs_is_unpacked(tmp_path: Path, form: str) -> None:
    (tmp_path / "tree").mkdir()
    make_tree(tmp_path / "tree")
    (tmp_path / "out").mkdir()
    unpack_cpio(io.BytesIO(packed(tmp_path / "tree", form)), tmp_path / "out")
    out = tmp_path / "out"
    assert (out / "dir/file").read_bytes() == b"content\0" * 1000
    assert (out / "empty").stat().st_size == 0
    assert (out / "link").readlink() == Path("dir/../no such")
    assert (out / "one").samefile(out / "two")
    assert (out / "two").read_text() == "shared"
    assert (out / "dir").stat().st_mtime == 1_000_000_000


@pytest.mark.root
def test_devices_and_owners_are_kept(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    os.mknod(tree / "null", stat.S_IFCHR | 0o640, os.makedev(1, 3))
    os.chown(tree / "null", 12, 34)
    (tmp_path / "out").mkdir()
    unpack_cpio(io.BytesIO(packed(tree, "newc")), tmp_path / "out")
    status = (tmp_path / "out/null").stat()
    assert (status.st_rdev, status.st_uid, status.st_gid) == (os.makedev(1, 3), 12, 34)
    assert stat.S_IMODE(status.st_mode) == 0o640


def test_a_symbolic_link_to_nothing_is_damage(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/link").symlink_to("x")
    emptied = packed(tmp_path / "tree", "newc").replace(b"x" + bytes(3) + b"07", bytes(4) + b"07")
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="damaged"):
        unpack_cpio(io.BytesIO(emptied), tmp_path / "out")


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    tree = tmp_path_factory.mktemp("tree")
    make_tree(tree)
    (tree / "dir/file").write_text("short")
    return packed(tree, "newc")


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_a_damaged_archive_is_an_error_or_harmless(sample: bytes, data: st.DataObject) -> None:
    damaged = bytearray(sample)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(damaged) - 1))
        damaged[position] = data.draw(st.sampled_from(b"0179afAF/.\0 x"))
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "out"
        out.mkdir()
        with contextlib.suppress(CheckpointError):
            unpack_cpio(io.BytesIO(bytes(damaged)), out)
        assert os.listdir(name) == ["out"]  # noqa: PTH208
