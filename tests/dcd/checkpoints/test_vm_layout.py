"""The layout of a disk: what the manifest's target becomes, and every way in which it cannot be."""

import os
import struct
import subprocess
import uuid
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dcd.checkpoints.vm import gpt
from dcd.checkpoints.vm.disk import DiskLayout
from dcd.checkpoints.vm.layout import disk_layout
from dcd.checkpoints.vm.layout_checks import BIOS_BOOT, ESP
from dcd.manifest.diagnostics import ManifestError

MIB = 1 << 20

BIOS = '<gpt_partition name="1" part_type="bios_boot"><size val="1mb"/></gpt_partition>'
EFI = '<gpt_partition name="2" part_type="esp"><size val="64mb"/></gpt_partition>'
ROOT_FORMAT = '<format type="ext4" mountpoint="/"/>'
ROOT = f'<gpt_partition name="3" part_type="linux">{ROOT_FORMAT}</gpt_partition>'


def target(*partitions: str, image: str = 'name="disk.raw" size="1gb"') -> str:
    return f"<target><disk><disk_image {image}/>{''.join(partitions)}</disk></target>"


def machine(attributes: str = "", content: str = "") -> str:
    return (
        f"<distro_spec><img_params><vm_im {attributes}>{content}</vm_im></img_params></distro_spec>"
    )


@pytest.fixture
def layout(bench: Any) -> Any:
    """The layout of a distribution with these elements."""
    return lambda *elements: disk_layout(bench.doc(*elements))


def refusal(bench: Any, *elements: str) -> ManifestError:
    with pytest.raises(ManifestError) as caught:
        disk_layout(bench.doc(*elements))
    return caught.value


