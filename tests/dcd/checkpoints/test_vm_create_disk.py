"""CreateDisk: a sparse disk with empty file systems of every kind, the same bytes each time."""

import os
import re
import stat
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.vm.create_disk import CreateDisk
from dcd.checkpoints.vm.disk import recorded_disk
from statemachine.errors import CheckpointError
from store.artifacts import FILE_MODE
from store.host.sparse import data_ranges
from store.host.tools import missing

LACKING = missing(CreateDisk.TOOLS)
pytestmark = pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}")

MIB = 1 << 20

PARTITIONS = """
<gpt_partition name="1" part_type="bios_boot"><size val="1mb"/></gpt_partition>
<gpt_partition name="2" part_type="esp"><size val="64mb"/></gpt_partition>
<gpt_partition name="3" part_type="swap"><size val="8mb"/>
  <format type="swap" label="swapped"/></gpt_partition>
<gpt_partition name="4" part_type="linux"><size val="300mb"/>
  <format type="xfs" label="var" mountpoint="/var"/></gpt_partition>
<gpt_partition name="5" part_type="linux"><size val="300mb"/>
  <format type="btrfs" label="srv" mountpoint="/srv"/></gpt_partition>
<gpt_partition name="6" part_type="linux"><size val="20mb"/>
  <format type="vfat" label="EXCHANGE" uuid="4e5a-01b2"/></gpt_partition>
<gpt_partition name="7" part_type="linux"><format type="ext4" label="root" mountpoint="/"/></gpt_partition>
"""
TARGET = f'<target><disk><disk_image name="disk.raw" size="2gb"/>{PARTITIONS}</disk></target>'
LARGE_SECTORS = """
<target><disk><disk_image name="disk.raw" size="1gb" sector_size="4096"/>
<gpt_partition name="1" part_type="esp"><size val="300mb"/></gpt_partition>
<gpt_partition name="2" part_type="linux"><size val="300mb"/><format type="xfs"/></gpt_partition>
<gpt_partition name="3" part_type="linux"><format type="ext4" mountpoint="/"/></gpt_partition>
</disk></target>
"""
UEFI = '<distro_spec><img_params><vm_im firmware="uefi"/></img_params></distro_spec>'


@pytest.fixture
def disk(bench: Any) -> Any:
    """Makes the disk and gives its file, its layout and the DOC."""

    def make(*elements: str) -> Any:
        doc = bench.execute(CreateDisk("disk"), *elements)
        return (*recorded_disk(bench.context(doc)), doc)

    return make


def probed(disk: Path, partition: Any) -> dict[str, str]:
    """What blkid(8) finds in the partition."""
    command = ["blkid", "--probe", "--output", "export", "--offset", str(partition.start)]
    found = subprocess.run(
        [*command, "--size", str(partition.size), disk], capture_output=True, text=True, check=True
    ).stdout
    return dict(line.split("=", 1) for line in found.splitlines())


def written(disk: Path) -> dict[int, bytes]:
    """What is not a hole, by where it begins."""
    with disk.open("rb") as file:
        descriptor = file.fileno()
        ranges = data_ranges(descriptor, disk.stat().st_size)
        return {start: os.pread(descriptor, end - start, start) for start, end in ranges}


def cut(disk: Path, partition: Any, result: Path) -> Path:
    """The partition as a file of its own."""
    first, last = partition.start, partition.start + partition.size
    with result.open("wb") as file:
        file.truncate(partition.size)
        for start, content in written(disk).items():
            if start + len(content) > first and start < last:
                part = content[max(0, first - start) : last - start]
                os.pwrite(file.fileno(), part, max(0, start - first))
    return result


CHECKS = {
    "ext4": ["e2fsck", "-fn"],
    "vfat": ["fsck.vfat", "-n"],
    "xfs": ["xfs_repair", "-n", "-f"],
    "btrfs": ["btrfs", "check"],
}


