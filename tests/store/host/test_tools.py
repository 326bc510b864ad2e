"""The table of host tools and the questions that planning and `dcctl doctor` ask of it."""

from pathlib import Path

import pytest

from store.host import tools
from store.host.tools import TOOLS, Tool
from store.host.versions import version


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with an empty PATH of its own."""
    monkeypatch.setattr(tools, "TOOL_PATH", str(tmp_path))
    return tmp_path


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_missing_names_each_absent_tool_once_and_in_order(host: Path) -> None:
    program(host / "xorriso", "true")
    assert tools.missing(["zstd", "xorriso", "mmdebstrap", "zstd"]) == ["zstd", "mmdebstrap"]


def test_a_tool_may_be_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(TOOLS, "firmware", Tool(str(tmp_path / "CODE.fd"), "ovmf", None))
    assert tools.missing(["firmware"]) == ["firmware"]
    (tmp_path / "CODE.fd").touch()
    assert tools.missing(["firmware"]) == []


def test_a_plug_ins_own_tool_is_a_program_of_that_name(host: Path) -> None:
    assert tools.missing(["frobnicate"]) == ["frobnicate"]
    assert tools.install_command(["frobnicate"]) == ""
    program(host / "frobnicate", "true")
    assert tools.missing(["frobnicate"]) == []


def test_the_install_command_names_packages_not_tools() -> None:
    command = tools.install_command(["grub-bios", "mcopy", "mformat", "mksquashfs"])
    assert command == "apt-get install grub-pc-bin mtools squashfs-tools"


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 'mksquashfs version 4.5.1 (2022/03/17)'; exit 1", "4.5.1"),
        ("echo 'mke2fs 1.47.0 (5-Feb-2023)' >&2", "1.47.0"),
        ("echo 'grub-mkrescue (GRUB) 2.06-13+deb12u1'", "2.06-13+deb12u1"),
        ("echo what?", None),
    ],
)
def test_version_is_what_the_tool_prints(host: Path, script: str, expected: str | None) -> None:
    program(host / "mksquashfs", script)
    assert version("mksquashfs") == expected


def test_a_tool_prints_its_version_once_until_it_is_replaced(host: Path) -> None:
    program(host / "mksquashfs", f"echo x >> {host}/asked; echo 4.5.1")
    assert [version("mksquashfs"), version("mksquashfs")] == ["4.5.1", "4.5.1"]
    assert (host / "asked").read_text() == "x\n"
    program(host / "new", "echo 4.6")
    (host / "new").replace(host / "mksquashfs")
    assert version("mksquashfs") == "4.6"


def test_a_missing_tool_has_no_version(host: Path) -> None:
    assert version("mksquashfs") is None


def test_each_entry_is_complete() -> None:
    for name, tool in TOOLS.items():
        assert tool.package, name
        assert "/" not in tool.executable or tool.executable.startswith("/"), name


def test_a_remedy_tells_what_to_do_about_each_missing_tool() -> None:
    told = tools.remedy(["zstd", "frobnicate", "pkg"])
    assert "apt-get install zstd; install frobnicate; pkg(7) belongs to illumos" in told
    assert tools.remedy([]) == ""
