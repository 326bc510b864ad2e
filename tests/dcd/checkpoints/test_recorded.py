"""The disk and media that later checkpoints rely on: no checkpoint leaves another file in their place."""

import os
import re
import tarfile
import time
from pathlib import Path

import pytest

from dcd.checkpoints.custom_script import CustomScript
from dcd.checkpoints.interface import Context
from dcd.checkpoints.media.usb import CreateUSB
from dcd.checkpoints.recorded import record_medium, recorded_files_kept, recorded_media
from dcd.checkpoints.transfer.archive import TransferArchive
from dcd.checkpoints.transfer.cpio import TransferCPIO
from dcd.checkpoints.vm.disk import (
    DiskLayout,
    DiskPartition,
    Volume,
    VolumePartition,
    record_disk,
    recorded_disk,
)
from dcd.manifest.doc import DataObjectDict
from statemachine.errors import CheckpointError

INTO_MEDIA = (
    '<software name="test" type="{}"><destination><dir path="{{MEDIA_DIR}}"/></destination>'
    '<source><dir path="{{PKG_IMAGE_PATH}}/there"/></source></software>'
)
CONTENT = b"made by dcd" * 100


def after_making(bench, *elements: str, inputs: dict[str, Path] | None = None) -> Context:
    """Of a checkpoint that comes after those which have made a disk and an ISO."""
    doc = bench.doc(*elements)
    for name in ("disk.raw", "a.iso"):
        (bench.root / "media" / name).write_bytes(CONTENT)
    before = bench.context(doc)
    layout = DiskLayout("disk.raw", len(CONTENT), 512, "", ())
    record_disk(before, bench.root / "media/disk.raw", layout)
    record_medium(before, "iso", bench.root / "media/a.iso")
    return bench.context(doc, inputs=inputs)


@pytest.fixture
def context(bench) -> Context:
    return after_making(bench)


def replaced(name: str):
    return pytest.raises(CheckpointError, match=re.escape(f"media/{name} was replaced or changed"))


def unpack(path: Path, status: os.stat_result, archive: Path) -> None:
    """A file of the same size, mode and times, out of an archive."""
    with tarfile.open(archive, "w") as tar:
        member = tarfile.TarInfo(path.name)
        member.size, member.mode, member.mtime = status.st_size, 0o644, int(status.st_mtime)
        with path.open("rb") as content:
            tar.addfile(member, content)


@pytest.mark.root
@pytest.mark.parametrize("name", ["disk.raw", "a.iso"])
def test_an_archive_over_it_fails(bench, tmp_path, name):
    archive = tmp_path / "a.tar"
    context = after_making(bench, INTO_MEDIA.format("ARCHIVE"), inputs={str(archive): archive})
    there = bench.root / "media" / name
    unpack(there, there.stat(), archive)
    with replaced(name), recorded_files_kept(context):
        TransferArchive("test", archive).execute(context)


@pytest.mark.root
@pytest.mark.parametrize("name", ["disk.raw", "a.iso"])
def test_a_copy_over_it_fails(bench, name):
    context = after_making(bench, INTO_MEDIA.format("DIR"))
    (bench.image / "there").mkdir()
    (bench.image / "there" / name).write_bytes(CONTENT)
    with replaced(name), recorded_files_kept(context):
        TransferCPIO("test").execute(context)


@pytest.mark.parametrize("how", ["written", "moved away", "removed", "linked", "mode", "times"])
def test_every_kind_of_change_is_seen(bench, context, how):
    disk = bench.root / "media/disk.raw"
    before = disk.stat()
    time.sleep(0.02)  # The clock of file systems has ticks.
    with replaced("disk.raw"), recorded_files_kept(context):
        match how:
            case "written":
                with disk.open("r+b") as file:
                    file.write(b"M")
                os.utime(disk, ns=(before.st_atime_ns, before.st_mtime_ns))
            case "moved away":
                disk.rename(bench.root / "media/other")
            case "removed":
                disk.unlink()
            case "linked":
                disk.rename(bench.root / "media/other")
                disk.symlink_to("other")
            case "mode":
                disk.chmod(0o4755)
            case "times":
                os.utime(disk, (0, 0))


def test_reading_it_and_what_is_made_anew_is_no_change(bench, context):
    with recorded_files_kept(context):
        recorded_disk(context)[0].read_bytes()
        (bench.root / "media/b.qcow2").write_bytes(b"x")
        record_medium(context, "qcow2", bench.root / "media/b.qcow2")
        (bench.root / "media/a.iso").write_bytes(b"a better one")
        record_medium(context, "iso", bench.root / "media/a.iso")


def test_whoever_says_so_changes_the_disk(bench, context):
    with recorded_files_kept(context):
        disk, _ = recorded_disk(context, change=True)
        disk.write_bytes(b"installed")


def test_a_stick_made_from_the_iso_is_no_change(bench, context):
    with recorded_files_kept(context):
        CreateUSB("usb").execute(context)
    usb = recorded_media(context)["usb"]
    assert usb is not None
    assert usb.read_bytes() == CONTENT


def test_a_command_on_the_host_may_change_it(bench, context):
    command = f"dd if=/dev/zero of={bench.root}/media/disk.raw bs=1 count=1 conv=notrunc"
    with recorded_files_kept(context):
        CustomScript("script", command=command).execute(context)
    assert (bench.root / "media/disk.raw").read_bytes() == b"\0" + CONTENT[1:]


def test_the_record_of_a_disk_of_an_earlier_version_is_read(bench) -> None:
    """A partition without a volume had `volume: null`; the layer that holds the record outlives an update."""
    place = {"type": "t", "uuid": "u", "start": 1, "size": 2, "label": ""}
    volume = {"type": "ext4", "uuid": "v", "label": "", "mountpoint": "/", "options": "defaults"}
    partitions = [
        {"number": 1, **place, "volume": None},
        {"number": 2, **place, "volume": volume},
    ]
    layout = {"name": "d", "size": 9, "sector_size": 512, "uuid": "x", "partitions": partitions}
    context = bench.context(bench.empty_doc())
    context.doc.persistent.insert_children(
        DataObjectDict("disk", {"path": "media/d", "layout": layout})
    )
    _, found = recorded_disk(context)
    assert [type(one) for one in found.partitions] == [DiskPartition, VolumePartition]
    root = found.mounted_at("/")
    assert root is not None
    assert (root.number, root.volume) == (2, Volume("ext4", "v", mountpoint="/"))
    record_disk(context, bench.root / "media/d", found)
    assert recorded_disk(context)[1] == found
