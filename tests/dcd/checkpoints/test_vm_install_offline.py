"""InstallOffline: the image is on the disk whole, each part in its volume, with all it needs to start."""

import hashlib
import os
import shutil
import stat
import struct
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.media.grub import MODULES
from dcd.checkpoints.vm.create_disk import CreateDisk
from dcd.checkpoints.vm.disk import DiskLayout, recorded_disk
from dcd.checkpoints.vm.install_offline import InstallOffline
from dcd.checkpoints.vm.layout_checks import BIOS_BOOT, ESP
from dcd.checkpoints.vm.mounted import mount_arguments
from dcd.construction.arguments import BadArguments, match_arguments
from dcd.manifest.diagnostics import refuse
from dcd.manifest.doc import DataObjectDict
from statemachine.errors import CheckpointError, InvalidManifest
from store.host.devices import ALL_DEVICES
from store.host.tools import missing

LACKING = missing((*InstallOffline.TOOLS, "grub-bios", "grub-efi"))
pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}"),
    pytest.mark.usefixtures("own_mounts"),
]

IDENTITY = uuid.uuid4()
"""Of the disks: the kernel attaches no two btrfs file systems with the same UUID, and tests may run twice
at once."""

NEWEST = 1_700_000_000
VERSION = "6.1.0-1-amd64"

FIRMWARE = """
<gpt_partition name="1" part_type="bios_boot"><size val="1mb"/></gpt_partition>
<gpt_partition name="2" part_type="esp"><size val="64mb"/></gpt_partition>
"""


def partition(number: int, kind: str, point: str, size: str, options: str = "defaults") -> str:
    given = f'<size val="{size}"/>' if size else ""
    content = f'<format type="{kind}" mountpoint="{point}" options="{options}"/>'
    return f'<gpt_partition name="{number}" part_type="linux">{given}{content}</gpt_partition>'


def volumes(root: str = "ext4", data: str = "64mb") -> str:
    """Many volumes, one inside another."""
    return (
        partition(3, "ext4", "/boot", "128mb")
        + partition(4, "xfs", "/var", "400mb")
        + partition(5, "btrfs", "/var/lib", "256mb")
        + partition(6, "ext4", "/srv/data", data)
        + '<gpt_partition name="7" part_type="swap"><size val="8mb"/></gpt_partition>'
        + partition(8, root, "/", "", "noatime")
    )


def target(partitions: str = "", size: str = "2gb") -> str:
    return (
        f'<target><disk><disk_image name="disk.raw" size="{size}" id="{IDENTITY}"/>'
        f"{FIRMWARE}{partitions or partition(3, 'ext4', '/', '')}</disk></target>"
    )


@pytest.fixture
def ready(bench: Any) -> Any:
    """A bench with a small image that has all that can be in one, and its boot archive."""
    image = bench.image
    for name in ("etc/ssh", "boot", "var/lib/dbus", "srv/data/empty", "usr/bin", "usr/sbin", "dev"):
        (image / name).mkdir(parents=True)
    (image / "bin").symlink_to("usr/bin")
    (image / "usr/bin/systemd-repart").touch()
    (image / "usr/sbin/sshd").touch()
    (image / "etc/machine-id").write_text("1" * 32)
    (image / "etc/os-release").write_text('PRETTY_NAME="Debian GNU/Linux 12"\n')
    (image / "etc/ssh/ssh_host_rsa_key").write_text("secret")
    (image / "etc/fstab").write_text(
        "# nothing\nUUID=old / ext4 ro 0 1\ntmpfs /tmp tmpfs size=1g 0 0\n"
    )
    (image / f"boot/vmlinuz-{VERSION}").write_bytes(b"kernel")
    shutil.copytree(
        MODULES,
        image / "usr/lib/grub",
        symlinks=True,
        ignore=shutil.ignore_patterns("monolithic", "*.o"),
    )
    for directory in ("usr/bin", "var/lib", "srv/data"):
        fill(image / directory)
    (bench.root / "boot_archive/vmlinuz").write_bytes(b"kernel")
    (bench.root / "boot_archive/initrd.img").write_bytes(b"initramfs")
    for path in (image, *image.rglob("*")):
        os.utime(path, (NEWEST, NEWEST), follow_symlinks=False)
    return bench


