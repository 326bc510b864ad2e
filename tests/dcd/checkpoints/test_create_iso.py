"""CreateISO and CreateUSB: what is on the media, for which firmware, and that it is the same next time."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.media.grub import efi_system_partition, uefi_program
from dcd.checkpoints.media.iso import CreateISO, needed_level
from dcd.checkpoints.media.usb import CreateUSB
from dcd.manifest.objects import Size
from dcd.platform.hardware import PC
from statemachine.errors import CheckpointError
from store.host.tools import missing

LACKING = missing(("xorriso", "grub-mkimage", "grub-bios", "grub-efi", "mformat", "mcopy"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}"),
]

EPOCH = 1700000000


@pytest.fixture
def ready(bench: Any) -> Any:
    """A bench with everything that goes onto the ISO."""
    tree = bench.root / "media/iso"
    (tree / "boot/grub").mkdir(parents=True)
    (tree / "boot/grub/grub.cfg").write_text("set timeout=0\n")
    (tree / "live").mkdir()
    squashfs = tree / "live/filesystem.squashfs"
    squashfs.write_bytes(b"hsqs" + bytes(100_000))
    os.utime(squashfs, (EPOCH, EPOCH))
    (tree / "a = b").write_text("name with signs")
    (bench.root / "boot_archive/vmlinuz").write_bytes(b"kernel")
    (bench.root / "boot_archive/initrd.img").write_bytes(b"initramfs")
    return bench


@pytest.fixture
def compressed(ready: Any, own_mounts: None, tmp_path: Path) -> Iterator[Any]:
    """The bench on a file system that compresses: gigabytes of zeros take no space there."""
    disk, kept = tmp_path / "disk.img", tmp_path / "kept"
    with disk.open("wb") as file:
        file.truncate(6 << 30)
    subprocess.run(["mkfs.btrfs", "-q", disk], check=True)
    ready.root.rename(kept)
    ready.root.mkdir()
    mount = ["mount", "-o", "loop,compress-force=zstd:1", disk, ready.root]
    subprocess.run(mount, check=True)
    try:
        shutil.copytree(kept, ready.root, dirs_exist_ok=True)
        yield ready
    finally:
        subprocess.run(["umount", ready.root], check=True)


def xorriso(iso: Path, *arguments: str) -> str:
    return subprocess.run(
        ["xorriso", "-no_rc", "-indev", iso, *arguments],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_the_iso_holds_the_tree_and_the_boot_archive(ready: Any, tmp_path: Path) -> None:
    ready.execute(CreateISO("iso"))
    iso = ready.root / "media/test.iso"
    names = xorriso(iso, "-find", "/", "-type", "f").replace("'", "").splitlines()
    for name in (
        "/a = b",
        "/boot/grub/grub.cfg",
        "/live/filesystem.squashfs",
        "/live/initrd.img",
        "/live/vmlinuz",
    ):
        assert name in names
    xorriso(iso, "-osirrox", "on", "-extract", "/live/vmlinuz", str(tmp_path / "kernel"))
    assert (tmp_path / "kernel").read_bytes() == b"kernel"


def test_the_iso_boots_with_bios_and_uefi_from_cd_and_stick(ready: Any) -> None:
    ready.execute(CreateISO("iso"))
    iso = ready.root / "media/test.iso"
    el_torito = xorriso(iso, "-report_el_torito", "plain")
    assert "  1  BIOS  y   none" in el_torito
    assert "  2  UEFI  y   none" in el_torito
    system_area = xorriso(iso, "-report_system_area", "plain")
    assert "grub2-mbr" in system_area
    # There are BIOSes that start no stick without an active partition.
    assert re.search(r"^MBR partition      :   \d   0x80", system_area, re.MULTILINE)
    assert re.search(r"^GPT partname local :   \d  EFI boot partition", system_area, re.MULTILINE)
    assert "GPT partition path :   2  /boot/grub/efi.img" in system_area
    assert iso.read_bytes()[510:512] == b"\x55\xaa"


def test_the_artifact_is_the_iso(ready: Any) -> None:
    doc = ready.execute(CreateISO("iso"))
    [artifact] = ready.artifacts
    assert (artifact.name, artifact.path, artifact.format) == ("test.iso", "media/test.iso", "iso")
    assert artifact.size_bytes == (ready.root / artifact.path).stat().st_size
    assert doc.find_path("/persistent/media.iso") == ["media/test.iso"]


def make(bench: Any, environment: dict[str, str]) -> bytes:
    doc = bench.execute(CreateISO("iso"))
    CreateISO("iso").execute(bench.context(doc, environment=environment))
    return (bench.root / "media/test.iso").read_bytes()


def test_the_same_layer_gives_the_same_iso_at_another_time(ready: Any) -> None:
    first = make(ready, {})
    for name in ("", "boot", "boot/grub/grub.cfg", "live"):
        os.utime(ready.root / "media/iso" / name)
    shutil.rmtree(ready.root / "tmp")
    (ready.root / "tmp").mkdir()
    assert make(ready, {}) == first


def test_the_times_on_the_iso_follow_source_date_epoch(ready: Any) -> None:
    make(ready, {"SOURCE_DATE_EPOCH": "1234567890"})
    shown = xorriso(ready.root / "media/test.iso", "-pvd_info")
    assert "2009021323313000" in shown


@pytest.mark.parametrize(("epoch", "date"), [("1000", "1980-01-01"), ("5000000000", "2107-12-31")])
def test_a_time_that_fat_has_not_becomes_the_nearest_in_the_efi_partition(
    ready: Any, tmp_path: Path, epoch: str, date: str
) -> None:
    esp = tmp_path / "efi.img"
    context = ready.context(ready.doc())
    files = {PC.uefi_path: uefi_program(context, PC, "/marker")}
    efi_system_partition(context, files, int(epoch), esp)
    told = subprocess.run(
        ["mdir", "-i", esp, "::EFI/BOOT"],
        capture_output=True, text=True, check=True, env={**os.environ, "TZ": "UTC"},
    ).stdout  # fmt: skip
    assert date in next(line for line in told.splitlines() if line.startswith("BOOTX64"))


def test_volume_id_and_timestamped_name(bench: Any, ready: Any) -> None:
    doc = ready.execute(CreateISO("iso", volume_id="My Image 1.0"))
    assert "Volume Id    : My Image 1.0\n" in xorriso(ready.root / "media/test.iso", "-pvd_info")
    [distro] = doc.volatile.children
    distro.add_timestamp = True
    CreateISO("iso").execute(ready.context(doc))
    assert (ready.root / "media/test-20231114-221320.iso").is_file()


@pytest.mark.parametrize(
    ("lacking", "remedy"),
    [
        ("boot/grub/grub.cfg", "GrubBootMenu"),
        ("live/filesystem.squashfs", "SquashfsPkgImgMod"),
    ],
)
def test_what_is_lacking_is_said_with_the_checkpoint_that_makes_it(
    ready: Any, lacking: str, remedy: str
) -> None:
    (ready.root / "media/iso" / lacking).unlink()
    with pytest.raises(CheckpointError) as caught:
        ready.execute(CreateISO("iso"))
    assert remedy in caught.value.resolution
    assert not ready.artifacts


def test_the_sticks_image_is_the_iso_without_a_copy(ready: Any) -> None:
    doc = ready.execute(CreateISO("iso"))
    CreateUSB("usb").execute(ready.context(doc))
    iso, usb = ready.root / "media/test.iso", ready.root / "media/test.usb"
    assert usb.samefile(iso)
    assert [artifact.format for artifact in ready.artifacts] == ["iso", "usb"]
    assert ready.artifacts[0].sha256 == ready.artifacts[1].sha256
    assert doc.find_path("/persistent/media.usb") == ["media/test.usb"]


def test_a_sticks_image_needs_an_iso(bench: Any) -> None:
    with pytest.raises(CheckpointError, match="an ISO is missing") as caught:
        bench.execute(CreateUSB("usb"))
    assert "CreateISO" in caught.value.resolution


def test_a_time_that_is_none_is_refused(ready: Any) -> None:
    with pytest.raises(CheckpointError, match="'yesterday' is not a time"):
        make(ready, {"SOURCE_DATE_EPOCH": "yesterday"})


MOST = """<distro_spec><img_params><media_im><max_size><size val="{}"/></max_size></media_im></img_params>
</distro_spec>"""


def test_a_medium_larger_than_it_may_be_is_refused_with_the_numbers(ready: Any) -> None:
    doc = ready.execute(CreateISO("iso"), MOST.format("100mb"))
    size = (ready.root / "media/test.iso").stat().st_size
    CreateUSB("usb").execute(ready.context(doc))
    # What goes onto it is known before it is made, its own parts only after.
    for most, brief in (("64kb", "the content of the medium"), (f"{size - 512}b", "test.iso")):
        with pytest.raises(CheckpointError) as caught:
            ready.execute(CreateISO("iso"), MOST.format(most))
        assert caught.value.brief == f"{brief} is larger than the medium may be"
        assert "bytes); max_size of media_im is" in caught.value.details
        assert "raise max_size" in caught.value.resolution
    (limit,) = doc.get_descendants(class_type=Size)
    limit.val = f"{size - 1}b"
    with pytest.raises(CheckpointError, match=r"test\.usb is larger"):
        CreateUSB("usb").execute(ready.context(doc))
    ready.execute(CreateISO("iso"), MOST.format(f"{size}b"))


@pytest.mark.parametrize(("size", "level"), [(2**32 - 1, ()), (2**32, ("-iso-level", "3"))])
def test_a_file_of_4_gib_asks_for_the_level_that_can_hold_it(
    tmp_path: Path, size: int, level: tuple[str, ...]
) -> None:
    large, small = tmp_path / "large", tmp_path / "small"
    small.write_text("small")
    with large.open("wb") as file:
        file.truncate(size)
    assert needed_level([small, large, tmp_path]) == level


@pytest.mark.root
def test_a_live_file_system_of_more_than_4_gib_is_whole_on_the_medium(
    compressed: Any, tmp_path: Path
) -> None:
    ready = compressed
    squashfs = ready.root / "media/iso/live/filesystem.squashfs"
    with squashfs.open("r+b") as file:
        file.truncate((4 << 30) + 4096)
        file.seek(-4, os.SEEK_END)
        file.write(b"last")
    os.utime(squashfs, (EPOCH, EPOCH))
    ready.execute(CreateISO("iso"))
    iso, end = ready.root / "media/test.iso", tmp_path / "end"
    start = squashfs.stat().st_size - 2048
    xorriso(
        iso,
        "-osirrox",
        "on",
        "-extract_cut",
        "/live/filesystem.squashfs",
        str(start),
        "2048",
        str(end),
    )
    assert end.read_bytes() == bytes(2044) + b"last"
    listed = subprocess.run(
        ["bsdtar", "-tvf", iso, "live/filesystem.squashfs"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert listed.stdout.split()[4] == str(squashfs.stat().st_size)
    if shutil.which("grub-fstest") is not None:
        grub = ["grub-fstest", iso, "cat"]
        kernel = subprocess.run([*grub, "(loop0)/live/vmlinuz"], capture_output=True, check=True)
        assert kernel.stdout == b"kernel"
        grub[1:1] = ["--skip", str(start)]
        rest = subprocess.run(
            [*grub, "(loop0)/live/filesystem.squashfs"], capture_output=True, check=True
        )
        assert rest.stdout == bytes(2044) + b"last"
