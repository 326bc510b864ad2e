"""What the platform layer reads on illumos, from its manual pages: files and the output of tools there."""

import struct
import sys
from pathlib import Path

import pytest

from store.host import boot, loops, mounts, privileges, process_table, tools
from store.host.capabilities import FILES
from store.host.loops import Attached, parse_lofiadm
from store.host.mounts import FileSystem, file_system_of
from store.host.process_table import Entry, parse_psinfo

SECOND = 1_000_000_000


def psinfo(pid: int, *, contract: int = 77, threads: int = 1, started: int = 1000) -> bytes:
    """psinfo_t of sys/procfs.h for programs of 64 bits, field by field."""
    ids = struct.pack("=10i", 0, threads, pid, 20, 30, 40, 0, 60, 0, 0)
    sizes = struct.pack("=5Q2H4x", 0, 1, 1, 0, 5, 0, 0)
    times = struct.pack("=6q", started, 7, 0, 0, 0, 0)
    names = b"python".ljust(16, b"\0") + b"python -m dcd".ljust(80, b"\0")
    rest = struct.pack("=2i2Qb3x6i", 0, 1, 0xFF, 0xFF, 2, 1, 1, 0, 0, 0, contract)
    return ids + sizes + times + names + rest + bytes(140)


@pytest.fixture
def illumos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for stand-ins of illumos' tools and files."""
    monkeypatch.setattr(sys, "platform", "sunos5")
    monkeypatch.setattr(process_table, "PROC", tmp_path / "proc")
    monkeypatch.setattr(mounts, "MNTTAB", tmp_path / "mnttab")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(
        "store.host.process.BASE_ENVIRONMENT", {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    )
    (tmp_path / "proc").mkdir()
    boot.boot_id.cache_clear()
    return tmp_path


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_process_is_read_from_psinfo(illumos: Path) -> None:
    for pid in (9, 11):
        (illumos / "proc" / str(pid)).mkdir()
        (illumos / "proc" / str(pid) / "psinfo").write_bytes(psinfo(pid, threads=pid - 9))
    (illumos / "proc" / "12").mkdir()  # ended while it was looked at
    users = frozenset({0, 60})
    expected = Entry(11, 20, 30, 40, users, 1000 * SECOND + 7, contract=77)
    assert list(process_table.processes()) == [expected]


def test_a_file_that_is_no_psinfo_is_refused() -> None:
    with pytest.raises(ValueError, match="284 bytes"):
        parse_psinfo(b"short")


def test_a_boot_is_known_by_the_start_of_the_first_process(illumos: Path) -> None:
    assert boot.boot_id() == ""
    boot.boot_id.cache_clear()
    (illumos / "proc" / "1").mkdir()
    (illumos / "proc" / "1" / "psinfo").write_bytes(psinfo(1))
    assert boot.boot_id() == str(1000 * SECOND + 7)
    boot.boot_id.cache_clear()


def test_a_file_system_is_looked_up_in_mnttab(illumos: Path) -> None:
    (illumos / "data set" / "below").mkdir(parents=True)
    (illumos / "mnttab").write_text(
        "rpool/ROOT/be\t/\tzfs\tdev=4410002\t0\n"
        f"rpool/data\t{illumos}/data set\tzfs\trw,devices,setuid,dev=1\t1700000000\n"
    )
    place = illumos / "data set"
    assert file_system_of(place / "below") == FileSystem("zfs", "rpool/data", place)
    assert file_system_of(illumos) == FileSystem("zfs", "rpool/ROOT/be", Path("/"))


def test_what_is_left_mounted_is_unmounted_by_force(illumos: Path) -> None:
    program(illumos / "umount", f'echo "$@" >>{illumos}/asked')
    (illumos / "mnttab").write_text(
        "rpool/ROOT/be\t/\tzfs\tdev=1\t0\n/dev/lofi/1\t/area/a\tufs\trw\t1\nswap\t/area/a/b\ttmpfs\trw\t2\n"
    )
    left = mounts.unmount_below(Path("/area"))
    assert left == [Path("/area/a"), Path("/area/a/b")]
    assert (illumos / "asked").read_text() == "-f /area/a/b\n-f /area/a\n"


def test_files_attached_by_lofi_are_unmounted_and_detached(illumos: Path) -> None:
    listing = (
        "Block Device             File                           Options\n"
        "/dev/lofi/1              /area/with blanks/image        -\n"
        "/dev/lofi/2              /elsewhere/image               Compressed(gzip)\n"
    )
    (illumos / "listing").write_text(listing)
    program(
        illumos / "lofiadm",
        f'if [ $# = 0 ]; then cat {illumos}/listing; else echo "$@" >>{illumos}/asked; fi',
    )
    program(illumos / "umount", f'echo "$@" >>{illumos}/asked')
    (illumos / "mnttab").write_text(
        "/dev/lofi/1\t/area/ramdisk\tufs\trw\t1\n/dev/lofi/2\t/elsewhere/mounted\tufs\trw\t2\n"
    )
    assert loops.any_attached()
    detached = loops.detach_files(lambda each: each.shown.startswith("/area/"))
    assert detached == ["/dev/lofi/1"]
    assert (illumos / "asked").read_text() == "-f /area/ramdisk\n-d /dev/lofi/1\n"
    assert next(iter(parse_lofiadm(listing))) == Attached(
        "/dev/lofi/1", "/area/with blanks/image", "/area/with blanks/image"
    )


def test_a_zone_without_lofi_has_no_devices(illumos: Path) -> None:
    program(illumos / "lofiadm", "echo 'lofiadm: could not open /dev/lofictl' >&2; exit 1")
    assert not loops.any_attached()


@pytest.mark.parametrize(
    ("capabilities", "network", "expected"),
    [
        (FILES, True, "zone"),
        # Without one of the zone's privileges it could not make a set-uid file of root.
        (FILES, False, "zone"),
        ((), True, "basic"),
        (("CHOWN", "MKNOD"), False, "basic,file_chown,sys_devices,!net_access"),
    ],
    ids=["image", "image-without-network", "nothing", "some"],
)
def test_a_worker_keeps_the_privileges_that_its_checkpoint_needs(
    capabilities: tuple[str, ...], network: bool, expected: str
) -> None:
    assert privileges.kept(capabilities, network=network) == expected


class TestPackages:
    @pytest.fixture(autouse=True)
    def on_illumos(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tools, "ON_ILLUMOS", True)

    def test_are_those_of_illumos(self) -> None:
        assert tools.remedy(["xorriso", "zstd"]) == "pkg install compress/zstd media/xorriso"
        assert tools.remedy_for_program("/usr/gnu/bin/tar") == "pkg install archiver/gnu-tar"

    def test_of_debian_are_never_named(self) -> None:
        for name, tool in tools.TOOLS.items():
            remedy = tools.remedy([name])
            assert "apt-get install" not in remedy
            assert "util-linux" not in remedy
            assert remedy.startswith("pkg install ") == (name in tools.ILLUMOS_PACKAGES), tool

    def test_that_do_not_exist_are_not_invented(self) -> None:
        assert tools.remedy(["mmdebstrap"]) == (
            "mmdebstrap of Linux has no package on illumos: use a Linux host for the checkpoints that need it"
        )
        assert tools.remedy(["setpriv", "unshare"]).startswith("setpriv, unshare of Linux have no")
