"""Convert: every format holds what the disk holds, by qemu-img's own judgement and by reading it back."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dcd.checkpoints.interface import Context
from dcd.checkpoints.recorded import recorded_media
from dcd.checkpoints.vm import conversion
from dcd.checkpoints.vm.convert import Convert
from dcd.checkpoints.vm.disk import DiskLayout, record_disk
from dcd.checkpoints.vm.format_ids import derive_ids
from dcd.checkpoints.vm.ova import CreateOVA
from dcd.checkpoints.vm.stream_vmdk import write_stream_vmdk
from dcd.manifest.diagnostics import refuse
from dcd.manifest.values import BadValue, convert
from statemachine.errors import CheckpointError, InvalidManifest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("qemu-img") is None, reason="no qemu-utils"),
]

MIB = 1 << 20
DISK_BYTES = 80 * MIB

DRIVERS = {
    "qcow2": "qcow2",
    "vmdk": "vmdk",
    "vmdk-monolithicSparse": "vmdk",
    "vdi": "vdi",
    "vhd": "vpc",
    "vhd-fixed": "vpc",
    "vhdx": "vhdx",
}

ALL = (
    '<vm_format type="raw"/>',
    '<vm_format type="qcow2" compression="zstd"/>',
    '<vm_format type="vmdk"/>',
    '<vm_format type="vmdk" subformat="monolithicSparse"/>',
    '<vm_format type="vdi"/>',
    '<vm_format type="vhd"/>',
    '<vm_format type="vhd" subformat="fixed"/>',
    '<vm_format type="vhdx"/>',
    '<vm_format type="ova"/>',
)


def machine(*formats: str) -> str:
    return f"<distro_spec><img_params><vm_im>{''.join(formats)}</vm_im></img_params></distro_spec>"


def write_disk(path: Path, size: int = DISK_BYTES) -> Path:
    """A sparse disk: something that compresses, something that does not, and zeros that are written."""
    with path.open("wb") as file:
        file.truncate(size)
        os.pwrite(file.fileno(), b"first sector".ljust(512, b"\1"), 0)
        if size > 60 * MIB:
            os.pwrite(file.fileno(), hashlib.shake_256(b"noise").digest(3 * MIB), 33 * MIB + 512)
            os.pwrite(file.fileno(), bytes(2 * MIB), 50 * MIB)
        os.pwrite(file.fileno(), b"last sector".ljust(512, b"\2"), size - 512)
    return path


def with_disk(bench: Any, *formats: str, size: int = DISK_BYTES) -> Context:
    context: Context = bench.context(bench.doc(machine(*formats)))
    disk = write_disk(bench.root / "media/disk.img", size)
    record_disk(context, disk, DiskLayout("disk.img", size, 512, "8d2c-guid", ()))
    return context


def virtual_size(path: Path, driver: str) -> int:
    told = subprocess.run(
        ["qemu-img", "info", "--output=json", "-f", driver, path], capture_output=True, check=True
    ).stdout
    size: int = json.loads(told)["virtual-size"]
    return size


@pytest.mark.slow
def test_every_format_holds_what_the_disk_holds(bench: Any, tmp_path: Path) -> None:
    context = with_disk(bench, *ALL)
    Convert("convert").execute(context)
    disk = (bench.root / "media/disk.img").read_bytes()
    media = recorded_media(context)
    assert set(media) == {"raw", *DRIVERS}
    for kind, driver in DRIVERS.items():
        back = tmp_path / kind
        subprocess.run(
            ["qemu-img", "convert", "-f", driver, "-O", "raw", media[kind], back], check=True
        )
        assert back.read_bytes() == disk, kind
        assert virtual_size(media[kind], driver) == DISK_BYTES, kind
        assert media[kind].stat().st_blocks * 512 < 16 * MIB, kind


def test_what_is_delivered_is_named_for_the_distribution(bench: Any) -> None:
    context = with_disk(bench, *ALL)
    Convert("convert").execute(context)
    assert [(artifact.name, artifact.format) for artifact in bench.artifacts] == [
        ("test.raw", "raw"),
        ("test.qcow2", "qcow2"),
        ("test.vmdk", "vmdk"),
        ("test-monolithicSparse.vmdk", "vmdk"),
        ("test.vdi", "vdi"),
        ("test.vhd", "vhd"),
        ("test-fixed.vhd", "vhd"),
        ("test.vhdx", "vhdx"),
    ]
    for artifact in bench.artifacts:
        assert artifact.size_bytes == (bench.root / artifact.path).stat().st_size
    fractions = [report.fraction for report in bench.reports]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    for artifact in bench.artifacts:
        assert f"{artifact.name}" in bench.messages()


def test_the_raw_disk_is_delivered_as_it_is_without_a_copy_or_a_tool(bench: Any) -> None:
    context = with_disk(bench, '<vm_format type="raw"/>')
    checkpoint = Convert("convert")
    assert checkpoint.needs(context.doc).tools == ()
    assert checkpoint.needs(context.doc).disk_bytes == 0
    checkpoint.execute(context)
    (artifact,) = bench.artifacts
    assert artifact.path == "media/disk.img"
    assert [path.name for path in (bench.root / "media").iterdir()] == ["disk.img"]


def test_compression_and_varieties_are_those_that_were_asked_for(bench: Any) -> None:
    context = with_disk(
        bench,
        '<vm_format type="qcow2" compression="zlib"/>',
        '<vm_format type="vhdx" subformat="fixed"/>',
        '<vm_format type="vmdk" subformat="streamOptimized" compression="zlib"/>',
    )
    Convert("convert").execute(context)
    media = recorded_media(context)

    def details(kind: str) -> Any:
        told = subprocess.run(
            ["qemu-img", "info", "--output=json", media[kind]], capture_output=True, check=True
        ).stdout
        return json.loads(told).get("format-specific", {}).get("data")

    assert details("qcow2")["compression-type"] == "zlib"
    assert details("vmdk")["create-type"] == "streamOptimized"
    assert media["vhdx-fixed"].stat().st_size > DISK_BYTES


def test_formats_are_chosen_by_argument(bench: Any) -> None:
    context = with_disk(bench, *ALL)
    Convert("convert", formats=("vdi", "vmdk-monolithicSparse")).execute(context)
    assert set(recorded_media(context)) == {"vdi", "vmdk-monolithicSparse"}


EVERY_FORM = (
    *('type="qcow2" compression="zstd"', 'type="qcow2"', 'type="vmdk"', 'type="vdi"', 'type="vhd"'),
    *('type="vmdk" subformat="monolithicSparse"', 'type="vhd" subformat="fixed"', 'type="vhdx"'),
    'type="vhdx" subformat="fixed"',
)


@pytest.mark.parametrize("form", EVERY_FORM)
def test_the_same_disk_gives_the_same_bytes(bench: Any, form: str) -> None:
    context = with_disk(bench, f"<vm_format {form}/>")
    Convert("convert").execute(context)
    Convert("again").execute(context)
    first, second = bench.artifacts
    assert first == second


@pytest.mark.parametrize("form", EVERY_FORM[3:])
def test_the_ids_of_a_format_are_those_of_its_disk(bench: Any, form: str) -> None:
    digests = set()
    for disk_uuid, epoch in (
        ("8d2c-guid", 1700000000),
        ("other-guid", 1700000000),
        ("8d2c-guid", 0),
    ):
        doc = bench.doc(machine(f"<vm_format {form}/>"))
        context = bench.context(doc, environment={"SOURCE_DATE_EPOCH": str(epoch)})
        disk = write_disk(bench.root / "media/disk.img")
        record_disk(context, disk, DiskLayout("disk.img", DISK_BYTES, 512, disk_uuid, ()))
        Convert("convert").execute(context)
        digests.add(bench.artifacts[-1].sha256)
    dated = "vhd" in form and "vhdx" not in form
    assert len(digests) == 2 + dated


@pytest.mark.parametrize("type_", ["vdi", "vmdk", "vhd", "vhdx"])
@pytest.mark.parametrize("content", [b"", b"KDMV", bytes(70000)])
def test_what_has_not_the_structure_of_its_format_gets_no_ids(
    tmp_path: Path, type_: str, content: bytes
) -> None:
    image = tmp_path / "image"
    image.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be written"):
        derive_ids(image, type_, "8d2c-guid", 0)
    assert image.read_bytes() == content


def test_out_of_order_gives_the_same_contents(bench: Any, tmp_path: Path) -> None:
    context = with_disk(bench, '<vm_format type="qcow2" compression="zlib"/>')
    Convert("convert", out_of_order=True).execute(context)
    path = recorded_media(context)["qcow2"]
    subprocess.run(["qemu-img", "convert", "-O", "raw", path, tmp_path / "back"], check=True)
    assert (tmp_path / "back").read_bytes() == (bench.root / "media/disk.img").read_bytes()


@pytest.mark.parametrize(
    ("formats", "problem", "remedy"),
    [
        ((), "no format", "vm_format"),
        (
            ('<vm_format type="vmdk" subformat="monolithicFlat"/>',),
            "vmdk cannot be made like that",
            '<vm_format type="vmdk" subformat="monolithicSparse"/>',
        ),
        (
            ('<vm_format type="vdi" compression="zstd"/>',),
            "vdi cannot be made like that",
            '<vm_format type="vdi" subformat="dynamic"/>',
        ),
        (
            ('<vm_format type="qcow2" compression="lz4"/>',),
            "qcow2 cannot be made like that",
            '<vm_format type="qcow2" compression="zstd"/>',
        ),
        (
            ('<vm_format type="qcow2"/>', '<vm_format type="qcow2" compression="zstd"/>'),
            "qcow2 is asked for more than once",
            "leave one",
        ),
        (('<vm_format type="ova"/>',), "no format but ova", "leave this checkpoint out"),
    ],
)
def test_what_cannot_be_made_is_refused_with_what_can(
    bench: Any, formats: tuple[str, ...], problem: str, remedy: str
) -> None:
    with pytest.raises(InvalidManifest, match=problem) as caught:
        refuse(Convert("convert").check(bench.doc(machine(*formats))))
    assert remedy in caught.value.resolution


def test_a_manifest_without_a_machine_or_the_chosen_format_is_refused(bench: Any) -> None:
    with pytest.raises(InvalidManifest, match="describes no virtual machine"):
        refuse(Convert("convert").check(bench.doc()))
    doc = bench.doc(machine('<vm_format type="qcow2"/>'))
    with pytest.raises(InvalidManifest, match="vdi is not among the formats") as caught:
        refuse(Convert("convert", formats=("vdi",)).check(doc))
    assert "qcow2" in caught.value.details


@pytest.mark.parametrize("checkpoint", [Convert, CreateOVA])
def test_a_level_is_from_1_to_9(checkpoint: type) -> None:
    level = get_type_hints(checkpoint)["level"]
    assert convert("9", level) == 9
    for wrong in ("0", "10", "fast"):
        with pytest.raises(BadValue, match=wrong):
            convert(wrong, level)


def test_a_fixed_vhd_needs_whole_mebibytes(bench: Any) -> None:
    context = with_disk(bench, '<vm_format type="vhd" subformat="fixed"/>', size=8 * MIB + 512)
    with pytest.raises(CheckpointError, match="whole number of MiB"):
        Convert("convert").execute(context)


def test_a_dynamic_vhd_is_as_big_as_the_disk_whatever_its_geometry(bench: Any) -> None:
    context = with_disk(bench, '<vm_format type="vhd"/>', size=8 * MIB + 512)
    Convert("convert").execute(context)
    assert virtual_size(recorded_media(context)["vhd"], "vpc") == 8 * MIB + 512


def test_a_disk_that_is_missing_or_cut_short_is_refused(bench: Any) -> None:
    context = with_disk(bench, '<vm_format type="qcow2"/>')
    disk = bench.root / "media/disk.img"
    os.truncate(disk, 4 * MIB)
    with pytest.raises(CheckpointError, match="corrupt: it has another size"):
        Convert("convert").execute(context)
    disk.unlink()
    with pytest.raises(CheckpointError, match="no longer exists"):
        Convert("convert").execute(context)
    with pytest.raises(CheckpointError, match="a disk is missing"):
        Convert("convert").execute(bench.context(bench.doc(machine('<vm_format type="raw"/>'))))
    assert not bench.artifacts


@pytest.mark.parametrize(
    ("offset", "problem"),
    [(2 * MIB, "its content differs"), (0x10000, "not consistent|corrupt")],
)
def test_an_image_that_is_corrupt_is_not_delivered(
    bench: Any, offset: int, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk of the host that writes something else than it was given."""
    context = with_disk(bench, '<vm_format type="qcow2"/>')
    genuine = conversion.convert

    def damaged(*arguments: Any, **options: Any) -> None:
        genuine(*arguments, **options)
        with (bench.root / "media/test.qcow2").open("r+b") as file:
            os.pwrite(file.fileno(), b"\xa5" * 4096, offset)

    monkeypatch.setattr("dcd.checkpoints.vm.convert.convert", damaged)
    with pytest.raises(CheckpointError, match=problem):
        Convert("convert").execute(context)
    assert not bench.artifacts


