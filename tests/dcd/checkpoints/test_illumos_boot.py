"""The boot archive and the boot menu of illumos: contents, the formats of the archive, loader and GRUB."""

import gzip
import hashlib
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.boot.illumos.archive import ARCHIVE, BootArchiveArchive, ufs_size
from dcd.checkpoints.boot.illumos.contents import (
    AIBootArchiveConfigure,
    LiveCDBootArchiveConfigure,
    TextBootArchiveConfigure,
)
from dcd.checkpoints.boot.illumos.menu import (
    AIISOImageBootMenu,
    LiveCDISOImageBootMenu,
    TextISOImageBootMenu,
)
from dcd.checkpoints.image.illumos.configure import TextPrePkgImgMod
from dcd.checkpoints.transfer.cpio import TransferCPIO
from statemachine.errors import CheckpointError
from store.host.tools import missing
from tests.dcd.checkpoints.illumos_tree import BOOT_MODS, EPOCH, make_tree, run_all

needs_xorriso = pytest.mark.skipif(
    bool(missing(["xorriso", "isoinfo"])), reason="not installed: xorriso or isoinfo"
)


@pytest.fixture
def archive(bench: Any) -> Path:
    """A boot archive area as TransferCPIO leaves it."""
    make_tree(bench.image)
    run_all(bench, TextPrePkgImgMod("pre"), TransferCPIO("ba-init"))
    return bench.root / "boot_archive"  # type: ignore[no-any-return]


def test_an_entry_that_the_release_no_longer_has_is_a_warning(bench: Any, archive: Path) -> None:
    assert [each.message for each in bench.reports if each.warning and "usr/has" in each.message]


def test_the_archive_becomes_the_root_of_a_live_system(bench: Any, archive: Path) -> None:
    run_all(bench, TextBootArchiveConfigure("ba-config"))
    assert str((archive / "bin").readlink()) == "usr/bin"
    assert str((archive / "opt").readlink()) == "mnt/misc/opt"
    assert stat.S_IMODE((archive / "tmp").stat().st_mode) == 0o1777
    for directory in ("proc", "mnt/misc", "mnt/pkg", ".cdrom"):
        assert (archive / directory).is_dir()
    for file in ("reconfigure", ".textinstall", "etc/dumpadm.conf"):
        assert (archive / file).read_bytes() == b""
    assert (archive / "etc/rtc_config").read_text() == "zone_info=GMT\nzone_lag=0\n"
    assert (archive / ".volsetid").read_text() == "test-2023-11-14T22:13:20"
    assert stat.S_IMODE((archive / ".volsetid").stat().st_mode) == 0o444
    seed = bench.image / "lib/svc/seed/global.db"
    assert (archive / "etc/svc/repository.db").read_bytes() == seed.read_bytes()


def test_files_that_are_not_in_the_archive_are_links_to_the_rest(bench: Any, archive: Path) -> None:
    run_all(bench, AIBootArchiveConfigure("ba-config"))
    assert (archive / ".autoinstall").exists()
    links = {
        str(path.relative_to(archive)): str(path.readlink())
        for path in archive.rglob("*")
        if path.is_symlink() and path.name not in ("bin", "opt", "link")
    }
    # Links are as they are in the image.
    assert str((archive / "etc/link").readlink()) == "release"
    assert links["etc/deep/er/file"] == "/mnt/misc/etc/deep/er/file"
    assert all(target == f"/mnt/misc/{name}" for name, target in links.items())
    # Not those that the archive has, and the lock that installers stumble over.
    assert not links.keys() & {"etc/passwd", "etc/.pwd.lock", "etc/svc/repository.db"}
    assert stat.S_IMODE((archive / "var/adm").stat().st_mode) == 0o775


@pytest.mark.parametrize("area", ["pkg_image", "boot_archive"])
@pytest.mark.parametrize("path", ["etc/deep", "var"])
def test_links_of_the_image_lead_nowhere_outside_the_workspace(
    bench: Any, archive: Path, tmp_path: Path, area: str, path: str
) -> None:
    outside = tmp_path / "outside"
    (outside / "er").mkdir(parents=True)
    (outside / "secret").write_text("of the host")
    place = bench.root / area / path
    shutil.rmtree(place, ignore_errors=True)
    place.symlink_to(outside)
    run_all(bench, TextBootArchiveConfigure("ba-config"))
    assert sorted(each.name for each in outside.rglob("*")) == ["er", "secret"]
    assert not (archive / "var/secret").is_symlink()


