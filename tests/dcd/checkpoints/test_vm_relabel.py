"""Installed systems on real disks lose what ties them to the device; untied disks stay to the byte."""

import hashlib
import subprocess
import uuid
from pathlib import Path

import pytest

from dcd.checkpoints.interface import Context
from dcd.checkpoints.vm.create_disk import begin_disk
from dcd.checkpoints.vm.disk import (
    DiskLayout,
    DiskPartition,
    FileSystem,
    Volume,
    VolumePartition,
    record_disk,
)
from dcd.checkpoints.vm.mounted import mounted
from dcd.checkpoints.vm.relabel import Relabel
from dcd.checkpoints.vm.volumes import Place as VolumePlace
from dcd.checkpoints.vm.volumes import make_volume
from dcd.platform.zfs_label import Part, Place, place, read_labels
from statemachine.errors import CheckpointError
from tests.dcd.checkpoints.conftest import Bench
from tests.dcd.platform.test_zfs_label import artificial

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.usefixtures("own_mounts")]

LINUX = "0fc63daf-8483-4772-8e79-3d69d8477de4"
ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
SOLARIS = "6a898cc3-1dd2-11b2-99a6-080020736631"
ROOT_UUID = str(uuid.uuid4())
"""Of this run alone: the kernel attaches no two btrfs file systems with the same one."""
SWAP_UUID = "99999999-2222-4333-8444-555555555555"
DISK = "bbbbbbbb-0000-4000-8000-000000000000"
MIB = 1 << 20

TIED = {
    "etc/fstab": "/dev/sda2 / ext4 defaults 0 1\n/dev/sda3 none swap sw 0 0\n/dev/sdb1 /x ext4\n",
    "etc/default/grub": 'GRUB_CMDLINE_LINUX="root=/dev/sda2"\n',
    "boot/grub/grub.cfg": "linux /vmlinuz root=/dev/sda2 ro\n",
    "boot/grub/device.map": "(hd0) /dev/sda\n",
    "boot/initrd.img": "x" * (5 << 20),
    "etc/udev/rules.d/70-persistent-net.rules": 'ATTR{address}=="52:54:00:12:34:56"\n',
}


def partition(number: int, start: int, size: int, volume: Volume | None) -> DiskPartition:
    kind = SOLARIS if volume is None else ESP if volume.type == "vfat" else LINUX
    guid = f"aaaaaaaa-0000-4000-8000-00000000000{number}"
    place = (number, kind, guid, start * MIB, size * MIB)
    return VolumePartition(*place, volume=volume) if volume else DiskPartition(*place)


def layout(root: FileSystem, size: int) -> DiskLayout:
    """A disk with ESP, root and swap."""
    partitions = (
        partition(1, 1, 8, Volume("vfat", "ABCD-1234", mountpoint="/boot/efi")),
        partition(2, 9, size, Volume(root, ROOT_UUID, mountpoint="/")),
        partition(3, 9 + size, 2, Volume("swap", SWAP_UUID)),
    )
    return DiskLayout("disk.raw", (size + 12) * MIB, 512, DISK, partitions)


def installed(
    bench: Bench, files: dict[str, str], root: FileSystem = "ext4", size: int = 24
) -> tuple[Context, Path, DiskLayout]:
    """A disk with a system of these files, and the context of the checkpoint after."""
    trees = {1: bench.root / "esp", 2: bench.root / "system"}
    for name, text in files.items():
        esp = name.startswith("boot/efi/")
        file = trees[1] / name.removeprefix("boot/efi/") if esp else trees[2] / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o640)
    context = bench.context(bench.empty_doc())
    parts = layout(root, size)
    disk = context.media / parts.name
    begin_disk(disk, parts, 0)
    for part in parts.partitions:
        tree = trees.get(part.number)
        make_volume(
            context,
            VolumePlace(disk, parts, part, 0),
            tree if tree is not None and tree.exists() else None,
        )
    record_disk(context, disk, parts)
    bench.reports.clear()
    return context, disk, parts