def test_partitions_follow_each_other_at_full_mib_and_the_last_takes_the_rest(layout: Any) -> None:
    found = layout(target(BIOS, EFI, ROOT))
    assert [(one.number, one.start // MIB, one.size // MIB) for one in found.partitions] == [
        (1, 1, 1),
        (2, 2, 64),
        (3, 66, 1024 - 66 - 1),
    ]
    assert [one.type for one in found.partitions[:2]] == [BIOS_BOOT, ESP]


def test_a_start_sector_is_honoured_and_counts_in_the_disks_own_sectors(layout: Any) -> None:
    placed = '<gpt_partition name="2" part_type="esp"><size val="64mb" start_sector="{}"/></gpt_partition>'
    found = layout(target(BIOS, placed.format(40961), ROOT))
    assert found.partitions[1].start == 40961 * 512
    assert found.partitions[2].start == 85 * MIB  # the next full one
    big = layout(
        target(placed.format(5000), ROOT, image='name="d" size="1gb" sector_size="4096"'),
        machine('firmware="uefi"'),
    )
    assert big.partitions[0].start == 5000 * 4096


def test_a_partition_without_size_ends_where_a_placed_one_begins(layout: Any) -> None:
    data = (
        '<gpt_partition name="4" part_type="linux"><size val="100mb" start_sector="1024000"/>'
        '<format type="ext4" mountpoint="/srv"/></gpt_partition>'
    )
    found = layout(target(BIOS, EFI, ROOT, data))
    root, srv = found.partitions[2:]
    assert (root.start + root.size, srv.start) == (500 * MIB, 500 * MIB)


def test_without_a_target_the_disk_has_what_its_firmware_needs(layout: Any) -> None:
    both = layout()
    assert (both.name, both.size) == ("test.raw", 8 << 30)
    assert [one.type for one in both.partitions[:2]] == [BIOS_BOOT, ESP]
    assert both.mounted_at("/").number == 3
    assert both.mounted_at("/boot/efi").size == 64 * MIB
    limited = layout(machine('firmware="bios"', '<max_size><size val="2gb"/></max_size>'))
    assert limited.size == 2 << 30
    assert [one.type for one in limited.partitions][:1] == [BIOS_BOOT]
    assert len(limited.partitions) == 2


def test_ids_are_the_same_each_time_and_differ_between_distributions(bench: Any) -> None:
    doc, other = bench.doc(target(BIOS, EFI, ROOT)), bench.doc(target(BIOS, EFI, ROOT))
    [distro] = other.volatile.children
    distro.name = "another"
    first = disk_layout(doc)
    assert disk_layout(doc) == first
    ids = [first.uuid, *(one.uuid for one in first.partitions)]
    ids += [one.volume.uuid for one in first.volumes]
    assert len(set(ids)) == len(ids)
    assert disk_layout(other).uuid not in ids


def test_ids_can_be_given_or_left_to_chance(bench: Any) -> None:
    wanted = "2d4bb2f1-6b39-4c5e-8d0e-2f0a0a1b1c1d"
    given = disk_layout(
        bench.doc(target(BIOS, EFI, ROOT, image=f'name="d" size="1gb" id="{wanted}"'))
    )
    assert given.uuid == wanted
    by_chance = bench.doc(target(BIOS, EFI, ROOT, image='name="d" size="1gb" id="random"'))
    one, two = (disk_layout(by_chance, uuid.uuid4()) for _ in range(2))
    assert one.partitions[2].volume.uuid != two.partitions[2].volume.uuid
    formatted = ROOT.replace('mountpoint="/"', f'mountpoint="/" uuid="{wanted.upper()}"')
    assert disk_layout(bench.doc(target(BIOS, EFI, formatted))).partitions[2].volume.uuid == wanted


def test_esp_and_swap_need_no_format(layout: Any) -> None:
    swap = '<gpt_partition name="4" part_type="swap"><size val="8mb"/></gpt_partition>'
    found = layout(target(BIOS, EFI, swap, ROOT))
    esp, _, swapping = found.partitions[1:]
    assert (esp.volume.type, esp.volume.mountpoint) == ("vfat", "/boot/efi")
    assert swapping.volume.type == "swap"
    assert swapping.volume.mountpoint is None


def partition(number: int, size: str, content: str = "", part_type: str = "linux") -> str:
    given = f'<size val="{size}"/>' if size else ""
    return (
        f'<gpt_partition name="{number}" part_type="{part_type}">{given}{content}</gpt_partition>'
    )


WRONG = {
    "two partitions 3": (ROOT.replace(">", "><size val='9mb'/>", 1), partition(3, "9mb")),
    "there is no partition 0": (partition(0, "1mb"), ROOT),
    "there is no partition 129": (partition(129, "1mb"), ROOT),
    "partitions 3 and 4 overlap": (
        partition(3, "100mb", ROOT_FORMAT),
        '<gpt_partition name="4" part_type="linux"><size val="9mb" start_sector="200000"/>'
        "</gpt_partition>",
    ),
    "begins inside the partition table": (
        ROOT,
        '<gpt_partition name="4" part_type="linux"><size val="1mb" start_sector="33"/></gpt_partition>',
    ),
    "partition 3 ends 42 MiB beyond the end": (partition(3, "999mb", ROOT_FORMAT),),
    "no space is left on the disk of 1024 MiB for partition 4": (ROOT, partition(4, "")),
    "partition 4 has no size": (partition(4, "0mb"), ROOT),
    "'linnux' is not a type of partition": (partition(4, "1mb", part_type="linnux"), ROOT),
    "nothing to delete on a new disk": (ROOT.replace("name", 'action="delete" name', 1),),
    "the disk has no root partition": (partition(3, "", '<format type="ext4"/>'),),
    "partition 3 and partition 4 both have the mountpoint /": (
        partition(3, "99mb", ROOT_FORMAT),
        partition(4, "99mb", ROOT_FORMAT),
    ),
    "the label 'seventeen letters' is too long for ext4": (
        partition(3, "", '<format type="ext4" mountpoint="/" label="seventeen letters"/>'),
    ),
    "the label 'thirteen sign' is too long for xfs": (
        partition(4, "300mb", '<format type="xfs" label="thirteen sign"/>'),
        ROOT,
    ),
    "'esp' is not a label that FAT can hold": (
        partition(4, "64mb", '<format type="vfat" label="esp"/>'),
        ROOT,
    ),
    "too small for xfs": (partition(4, "299mb", '<format type="xfs"/>'), ROOT),
    "too small for btrfs": (partition(4, "99mb", '<format type="btrfs"/>'), ROOT),
    "too small for ext4": (partition(4, "9mb", '<format type="ext4"/>'), ROOT),
    "is not an id that vfat can have": (
        partition(4, "64mb", '<format type="vfat" uuid="6a3c9f0e-3f0c-4c2e-9a55-0d5f0a1b2c3d"/>'),
        ROOT,
    ),
    "swap space is not mounted": (
        partition(4, "9mb", '<format type="swap" mountpoint="/swap"/>', "swap"),
        ROOT,
    ),
    "/etc cannot be a file system of its own": (
        partition(4, "99mb", '<format type="ext4" mountpoint="/etc"/>'),
        ROOT,
    ),
    "the root cannot be vfat": (partition(3, "", '<format type="vfat" mountpoint="/"/>'),),
    "subvol=@ needs a subvolume of btrfs, which is not made": (
        partition(4, "512mb", '<format type="ext4" mountpoint="/boot"/>'),
        partition(3, "", '<format type="btrfs" mountpoint="/" options="compress=zstd,subvol=@"/>'),
    ),
    "subvolid=5 needs a subvolume": (
        partition(3, "", '<format type="btrfs" mountpoint="/" options="subvolid=5"/>'),
    ),
    "logdev=/dev/sdb needs another device of XFS": (
        partition(4, "400mb", '<format type="xfs" mountpoint="/srv" options="logdev=/dev/sdb"/>'),
        ROOT,
    ),
    "its name in the table": (ROOT.replace("name", f'label="{"x" * 37}" name', 1),),
    "two file systems have the UUID": tuple(
        partition(
            number,
            "99mb",
            f'<format type="ext4" mountpoint="{point}" uuid="2d4bb2f1-6b39-4c5e-8d0e-2f0a0a1b1c1d"/>',
        )
        for number, point in ((3, "/"), (4, "/srv"))
    ),
}


@pytest.mark.parametrize("brief", WRONG)
def test_what_cannot_be_laid_out_is_refused(bench: Any, brief: str) -> None:
    error = refusal(bench, target(BIOS, EFI, *WRONG[brief]))
    assert brief in error.details
    assert "manifest.xml:1" in error.details
    assert all(found.suggestion for found in error.diagnostics)


@pytest.mark.parametrize(
    ("brief", "elements"),
    [
        ("no BIOS boot partition", (target(EFI, ROOT), machine('firmware="bios"'))),
        ("no BIOS boot partition", (target(EFI, ROOT),)),
        ("no EFI system partition", (target(BIOS, ROOT), machine('firmware="uefi"'))),
        ("no EFI system partition", (target(BIOS, ROOT), machine('firmware="both"'))),
        (
            "UEFI cannot read an ESP with ext4",
            (target(BIOS, partition(2, "64mb", '<format type="ext4"/>', "esp"), ROOT),),
        ),
        ("too small for FAT", (target(BIOS, partition(2, "2mb", "", "esp"), ROOT),)),
        (
            "a BIOS boot partition has no file system",
            (target(partition(1, "1mb", '<format type="vfat"/>', "bios_boot"), EFI, ROOT),),
        ),
        (
            "too small for GRUB",
            (target(partition(1, "128kb", "", "bios_boot"), EFI, ROOT),),
        ),
        (
            "BIOS cannot boot a disk with sectors of 4096 bytes",
            (target(BIOS, EFI, ROOT, image='name="d" size="1gb" sector_size="4096"'),),
        ),
        (
            "too small for FAT",
            (
                target(
                    partition(2, "16mb", "", "esp"),
                    ROOT,
                    image='name="d" size="1gb" sector_size="4096"',
                ),
                machine('firmware="uefi"'),
            ),
        ),
        (
            "larger than the image may be",
            (target(BIOS, EFI, ROOT), machine("", '<max_size><size val="1023mb"/></max_size>')),
        ),
        ("more than one disk", (target(), target())),
        (
            "this disk is not made",
            (target(), '<target><disk><disk_name name="c0t0d0"/></disk></target>'),
        ),
        ("more than one BIOS boot", (target(BIOS, BIOS.replace('"1"', '"9"'), EFI, ROOT),)),
        (
            "none of the target's disks is a file",
            ('<target><disk><disk_name name="c0t0d0"/></disk></target>',),
        ),
        (
            "<partition> cannot be on a disk that is a file",
            (target('<partition name="1"/>'),),
        ),
    ],
)
def test_what_cannot_boot_or_be_made_is_refused(
    bench: Any, brief: str, elements: tuple[str, ...]
) -> None:
    error = refusal(bench, *elements)
    assert brief in error.brief
    assert error.resolution


def test_what_is_too_small_is_refused_with_the_size_that_would_do(bench: Any) -> None:
    error = refusal(bench, target(BIOS, EFI, partition(3, "1gb", ROOT_FORMAT)))
    assert "make it at least 1091 MiB" in error.resolution
    fits = target(BIOS, EFI, partition(3, "1gb", ROOT_FORMAT), image='name="d" size="1091mb"')
    assert disk_layout(bench.doc(fits)).size == 1091 * MIB
    tiny = refusal(bench, target(BIOS, partition(2, "2mb", "", "esp"), ROOT))
    assert "at least 3mb" in tiny.resolution
    for size in ("3mb", "33mb"):
        disk_layout(bench.doc(target(BIOS, partition(2, size, "", "esp"), ROOT)))


def test_a_root_pool_counts_as_root(layout: Any) -> None:
    pool = (
        '<target><disk><disk_image name="d" size="1gb"/>'
        + EFI
        + '<gpt_partition name="1" part_type="solaris" in_zpool="rpool"/></disk>'
        '<logical><zpool name="rpool" is_root="true"/></logical></target>'
    )
    assert layout(pool, machine('firmware="uefi"')).mounted_at("/") is None


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    sizes=st.lists(st.integers(1, 40), max_size=12),
    sector=st.sampled_from([512, 4096]),
    unaligned=st.integers(0, 7),
)
def test_whatever_fits_is_in_bounds_and_without_overlap(
    bench: Any, sizes: list[int], sector: int, unaligned: int
) -> None:
    data = [partition(10 + at, f"{size}mb") for at, size in enumerate(sizes)]
    placed = (
        '<gpt_partition name="9" part_type="linux">'
        f'<size val="3secs" start_sector="{(1 << 30) // sector + unaligned}"/></gpt_partition>'
    )
    found = disk_layout(
        bench.doc(
            target(EFI, placed, *data, ROOT, image=f'name="d" size="2gb" sector_size="{sector}"'),
            machine('firmware="uefi"'),
        )
    )
    in_order = sorted(found.partitions, key=lambda one: one.start)
    assert len(in_order) == len(data) + 3
    table = 128 * 128 + sector
    assert in_order[0].start >= table + sector
    assert in_order[-1].start + in_order[-1].size <= found.size - table
    for one, after in pairwise(in_order):
        assert one.start + one.size <= after.start
    assert found.partitions[2].number == 9
    assert found.partitions[2].start == (1 << 30) + unaligned * sector
    for one in found.partitions:
        assert one.start % sector == one.size % sector == 0
        assert one.number == 9 or one.start % MIB == 0