def test_each_partition_holds_the_file_system_that_is_asked_for(disk: Any, tmp_path: Path) -> None:
    path, layout, _ = disk(TARGET)
    assert path.stat().st_size == 2 << 30
    assert path.stat().st_blocks * 512 < 24 * MIB
    assert layout.volumes
    for partition in layout.volumes:
        found = probed(path, partition)
        volume = partition.volume
        assert (found["TYPE"], found["UUID"]) == (volume.type, volume.uuid)
        assert found.get("LABEL", "") == volume.label
        if volume.type in CHECKS:
            file = cut(path, partition, tmp_path / "partition")
            subprocess.run([*CHECKS[volume.type], file], check=True, capture_output=True)
            file.unlink()


def test_it_has_the_mode_of_what_is_delivered(disk: Any) -> None:
    """Its delivery, by another checkpoint, is then a link."""
    file, _, _ = disk(TARGET)
    assert stat.S_IMODE(file.stat().st_mode) == FILE_MODE


def test_a_disk_with_large_sectors_has_file_systems_for_them(disk: Any, tmp_path: Path) -> None:
    path, layout, _ = disk(LARGE_SECTORS, UEFI)
    esp, data, root = layout.partitions
    assert [probed(path, one)["BLOCK_SIZE"] for one in (esp, data, root)] == ["4096"] * 3
    assert probed(path, esp)["VERSION"] == "FAT32"
    for partition in (esp, data, root):
        file = cut(path, partition, tmp_path / "partition")
        subprocess.run([*CHECKS[partition.volume.type], file], check=True, capture_output=True)


def test_ext4_has_only_what_grub_and_older_kernels_know(disk: Any) -> None:
    path, layout, _ = disk()
    root = layout.mounted_at("/")
    shown = subprocess.run(
        ["dumpe2fs", "-h", f"{path}?offset={root.start}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    [features] = re.findall(r"Filesystem features: +(.*)", shown)
    assert not {"metadata_csum_seed", "orphan_file"} & set(features.split())
    assert str(uuid.uuid5(uuid.UUID(root.volume.uuid), "hash_seed")) in shown


def test_fat_in_a_partition_has_no_table_of_partitions(disk: Any) -> None:
    path, layout, _ = disk()
    esp = layout.mounted_at("/boot/efi")
    with path.open("rb") as file:
        for sector in (0, 6):
            file.seek(esp.start + sector * 512 + 446)
            assert file.read(66) == bytes(64) + b"\x55\xaa"


def test_the_same_manifest_gives_the_same_bytes(bench: Any, disk: Any) -> None:
    without = re.sub(
        r"<gpt_partition name=\"[45]\".*?</gpt_partition>", "", TARGET, flags=re.DOTALL
    )
    path, _, doc = disk(without)
    first = written(path)
    path.unlink()
    CreateDisk("disk").execute(bench.context(doc))
    assert written(path) == first
    path.unlink()
    environment = {"SOURCE_DATE_EPOCH": "1234567890"}
    CreateDisk("disk").execute(bench.context(doc, environment=environment))
    assert written(path) != first


def test_ids_by_chance_are_others_each_time(bench: Any, disk: Any) -> None:
    path, layout, doc = disk(TARGET.replace("size=", 'id="random" size=', 1))
    path.unlink()
    CreateDisk("disk").execute(bench.context(doc))
    _, other = recorded_disk(bench.context(doc))
    assert layout.uuid != other.uuid
    assert layout.mounted_at("/").volume.uuid != other.mounted_at("/").volume.uuid


def test_it_needs_only_the_tools_of_its_file_systems(bench: Any) -> None:
    assert CreateDisk("disk").needs(bench.doc()).tools == ("mformat", "mcopy", "mke2fs", "debugfs")
    assert "mkfs.xfs" in CreateDisk("disk").needs(bench.doc(TARGET)).tools


def test_a_file_that_is_there_is_not_overwritten(bench: Any) -> None:
    (bench.root / "media/disk.raw").write_text("precious")
    with pytest.raises(CheckpointError, match=r"there is a disk\.raw already"):
        bench.execute(CreateDisk("disk"), TARGET)
    assert (bench.root / "media/disk.raw").read_text() == "precious"
