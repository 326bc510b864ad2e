"""CompressedDisk, GCEImage, VagrantBox, and the VHD for Azure: disks as their importers read them."""

import gzip
import hashlib
import json
import os
import re
import struct
import subprocess
import tarfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from lxml import etree

from dcd.checkpoints.cloud.compressed_disk import CompressedDisk
from dcd.checkpoints.cloud.gce import GCEImage
from dcd.checkpoints.cloud.vagrant import VagrantBox
from dcd.checkpoints.interface import Context
from dcd.checkpoints.recorded import recorded_media
from dcd.checkpoints.vm.convert import Convert
from dcd.checkpoints.vm.disk import DiskLayout, DiskPartition, Volume, VolumePartition, record_disk
from dcd.checkpoints.vm.volumes import Place, make_volume
from dcd.manifest.diagnostics import refuse
from dcd.manifest.values import BadValue, convert
from statemachine.errors import CheckpointError, InvalidManifest

pytestmark = pytest.mark.slow

MIB = 1 << 20
GIB = 1 << 30
EPOCH = 1_700_000_000
ROOT_START, ROOT_BYTES = 18 * MIB, 40 * MIB
ESP_START, ESP_BYTES = 2 * MIB, 16 * MIB
MACHINE = "<distro_spec><img_params><vm_im>{}</vm_im></img_params></distro_spec>"


def run(*argv: Any, **options: Any) -> str:
    return subprocess.run(
        [*map(str, argv)], check=True, capture_output=True, text=True, **options
    ).stdout


def context_of(bench: Any, *elements: str) -> Context:
    context: Context = bench.context(
        bench.doc(*elements), environment={"SOURCE_DATE_EPOCH": str(EPOCH)}
    )
    return context


def with_volumes(bench: Any) -> tuple[Context, Path]:
    """A disk with a BIOS boot partition, an ESP and an ext4 root, both with a file."""
    context = context_of(bench, MACHINE.format('<vm_format type="raw"/>'))
    identity = str(uuid.uuid5(uuid.NAMESPACE_OID, "test"))
    esp = VolumePartition(
        2, identity, identity, ESP_START, ESP_BYTES, volume=Volume("vfat", "1234-ABCD")
    )
    root = VolumePartition(
        3, identity, identity, ROOT_START, ROOT_BYTES, volume=Volume("ext4", identity)
    )
    partitions = (DiskPartition(1, identity, identity, MIB, MIB), esp, root)
    layout = DiskLayout("disk.img", 64 * MIB, 512, identity, partitions)
    disk = bench.root / "media/disk.img"
    with disk.open("wb") as file:
        file.truncate(layout.size)
        os.pwrite(file.fileno(), b"table", 0)
    for partition in (esp, root):
        tree = bench.root / f"tree-{partition.number}"
        tree.mkdir()
        (tree / "content").write_bytes(hashlib.shake_256(b"x").digest(MIB))
        make_volume(context, Place(disk, layout, partition, EPOCH), tree)
    record_disk(context, disk, layout)
    return context, disk


@contextmanager
def used_device(tmp_path: Path, size: int) -> Iterator[str]:
    """A block device that is full of what was on it before."""
    backing = tmp_path / "device"
    backing.write_bytes(b"\xa5" * size)
    device = run("losetup", "--find", "--show", backing).strip()
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


@pytest.mark.root
@pytest.mark.parametrize("compression", ["zstd", "xz", "gzip"])
def test_bmaptool_writes_a_disk_that_starts_on_a_used_medium(
    bench: Any, tmp_path: Path, compression: Any
) -> None:
    context, disk = with_volumes(bench)
    CompressedDisk("compress", compression=compression).execute(context)
    mapping, packed = (bench.root / artifact.path for artifact in bench.artifacts)
    assert mapping.name == "test.raw.bmap"
    with used_device(tmp_path, 64 * MIB) as device:
        # It checks the digests of the map and of each range.
        run("bmaptool", "copy", "--bmap", mapping, packed, device)
        written = Path(device).read_bytes()
    original = disk.read_bytes()
    assert written != original, "free space was not written"
    for start, size, check in (
        (ESP_START, ESP_BYTES, ("fsck.fat", "-n")),
        (ROOT_START, ROOT_BYTES, ("e2fsck", "-fn")),
    ):
        volume = tmp_path / "volume"
        volume.write_bytes(written[start : start + size])
        run(*check, volume)
    (tmp_path / "out").mkdir()
    run("debugfs", "-R", f"dump /content {tmp_path}/out/content", tmp_path / "volume")
    expected = (bench.root / "tree-3/content").read_bytes()
    assert (tmp_path / "out/content").read_bytes() == expected