def test_on_a_live_desktop_jack_is_logged_in_and_may_use_sudo(bench: Any, archive: Path) -> None:
    run_all(bench, LiveCDBootArchiveConfigure("ba-config"))
    assert str((archive / "etc/gdm/custom.conf").readlink()) == "/mnt/misc/etc/gdm/custom.conf"
    lines = (bench.image / "etc/gdm/custom.conf").read_text().splitlines()
    assert lines[:3] == ["[daemon]", "AutomaticLoginEnable=true", "AutomaticLogin=jack"]
    assert (bench.image / "save/etc/gdm/custom.conf").read_text() == "[daemon]\n[security]\n"
    assert (archive / "etc/sudoers").read_text().endswith("jack ALL=(ALL) ALL\n")
    assert "jack" not in (bench.image / "save/etc/sudoers").read_text()


def test_a_directory_in_the_place_of_a_link_is_refused_with_its_remedy(
    bench: Any, archive: Path
) -> None:
    (archive / "opt/x").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="/opt of the boot archive") as caught:
        run_all(bench, TextBootArchiveConfigure("ba-config"))
    assert "leave opt out" in caught.value.resolution


def test_an_archive_that_nothing_filled_is_refused(bench: Any) -> None:
    make_tree(bench.image)
    with pytest.raises(CheckpointError, match="contents of the boot archive") as caught:
        run_all(bench, TextBootArchiveConfigure("ba-config"))
    assert "TransferCPIO" in caught.value.resolution


def unpacked(bench: Any) -> bytes:
    """The archive's file, unpacked, and compared with its hash."""
    content = gzip.decompress((bench.image / ARCHIVE).read_bytes())
    digest = (bench.image / f"{ARCHIVE}.hash").read_text()
    assert digest == f"{hashlib.sha1(content).hexdigest()}\n"
    return content


@pytest.fixture
def configured(bench: Any, archive: Path) -> Path:
    run_all(bench, TextBootArchiveConfigure("ba-config"))
    return archive


def test_as_cpio_it_has_the_format_that_the_kernel_reads_and_cpio_unpacks(
    bench: Any, configured: Path, tmp_path: Path
) -> None:
    os.link(configured / "sbin/init", configured / "sbin/again")
    run_all(bench, BootArchiveArchive("ba-arch", format="cpio"))
    content = unpacked(bench)
    assert content[:6] == b"070707"
    assert len(content) % 512 == 0
    # The kernel looks for one name, so each hard link has its data: header, name, content.
    for name in (b"sbin/again", b"sbin/init"):
        at = content.index(name + b"\0")
        assert content[at + len(name) + 1 :].startswith(b"\x7fELF")
    target = tmp_path / "unpacked"
    target.mkdir()
    subprocess.run(["cpio", "-idm", "--quiet"], input=content, cwd=target, check=True)
    assert described(target) == described(configured)
    assert (target / "sbin/init").samefile(target / "sbin/again")
    again = (bench.image / ARCHIVE).read_bytes()
    run_all(bench, BootArchiveArchive("ba-arch", format="cpio"))
    assert (bench.image / ARCHIVE).read_bytes() == again


def described(root: Path) -> dict[str, tuple[int, int, int, bytes | str]]:
    """Each entry's mode, owner and contents."""
    found = {}
    for path in root.rglob("*"):
        status = path.lstat()
        data: bytes | str = b""
        if path.is_symlink():
            data = str(path.readlink())
        elif path.is_file():
            data = path.read_bytes()
        found[str(path.relative_to(root))] = (status.st_mode, status.st_uid, status.st_gid, data)
    return found