def fill(directory: Path) -> None:
    """Entries of every kind, with everything that they can have."""
    (directory / "file").write_text("content")
    (directory / "hard").hardlink_to(directory / "file")
    (directory / "soft").symlink_to("file")
    (directory / "long").symlink_to("x" * 200)
    os.mkfifo(directory / "fifo")
    os.mknod(directory / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (directory / "odd name\n'\"\\").write_text("odd")
    with (directory / "sparse").open("wb") as file:
        file.seek(20_000_000)
        file.write(b"end")
    (directory / "program").write_text("program")
    os.chown(directory / "program", 1234, 65_000)
    (directory / "program").chmod(0o4711)
    capability = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
    os.setxattr(directory / "program", "security.capability", capability)
    os.setxattr(directory / "file", "user.note", b"\0\1")
    directory.chmod(0o1777)
    os.chown(directory, 33, 44)
    os.setxattr(directory, "user.note", b"of the directory")


def install(bench: Any, *elements: str, **arguments: Any) -> tuple[Path, DiskLayout]:
    """Run both checkpoints, as the engine would."""
    doc = bench.doc(*elements)
    doc.persistent.insert_children(DataObjectDict("boot_archive", {"kernel_version": VERSION}))
    for checkpoint in (CreateDisk("disk"), InstallOffline("install", **arguments)):
        refuse(checkpoint.check(doc))
        checkpoint.execute(bench.context(doc))
    return recorded_disk(bench.context(doc))


@contextmanager
def mounted(disk: Path, layout: DiskLayout, where: Path) -> Iterator[Path]:
    """The whole system of the disk, read-only."""
    where.mkdir()
    kept = [one for one in layout.mounted.values() if one.volume.type != "vfat"]
    with ExitStack() as mounts:
        for one in sorted(kept, key=lambda one: one.volume.mountpoint):
            at = where / one.volume.mountpoint.lstrip("/")
            subprocess.run(["mount", *mount_arguments(one, read_only=True), disk, at], check=True)
            mounts.callback(subprocess.run, ["umount", at], check=True)
        yield where


def described(root: Path) -> dict[str, Any]:
    """All that there is to say about each entry of a tree."""
    found: dict[str, Any] = {}
    for path in (root, *sorted(root.rglob("*"))):
        status = path.lstat()
        kind = stat.S_IFMT(status.st_mode)
        content: Any = None
        if kind == stat.S_IFREG:
            content = path.read_bytes()
        elif kind == stat.S_IFLNK:
            content = str(path.readlink())
        elif kind == stat.S_IFCHR:
            content = status.st_rdev
        attributes = {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in os.listxattr(path, follow_symlinks=False)
        }
        found[str(path.relative_to(root))] = (
            oct(status.st_mode),
            status.st_uid,
            status.st_gid,
            int(status.st_mtime),
            content,
            attributes,
            status.st_nlink if kind == stat.S_IFREG else 0,
        )
    return found


@pytest.mark.parametrize("root", ["ext4", "xfs", "btrfs"])
def test_everything_is_on_the_disk_in_its_own_volume(ready: Any, tmp_path: Path, root: str) -> None:
    disk, layout = install(ready, target(volumes(root)))
    wanted = described(ready.image)
    with mounted(disk, layout, tmp_path / "mounted") as system:
        found = described(system)
        for holes in ("usr/bin/sparse", "var/lib/sparse", "srv/data/sparse"):
            assert (system / holes).stat().st_blocks * 512 < 1 << 20
        # Volumes of their own leave nothing behind where they are mounted.
        for below, device in (
            ("var/lib", "/var/lib"),
            ("srv/data", "/srv/data"),
            ("boot", "/boot"),
        ):
            assert (system / below).is_mount(), device
    extra = {name for name in found if name.rpartition("/")[2] == "lost+found"}
    initramfs = f"boot/initrd.img-{VERSION}"
    # Outside the image it has another link: the boot archive's.
    wanted[initramfs] = (*wanted[initramfs][:-1], 1)
    assert {name: found[name] for name in found if name not in extra} == wanted


def test_what_is_in_a_volume_is_not_in_the_one_around_it(ready: Any, tmp_path: Path) -> None:
    disk, layout = install(ready, target(volumes()))
    (tmp_path / "root").mkdir()
    arguments = mount_arguments(layout.mounted_at("/"), read_only=True)
    subprocess.run(["mount", *arguments, disk, tmp_path / "root"], check=True)
    try:
        for point in ("var", "boot", "srv/data"):
            inner = tmp_path / "root" / point
            assert list(inner.iterdir()) == []
            assert inner.stat().st_mode == (ready.image / point).stat().st_mode
    finally:
        subprocess.run(["umount", tmp_path / "root"], check=True)
    assert (ready.image / "var/lib/file").read_text() == "content"


def test_it_is_an_installed_system_without_an_identity(ready: Any) -> None:
    _, layout = install(ready, target(volumes()))
    ids = {one.volume.mountpoint or "none": one.volume.uuid for one in layout.volumes}
    assert (ready.image / "etc/fstab").read_text().splitlines()[1:] == [
        f"UUID={ids['/']} / ext4 noatime,x-systemd.growfs 0 1",
        f"UUID={ids['/boot']} /boot ext4 defaults 0 2",
        f"UUID={ids['/boot/efi']} /boot/efi vfat umask=0077,nofail 0 2",
        f"UUID={ids['/srv/data']} /srv/data ext4 defaults 0 2",
        f"UUID={ids['/var']} /var xfs defaults 0 0",
        f"UUID={ids['/var/lib']} /var/lib btrfs defaults 0 0",
        f"UUID={ids['none']} none swap sw 0 0",
        "tmpfs /tmp tmpfs size=1g 0 0",
    ]
    assert (ready.image / "etc/machine-id").read_text() == ""
    assert [path.name for path in (ready.image / "etc/ssh").iterdir()] == []
    unit = ready.image / "etc/systemd/system/ssh.service.wants/ssh-host-keys.service"
    assert unit.readlink() == Path("/etc/systemd/system/ssh-host-keys.service")
    assert (ready.image / f"boot/initrd.img-{VERSION}").read_bytes() == b"initramfs"
    growing = {path.name: path.read_text() for path in (ready.image / "etc/repart.d").iterdir()}
    assert [name for name, text in sorted(growing.items()) if "Weight=0" not in text] == [
        "008-root.conf"
    ]
    assert len(growing) == 5


def test_the_menu_finds_kernel_and_root_by_uuid(ready: Any) -> None:
    mods = """<distro_spec><img_params><vm_im><boot_mods title="VM" timeout="1">
        <boot_entry default_entry="true"><title_suffix>debug</title_suffix>
        <kernel_args>debug=1</kernel_args></boot_entry></boot_mods></vm_im></img_params></distro_spec>"""
    _, layout = install(ready, target(volumes()), mods)
    text = (ready.image / "boot/grub/grub.cfg").read_text()
    root, boot = layout.mounted_at("/"), layout.mounted_at("/boot")
    assert text.startswith(f"search --no-floppy --fs-uuid --set=root {boot.volume.uuid}\n")
    # /boot is a volume of its own: the kernel is at its top.
    assert f"linux /vmlinuz-{VERSION} root=UUID={root.volume.uuid} ro quiet debug=1\n" in text
    assert f"initrd /initrd.img-{VERSION}\n" in text
    assert "console=tty0 console=ttyS0,115200\n" in text
    settings = (ready.image / "etc/default/grub").read_text()
    assert "GRUB_CMDLINE_LINUX='quiet console=tty0 console=ttyS0,115200'\n" in settings
    assert "GRUB_DEFAULT=dcd-1\n" in settings
    assert "debug=1" in (ready.image / "etc/grub.d/41_dcd").read_text()


@pytest.mark.parametrize(
    ("console", "command"),
    [("ttyS1,9600", "serial --unit=1 --speed=9600"), ("", None)],
)
def test_the_serial_console_reaches_every_place(
    ready: Any, console: str, command: str | None
) -> None:
    install(ready, target(), serial_console=console)
    menu = (ready.image / "boot/grub/grub.cfg").read_text()
    settings = (ready.image / "etc/default/grub").read_text()
    for text in (menu, settings):
        assert (f"console={console}" in text) == bool(console)
        assert (command or "serial") in text if console else "serial" not in text


def test_each_esp_gets_the_boot_loader(ready: Any, tmp_path: Path) -> None:
    second = (
        '<gpt_partition name="4" part_type="esp"><size val="64mb"/><format type="vfat"/>'
        "</gpt_partition>"
    )
    disk, layout = install(ready, target(second + partition(5, "ext4", "/", "")))
    programs = []
    for esp in (one for one in layout.partitions if one.type == ESP):
        copied = tmp_path / f"{esp.number}.efi"
        image = f"{disk}@@{esp.start}"
        subprocess.run(["mcopy", "-i", image, "::EFI/BOOT/BOOTX64.EFI", copied], check=True)
        programs.append(copied.read_bytes())
    assert len(programs) == 2
    assert programs[0] == programs[1]


def test_no_time_on_the_disk_is_after_the_builds(ready: Any, tmp_path: Path) -> None:
    epoch = NEWEST - 1000
    doc = ready.doc(target())
    doc.persistent.insert_children(DataObjectDict("boot_archive", {"kernel_version": VERSION}))
    context = ready.context(doc, environment={"SOURCE_DATE_EPOCH": str(epoch)})
    CreateDisk("disk").execute(context)
    InstallOffline("install").execute(context)
    disk, layout = recorded_disk(context)
    with mounted(disk, layout, tmp_path / "mounted") as system:
        times = {path.lstat().st_mtime for path in system.rglob("*")}
    assert max(times) == epoch


def test_grub_is_where_bios_and_uefi_look(ready: Any, tmp_path: Path) -> None:
    disk, layout = install(ready, target())
    [bios] = [one for one in layout.partitions if one.type == BIOS_BOOT]
    with disk.open("rb") as content:
        sector = content.read(512)
        content.seek(bios.start)
        core = content.read(bios.size)
    boot = (MODULES / "i386-pc/boot.img").read_bytes()
    # The table of partitions is still there, and so is the rest of boot.img.
    assert sector[440:] != boot[440:512]
    assert sector[:0x5C] == boot[:0x5C]
    assert struct.unpack_from("<Q", sector, 0x5C) == (bios.start // 512,)
    assert struct.unpack_from("<QH", core, 500)[0] == bios.start // 512 + 1
    assert struct.unpack_from("<QH", core, 500)[1] * 512 + 512 >= len(core.rstrip(b"\0"))
    esp = layout.mounted_at("/boot/efi")
    program = tmp_path / "program"
    subprocess.run(
        ["mcopy", "-i", f"{disk}@@{esp.start}", "::EFI/BOOT/BOOTX64.EFI", program], check=True
    )
    assert program.read_bytes()[:2] == b"MZ"
    assert layout.mounted_at("/").volume.uuid.encode() in program.read_bytes()
    subprocess.run(["sfdisk", "--verify", disk], check=True, capture_output=True)


def test_firmware_that_is_not_wanted_gets_nothing(ready: Any) -> None:
    machine = '<distro_spec><img_params><vm_im firmware="uefi"/></img_params></distro_spec>'
    shutil.rmtree(ready.image / "usr/lib/grub/i386-pc")
    disk, _ = install(ready, machine)
    with disk.open("rb") as content:
        assert content.read(440) == bytes(440)
    assert not (ready.image / "boot/grub/i386-pc").exists()


def test_the_same_image_gives_the_same_bytes_at_another_time(ready: Any) -> None:
    def digest() -> bytes:
        disk, _ = install(ready, target())
        with disk.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()

    # As in a layer, kept; the image was touched since, which does not show in it.
    kept = ready.root.with_name("kept")
    subprocess.run(["cp", "--archive", ready.root, kept], check=True)
    first = digest()
    shutil.rmtree(ready.root)
    kept.rename(ready.root)
    assert digest() == first


def test_nothing_of_the_build_shows_in_times(ready: Any, tmp_path: Path) -> None:
    disk, layout = install(ready, target())
    with mounted(disk, layout, tmp_path / "mounted") as system:
        found = {
            str(path.relative_to(system)): path.lstat() for path in (system, *system.rglob("*"))
        }
    times = {
        name: (status.st_atime, status.st_mtime, status.st_ctime) for name, status in found.items()
    }
    assert {name: each for name, each in times.items() if each != (NEWEST,) * 3} == {}


def test_cloud_init_is_off_unless_it_is_wanted(ready: Any) -> None:
    (ready.image / "usr/bin/cloud-init").touch()
    install(ready, target())
    assert (ready.image / "etc/cloud/cloud-init.disabled").exists()
    clean(ready)
    install(ready, target(), cloud_init=True)
    assert not (ready.image / "etc/cloud/cloud-init.disabled").exists()
    [settings] = (ready.image / "etc/cloud/cloud.cfg.d").iterdir()
    assert "NoCloud" in settings.read_text()


def clean(bench: Any) -> None:
    """As at the beginning of a checkpoint of another build."""
    (bench.root / "media/disk.raw").unlink()
    shutil.rmtree(bench.root / "tmp")
    (bench.root / "tmp").mkdir()


def states(root: Path) -> dict[Path, tuple[int, ...]]:
    """What would show that something was written."""
    found = {path: path.lstat() for path in root.rglob("*")}
    return {
        path: (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        for path, status in found.items()
    }


def refused(bench: Any, *elements: str, **arguments: Any) -> CheckpointError:
    """What InstallOffline says; the disk and the image must be as before."""
    doc = bench.doc(*elements)
    doc.persistent.insert_children(DataObjectDict("boot_archive", {"kernel_version": VERSION}))
    CreateDisk("disk").execute(bench.context(doc))
    before = states(bench.root)
    with pytest.raises(CheckpointError) as caught:
        InstallOffline("install", **arguments).execute(bench.context(doc))
    assert states(bench.root) == before
    return caught.value


def test_what_does_not_fit_is_said_with_numbers_before_anything_is_written(ready: Any) -> None:
    (ready.image / "var/big").write_bytes(os.urandom(380 << 20))
    error = refused(ready, target(volumes()))
    assert "does not fit into partition 4 (/var, 400 MiB)" in error.brief
    assert "381 MiB for" in error.details
    assert "for xfs itself and 20 MiB as a reserve" in error.details
    assert "at least 480 MiB" in error.resolution


def test_what_fat_cannot_hold_is_said_before_anything_is_written(ready: Any) -> None:
    (ready.image / "srv/share").mkdir()
    (ready.image / "srv/share/a:b").touch()
    share = partition(3, "vfat", "/srv/share", "64mb") + partition(4, "ext4", "/", "")
    error = refused(ready, target(share))
    assert "vfat cannot hold 1 of the files for partition 3 (/srv/share)" in error.brief
    assert "/a:b" in error.details


def test_too_many_files_do_not_fit_either(ready: Any) -> None:
    for number in range(4_100):
        (ready.image / f"srv/data/empty/{number}").touch()
    error = refused(ready, target(volumes(data="16mb")))
    assert "partition 6 (/srv/data, 16 MiB)" in error.brief
    assert "for 4110 files and directories" in error.details
    assert "room for 4096 files" in error.details


def test_an_image_without_grub_is_refused_with_the_package(ready: Any) -> None:
    shutil.rmtree(ready.image / "usr/lib/grub/i386-pc")
    error = refused(ready, target())
    assert "<name>grub-pc-bin</name>" in error.resolution
    assert "efi" not in error.resolution


def test_an_image_that_cannot_grow_or_lacks_cloud_init_is_refused(ready: Any) -> None:
    assert "cloud-init" in refused(ready, target(), cloud_init=True).resolution
    clean(ready)
    (ready.image / "usr/bin/systemd-repart").unlink()
    assert "grow_root" in refused(ready, target()).resolution


def test_without_a_boot_archive_it_says_what_to_run_before(ready: Any) -> None:
    (ready.root / "boot_archive/initrd.img").unlink()
    assert "DebianBootArchive" in refused(ready, target()).resolution


def test_a_root_that_is_not_the_last_cannot_grow(bench: Any) -> None:
    swap = '<gpt_partition name="4" part_type="swap"><size val="8mb"/></gpt_partition>'
    swap_last = partition(3, "ext4", "/", "99mb") + swap
    with pytest.raises(InvalidManifest, match="partition 4 is behind it"):
        refuse(InstallOffline("install").check(bench.doc(target(swap_last))))
    refuse(InstallOffline("install", grow_root=False).check(bench.doc(target(swap_last))))


@pytest.mark.parametrize("line", ["ttyS", "ttyS0;reboot", "/dev/ttyS0"])
def test_a_serial_line_that_is_none_is_refused(line: str) -> None:
    with pytest.raises(BadArguments, match="not a serial line"):
        match_arguments(InstallOffline, [], {"serial_console": line})


def test_loop_devices_are_asked_for_only_where_volumes_are_mounted(bench: Any) -> None:
    assert InstallOffline("install").needs(bench.doc(target())).devices == ()
    needs = InstallOffline("install").needs(bench.doc(target(volumes())))
    assert needs.devices == (ALL_DEVICES,)
    assert "mount" in needs.tools


def test_a_faulty_target_is_left_for_create_disk_to_tell(bench: Any) -> None:
    faulty = bench.doc(target(size="1mb"))
    refuse(InstallOffline("install").check(faulty))
    assert InstallOffline("install").needs(faulty).tools == InstallOffline.TOOLS


def test_a_btrfs_that_is_attached_to_the_host_is_told(ready: Any, tmp_path: Path) -> None:
    manifest = target(partition(3, "btrfs", "/", ""), size="1gb")
    disk, layout = install(ready, manifest)
    elsewhere = disk.rename(tmp_path / "elsewhere.raw")
    with (
        mounted(elsewhere, layout, tmp_path / "there"),
        pytest.raises(CheckpointError, match="attached already") as refused,
    ):
        install(ready, manifest)
    assert "blkid -U" in refused.value.resolution