@pytest.mark.root
def test_zeros_that_a_file_system_relies_on_are_mapped(bench: Any) -> None:
    """The tables of inodes and the journal are holes of the file; a map of what is allocated lacks them."""
    context, disk = with_volumes(bench)
    CompressedDisk("compress").execute(context)
    root = etree.parse(bench.root / "media/test.raw.bmap").getroot()
    mapped = int(root.findtext("MappedBlocksCount") or 0)
    total = int(root.findtext("BlocksCount") or 0)
    allocated = disk.stat().st_blocks * 512 // 4096
    assert allocated < mapped < total
    shown = run("dumpe2fs", "-h", f"{disk}?offset={ROOT_START}")
    free = int(next(line for line in shown.splitlines() if "Free blocks" in line).split()[-1])
    assert mapped == 1 + (MIB + ESP_BYTES + ROOT_BYTES) // 4096 - free


@pytest.mark.root
def test_the_map_depends_on_the_content_alone(bench: Any) -> None:
    context, disk = with_volumes(bench)
    CompressedDisk("compress").execute(context)
    first = (bench.root / "media/test.raw.bmap").read_bytes()
    content = disk.read_bytes()
    disk.write_bytes(content)  # without holes
    CompressedDisk("compress").execute(context)
    assert (bench.root / "media/test.raw.bmap").read_bytes() == first
    packed = bench.root / "media/test.raw.zst"
    assert subprocess.check_output(["zstd", "-dc", packed]) == content


@pytest.mark.root
def test_without_a_map_only_the_disk_is_compressed(bench: Any) -> None:
    context, disk = with_volumes(bench)
    status = disk.stat()
    CompressedDisk("compress", bmap=False, compression="xz", level=0).execute(context)
    assert [artifact.name for artifact in bench.artifacts] == ["test.raw.xz"]
    assert disk.stat().st_ctime_ns == status.st_ctime_ns, "later checkpoints rely on it"


def with_disk(bench: Any, size: int, *elements: str) -> tuple[Context, Path]:
    context = context_of(bench, *elements)
    disk = bench.root / "media/disk.img"
    with disk.open("wb") as file:
        file.truncate(size)
        os.pwrite(file.fileno(), hashlib.shake_256(b"y").digest(3 * MIB), MIB + 512)
        os.pwrite(file.fileno(), b"end", size - 3)
    record_disk(context, disk, DiskLayout("disk.img", size, 512, "8d2c-guid", ()))
    return context, disk


def test_a_gce_image_is_one_sparse_disk_raw_in_the_old_format(bench: Any, tmp_path: Path) -> None:
    context, disk = with_disk(bench, GIB)
    GCEImage("gce").execute(context)
    archive = bench.root / bench.artifacts[-1].path
    assert archive.name == "test-gce.tar.gz"
    with tarfile.open(archive) as tar:
        (member,) = tar.getmembers()
        assert (member.name, member.size, member.type) == ("disk.raw", GIB, tarfile.GNUTYPE_SPARSE)
        assert (member.mode, member.uid, member.gid, member.mtime) == (0o644, 0, 0, EPOCH)
    with gzip.open(archive) as file:
        assert file.read(512)[257:265] == b"ustar  \0"
    run("tar", "--extract", "--file", archive, "--directory", tmp_path)
    run("cmp", disk, tmp_path / "disk.raw")
    first = archive.read_bytes()
    os.utime(disk, (1, 1))
    GCEImage("gce").execute(context)
    assert archive.read_bytes() == first


@pytest.mark.parametrize(
    ("size", "problem"), [("1536mb", "a whole number of GiB"), ("3tb", "too large for Compute")]
)
def test_a_disk_that_gce_does_not_import_is_refused_before_it_is_made(
    bench: Any, size: str, problem: str
) -> None:
    target = f'<target><disk><disk_image name="d.raw"\nsize="{size}"/></disk></target>'
    (found,) = GCEImage("gce").check(bench.doc(target))
    assert problem in found.message
    assert found.line is not None
    assert "gb" in found.suggestion


def test_a_disk_of_another_size_is_refused_where_only_the_disk_is_known(bench: Any) -> None:
    context, _ = with_disk(bench, 80 * MIB)
    with pytest.raises(CheckpointError, match="whole number of GiB"):
        GCEImage("gce").execute(context)
    assert bench.artifacts == []


def unpacked(bench: Any, directory: Path) -> Path:
    directory.mkdir()
    run(
        "tar",
        "--extract",
        "--file",
        bench.root / bench.artifacts[-1].path,
        "--directory",
        directory,
    )
    return directory


