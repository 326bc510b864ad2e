"""Media of illumos, made of a small tree by all checkpoints in the order of the original, and read back with
other tools: isoinfo, xorriso, sfdisk, mtools. The programs in the tree are dummies; nothing here starts."""

import hashlib
import os
import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from dcd.checkpoints.boot.illumos.archive import BootArchiveArchive
from dcd.checkpoints.boot.illumos.contents import (
    AIBootArchiveConfigure,
    LiveCDBootArchiveConfigure,
    TextBootArchiveConfigure,
)
from dcd.checkpoints.boot.illumos.menu import TextISOImageBootMenu
from dcd.checkpoints.image.illumos import lofi
from dcd.checkpoints.image.illumos.compress import AIPkgImgMod, LiveCDPkgImgMod, TextPkgImgMod
from dcd.checkpoints.image.illumos.configure import TextPrePkgImgMod
from dcd.checkpoints.image.illumos.hsfs import write_hsfs
from dcd.checkpoints.media.illumos.el_torito import boot_images
from dcd.checkpoints.media.illumos.hybrid import Partition, make_hybrid
from dcd.checkpoints.media.illumos.iso import CreateIllumosISO
from dcd.checkpoints.media.illumos.usb import CreateIllumosUSB
from dcd.checkpoints.recorded import record_medium
from dcd.checkpoints.transfer.cpio import TransferCPIO
from statemachine.errors import CheckpointError
from store.host.tools import missing
from tests.dcd.checkpoints.conftest import Bench
from tests.dcd.checkpoints.illumos_tree import (
    EPOCH,
    FILES,
    MULTIBOOT_AT,
    gpt_entry,
    make_tree,
    run_all,
)

LACKING = missing(("xorriso", "mformat", "mcopy", "sfdisk", "isoinfo"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}"),
]

SECTOR = 512
ALL = (
    TextPrePkgImgMod("pre-pkg-img-mod"),
    TransferCPIO("ba-init"),
    TextBootArchiveConfigure("ba-config"),
    BootArchiveArchive("ba-arch"),
    TextISOImageBootMenu("boot-setup"),
    TextPkgImgMod("pkg-img-mod", compression_type="lzma"),
)


def new_bench(directory: Path) -> Bench:
    root = directory / "workspace"
    for area in ("pkg_image", "boot_archive", "media", "tmp"):
        (root / area).mkdir(parents=True)
    (directory / "evidence").mkdir()
    return Bench(root, directory / "evidence")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The ISO and the stick's image, for tests that only read."""
    bench = new_bench(tmp_path_factory.mktemp("illumos"))
    make_tree(bench.image)
    run_all(bench, *ALL, CreateIllumosISO("create-iso"), CreateIllumosUSB("create-usb"))
    return bench


@pytest.fixture(scope="module")
def iso(made: Bench) -> Path:
    return made.root / "media/test.iso"


def said(*command: object) -> str:
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=True
    ).stdout


def taken(iso: Path, name: str, to: Path) -> Path:
    """A file of an ISO, extracted by xorriso."""
    target = to / Path(name).name
    said("xorriso", "-no_rc", "-osirrox", "on", "-indev", iso, "-extract", name, target)
    return target


def names_on(iso: Path) -> set[str]:
    return set(said("isoinfo", "-R", "-f", "-i", iso).splitlines())


# The contents of the medium


def test_the_medium_has_the_structure_of_the_originals(iso: Path) -> None:
    names = names_on(iso)
    assert {
        "/.image_info",
        "/.volsetid",
        "/.transfer-manifest.xml",
        "/boot/cdboot",
        "/platform/i86pc/amd64/boot_archive",
        "/platform/i86pc/kernel/amd64/unix",
        "/save/etc/system",
        "/solaris.zlib",
        "/solarismisc.zlib",
    } <= names
    # What the archives have is not there again.
    tops = {name.split("/")[1] for name in names}
    assert not tops & {"usr", "etc", "var", "opt", "sbin", "kernel", "lib"}
    assert "/platform/i86pc/kernel/drv/amd64/rootnex" not in names


def test_solaris_zlib_holds_usr_as_a_file_system(iso: Path, tmp_path: Path) -> None:
    image = unpacked(taken(iso, "/solaris.zlib", tmp_path), tmp_path)
    names = names_on(image)
    assert {"/bin/cat", "/bin/kitten", "/bin/su", "/share/large"} <= names
    large = taken(image, "/share/large", tmp_path)
    assert large.read_bytes() == FILES["usr/share/large"]
    assert "Volume id: compress" in said("isoinfo", "-d", "-i", image)


