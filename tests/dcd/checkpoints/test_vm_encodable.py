"""What a file system of a disk cannot hold is kept, brought near, or refused: it never changes unsaid."""

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.vm.disk import DiskLayout, FileSystem, Volume, VolumePartition
from dcd.checkpoints.vm.encodable import check_encodable
from dcd.checkpoints.vm.volumes import VOLUME_TOOLS, Place, make_volume
from statemachine.errors import CheckpointError
from store.host.tools import missing

LACKING = missing((*VOLUME_TOOLS["ext4"], *VOLUME_TOOLS["vfat"]))
pytestmark = pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}")

MIB = 1 << 20
EPOCH = 1_700_000_000
IDS: dict[FileSystem, str] = {"vfat": "4E5A-01B2"}
ANY_ID = "6a3c9f0e-3f0c-4c2e-9a55-0d5f0a1b2c3d"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    return tree


def partition(kind: FileSystem) -> VolumePartition:
    volume = Volume(kind, IDS.get(kind, ANY_ID), "", "/srv")
    return VolumePartition(1, "type", "guid", MIB, 64 * MIB, volume=volume)


def made(bench: Any, kind: FileSystem, tree: Path, epoch: int = EPOCH) -> str:
    """A disk with the tree in a partition, as tools name the partition."""
    disk = bench.root / "media/disk.img"
    with disk.open("xb") as file:
        file.truncate(66 * MIB)
    layout = DiskLayout("disk.img", 66 * MIB, 512, "guid", (partition(kind),))
    make_volume(bench.context(bench.doc()), Place(disk, layout, layout.partitions[0], epoch), tree)
    return f"{disk}{'@@' if kind == 'vfat' else '?offset='}{MIB}"


def refusal(kind: FileSystem, tree: Path, *apart: Path) -> CheckpointError:
    with pytest.raises(CheckpointError, match=f"{kind} cannot hold") as caught:
        check_encodable(partition(kind), tree, apart)
    assert "partition 1 (/srv)" in caught.value.brief
    assert caught.value.resolution
    return caught.value


def write(tree: Path, name: str, seconds: int = EPOCH) -> Path:
    path = tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.fsencode(name))
    os.utime(path, (seconds, seconds))
    return path


@pytest.mark.parametrize("seconds", [-(2**31), -1, 0, 2**31, 2_208_988_800, 2**32 + 5, 2**33 - 1])
def test_ext4_keeps_every_time_that_it_has(bench: Any, tree: Path, seconds: int) -> None:
    write(tree, "a dir/file", seconds)
    os.utime(tree / "a dir", (seconds, seconds))
    check_encodable(partition("ext4"), tree, ())
    where = made(bench, "ext4", tree)
    for name in ("/a dir", "/a dir/file"):
        told = subprocess.run(
            ["debugfs", "-R", f'stat "{name}"', where], capture_output=True, text=True, check=True
        ).stdout
        [line] = (line for line in told.splitlines() if line.strip().startswith("mtime:"))
        low, extra = (int(part, 16) for part in line.split()[1].split(":"))
        # Documentation/filesystems/ext4, "Inode Timestamps": a signed number, and two more bits.
        assert low - (2**32 if low >= 2**31 else 0) + ((extra & 3) << 32) == seconds


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no file system with times of 64 bits")
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_time_beyond_the_file_system_is_refused_with_the_file(kind: FileSystem) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        tree = Path(memory)
        write(tree, "usr/late", 18_000_000_000)
        write(tree, "usr/early", -(2**31) - 1)
        write(tree, "usr/fine")
        details = refusal(kind, tree).details
    assert "/usr/late: its time (18000000000 s since 1970)" in details
    assert "/usr/early" in details
    assert "/usr/fine" not in details


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a:b", "':'"),
        ("what?", "'?'"),
        ("back\\slash", "names"),
        ("bell\x07", "names"),
        ("dot.", "end in a dot"),
        ("blank ", "blank"),
        ("aux.txt", "device"),
        ("\udcff", "not UTF-8"),
        ("\U0001f600" * 63, None),
        ("README", None),
    ],
)
def test_a_name_that_fat_cannot_hold_is_refused(tree: Path, name: str, why: str | None) -> None:
    write(tree, f"dir/{name}")
    if why is None:
        check_encodable(partition("vfat"), tree, ())
    else:
        assert why in refusal("vfat", tree).details
    check_encodable(partition("ext4"), tree, ())


def test_names_that_are_the_same_for_fat_are_refused(tree: Path) -> None:
    write(tree, "EFI/debian/x")
    write(tree, "EFI/Debian/x")
    assert "/EFI/debian: for FAT the same name as Debian" in refusal("vfat", tree).details


def test_a_file_of_4_gib_does_not_go_into_fat(tree: Path) -> None:
    with write(tree, "large").open("wb") as file:
        file.truncate(2**32 - 1)
    check_encodable(partition("vfat"), tree, ())
    os.truncate(tree / "large", 2**32)
    assert str(2**32) in refusal("vfat", tree).details


def test_links_do_not_go_into_fat_and_what_is_apart_does_not_matter(tree: Path) -> None:
    write(tree, "inner/a:b")
    check_encodable(partition("vfat"), tree, (tree, tree / "inner"))
    (tree / "link").symlink_to("inner")
    assert "/link: FAT holds files and directories only" in refusal("vfat", tree).details


def test_times_that_fat_has_not_become_the_nearest_and_that_is_said(bench: Any, tree: Path) -> None:
    write(tree, "early", 3600)
    write(tree, "kept", EPOCH)
    write(tree, "late", 5_000_000_000)
    where = made(bench, "vfat", tree, epoch=0)
    told = subprocess.run(
        ["mdir", "-i", where, "::"],
        capture_output=True, text=True, check=True, env={**os.environ, "TZ": "UTC"},
    ).stdout  # fmt: skip
    found = {
        name: line
        for name in ("early", "kept", "late")
        for line in told.splitlines()
        if name in line
    }
    assert "1980-01-01" in found["early"]
    assert "2023-11-14" in found["kept"]
    assert "2107-12-31" in found["late"]
    said = [report.message for report in bench.reports]
    assert any("/early" in message for message in said)
    assert any("/late" in message for message in said)
    assert not any("/kept" in message for message in said)
