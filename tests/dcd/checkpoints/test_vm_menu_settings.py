"""The menu that update-grub makes later is the manifest's: settings, consoles, and its own entries."""

import subprocess
from pathlib import Path

import pytest

from dcd.checkpoints.boot.menu import Entry, Menu, Serial
from dcd.checkpoints.vm.installed import serial_of
from dcd.checkpoints.vm.menu_settings import write_menu_settings

OWN = Entry("VM", ("quiet", "console=ttyS1,9600"))
DEBUG = Entry("VM it's $HOME `debug` \\n", ("debug=1", "x=a b", "y=$(id)"))
SAFE = Entry("VM safe", ())

LIBRARY = """
make_system_path_relative_to_its_root() { echo /; }
prepare_grub_to_access_device() { echo "search --fs-uuid $1"; }
grub_probe=probe
probe() { echo "device of $2"; }
"""


SERIAL = Serial(1, 9600)


def menu_with(*entries: Entry, own: int = 0, default: int = 0) -> Menu:
    return Menu("VM", 3, entries, own, default)


def variables(file: Path) -> dict[str, str]:
    """What a shell that reads the file has then."""
    names = ("DEFAULT", "TIMEOUT", "CMDLINE_LINUX", "SERIAL_COMMAND", "TERMINAL")
    shown = "; ".join(f'echo "GRUB_{name}=$GRUB_{name}"' for name in names)
    told = subprocess.run(["sh", "-ec", f". {file}; {shown}"], capture_output=True, text=True)
    return dict(line.split("=", 1) for line in told.stdout.splitlines())


@pytest.mark.parametrize(
    ("console", "command"),
    [
        ("ttyS0,115200", "serial --unit=0 --speed=115200"),
        ("ttyS1,9600n8", "serial --unit=1 --speed=9600"),
        ("ttyS2", "serial --unit=2 --speed=9600"),
        ("ttyS3,19200e7r", "serial --unit=3 --speed=19200 --word=7 --parity=even"),
        ("ttyS0,57600o", "serial --unit=0 --speed=57600 --word=8 --parity=odd"),
    ],
)
def test_grub_sets_the_line_up_as_the_kernel_does(console: str, command: str) -> None:
    serial = serial_of(console)
    assert serial is not None
    assert serial.command == command


def test_without_a_serial_console_there_is_none() -> None:
    assert serial_of("") is None


def test_settings_are_those_of_the_image_alone_where_it_has_no_others(tmp_path: Path) -> None:
    write_menu_settings(tmp_path, menu_with(OWN), SERIAL)
    assert variables(tmp_path / "etc/default/grub") == {
        "GRUB_DEFAULT": "0",
        "GRUB_TIMEOUT": "3",
        "GRUB_CMDLINE_LINUX": "quiet console=ttyS1,9600",
        "GRUB_SERIAL_COMMAND": "serial --unit=1 --speed=9600",
        "GRUB_TERMINAL": "console serial",
    }
    assert not list((tmp_path / "etc").glob("grub.d/*"))


def test_settings_of_a_package_stay_and_are_outranked(tmp_path: Path) -> None:
    (tmp_path / "etc/default").mkdir(parents=True)
    (tmp_path / "etc/default/grub").write_text("GRUB_TIMEOUT=99\nGRUB_THEME=/x\n")
    write_menu_settings(tmp_path, menu_with(OWN), SERIAL)
    assert (tmp_path / "etc/default/grub").read_text() == "GRUB_TIMEOUT=99\nGRUB_THEME=/x\n"
    assert variables(tmp_path / "etc/default/grub.d/dcd.cfg")["GRUB_TIMEOUT"] == "3"


def entries_of(root: Path, script: str) -> str:
    """What one of the scripts prints when update-grub runs it on a system with two kernels."""
    boot = root / "boot"
    boot.mkdir(exist_ok=True)
    for version in ("6.1.0-9", "6.1.0-10"):
        (boot / f"vmlinuz-{version}").touch()
    (root / "grub-mkconfig_lib").write_text(LIBRARY)
    file = root / "etc/grub.d" / script
    assert file.stat().st_mode & 0o111
    here = root / "run"
    here.write_text(file.read_text().replace("ls /boot", f"ls {boot}"))
    environment = {"pkgdatadir": str(root), "GRUB_DEVICE_UUID": "u-u", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["sh", here], env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_entries_of_the_manifest_are_made_again_for_the_newest_kernel(tmp_path: Path) -> None:
    write_menu_settings(tmp_path, menu_with(DEBUG, OWN, SAFE, own=1, default=2), SERIAL)
    assert variables(tmp_path / "etc/default/grub")["GRUB_DEFAULT"] == "dcd-2"
    before, after = (entries_of(tmp_path, name) for name in ("09_dcd", "41_dcd"))
    assert before.splitlines() == [
        "menuentry 'VM it'\"'\"'s $HOME `debug` \\n' --id dcd-0 {",
        "search --fs-uuid device of /boot",
        "    linux //vmlinuz-6.1.0-10 root=UUID=u-u ro debug=1 'x=a b' 'y=$(id)'",
        "    initrd //initrd.img-6.1.0-10",
        "}",
    ]
    assert after.splitlines()[0] == "menuentry 'VM safe' --id dcd-2 {"


def test_the_images_own_entry_is_the_default_behind_others(tmp_path: Path) -> None:
    write_menu_settings(tmp_path, menu_with(DEBUG, SAFE, OWN, own=2, default=2), SERIAL)
    assert variables(tmp_path / "etc/default/grub")["GRUB_DEFAULT"] == "2"
    assert [file.name for file in (tmp_path / "etc/grub.d").iterdir()] == ["09_dcd"]


def test_grub_itself_understands_the_entries(tmp_path: Path) -> None:
    write_menu_settings(tmp_path, menu_with(DEBUG, OWN, own=1, default=1), SERIAL)
    menu = tmp_path / "grub.cfg"
    menu.write_text(entries_of(tmp_path, "09_dcd"))
    subprocess.run(["grub-script-check", menu], check=True)