def unpacked(packed: Path, to: Path) -> Path:
    target = to / f"{packed.name}.hsfs"
    target.write_bytes(b"".join(lofi.decompress(packed)))
    return target


def test_solarismisc_zlib_holds_opt_etc_and_var(iso: Path, tmp_path: Path) -> None:
    image = unpacked(taken(iso, "/solarismisc.zlib", tmp_path), tmp_path)
    names = names_on(image)
    assert {"/opt/some/thing", "/etc/deep/er/file", "/var/adm/messages"} <= names
    assert "/etc/.pwd.lock" not in names


def test_the_list_for_installers_is_valid_and_names_no_file_of_the_medium_alone(
    made: Bench,
) -> None:
    root = etree.parse(made.image / ".transfer-manifest.xml").getroot()
    assert root.tag == "media_transfer"
    root_, misc, media = root
    assert [each.get("name") for each in root] == [
        "transfer-root",
        "transfer-misc",
        "transfer-media",
    ]
    assert [
        each.findtext("name") for each in root_.iterfind("software_data[@action='install']")
    ] == [
        ".",
        "usr",
        "dev",
    ]
    links = [name.text for name in root_.findall("software_data[@action='uninstall']")[1]]
    assert "etc/deep/er/file" in links
    assert misc.find("source/dir").get("path") == "/mnt/misc"
    names = {name.text for name in media.iter("name")}
    assert "./boot/cdboot" in names
    assert not names & {
        "./solaris.zlib",
        "./boot/conf.d/dcd",
        "./boot/menu.rc.local",
        "./platform/i86pc/amd64/boot_archive",
    }


@pytest.mark.parametrize(
    ("configures", "compresses"),
    [
        (LiveCDBootArchiveConfigure, LiveCDPkgImgMod),
        (AIBootArchiveConfigure, AIPkgImgMod),
    ],
)
def test_the_other_kinds_of_media_differ_in_what_they_keep(
    bench: Any, configures: Any, compresses: Any, tmp_path: Path
) -> None:
    make_tree(bench.image)
    first = (TextPrePkgImgMod("pre"), TransferCPIO("ba-init"), configures("ba-config"))
    run_all(bench, *first, BootArchiveArchive("ba-arch"), compresses("pkg-img-mod"))
    names = names_on(unpacked(bench.image / "solaris.zlib", tmp_path))
    assert ("/share/icons/x/icon-theme.cache" in names) == (compresses is AIPkgImgMod)
    media = etree.parse(bench.image / ".transfer-manifest.xml").getroot()[2]
    listed = {name.text for name in media.iter("name")}
    assert ("save/etc/system" in listed) == (compresses is AIPkgImgMod)
    assert ("./save/etc/system" in listed) == (compresses is LiveCDPkgImgMod)


# Firmware


def test_bios_and_uefi_find_their_programs_by_el_torito(iso: Path) -> None:
    data = iso.read_bytes()
    record = data[17 * 2048 : 18 * 2048]
    assert record[:7] == b"\0CD001\1"
    assert record[7:39].rstrip(b"\0") == b"EL TORITO SPECIFICATION"
    catalog = data[struct.unpack_from("<I", record, 71)[0] * 2048 :][:2048]
    assert catalog[:2] == b"\1\0"  # for BIOS
    assert catalog[30:32] == b"\x55\xaa"
    assert sum(struct.unpack_from("<16H", catalog)) & 0xFFFF == 0
    bootable, emulation, _, _, _, sectors, bios = struct.unpack_from("<BBHBBHI", catalog, 32)
    assert (bootable, emulation, sectors) == (0x88, 0, 4)
    assert data[bios * 2048 :][:8] == FILES["boot/cdboot"][:8]
    # Its boot information: the volume descriptor, its own place and length.
    information = struct.unpack_from("<III", data, bios * 2048 + 8)
    assert information == (16, bios, len(FILES["boot/cdboot"]))
    last, platform, count = struct.unpack_from("<BBH", catalog, 64)
    assert (last, platform, count) == (0x91, 0xEF, 1)
    bootable, _, _, _, _, sectors, uefi = struct.unpack_from("<BBHBBHI", catalog, 96)
    assert bootable == 0x88
    assert data[uefi * 2048 + 510 : uefi * 2048 + 512] == b"\x55\xaa"
    assert boot_images(iso)["efi"].offset_bytes == uefi * 2048
    assert boot_images(iso)["bios"].offset_bytes == bios * 2048


