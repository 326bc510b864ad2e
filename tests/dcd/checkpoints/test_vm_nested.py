"""What partitions hold in LUKS, LVM and before a tree of hashes: places and ids, and impossible combinations,
each refused at its line."""

import shutil
import subprocess
from typing import Any

import pytest

from dcd.checkpoints.boot.archive import DebianBootArchive
from dcd.checkpoints.vm import opening
from dcd.checkpoints.vm.disk import ContainerPartition, record_disk, recorded_disk
from dcd.checkpoints.vm.install_iscsi import InstallISCSI
from dcd.checkpoints.vm.install_offline import InstallOffline
from dcd.checkpoints.vm.layout import disk_layout
from dcd.checkpoints.vm.nested import verified_bytes
from dcd.checkpoints.vm.opening import write_opening
from dcd.manifest.diagnostics import ManifestError
from statemachine.errors import CheckpointError
from tests.dcd.checkpoints.test_vm_layout import BIOS, EFI, MIB, target

BOOT = """<gpt_partition name="3" part_type="linux"><size val="128mb"/>
<format type="ext4" mountpoint="/boot"/></gpt_partition>"""
PASSPHRASE = '<passphrase env="DCD_SECRET_DISK"/>'
ROOT = '<format type="ext4" mountpoint="/"/>'


def held(content: str, number: int = 4) -> str:
    return f'<gpt_partition name="{number}" part_type="linux">{content}</gpt_partition>'


def volume(name: str, content: str, size: str = "") -> str:
    sized = f'<size val="{size}"/>' if size else ""
    return f'<logical_volume name="{name}">{sized}{content}</logical_volume>'


def luks(content: str, passphrases: str = PASSPHRASE, name: str = "") -> str:
    return f"<luks{name and f' name={name!r}'}>{passphrases}{content}</luks>"


def group(*volumes: str) -> str:
    return f'<volume_group name="vg0">{"".join(volumes)}</volume_group>'


DATA = '<format type="ext4" mountpoint="/srv"/>'


