"""Copies of trees are whole: links, hard links, devices, attributes, holes, odd names."""

import os
import stat
from pathlib import Path

import pytest

from dcd.platform.copying import copy_entries
from statemachine.errors import CheckpointError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "usr/bin").mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    (root / "usr/bin/ls").write_text("ls")
    (root / "usr/bin/ls").chmod(0o4755)
    return root


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    (tmp_path / "destination").mkdir()
    return tmp_path / "destination"


def names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_a_directory_stands_for_all_below_it(source: Path, destination: Path) -> None:
    (source / "usr/empty").mkdir()
    copy_entries(source, destination, ["usr"])
    assert names(destination) == ["usr", "usr/bin", "usr/bin/ls", "usr/empty"]
    assert stat.S_IMODE((destination / "usr/bin/ls").stat().st_mode) == 0o4755


def test_a_name_brings_the_way_to_it_along(source: Path, destination: Path) -> None:
    copy_entries(source, destination, ["bin/ls"])
    assert (destination / "bin").readlink() == Path("usr/bin")
    assert (destination / "usr/bin/ls").read_text() == "ls"


def test_times_modes_and_odd_names_are_kept(source: Path, destination: Path) -> None:
    odd = source / "dir with blanks\n\udcff"
    odd.mkdir(mode=0o750)
    (odd / "a'b\"c").write_text("x")
    os.utime(odd / "a'b\"c", ns=(1_000_000_007, 2_000_000_009))
    os.utime(odd, ns=(3_000_000_001, 4_000_000_003))
    copy_entries(source, destination, [odd.name])
    copied = destination / odd.name
    assert (copied / "a'b\"c").stat().st_mtime_ns == 2_000_000_009
    assert copied.stat().st_mtime_ns == 4_000_000_003
    assert stat.S_IMODE(copied.stat().st_mode) == stat.S_IMODE(odd.stat().st_mode)


def test_links_stay_links_also_when_they_lead_nowhere(source: Path, destination: Path) -> None:
    (source / "dangling").symlink_to("/no/such")
    copy_entries(source, destination, ["dangling", "bin"])
    assert (destination / "dangling").readlink() == Path("/no/such")
    assert names(destination) == ["bin", "dangling"]


def test_hard_links_stay_one_file(source: Path, destination: Path) -> None:
    (source / "other").hardlink_to(source / "usr/bin/ls")
    copied = copy_entries(source, destination, ["other", "usr"])
    assert (destination / "other").samefile(destination / "usr/bin/ls")
    assert copied.size_bytes == len("ls")


def test_holes_stay_holes(source: Path, destination: Path) -> None:
    with (source / "sparse").open("wb") as stream:
        stream.write(b"begin")
        stream.seek(64 << 20)
        stream.write(b"end")
        stream.truncate(128 << 20)
    copy_entries(source, destination, ["sparse"])
    copied = destination / "sparse"
    assert copied.stat().st_size == 128 << 20
    assert copied.stat().st_blocks * 512 < 1 << 20
    with copied.open("rb") as stream:
        assert stream.read(5) == b"begin"
        stream.seek(64 << 20)
        assert stream.read(4) == b"end\0"


def test_extended_attributes_are_kept(source: Path, destination: Path) -> None:
    try:
        os.setxattr(source / "usr/bin/ls", "user.note", b"\x00value")
    except OSError:
        pytest.skip("this host has no extended attributes on its temporary file system")
    copied = copy_entries(source, destination, ["usr"])
    assert os.getxattr(destination / "usr/bin/ls", "user.note") == b"\x00value"
    assert copied.lost == []


@pytest.mark.root
def test_devices_fifos_and_owners_are_kept(source: Path, destination: Path) -> None:
    os.mknod(source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mkfifo(source / "fifo", 0o600)
    os.chown(source / "fifo", 12, 34)
    copy_entries(source, destination, ["null", "fifo"])
    assert (destination / "null").stat().st_rdev == os.makedev(1, 3)
    status = (destination / "fifo").lstat()
    assert (stat.S_ISFIFO(status.st_mode), status.st_uid, status.st_gid) == (True, 12, 34)


def test_excluded_entries_are_left_out_with_all_below_them(source: Path, destination: Path) -> None:
    (source / "usr/share/doc").mkdir(parents=True)
    (source / "usr/share/doc/x").touch()
    copy_entries(source, destination, ["usr"], excluded=["/usr/share/doc", "usr/bin/ls"])
    assert names(destination) == ["usr", "usr/bin", "usr/share"]


def test_files_that_are_there_are_replaced(source: Path, destination: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("host")
    (destination / "usr/bin").mkdir(parents=True)
    (destination / "usr/bin/ls").symlink_to(outside)
    copy_entries(source, destination, ["usr/bin/ls"])
    assert (destination / "usr/bin/ls").read_text() == "ls"
    assert outside.read_text() == "host"


def test_links_of_the_destination_do_not_lead_out_of_it(
    source: Path, destination: Path, tmp_path: Path
) -> None:
    (tmp_path / "host").mkdir()
    (destination / "usr").symlink_to(tmp_path / "host")
    copy_entries(source, destination, ["usr/bin/ls"])
    assert (destination / str(tmp_path / "host/bin/ls").lstrip("/")).read_text() == "ls"
    assert list((tmp_path / "host").iterdir()) == []


def test_a_link_of_the_destination_to_a_directory_in_it_is_followed(
    source: Path, destination: Path
) -> None:
    (destination / "data").mkdir()
    (destination / "usr").symlink_to("/data")
    copy_entries(source, destination, ["usr/bin/ls"])
    assert (destination / "data/bin/ls").read_text() == "ls"


def test_a_file_does_not_replace_a_directory(source: Path, destination: Path) -> None:
    (destination / "usr/bin/ls").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="existing file of another type"):
        copy_entries(source, destination, ["usr"])


def test_all_missing_names_are_told_before_anything_is_copied(
    source: Path, destination: Path
) -> None:
    with pytest.raises(CheckpointError) as caught:
        copy_entries(source, destination, ["usr", "nosuch", "bin/neither"])
    assert caught.value.brief.startswith("2 of the 3")
    assert "nosuch" in caught.value.details
    assert "bin/neither" in caught.value.details
    assert names(destination) == []