def table_of(layout: DiskLayout, path: Path) -> Path:
    with path.open("wb") as disk:
        disk.truncate(layout.size)
        for at, content in gpt.table(layout):
            disk.seek(at)
            disk.write(content)
    return path


def test_sfdisk_reads_the_table_as_it_is_meant(layout: Any, tmp_path: Path) -> None:
    named = ROOT.replace("name", 'label="Wurzel &#252;" name', 1)
    wanted = layout(target(BIOS, EFI, named))
    disk = table_of(wanted, tmp_path / "disk")
    verified = subprocess.run(
        ["sfdisk", "--verify", disk], capture_output=True, text=True, check=True
    )
    assert "No errors detected" in verified.stdout
    dumped = subprocess.run(
        ["sfdisk", "-d", disk], capture_output=True, text=True, check=True
    ).stdout
    assert f"label-id: {wanted.uuid.upper()}" in dumped
    for one in wanted.partitions:
        [line] = [text for text in dumped.splitlines() if text.startswith(f"{disk}{one.number} :")]
        fields = line.replace(" ", "")
        assert f"start={one.start // 512},size={one.size // 512}," in fields
        assert f"type={one.type.upper()},uuid={one.uuid.upper()}" in fields


def test_a_table_for_large_sectors_is_where_they_are(layout: Any, tmp_path: Path) -> None:
    image = 'name="d" size="1gb" sector_size="4096"'
    wanted = layout(target(EFI, ROOT, image=image), machine('firmware="uefi"'))
    disk = table_of(wanted, tmp_path / "disk")
    shown = subprocess.run(
        ["fdisk", "-b", "4096", "-l", "-o", "Start,Sectors", disk],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "corrupt" not in shown.stderr
    rows = [line.split() for line in shown.stdout.splitlines()[-2:]]
    assert rows == [[str(one.start // 4096), str(one.size // 4096)] for one in wanted.partitions]


def test_the_copy_of_the_table_is_at_the_very_end(layout: Any, tmp_path: Path) -> None:
    wanted = layout(target(BIOS, EFI, ROOT))
    with table_of(wanted, tmp_path / "disk").open("rb") as disk:
        disk.seek(512)
        first = disk.read(512)
        disk.seek(-512, os.SEEK_END)
        last = disk.read()
    assert first[:8] == last[:8] == b"EFI PART"
    here, other = struct.unpack_from("<QQ", first, 24)
    assert struct.unpack_from("<QQ", last, 24) == (other, here)
    assert other == wanted.size // 512 - 1


@pytest.mark.parametrize(
    ("kind", "size", "most"),
    [
        ("vfat", "3tb", (2**32 - 1) * 512 // MIB),
        ("ext4", "65tb", 64 * 2**20 - 1),
        ("swap", "17tb", 16 * 2**20 - 1),
    ],
)
def test_what_is_too_large_for_a_file_system_is_refused_with_the_size_that_would_do(
    bench: Any, kind: str, size: str, most: int
) -> None:
    def disk(of: str) -> str:
        content = (
            f'<gpt_partition name="4" part_type="linux"><size val="{of}"/><format type="{kind}"/>'
        )
        root = ROOT.replace("<format", '<size val="1gb"/><format')
        return target(BIOS, EFI, root, f"{content}</gpt_partition>", image='name="d" size="80tb"')

    error = refusal(bench, disk(size))
    assert f"too many for {kind}" in error.brief
    assert f"at most {most}mb" in error.resolution
    disk_layout(bench.doc(disk(f"{most}mb")))