def content(context: Context, disk: Path, parts: DiskLayout) -> dict[str, str]:
    """The files of the system on the disk, symbolic links apart."""
    with mounted(context, disk, parts, read_only=True) as root:
        return {
            str(file.relative_to(root)): file.read_text(errors="replace")
            for file in sorted(root.rglob("*"))
            if file.is_file() and not file.is_symlink()
        }


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(("root", "size"), [("ext4", 24), ("xfs", 320), ("btrfs", 128)])
def test_a_tied_system_is_untied_on_every_file_system_and_once_is_enough(
    bench: Bench, root: FileSystem, size: int
) -> None:
    context, disk, parts = installed(bench, TIED, root, size)
    scratch = set(context.tmp.iterdir())
    Relabel("relabel").execute(context)
    after = content(context, disk, parts)
    assert after["etc/fstab"] == (
        f"UUID={ROOT_UUID} / ext4 defaults 0 1\nUUID={SWAP_UUID} none swap sw 0 0\n/dev/sdb1 /x ext4\n"
    )
    assert after["etc/default/grub"] == f'GRUB_CMDLINE_LINUX="root=UUID={ROOT_UUID}"\n'
    assert after["boot/grub/grub.cfg"] == f"linux /vmlinuz root=UUID={ROOT_UUID} ro\n"
    assert "boot/grub/device.map" not in after
    assert "etc/udev/rules.d/70-persistent-net.rules" not in after
    told = bench.messages()
    assert f"etc/fstab:1: /dev/sda2 / ext4 defaults 0 1 is UUID={ROOT_UUID} /" in told
    assert "etc/fstab:3: /dev/sdb1 depends on this machine's devices" in told

    bench.reports.clear()
    before = digest(disk)
    Relabel("relabel").execute(context)
    assert "skipped: nothing" in bench.messages()
    assert digest(disk) == before
    assert set(context.tmp.iterdir()) == scratch
    loops = subprocess.run(["losetup", "--json", "-l"], capture_output=True, text=True).stdout
    assert str(disk) not in loops


def test_an_untied_disk_is_not_even_opened_for_writing(bench: Bench) -> None:
    files = {"etc/fstab": f"UUID={ROOT_UUID} / ext4 defaults 0 1\n"}
    context, disk, _ = installed(bench, files)
    before = (digest(disk), disk.stat().st_mtime_ns)
    Relabel("relabel").execute(context)
    assert (digest(disk), disk.stat().st_mtime_ns) == before
    assert bench.messages() == "skipped: nothing on the disk depends on the device"


def test_files_keep_their_owners_modes_and_links(bench: Bench) -> None:
    context, disk, parts = installed(bench, TIED)
    with mounted(context, disk, parts, read_only=False) as root:
        (root / "etc/fstab").rename(root / "etc/real")
        (root / "etc/fstab").symlink_to("/etc/real")
    Relabel("relabel").execute(context)
    with mounted(context, disk, parts, read_only=True) as root:
        assert (root / "etc/fstab").readlink() == Path("/etc/real")
        assert ROOT_UUID in (root / "etc/real").read_text()
        assert (root / "etc/real").stat().st_mode & 0o777 == 0o640


def test_a_link_out_of_the_system_does_not_lead_to_the_host(bench: Bench) -> None:
    outside = bench.root / "outside"
    outside.write_text("/dev/sda2 / ext4\n")
    context, disk, parts = installed(bench, {"etc/x": ""})
    with mounted(context, disk, parts, read_only=False) as root:
        (root / "etc/fstab").symlink_to(outside)
    Relabel("relabel").execute(context)
    assert outside.read_text() == "/dev/sda2 / ext4\n"
    assert "skipped" in bench.messages()


def test_the_boot_loaders_files_in_the_efi_partition_are_untied(bench: Bench) -> None:
    files = {"etc/x": "", "boot/efi/loader/entries/a.conf": "options root=/dev/vda2\n"}
    context, disk, _ = installed(bench, files)
    Relabel("relabel").execute(context)
    show = ["mtype", "-i", f"{disk}@@{MIB}", "::/loader/entries/a.conf"]
    shown = subprocess.run(show, capture_output=True, text=True, check=True).stdout
    assert shown == f"options root=UUID={ROOT_UUID}\n"
    assert "EFI system partition: loader/entries/a.conf:1" in bench.messages()