def test_cancel_ends_the_conversion(bench: Any) -> None:
    context = with_disk(bench, *ALL)
    checkpoint = Convert("convert")
    checkpoint.cancel()
    with pytest.raises(CheckpointError, match="stopped"):
        checkpoint.execute(context)
    assert not bench.artifacts


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    sectors=st.integers(1, 140_000),
    writes=st.lists(
        st.tuples(st.floats(0, 0.999), st.binary(min_size=1, max_size=600)), max_size=5
    ),
)
def test_any_disk_comes_back_from_a_stream(
    tmp_path: Path, sectors: int, writes: list[tuple[float, bytes]]
) -> None:
    size = sectors * 512
    disk, stream, back = tmp_path / "disk", tmp_path / "stream.vmdk", tmp_path / "back"
    with disk.open("wb") as file:
        file.truncate(size)
        for place, data in writes:
            offset = int(place * size)
            os.pwrite(file.fileno(), data[: size - offset], offset)
    with stream.open("wb") as out:
        write_stream_vmdk(disk, out.write, name="stream.vmdk", content_id=7)
    subprocess.run(
        ["qemu-img", "convert", "-f", "vmdk", "-O", "raw", stream, back], check=True, timeout=60
    )
    assert back.read_bytes() == disk.read_bytes()


