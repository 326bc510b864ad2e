"""Labels of real pools are rewritten while these are exported, and the pools go on as before."""

import subprocess
import time
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from dcd.platform import zfs_label
from dcd.platform.nvlist import NvList, NvPair, NvType, encode
from dcd.platform.zfs_label import LabelError, Part, Place, label_offsets, read_labels, relabel

SIZE = 2 << 20
REAL_SIZE = (64 << 20) + (100 << 10)
"""More than the least of a real device, and not a multiple of anything."""
ELSEWHERE = Place("/dev/dsk/c1t0d0s0", "/pci@0,0/disk@0,0:a", "id1,sd@SATA/a")


def made(place: Path, number: int, size: int = SIZE) -> Path:
    """An empty device in a file."""
    file = place / f"device-{number}"
    with file.open("wb") as stream:
        stream.truncate(size)
    return file


def artificial(place: Path, order: str = "<", state: int = 1, **more: str) -> Path:
    """A device with the labels of no real pool, written by a machine of that order of bytes."""
    leaf = NvList(
        (
            NvPair("type", NvType.STRING, "disk"),
            NvPair("guid", NvType.UINT64, 7),
            *(NvPair(name, NvType.STRING, text) for name, text in more.items()),
        )
    )
    mirror = NvList((NvPair("children", NvType.NVLIST_ARRAY, (NvList(), leaf)),))
    config = NvList(
        (
            NvPair("name", NvType.STRING, "tank"),
            NvPair("state", NvType.UINT64, state),
            NvPair("hostid", NvType.UINT64, 0xABC),
            NvPair("hostname", NvType.STRING, "builder"),
            NvPair("guid", NvType.UINT64, 7),
            NvPair("vdev_tree", NvType.NVLIST, mirror),
        )
    )
    file = made(place, 0)
    with file.open("r+b") as stream:
        for offset in label_offsets(SIZE):
            stream.seek(offset + (16 << 10))
            content = encode(config).ljust((112 << 10) - 40, b"\0")
            stream.write(zfs_label._sealed(content, offset, order))
    return file


def zpool(*arguments: str | Path) -> str:
    """What zpool printed. A pool is busy until some time after its last use: the kernel tells zfs-fuse
    of closed files when it comes to it."""
    for _ in range(300):
        result = subprocess.run(["zpool", *arguments], capture_output=True, text=True)
        if "pool is busy" not in result.stderr:
            break
        time.sleep(0.1)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.usefixtures("zfs_fuse")
@pytest.mark.parametrize(("kind", "devices"), [("", 1), ("mirror", 2), ("raidz", 3)])
def test_a_real_pool_is_imported_after_its_labels_were_rewritten(
    tmp_path: Path, kind: str, devices: int
) -> None:
    files = [made(tmp_path, number, REAL_SIZE) for number in range(devices)]
    pool = f"dcdtest{uuid.uuid4().hex[:8]}"
    zpool("create", "-m", tmp_path / "pool", pool, *([kind] if kind else []), *files)
    try:
        (tmp_path / "pool/file").write_bytes(b"content" * 10_000)
        with pytest.raises(LabelError, match="active, not exported"):
            relabel(Part(files[-1]), ELSEWHERE)
        zpool("export", pool)
        before = read_labels(Part(files[-1]))
        assert [label.number for label in before] == [0, 1, 2, 3]
        for label in before:
            written = config_region(files[-1], label.number)
            assert written == encode(label.config).ljust(len(written), b"\0")

        old = relabel(Part(files[-1]), ELSEWHERE)
        assert old == Place(str(files[-1]))
        assert relabel(Part(files[-1]), ELSEWHERE) is None
        shown = subprocess.run(["zdb", "-l", files[-1]], capture_output=True, text=True).stdout
        for value in ("/dev/dsk/c1t0d0s0", "/pci@0,0/disk@0,0:a", "id1,sd@SATA/a"):
            assert shown.count(value) == 4

        zpool("import", "-d", tmp_path, pool)
        zpool("scrub", pool)
        while "scrub in progress" in (status := zpool("status", pool)):
            pass
        assert "No known data errors" in status
        assert "with 0 errors" in status
        assert (tmp_path / "pool/file").read_bytes() == b"content" * 10_000
    finally:
        zpool("destroy", "-f", pool)


def config_region(file: Path, number: int) -> bytes:
    """What ZFS itself has written there, up to the trailer."""
    with file.open("rb") as stream:
        stream.seek(label_offsets(file.stat().st_size)[number] + (16 << 10))
        return stream.read((112 << 10) - 40)


def test_a_big_endian_machines_labels_stay_so(tmp_path: Path) -> None:
    file = artificial(tmp_path, ">", path="/old", devid="id1")
    assert relabel(Part(file), Place("/new")) == Place("/old", None, "id1")
    labels = read_labels(Part(file))
    assert [label.order for label in labels] == [">"] * 4
    assert {zfs_label.place(label) for label in labels} == {Place("/new")}