def test_volumes_in_luks_and_lvm_are_where_their_headers_end(bench: Any) -> None:
    content = luks(group(volume("data", DATA, "30mb"), volume("root", ROOT)))
    layout = disk_layout(bench.doc(target(BIOS, EFI, BOOT, held(content))))
    container = layout.partitions[-1]
    assert isinstance(container, ContainerPartition)
    data, root = container.contents
    first = container.start + 17 * MIB
    assert [(one.start, one.size // MIB) for one in (data, root)] == [
        (first, 32),
        (first + 32 * MIB, (container.size // MIB - 17) // 4 * 4 - 32),
    ]
    assert [one.title for one in (data, root)] == [
        "logical volume vg0/data",
        "logical volume vg0/root",
    ]
    assert layout.mounted_at("/") is root
    assert root.encrypted
    assert layout.partition_of(root) is container
    # The record that later checkpoints read is the same.
    context = bench.context(bench.empty_doc())
    path = bench.root / "media/disk.raw"
    path.touch()
    record_disk(context, path, layout)
    assert recorded_disk(context)[1] == layout


@pytest.mark.parametrize("size", [2 * MIB, 100 * MIB + 512, 5 << 30, 3 << 40])
def test_a_file_system_and_its_tree_of_hashes_fill_the_partition(size: int) -> None:
    data = verified_bytes(size)
    blocks, need = data // 4096, data + 4096
    while blocks > 1:
        blocks = -(-blocks // 128)
        need += blocks * 4096
    assert need <= size < need + 2 * MIB + size // 1000


WRONG = {
    "GRUB cannot read the kernel: /boot is encrypted": (held(luks(ROOT)),),
    "the passphrase is given by nothing": (BOOT, held(luks(ROOT, "<passphrase/>"))),
    "the passphrase is given by file and env": (
        BOOT,
        held(luks(ROOT, '<passphrase file="/etc/dcd/secrets/a" env="DCD_SECRET_A"/>')),
    ),
    "a passphrase for recovery only": (
        BOOT,
        held(luks(ROOT, '<passphrase env="DCD_SECRET_A" recovery="true"/>')),
    ),
    "two devices have the name system": (
        BOOT,
        held(luks(DATA, name="system"), 4)
        .replace("</luks>", "</luks>", 1)
        .replace(
            '<gpt_partition name="4" part_type="linux">',
            '<gpt_partition name="4" part_type="linux"><size val="100mb"/>',
        ),
        held(luks(ROOT, name="system"), 5),
    ),
    "two logical volumes of the group vg0 have no size": (
        held(group(volume("a", DATA), volume("b", ROOT)), 3),
    ),
    "the group vg0 has two volumes a": (
        held(group(volume("a", DATA, "32mb"), volume("a", ROOT)), 3),
    ),
    "too small for the volumes of the group vg0": (
        held(group(volume("a", DATA, "2gb"), volume("b", ROOT)), 3),
    ),
    "logical volume vg0/a: 4194304 bytes are too small for ext4": (
        held(group(volume("a", DATA, "1mb"), volume("b", ROOT)), 3),
    ),
    "logical volume vg0/a and logical volume vg0/b both have the mountpoint /": (
        held(group(volume("a", ROOT, "32mb"), volume("b", ROOT)), 3),
    ),
    "partition 3: ext4 has no subvolumes": (
        held('<format type="ext4"><subvolume name="@" mountpoint="/"/></format>', 3),
    ),
    "its subvolumes are mounted, not its top level": (
        held('<format type="btrfs" mountpoint="/"><subvolume name="@"/></format>', 3),
    ),
    "partition 3 has two subvolumes @": (
        held(
            '<format type="btrfs"><subvolume name="@" mountpoint="/"/><subvolume name="@"/></format>',
            3,
        ),
    ),
    "subvolume @: the mount option subvol=x needs": (
        held(
            '<format type="btrfs"><subvolume name="@" mountpoint="/" options="subvol=x"/></format>',
            3,
        ),
    ),
    "subvolume @: /etc cannot be a file system of its own": (
        held(
            '<format type="btrfs"><subvolume name="a" mountpoint="/"/>'
            '<subvolume name="@" mountpoint="/etc"/></format>',
            3,
        ),
    ),
    "the root hash cannot be in the file system that it is the hash of": (
        held(f"{ROOT}<verity/>", 3),
    ),
    "a verified root cannot be writable": (
        BOOT,
        held('<format type="ext4" mountpoint="/" options="noatime,rw"/><verity/>'),
    ),
    "a root of btrfs cannot be verified": (
        BOOT,
        held('<format type="btrfs" mountpoint="/"/><verity/>'),
    ),
    "only the root can be verified": (BOOT, held(f"{DATA}<verity/>")),
    "dm-verity is for a file system in the partition itself": (
        BOOT,
        held(f"{luks(ROOT)}<verity/>"),
    ),
    "the signing key is given by nothing": (
        BOOT,
        held(f"{ROOT}<verity><signing_key/></verity>"),
    ),
}


@pytest.mark.parametrize("brief", WRONG)
def test_what_cannot_be_nested_is_refused(bench: Any, brief: str) -> None:
    with pytest.raises(ManifestError) as caught:
        disk_layout(bench.doc(target(BIOS, EFI, *WRONG[brief])))
    assert brief in caught.value.details
    assert all(diagnostic.suggestion for diagnostic in caught.value.diagnostics)
    assert all(diagnostic.line for diagnostic in caught.value.diagnostics)


def test_luks_in_a_partition_that_is_too_small_is_refused(bench: Any) -> None:
    small = held(luks(ROOT)).replace(">", '><size val="10mb"/>', 1)
    with pytest.raises(ManifestError) as caught:
        disk_layout(bench.doc(target(BIOS, EFI, BOOT, small)))
    assert "has 10 MiB, which is too small for the header of LUKS" in caught.value.details


def test_the_id_of_an_encrypted_disk_is_known_before_it_is_made(bench: Any) -> None:
    image = 'name="disk.raw" size="1gb" id="random"'
    with pytest.raises(ManifestError) as caught:
        disk_layout(bench.doc(target(BIOS, EFI, BOOT, held(luks(ROOT)), image=image)))
    assert "the id of a disk with LUKS cannot be random" in caught.value.details


def test_a_verified_root_without_var_is_a_warning(bench: Any) -> None:
    doc = bench.doc(target(BIOS, EFI, BOOT, held(f"{ROOT}<verity/>")))
    found = InstallOffline("install", grow_root=False).check(doc)
    assert [(one.severity, one.message) for one in found] == [
        ("warning", "install: the verified root is read-only, and /var is in it")
    ]


def test_a_verified_root_does_not_grow(bench: Any) -> None:
    doc = bench.doc(target(BIOS, EFI, BOOT, held(f"{ROOT}<verity/>")))
    assert [one.severity for one in InstallOffline("install").check(doc)] == ["warning"]


@pytest.mark.parametrize("content", [luks(ROOT), group(volume("root", ROOT)), f"{ROOT}<verity/>"])
def test_an_installer_in_a_guest_makes_none_of_it(bench: Any, content: str) -> None:
    doc = bench.doc(target(BIOS, EFI, BOOT, held(content)))
    messages = [one.message for one in InstallISCSI("install", grow_root=False).check(doc)]
    assert "install: an installer in a guest makes file systems in partitions only" in messages


@pytest.mark.parametrize(
    ("content", "product"),
    [
        (luks(ROOT), ["cryptsetup"]),
        (group(volume("root", ROOT)), ["lvm"]),
        (luks(group(volume("root", ROOT))), ["cryptsetup", "lvm"]),
        (f"{ROOT}<verity/>", ["veritysetup"]),
        (ROOT, []),
    ],
)
def test_the_initramfs_needs_packages_that_open_the_disk(
    bench: Any, content: str, product: list[str]
) -> None:
    doc = bench.doc(target(BIOS, EFI, BOOT, held(content)))
    needed = [names[0] for names in DebianBootArchive("archive").requires(doc)]
    assert needed == ["image", "kernel", *product]


def test_secrets_are_needed_by_reference(bench: Any) -> None:
    keys = PASSPHRASE + '<passphrase file="/etc/dcd/secrets/disk" recovery="true"/>'
    needs = InstallOffline("install").needs(
        bench.doc(target(BIOS, EFI, BOOT, held(luks(ROOT, keys))))
    )
    assert needs.secrets == ("DCD_SECRET_DISK", "/etc/dcd/secrets/disk")
    assert "cryptsetup" in needs.tools
    assert needs.disk_bytes > 2 << 30


def test_an_encrypted_root_grows_before_it_is_opened(bench: Any) -> None:
    for name in ("cryptroot", "lvm2"):
        hook = bench.image / "usr/share/initramfs-tools/hooks" / name
        hook.parent.mkdir(parents=True, exist_ok=True)
        hook.touch()
    inner = group(volume("root", ROOT))
    behind = held('<format type="ext4" mountpoint="/srv"/>', 5)
    encrypted = luks(inner)
    for partitions, wanted in (
        ((held(encrypted),), True),
        ((held(inner),), False),  # A running system can do that.
        ((held(f'<size val="512mb"/>{encrypted}'), behind), False),  # There is no room for it.
    ):
        shutil.rmtree(bench.image / "etc", ignore_errors=True)
        layout = disk_layout(bench.doc(target(BIOS, EFI, BOOT, *partitions)))
        write_opening(bench.image, layout)
        assert (bench.image / opening.GROWTH_HOOK).exists() == wanted
        if wanted:
            script = bench.image / opening.GROWTH_SCRIPT
            assert f"wait_for {layout.partitions[-1].uuid}\n" in script.read_text()
            for file in (script, bench.image / opening.GROWTH_HOOK):
                subprocess.run(["sh", "-n", file], check=True)
            assert (bench.image / opening.GROWTH / "004-root.conf").exists()


@pytest.mark.parametrize(
    ("content", "file", "package"),
    [
        (luks(ROOT), "usr/share/initramfs-tools/hooks/cryptroot", "cryptsetup-initramfs"),
        (group(volume("root", ROOT)), "usr/share/initramfs-tools/hooks/lvm2", "lvm2"),
        (f"{ROOT}<verity/>", "sbin/veritysetup", "cryptsetup-bin"),
    ],
)
def test_an_image_without_what_opens_its_disk_is_refused(
    bench: Any, content: str, file: str, package: str
) -> None:
    layout = disk_layout(bench.doc(target(BIOS, EFI, BOOT, held(content))))
    with pytest.raises(CheckpointError, match="is missing") as caught:
        write_opening(bench.image, layout)
    assert f"<name>{package}</name>" in caught.value.resolution
    (bench.image / file).parent.mkdir(parents=True)
    (bench.image / file).touch()
    write_opening(bench.image, layout)


def test_the_image_names_its_encrypted_partitions_and_keeps_other_lines(bench: Any) -> None:
    hook = bench.image / "usr/share/initramfs-tools/hooks/cryptroot"
    hook.parent.mkdir(parents=True)
    hook.touch()
    table = bench.image / "etc/crypttab"
    table.parent.mkdir()
    table.write_text("# a comment\nswap /dev/vdb /dev/urandom swap\nsystem UUID=old none luks\n")
    content = luks(ROOT, name="system")
    layout = disk_layout(bench.doc(target(BIOS, EFI, BOOT, held(content))))
    write_opening(bench.image, layout)
    assert table.read_text().splitlines() == [
        f"system UUID={layout.containers[0].luks.uuid} none luks,initramfs",
        "# a comment",
        "swap /dev/vdb /dev/urandom swap",
    ]