def test_the_efi_partition_has_the_loaders_where_firmware_looks(iso: Path, tmp_path: Path) -> None:
    esp = taken(iso, "/boot/efiboot.img", tmp_path)
    for name, source in (("bootx64.efi", "loader64.efi"), ("bootia32.efi", "loader32.efi")):
        said("mcopy", "-n", "-i", esp, f"::efi/boot/{name}", tmp_path / name)
        assert (tmp_path / name).read_bytes() == FILES[f"boot/{source}"]


def test_a_gpt_and_the_table_of_bios_name_the_boot_and_the_efi_partition(iso: Path) -> None:
    data = iso.read_bytes()
    sectors = len(data) // SECTOR
    esp = boot_images(iso)["efi"].offset_bytes // SECTOR
    size = (iso.parent.parent / "pkg_image/boot/efiboot.img").stat().st_size // SECTOR
    rows = [struct.unpack_from("<B3xB3xII", data, 446 + 16 * row) for row in range(4)]
    assert rows == [
        (0, 0xBE, 3, 60),
        (0x80, 0xEF, esp, size),
        (0, 0xEE, 1, 2),
        (0, 0, 0, 0),
    ]
    for own, other, table in ((1, sectors - 1, 2), (sectors - 1, 1, sectors - 2)):
        header = data[own * SECTOR :][:92]
        assert header[:16] == b"EFI PART\0\0\1\0\x5c\0\0\0"
        bare = header[:16] + bytes(4) + header[20:]
        assert struct.unpack_from("<I", header, 16)[0] == zlib.crc32(bare)
        assert struct.unpack_from("<QQQQ", header, 24) == (own, other, 3, sectors - 3)
        entries = data[table * SECTOR :][: 4 * 128]
        assert struct.unpack_from("<QIII", header, 72) == (table, 4, 128, zlib.crc32(entries))
        kind, first, last, name = gpt_entry(entries, 0)
        assert kind.hex() == "45cb826ad21db21199a6080020736631"
        assert (first, last, name) == (3, 62, "boot")
        kind, first, last, name = gpt_entry(entries, 128)
        assert kind.hex() == "28732ac11ff8d211ba4b00a0c93ec93b"
        assert (first, last, name) == (esp, esp + size - 1, "efi")


def test_sfdisk_reads_both_partitions_and_finds_no_fault(iso: Path) -> None:
    dumped = said("sfdisk", "-d", iso)
    assert "label: gpt" in dumped
    assert "start=           3, size=          60" in dumped
    assert "6A82CB45-1DD2-11B2-99A6-080020736631" in dumped
    assert "C12A7328-F81F-11D2-BA4B-00A0C93EC93B" in dumped
    checked = subprocess.run(["sfdisk", "-V", iso], capture_output=True, text=True, check=False)
    assert "CRC" not in checked.stdout + checked.stderr
    assert "corrupt" not in checked.stdout + checked.stderr