def test_without_a_path_the_path_stays_and_the_rest_goes(tmp_path: Path) -> None:
    file = artificial(tmp_path, path="/old", phys_path="/pci", devid="id1")
    assert relabel(Part(file), Place()) == Place("/old", "/pci", "id1")
    assert zfs_label.place(read_labels(Part(file))[0]) == Place("/old")
    assert relabel(Part(file), Place()) is None


def test_the_device_may_be_a_partition_of_a_disk(tmp_path: Path) -> None:
    device = artificial(tmp_path, path="/old")
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20) + device.read_bytes() + b"x" * (3 << 20))
    part = Part(disk, 1 << 20, SIZE)
    assert relabel(part, Place("/new")) == Place("/old")
    assert {zfs_label.place(label) for label in read_labels(part)} == {Place("/new")}
    content = disk.read_bytes()
    assert content[: 1 << 20] == bytes(1 << 20)
    assert content[-(3 << 20) :] == b"x" * (3 << 20)
    assert read_labels(Part(disk)) == []


def test_only_the_configurations_change(tmp_path: Path) -> None:
    file = artificial(tmp_path, path="/old")
    before = bytearray(file.read_bytes())
    relabel(Part(file), ELSEWHERE)
    after = bytearray(file.read_bytes())
    for offset in label_offsets(SIZE):
        region = slice(offset + (16 << 10), offset + (128 << 10))
        assert before[region] != after[region]
        before[region] = after[region] = bytes(112 << 10)
    assert before == after


@pytest.mark.parametrize("state", [0, 2, 3, 4, 9])
def test_a_pool_that_was_not_exported_is_left_alone(tmp_path: Path, state: int) -> None:
    file = artificial(tmp_path, state=state, path="/old")
    before = file.read_bytes()
    with pytest.raises(LabelError, match="not exported") as caught:
        relabel(Part(file), ELSEWHERE)
    assert "builder (hostid abc)" in caught.value.details
    assert file.read_bytes() == before


def test_an_active_pool_whose_machine_is_off_may_be_accepted(tmp_path: Path) -> None:
    file = artificial(tmp_path, state=0, path="/old")
    assert relabel(Part(file), ELSEWHERE, active=True) == Place("/old")
    with pytest.raises(LabelError, match="is destroyed"):
        relabel(Part(artificial(tmp_path, state=2, path="/old")), ELSEWHERE, active=True)


@pytest.mark.parametrize("number", range(4))
def test_a_damaged_label_is_told_and_nothing_is_written(tmp_path: Path, number: int) -> None:
    file = artificial(tmp_path, path="/old")
    with file.open("r+b") as stream:
        stream.seek(label_offsets(SIZE)[number] + (16 << 10) + 100)
        stream.write(b"damage")
    before = file.read_bytes()
    with pytest.raises(LabelError, match=f"label {number} of a ZFS device is damaged"):
        relabel(Part(file), ELSEWHERE)
    assert file.read_bytes() == before


def test_labels_of_different_times_are_told(tmp_path: Path) -> None:
    file = artificial(tmp_path, path="/old")
    (tmp_path / "other").mkdir()
    other = artificial(tmp_path / "other", path="/older").read_bytes()
    with file.open("r+b") as stream:
        stream.write(other[: 256 << 10])
    with pytest.raises(LabelError, match="do not agree"):
        relabel(Part(file), ELSEWHERE)


def test_a_label_in_the_place_of_another_is_not_sound(tmp_path: Path) -> None:
    content = artificial(tmp_path, path="/old").read_bytes()
    moved = tmp_path / "moved"
    moved.write_bytes(content[256 << 10 :])
    assert read_labels(Part(moved)) == []


@pytest.mark.parametrize("size", [0, 1000, 1 << 20, SIZE])
def test_what_is_no_device_of_a_pool_is_told(tmp_path: Path, size: int) -> None:
    file = made(tmp_path, 0, size)
    assert read_labels(Part(file)) == []
    with pytest.raises(LabelError, match="is no device of a ZFS pool"):
        relabel(Part(file), ELSEWHERE)


def test_a_place_that_does_not_fit_is_told(tmp_path: Path) -> None:
    file = artificial(tmp_path, path="/old")
    with pytest.raises(LabelError, match="does not fit"):
        relabel(Part(file), Place("/x" * (60 << 10)))


def test_a_label_that_does_not_name_its_device_is_told(tmp_path: Path) -> None:
    file = artificial(tmp_path, path="/old")
    label = read_labels(Part(file))[0]
    stranger = replace(label, config=label.config.with_value("guid", NvType.UINT64, 8))
    with pytest.raises(LabelError, match="does not have the location of its device"):
        zfs_label.place(stranger)