def test_a_journal_that_was_not_replayed_is_no_obstacle(bench: Bench) -> None:
    context, disk, parts = installed(bench, TIED)
    with mounted(context, disk, parts, read_only=False) as root:
        (root / "etc/new").write_text("x")
        subprocess.run(["sync", "-f", root], check=True)
        crashed = disk.read_bytes()
    disk.write_bytes(crashed)
    Relabel("relabel").execute(context)
    assert content(context, disk, parts)["etc/fstab"].startswith(f"UUID={ROOT_UUID}")


def test_an_initramfs_that_names_the_device_is_made_anew(bench: Bench) -> None:
    bench.add_shell()
    (bench.image / "etc/initramfs-tools/conf.d").mkdir(parents=True)
    (bench.image / "etc/initramfs-tools/conf.d/resume").write_text("RESUME=/dev/sda3\n")
    maker = bench.image / "usr/sbin/update-initramfs"
    maker.parent.mkdir(parents=True, exist_ok=True)
    maker.write_text(
        '#!/bin/sh\necho "$@" >/made; read line </etc/initramfs-tools/conf.d/resume\n'
        'echo "$line" >>/made; for each in /dev/loop*; do [ -b "$each" ] && echo device; done >>/made\n'
    )
    maker.chmod(0o755)
    bench.image.rename(bench.root / "system")
    bench.image.mkdir()
    context, disk, parts = installed(bench, {"boot/initrd.img-6.1": ""})
    Relabel("relabel").execute(context)
    after = content(context, disk, parts)
    assert after["made"] == f"-u -k all\nRESUME=UUID={SWAP_UUID}\ndevice\n"
    assert "making the initramfs again" in bench.messages()


def test_an_initramfs_that_cannot_be_made_anew_is_told(bench: Bench) -> None:
    files = {"etc/crypttab": "swap /dev/sda3 /dev/urandom swap\n", "boot/initramfs-6.1.img": ""}
    context, _, _ = installed(bench, files)
    with pytest.raises(CheckpointError, match="cannot make a new one"):
        Relabel("relabel").execute(context)


def pool_disk(bench: Bench, state: int = 1) -> tuple[Context, Path, Part]:
    """A disk whose only partition is a ZFS device."""
    context = bench.context(bench.empty_doc())
    parts = DiskLayout("disk.raw", 8 * MIB, 512, DISK, (partition(1, 1, 2, None),))
    disk = context.media / "disk.raw"
    device = artificial(bench.root, state=state, path="/dev/lofi/1", phys_path="/pci", devid="id1")
    disk.write_bytes(bytes(MIB) + device.read_bytes() + bytes(5 * MIB))
    record_disk(context, disk, parts)
    return context, disk, Part(disk, MIB, 2 * MIB)


def test_the_labels_of_a_pool_say_nothing_of_the_device_but_its_path(bench: Bench) -> None:
    context, disk, part = pool_disk(bench)
    Relabel("relabel").execute(context)
    assert place(read_labels(part)[0]) == Place("/dev/lofi/1")
    told = "ZFS device: /dev/lofi/1, /pci, id1 is /dev/lofi/1, none, none now"
    assert bench.messages() == told
    before = digest(disk)
    Relabel("relabel").execute(context)
    assert digest(disk) == before
    assert "skipped" in bench.messages()


def test_the_labels_of_a_pool_say_where_the_machine_has_the_device(bench: Bench) -> None:
    context, _, part = pool_disk(bench)
    Relabel("relabel", "/dev/dsk/c1t0d0s0", "/pci@0,0/disk@0,0:a", "id1,sd@x").execute(context)
    assert place(read_labels(part)[0]) == Place(
        "/dev/dsk/c1t0d0s0", "/pci@0,0/disk@0,0:a", "id1,sd@x"
    )


def test_a_pool_that_was_not_exported_is_refused_unless_that_is_known(bench: Bench) -> None:
    context, _, part = pool_disk(bench, state=0)
    with pytest.raises(CheckpointError, match="was not exported") as caught:
        Relabel("relabel").execute(context)
    assert "zfs_active" in caught.value.resolution
    Relabel("relabel", zfs_active=True).execute(context)
    assert place(read_labels(part)[0]) == Place("/dev/lofi/1")


def test_without_a_disk_it_is_said_what_is_missing(bench: Bench) -> None:
    with pytest.raises(CheckpointError, match="a disk is missing"):
        Relabel("relabel").execute(bench.context(bench.empty_doc()))