def test_a_stream_can_be_read_by_one_that_cannot_go_back(tmp_path: Path) -> None:
    """As VMware's tools read it: header, grains, tables, directory, footer, end, and not a byte more."""
    disk = write_disk(tmp_path / "disk")
    with (tmp_path / "stream").open("wb") as out:
        write_stream_vmdk(disk, out.write, name="test.vmdk", content_id=0xCAFE)
    stream = (tmp_path / "stream").read_bytes()
    assert stream[:4] == b"KDMV"
    assert int.from_bytes(stream[4:8], "little") == 3
    assert stream[56:64] == b"\xff" * 8, "the directory comes at the end"
    assert b'createType="streamOptimized"\n' in stream[512 : 21 * 512]
    assert b"CID=0000cafe\n" in stream[512 : 21 * 512]
    kinds, position, addresses = [], 128 * 512, []
    while position < len(stream):
        value = int.from_bytes(stream[position : position + 8], "little")
        size = int.from_bytes(stream[position + 8 : position + 12], "little")
        if size:
            addresses.append(value)
            position += -(-(12 + size) // 512) * 512
            continue
        kinds.append(int.from_bytes(stream[position + 12 : position + 16], "little"))
        position += 512 + value * 512
    assert kinds == [1, 1, 1, 2, 3, 0]
    assert addresses == sorted(addresses)
    assert position == len(stream)
    footer = stream[-1024:-512]
    directory = int.from_bytes(footer[56:64], "little") * 512
    assert directory < len(stream)
    assert footer[:56] == stream[:56]


def of_size(size: str, form: str) -> tuple[str, str]:
    disk = f'<disk_image name="disk.raw" size="{size}"/>'
    return machine(form), f"<target><disk>{disk}{PARTITIONS}</disk></target>"


PARTITIONS = (
    '<gpt_partition name="1" part_type="bios_boot"><size val="1mb"/></gpt_partition>'
    '<gpt_partition name="2" part_type="esp"><size val="64mb"/></gpt_partition>'
    '<gpt_partition name="3" part_type="linux"><format type="ext4" mountpoint="/"/></gpt_partition>'
)


@pytest.mark.parametrize(
    ("form", "size", "most"),
    [
        ('<vm_format type="vhd"/>', "2041gb", "2040"),
        ('<vm_format type="vhd" subformat="fixed"/>', "3tb", "2040"),
        ('<vm_format type="vhdx"/>', "65537gb", "65536"),
    ],
)
def test_a_disk_that_a_format_cannot_describe_is_refused_when_the_manifest_is_checked(
    bench: Any, form: str, size: str, most: str
) -> None:
    with pytest.raises(InvalidManifest, match="the disk is too large for the format vhd") as caught:
        refuse(Convert("convert").check(bench.doc(*of_size(size, form))))
    assert f"at most {most} GiB" in caught.value.details
    assert "qcow2" in caught.value.resolution


@pytest.mark.parametrize(("size", "most"), [("100mb", 100 * MIB), ("9gb", 512 * MIB)])
def test_the_images_of_a_small_disk_need_no_more_space_than_the_disk(
    bench: Any, size: str, most: int
) -> None:
    doc = bench.doc(*of_size(size, "".join(form for form in ALL if '"vmdk"/' not in form)))
    assert Convert("convert").needs(doc).disk_bytes == 6 * most
    assert CreateOVA("ova").needs(doc).disk_bytes == 2 * most


def test_the_largest_disk_of_a_format_is_what_qemu_takes(bench: Any, tmp_path: Path) -> None:
    form = '<vm_format type="vhd"/>'
    assert not list(Convert("convert").check(bench.doc(*of_size("2040gb", form))))
    for size, taken in (("2040G", True), ("2041G", False)):
        made = subprocess.run(
            ["qemu-img", "create", "-qf", "vpc", tmp_path / "vhd", size], check=False
        )
        assert (made.returncode == 0) is taken


def test_a_recorded_disk_that_a_format_cannot_describe_is_refused_before_the_work(
    bench: Any,
) -> None:
    context = with_disk(bench, '<vm_format type="vhd"/>', size=2041 * 1024 * MIB)
    with pytest.raises(CheckpointError, match="too large for the format vhd"):
        Convert("convert").execute(context)
    assert not list((bench.root / "media").glob("*.vhd"))


def test_a_stream_ends_at_the_limit_of_what_holds_it(tmp_path: Path) -> None:
    disk = write_disk(tmp_path / "disk")
    layout = DiskLayout("disk.img", DISK_BYTES, 512, "8d2c-guid", ())
    with pytest.raises(CheckpointError, match="too big for an OVA") as caught:
        conversion.make_stream(
            *(tmp_path / "stream", disk, layout), level=1, most_bytes=MIB, holder="an OVA"
        )
    assert str(MIB) in caught.value.details
    assert (tmp_path / "stream").stat().st_size <= MIB