@pytest.mark.parametrize("converted", [False, True])
def test_a_box_for_libvirt_has_the_disk_as_qcow2(
    bench: Any, tmp_path: Path, converted: bool
) -> None:
    context, disk = with_disk(bench, 80 * MIB, MACHINE.format('<vm_format type="qcow2"/>'))
    if converted:
        Convert("convert").execute(context)
    VagrantBox("box").execute(context)
    assert bench.artifacts[-1].name == "test-libvirt.box"
    box = unpacked(bench, tmp_path / "box")
    assert sorted(path.name for path in box.iterdir()) == [
        "Vagrantfile",
        "box.img",
        "metadata.json",
    ]
    assert json.loads((box / "metadata.json").read_text()) == {
        "provider": "libvirt", "format": "qcow2", "virtual_size": 1,
    }  # fmt: skip
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", disk, box / "box.img")


def test_a_box_for_virtualbox_has_a_descriptor_of_its_disk(bench: Any, tmp_path: Path) -> None:
    context, disk = with_disk(bench, 80 * MIB, MACHINE.format('<vm_network model="virtio"/>'))
    VagrantBox("box", provider="virtualbox").execute(context)
    box = unpacked(bench, tmp_path / "box")
    root = etree.parse(box / "box.ovf").getroot()
    namespace = etree.QName(root).namespace
    (reference,) = root.iter(f"{{{namespace}}}File")
    named = box / reference.get(f"{{{namespace}}}href", "")
    assert named.stat().st_size == int(reference.get(f"{{{namespace}}}size", "0"))
    run("qemu-img", "compare", "-f", "raw", "-F", "vmdk", disk, named)
    assert json.loads((box / "metadata.json").read_text()) == {"provider": "virtualbox"}
    assert "base_mac" in (box / "Vagrantfile").read_text()


def test_a_box_without_the_user_vagrant_is_warned_of(bench: Any) -> None:
    (found,) = VagrantBox("box").check(bench.doc())
    assert (found.severity, "no user vagrant" in found.message) == ("warning", True)
    user = '<configuration name="c"><user name="vagrant"/></configuration>'
    assert list(VagrantBox("box").check(bench.doc(user))) == []


def test_a_box_of_a_machine_that_importers_do_not_know_is_refused(bench: Any) -> None:
    machine = MACHINE.format("").replace("<vm_im", '<vm_im os_type="Plan9"')
    with pytest.raises(InvalidManifest, match="do not know the operating system"):
        refuse(VagrantBox("box", provider="virtualbox").check(bench.doc(machine)))


def test_a_fixed_vhd_is_what_azure_demands(bench: Any) -> None:
    """A whole number of MiB, then a footer of 512 bytes with the same current size and a right checksum."""
    form = MACHINE.format('<vm_format type="vhd" subformat="fixed"/>')
    context, disk = with_disk(bench, 80 * MIB, form)
    Convert("convert").execute(context)
    image = recorded_media(context)["vhd-fixed"]
    content = image.read_bytes()
    footer = content[-512:]
    assert len(content) - 512 == 80 * MIB
    assert content[:-512] == disk.read_bytes()
    assert footer[:8] == b"conectix"
    assert struct.unpack(">I", footer[60:64]) == (2,), "fixed"
    assert struct.unpack(">QQ", footer[40:56]) == (80 * MIB, 80 * MIB)
    total = sum(footer[:64] + footer[68:])
    assert struct.unpack(">I", footer[64:68]) == (~total & 0xFFFFFFFF,)
    read = json.loads(run("qemu-img", "info", "-f", "vpc", "--output", "json", image))
    assert read["virtual-size"] == 80 * MIB
    told = run("vhdiinfo", image)
    assert re.search(r"Disk type\s*: Fixed", told)
    assert re.search(rf"Media size\s*: .*{80 * MIB} bytes", told)


@pytest.mark.parametrize(
    ("cls", "argument", "text"),
    [(CompressedDisk, "compression", "brotli"), (VagrantBox, "provider", "vmware")],
)
def test_an_unknown_compression_or_provider_is_refused(cls: Any, argument: str, text: str) -> None:
    with pytest.raises(BadValue):
        convert(text, get_type_hints(cls, include_extras=True)[argument])


@pytest.mark.parametrize("checkpoint", [CompressedDisk("c", level=20), GCEImage("g", level=0)])
def test_a_level_that_does_not_exist_is_refused(bench: Any, checkpoint: Any) -> None:
    with pytest.raises(InvalidManifest, match="has no level"):
        refuse(checkpoint.check(bench.doc()))