@needs_xorriso
def test_as_hsfs_xorriso_reads_owners_modes_and_contents_back_and_writes_are_warned_of(
    bench: Any, configured: Path, tmp_path: Path
) -> None:
    os.chown(configured / "sbin/init", 0, 3)
    run_all(bench, BootArchiveArchive("ba-arch"))
    image = tmp_path / "ramdisk"
    image.write_bytes(unpacked(bench))
    out = tmp_path / "out"
    subprocess.run(
        ["xorriso", "-no_rc", "-osirrox", "on", "-indev", image, "-extract", "/", out],
        capture_output=True,
        check=True,
    )
    assert described(out) == described(configured)
    listed = subprocess.run(
        ["isoinfo", "-R", "-f", "-i", image], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert {f"/{name}" for name in described(configured)} == set(listed)
    assert [each for each in bench.reports if each.warning and "cannot write" in each.message]


def test_ufs_has_space_and_inodes_as_in_the_original(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(10 << 20))
    size_kib, density = ufs_size(tmp_path, 5 << 10, 0)
    assert size_kib == (10 + 35 + 5) << 10
    assert density == 1 << 10  # 50 MiB for 42001 inodes: 1248 bytes each, the power of two below
    assert ufs_size(tmp_path, 0, 4096)[1] == 4096


def test_on_illumos_it_is_ufs_by_newfs_and_lofiadm(
    bench: Any, configured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dcd.checkpoints.boot.illumos.archive.is_illumos", lambda: True)
    calls = tmp_path / "calls"
    for tool, says in (("lofiadm", "/dev/lofi/1"), ("newfs", ""), ("mount", ""), ("umount", "")):
        (tmp_path / tool).write_text(f'#!/bin/sh\necho "{tool} $*" >> {calls}\necho {says}\n')
        (tmp_path / tool).chmod(0o755)
    checkpoint = BootArchiveArchive("ba-arch")
    doc = bench.doc()
    assert checkpoint.needs(doc).tools == ("newfs", "lofiadm")
    # Workers of illumos are portable, and what needs a mount namespace is refused there.
    assert "SYS_ADMIN" not in checkpoint.needs(doc).capabilities
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SOURCE_DATE_EPOCH": str(EPOCH)}
    checkpoint.execute(bench.context(doc, environment=environment))
    tmp = bench.root / "tmp"
    size_kib, density = ufs_size(configured, 0, 0)
    assert calls.read_text().splitlines() == [
        f"lofiadm -a {tmp}/boot_archive",
        f"newfs -m 0 -i {density} /dev/rlofi/1",
        f"mount -F ufs /dev/lofi/1 {tmp}/ramdisk",
        f"umount {tmp}/ramdisk",
        "lofiadm -d /dev/lofi/1",
    ]
    assert (tmp / "ramdisk/sbin/init").exists()
    assert len(unpacked(bench)) == size_kib << 10


@pytest.mark.parametrize(
    ("argument", "value", "why"),
    [
        ("compression_type", "dcfs", "SPARC"),
        ("uncompressed_files", ("etc/system",), "SPARC"),
        ("compression_level", 0, "out of range"),
        ("size_pad", -1, "out of range"),
    ],
)
def test_what_the_archive_cannot_be_is_refused(
    bench: Any, argument: str, value: Any, why: str
) -> None:
    checkpoint = BootArchiveArchive("ba-arch", **{argument: value})
    assert why in "".join(each.message for each in checkpoint.check(bench.doc()))


def test_an_image_for_sparc_is_refused(bench: Any) -> None:
    (bench.image / "platform/sun4u").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="SPARC"):
        run_all(bench, BootArchiveArchive("ba-arch"))


# The boot menu


def test_the_loader_gets_settings_and_the_entries_with_their_arguments(bench: Any) -> None:
    make_tree(bench.image)
    run_all(bench, TextISOImageBootMenu("boot-setup"), elements=(BOOT_MODS,))
    assert (bench.image / "boot/conf.d/dcd").read_text().splitlines()[1:] == [
        'loader_menu_title="Sample"',
        'autoboot_delay="7"',
        'boot-args="-B assistive_tech=magnifier"',
    ]
    menu = forth(bench)
    assert captions(menu) == ["Sample", "Sample ttya", "Sample ttyb", "Sample with magnifier"]
    assert ': dcd-boot-1\ns" -B console=ttya" s" boot-args" setenv\ns" boot" evaluate' in menu
    assert ': dcd-boot-0\ns" boot-args" unsetenv' in menu
    assert max(map(len, menu.splitlines())) <= 255
    assert (bench.image / ".image_info").read_text() == "GRUB_TITLE=Sample\n"


def forth(bench: Any) -> str:
    return (bench.image / "boot/menu.rc.local").read_text()  # type: ignore[no-any-return]


def captions(menu: str) -> list[str]:
    """The captions of the entries' own menus, without the ways between these."""
    found = [line.split('"')[1].strip() for line in menu.splitlines() if "menu_caption[" in line]
    return [each for each in found if "[" not in each]


def test_without_boot_mods_the_title_is_that_of_the_release(bench: Any) -> None:
    make_tree(bench.image)
    run_all(bench, LiveCDISOImageBootMenu("boot-setup"))
    title = "Sample illumos 2026"
    assert captions(forth(bench)) == [
        title,
        f"{title} VESA driver",
        f"{title} text console",
        f"{title} Enable SSH",
    ]
    settings = (bench.image / "boot/conf.d/dcd").read_text()
    assert 'autoboot_delay="30"' in settings
    assert "boot-args" not in settings


def test_many_entries_are_on_pages_that_lead_to_each_other(bench: Any) -> None:
    make_tree(bench.image)
    run_all(bench, AIISOImageBootMenu("boot-setup", installadm_entry="mine"))
    menu = forth(bench)
    assert len(captions(menu)) == 6
    assert 's" 5 goto_menu" s" dcd1menu_command[7]" setenv' in menu
    assert 's" dcd2" s" menuset_name5" setenv' in menu
    assert 's" 4 goto_menu" s" dcd2menu_command[1]" setenv' in menu
    assert "NO_INSTALL_GRUB_TITLE=mine\n" in (bench.image / ".image_info").read_text()


def test_an_old_image_gets_the_menu_of_grub(bench: Any) -> None:
    make_tree(bench.image, "grub")
    run_all(bench, TextISOImageBootMenu("boot-setup"), elements=(BOOT_MODS,))
    lines = (bench.image / "boot/grub/menu.lst").read_text().splitlines()
    assert lines[1:4] == ["default 3", "timeout 7", "hiddenmenu"]
    at = lines.index("title Sample ttya")
    assert lines[at + 1 : at + 3] == [
        "\tkernel$ /boot/platform/i86pc/kernel/amd64/unix -B console=ttya",
        "\tmodule$ /boot/platform/i86pc/amd64/boot_archive",
    ]
    assert lines[-2:] == ["\trootnoverify (hd0)", "\tchainloader +1"]
    assert not (bench.image / "boot/conf.d").exists()


def test_an_image_without_a_boot_loader_is_told_which_files_it_lacks(bench: Any) -> None:
    (bench.image / "etc").mkdir()
    with pytest.raises(CheckpointError, match="no boot loader") as caught:
        run_all(bench, TextISOImageBootMenu("boot-setup"))
    assert "boot/cdboot" in caught.value.details
    assert "system/boot/loader" in caught.value.resolution


@pytest.mark.parametrize(
    ("title", "arguments", "why"),
    [
        ("x", "-B a='\"'", "cannot be in the boot menu"),
        ("x" * 250, "", "too long for the loader"),
    ],
)
def test_what_the_loader_cannot_hold_is_refused(
    bench: Any, title: str, arguments: str, why: str
) -> None:
    make_tree(bench.image)
    mods = (
        f"<boot_mods><boot_entry><title_suffix>{title}</title_suffix>"
        f"<kernel_args>{arguments}</kernel_args></boot_entry></boot_mods>"
    )
    with pytest.raises(CheckpointError, match=why):
        run_all(bench, TextISOImageBootMenu("boot-setup"), elements=(mods,))


def test_a_title_is_text_and_no_language(bench: Any) -> None:
    make_tree(bench.image)
    mods = '<boot_mods title="a &quot; \\ ${x} evil"/>'
    run_all(bench, TextISOImageBootMenu("boot-setup"), elements=(mods,))
    assert captions(forth(bench))[0] == "a ' \\ ${x} evil"
    settings = (bench.image / "boot/conf.d/dcd").read_text()
    assert 'loader_menu_title="a \\" \\\\ ${x} evil"' in settings