def test_the_boot_sector_reads_the_partition_s_and_that_the_program_behind_it(iso: Path) -> None:
    data = iso.read_bytes()
    program = FILES["boot/isoboot"]
    esp = boot_images(iso)["efi"].offset_bytes // SECTOR
    # Source: installboot.h: the number of sectors at 0xfc, the first one at 0xfe.
    assert struct.unpack_from("<HQ", data, 0xFC) == (1, 3)
    behind = data[3 * SECTOR :]
    assert struct.unpack_from("<HQ", behind, 0xFC) == (-(-len(program) // SECTOR), 4)
    for sector in (data[:SECTOR], behind[:SECTOR]):
        assert sector[:3] == FILES["boot/pmbr"][:3]
        assert not any(sector[0x3:0x3E])
        assert sector[0x3E:0xFC] == FILES["boot/pmbr"][0x3E:0xFC]
        assert sector[510:] == b"\x55\xaa"
    written = behind[SECTOR:][: len(program)]
    at = MULTIBOOT_AT + 24
    assert written[:at] == program[:at]
    assert struct.unpack_from("<Q", written, at)[0] == esp
    assert written[at + 8 :] == program[at + 8 :]
    # The ISO behind is untouched.
    assert data[16 * 2048 + 1 : 16 * 2048 + 6] == b"CD001"


def test_the_stick_is_the_iso(made: Bench, iso: Path) -> None:
    assert (made.root / "media/test.usb").samefile(iso)
    assert [each.format for each in made.artifacts] == ["iso", "usb"]


def test_the_volume_has_the_names_of_the_manifest(iso: Path) -> None:
    described = said("isoinfo", "-d", "-i", iso)
    assert "Volume id: test\n" in described
    assert "Volume set id: test-2023-11-14T22:13:20\n" in described


def test_the_same_tree_gives_the_same_iso_on_another_day(tmp_path: Path, iso: Path) -> None:
    bench = new_bench(tmp_path)
    make_tree(bench.image)
    run_all(bench, *ALL, CreateIllumosISO("create-iso"))
    other = bench.root / "media/test.iso"
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in (iso, other)]
    assert digests[0] == digests[1]


# Other images


@pytest.fixture
def old(bench: Any) -> Iterator[Any]:
    """A medium with GRUB 0.97."""
    make_tree(bench.image, "grub")
    run_all(bench, *ALL[:-1], TextPkgImgMod("pkg-img-mod"), CreateIllumosISO("create-iso"))
    yield bench


def test_an_old_image_starts_with_grub_from_cd_only(old: Any) -> None:
    iso = old.root / "media/test.iso"
    images = boot_images(iso)
    assert set(images) == {"bios"}
    assert iso.read_bytes()[images["bios"].offset_bytes :][:7] == b"\xeastage2"[:7]
    # GRUB follows no links, so the kernel and the archive are there as well.
    names = names_on(iso)
    assert "/boot/platform/i86pc/kernel/amd64/unix" in names
    assert "/boot/platform/i86pc/amd64/boot_archive" in names
    assert not any(iso.read_bytes()[:512])
    with pytest.raises(CheckpointError, match="does not start from a stick"):
        run_again(old, CreateIllumosUSB("create-usb"))


def run_again(bench: Any, checkpoint: Any) -> None:
    """Run a checkpoint on what the last one has recorded."""
    doc = bench.doc()
    context = bench.context(doc, environment={"SOURCE_DATE_EPOCH": str(EPOCH)})
    record_medium(context, "iso", bench.root / "media/test.iso")
    checkpoint.execute(context)


@pytest.mark.parametrize(
    ("checkpoint", "lacking", "remedy"),
    [
        (CreateIllumosISO("iso"), "the contents of the medium", "PkgImgMod"),
        (TextPkgImgMod("p"), "a configured boot archive", "BootArchiveConfigure"),
        (BootArchiveArchive("ba"), "a configured boot archive", "BootArchiveConfigure"),
    ],
)
def test_what_is_lacking_is_told_with_the_checkpoint_that_makes_it(
    bench: Any, checkpoint: Any, lacking: str, remedy: str
) -> None:
    make_tree(bench.image)
    with pytest.raises(CheckpointError, match=lacking) as caught:
        run_all(bench, checkpoint)
    assert remedy in caught.value.resolution


@pytest.mark.parametrize(
    ("pmbr", "isoboot", "why"),
    [
        (b"short", b"", "no boot sector"),
        (bytes(510) + b"\x55\xaa", bytes(60 * 512), "too large"),
    ],
)
def test_programs_that_do_not_fit_before_the_iso_are_refused(
    tmp_path: Path, pmbr: bytes, isoboot: bytes, why: str
) -> None:
    (tmp_path / "x.iso").write_bytes(bytes(100 * 512))
    with pytest.raises(CheckpointError, match=why):
        make_hybrid(tmp_path / "x.iso", pmbr, isoboot, Partition(70, 10), "x")


def test_an_end_in_use_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "x.iso").write_bytes(bytes(99 * 512) + b"data".ljust(512))
    with pytest.raises(CheckpointError, match="not free"):
        make_hybrid(tmp_path / "x.iso", bytes(510) + b"\x55\xaa", b"", Partition(70, 10), "x")


@pytest.mark.parametrize(
    "content", [bytes(40000), bytes(17 * 2048) + b"\0CD001\1EL TORITO SPECIFICATION"]
)
def test_a_file_without_a_valid_boot_catalog_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.iso").write_bytes(content)
    with pytest.raises(CheckpointError, match="boot catalog"):
        boot_images(tmp_path / "x.iso")


def test_deep_and_odd_names_are_in_the_file_system_as_they_are(bench: Any, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    deep = tree.joinpath(*(f"{level:02}{'d' * 28}" for level in range(14)))
    deep.mkdir(parents=True)
    (deep / "file").write_text("x")
    for name in (
        "n" * 60 + "0",
        "n" * 60 + "1",
        "has=equals",
        "-dash",
        'a;b:c*?"',
        "ä€",
        "m" * 230,
    ):
        (tree / name).write_text(name)
    (tree / os.fsdecode(b"b\xff")).write_text("y")
    (tree / "link").symlink_to("/".join(["x" * 30] * 12))
    image = tmp_path / "image"
    write_hsfs(bench.context(bench.doc()), tree, image, EPOCH, volume_id="x")
    said("xorriso", "-no_rc", "-osirrox", "on", "-indev", image, "-extract", "/", tmp_path / "out")
    said("diff", "-r", "--no-dereference", tree, tmp_path / "out")
