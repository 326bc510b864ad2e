"""What identifies the parts of the host that decide bytes: it changes when they do, and not otherwise."""

import os
import shutil
from pathlib import Path

import pytest

from dcd.platform import host_parts as parts
from dcd.platform.apt import HostApt
from dcd.platform.host_parts import file_digest, host_parts, present_apt
from statemachine.errors import Unprepared
from store.host.tools import TOOLS, Tool


def replace_file(path: Path, content: bytes) -> None:
    """As dpkg replaces a file: another one is renamed over it."""
    new = path.with_suffix(".dpkg-new")
    new.write_bytes(content)
    if path.exists():
        new.chmod(path.stat().st_mode)
    new.rename(path)


@pytest.fixture
def grub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with a small GRUB for BIOS; returns its directory."""
    directory = tmp_path / "grub/i386-pc"
    directory.mkdir(parents=True)
    for name in ("moddep.lst", "boot_hybrid.img", "normal.mod"):
        (directory / name).write_text(name)
    listed = TOOLS["grub-bios"]
    here = Tool(
        str(directory / "moddep.lst"), listed.package, None, part=listed.part, whole=listed.whole
    )
    monkeypatch.setitem(TOOLS, "grub-bios", here)
    return directory


def test_any_changed_file_of_a_set_changes_its_part_and_an_unchanged_one_does_not(
    grub: Path,
) -> None:
    before = host_parts(["grub-bios"])
    assert list(before) == ["GRUB of the host"]
    assert host_parts(["grub-bios"]) == before
    (grub / "normal.mod").touch()
    assert host_parts(["grub-bios"]) == before
    replace_file(grub / "normal.mod", b"another one")
    changed = host_parts(["grub-bios"])
    assert changed != before
    (grub / "more.mod").write_text("")
    assert host_parts(["grub-bios"]) not in (before, changed)


def test_a_part_says_the_packages_and_versions_that_it_comes_from(grub: Path) -> None:
    digest, *words = host_parts(["grub-mkimage", "grub-bios"])["GRUB of the host"].split()
    assert len(digest) == 64
    assert words[::2] == ["grub-common", "grub-pc-bin"]
    assert all(version[0].isdigit() for version in words[1::2])


def test_a_program_of_its_own_is_known_by_content_and_libraries(tmp_path: Path) -> None:
    program = tmp_path / "tool"
    shutil.copy("/bin/true", program)
    before = host_parts([str(program)])
    assert list(before) == [f"{program} of the host"]
    content = program.read_bytes()
    replace_file(program, content)
    assert host_parts([str(program)]) == before
    replace_file(program, content + b"\0")
    assert host_parts([str(program)]) != before


def test_the_libraries_of_a_program_count_but_not_the_c_library() -> None:
    names = [path.name for path in parts._program(Path(shutil.which("xorriso") or ""))]
    assert any(name.startswith("libisofs.so") for name in names)
    assert not any(name.startswith(("libc.so", "ld-linux", "libpthread")) for name in names)


def test_a_changed_library_changes_its_programs_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "libshape.so.1"
    library.write_text("one")
    program = tmp_path / "tool"
    shutil.copy("/bin/true", program)
    ldd = tmp_path / "bin/ldd"
    ldd.parent.mkdir()
    ldd.write_text(f"#!/bin/sh\necho '\tlibshape.so.1 => {library} (0x1)'\n")
    ldd.chmod(0o755)
    environment = {"PATH": f"{ldd.parent}:/usr/bin:/bin"}
    monkeypatch.setattr("store.host.process.BASE_ENVIRONMENT", environment)
    before = host_parts([str(program)])
    replace_file(library, b"two")
    assert host_parts([str(program)]) != before


def test_what_only_moves_bytes_and_what_is_missing_are_no_part(tmp_path: Path) -> None:
    assert host_parts(["mount", "umount", "cp", "chroot", str(tmp_path / "nosuch")]) == {}


def test_every_tool_that_makes_files_is_a_part() -> None:
    makers = {
        *("mksquashfs", "xorriso", "grub-mkimage", "grub-bios", "grub-efi", "mformat", "mcopy"),
        *("mke2fs", "debugfs", "mkfs.xfs", "mkfs.btrfs", "mkswap", "qemu-img"),
        *("mmdebstrap", "apt-get", "pkg", "a-plug-ins-own"),
    }
    assert all(TOOLS[name].shapes for name in makers & TOOLS.keys())


@pytest.mark.parametrize("kind", ["pipe", "directory", "missing", "device"])
def test_only_regular_files_are_read_and_nothing_is_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "it"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "device":
        path = Path("/dev/zero")
    with pytest.raises(Unprepared, match="cannot be read"):
        file_digest(path)


def test_files_are_read_once_for_each_state_of_theirs(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("one")
    first = file_digest(path)
    known = parts._file_digest.cache_info().hits
    assert file_digest(path) == first
    assert parts._file_digest.cache_info().hits == known + 1
    path.write_text("two")
    assert file_digest(path) != first


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[HostApt]:
    """The answers of apt about its configuration, on a host whose packages are in `tmp_path`/status."""
    answers: list[HostApt] = []

    def answer() -> HostApt:
        answers.append(HostApt((), f"{len(answers)}", ""))
        return answers[-1]

    (tmp_path / "status").write_text("")
    monkeypatch.setattr(parts, "_DPKG_STATUS", tmp_path / "status")
    monkeypatch.setattr(parts, "host_apt", answer)
    return answers


def test_apt_is_asked_once_where_its_settings_cannot_change(
    asked: list[HostApt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dcd.platform.sight._in_sight", ())
    assert present_apt() is present_apt() is asked[0]
    replace_file(tmp_path / "status", b"another package")
    assert present_apt() is present_apt() is asked[1]
    (tmp_path / "status").unlink()
    assert present_apt() is not present_apt()


def test_elsewhere_apt_is_asked_each_time(asked: list[HostApt]) -> None:
    assert [present_apt(), present_apt()] == asked
    assert len(asked) == 2
