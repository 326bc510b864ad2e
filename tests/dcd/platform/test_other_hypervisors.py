"""VirtualBox and bhyve behind the interface of hypervisors. Neither runs here: programs that stand in for
theirs write down how they were called, and play a guest on its serial console."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dcd.platform.hypervisor import (
    Attachment,
    ConsoleText,
    Drive,
    GuestSpec,
    hypervisor_named,
    tools_of,
    wait_for,
)
from dcd.platform.hypervisor.bhyve import Bhyve
from dcd.platform.hypervisor.virtualbox import VirtualBox
from statemachine.errors import CheckpointError, Unprepared
from store.host.process import BASE_ENVIRONMENT

pytestmark = pytest.mark.slow

NOTE = """#!{python}
import json, os, shutil, socket, sys, time
from pathlib import Path
here = Path({here!r})
name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
with (here / "calls").open("a") as calls:
    calls.write(json.dumps([name, *arguments, os.environ.get("VBOX_USER_HOME", "")]) + "\\n")
"""

VBOXMANAGE = """
if arguments[0] in ("convertfromraw", "clonemedium"):
    source, target = [a for a in arguments[1:] if a.startswith("/")]
    shutil.copy(source, target)
if arguments[0] == "modifyvm":
    (here / "console").write_text(arguments[-1])
if arguments[0] == "controlvm" and arguments[2] == "screenshotpng":
    Path(arguments[3]).write_bytes(b"\\x89PNG")
"""

VBOXHEADLESS = """
if (here / "refuses").exists():
    sys.exit("VirtualBox: no kernel driver")
console = socket.socket(socket.AF_UNIX)
console.connect((here / "console").read_text())
console.sendall(b"host login: ")
console.sendall(b"answer to " + console.recv(100))
time.sleep(600)
"""

BHYVE = """
(here / "pid").write_text(str(os.getpid()))
os.write(1, b"host login: ")
os.write(1, b"answer to " + os.read(0, 100))
time.sleep(600)
"""


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A directory with the stand-ins, and what was called."""
    place = tmp_path / "host"
    place.mkdir()
    for name, body in (
        ("VBoxManage", VBOXMANAGE),
        ("VBoxHeadless", VBOXHEADLESS),
        ("bhyve", BHYVE),
        ("bhyvectl", ""),
    ):
        program = place / name
        program.write_text(NOTE.format(python=sys.executable, here=str(place)) + body)
        program.chmod(0o755)
    (place / "BHYVE_RELEASE.fd").touch()
    return place


def environment(host: Path) -> dict[str, str]:
    return {"PATH": f"{host}:{BASE_ENVIRONMENT['PATH']}"}


def calls(host: Path) -> list[list[str]]:
    return [json.loads(line) for line in (host / "calls").read_text().splitlines()]


def spec(tmp_path: Path, *drives: Drive, firmware: Any = "uefi") -> GuestSpec:
    return GuestSpec("verify-vdi", firmware, "tcg", 512, 2, drives, tmp_path / "console.log")


def image(tmp_path: Path, content: bytes = b"a disk") -> Path:
    path = tmp_path / "disk.vdi"
    path.write_bytes(content)
    path.chmod(0o400)
    return path


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def talk(guest: Any) -> str:
    """See the login prompt, type something and see the answer."""
    console = ConsoleText()
    wait_for(guest, "login:", 30, console)
    guest.write_console(b"question")
    wait_for(guest, "answer to question", 30, console)
    return console.text


def test_a_virtualbox_guest_boots_a_copy_that_virtualbox_made_and_talks(
    host: Path, tmp_path: Path
) -> None:
    disk = image(tmp_path)
    virtualbox = VirtualBox(environment(host))
    guest_spec = spec(tmp_path, Drive(disk, "nvme", "vdi"))
    with virtualbox.guest(guest_spec, tmp_path / "guest") as guest:
        assert "login:" in talk(guest)
        guest.screenshot(tmp_path / "screen.png")
        copy = tmp_path / "guest/disk0.vdi"
        assert copy.read_bytes() == disk.read_bytes()
    assert (tmp_path / "screen.png").exists()
    assert b"host login:" in guest_spec.console_log.read_bytes()
    told = calls(host)
    assert {call[-1] for call in told} == {str(tmp_path / "guest/virtualbox")}, "a home of its own"
    by_verb = {call[1]: call for call in told if call[0] == "VBoxManage"}
    modify = by_verb["modifyvm"]
    assert modify[modify.index("--memory") + 1] == "512"
    assert modify[modify.index("--cpus") + 1] == "2"
    assert modify[modify.index("--firmware") + 1] == "efi64"
    assert modify[modify.index("--nic1") + 1] == "none"
    control = by_verb["storagectl"]
    assert control[control.index("--controller") + 1] == "NVMe"
    assert by_verb["clonemedium"][3] == str(disk)
    attach = by_verb["storageattach"]
    assert attach[attach.index("--medium") + 1] == str(copy)
    assert told[-2][1:4] == ["controlvm", "verify-vdi", "poweroff"]
    assert told[-1][1:4] == ["unregistervm", "verify-vdi", "--delete"]


def test_virtualbox_reads_a_raw_disk_and_one_inside_a_package(host: Path, tmp_path: Path) -> None:
    raw, package = tmp_path / "disk.raw", tmp_path / "a.ova"
    raw.write_bytes(b"raw disk")
    package.write_bytes(b"header" + b"the disk" + b"trailer")
    drives = (Drive(raw, "sata"), Drive(package, "scsi", "vmdk", offset=6, length=8))
    with VirtualBox(environment(host)).guest(spec(tmp_path, *drives), tmp_path / "guest") as guest:
        talk(guest)
        assert (tmp_path / "guest/disk0.vdi").read_bytes() == b"raw disk"
        assert (tmp_path / "guest/disk1.vdi").read_bytes() == b"the disk"


def test_virtualbox_that_does_not_start_a_guest_is_an_error_with_its_words(
    host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dcd.platform.hypervisor.virtualbox.START_SECONDS", 1.0)
    (host / "refuses").touch()
    guest = VirtualBox(environment(host)).guest(
        spec(tmp_path, Drive(image(tmp_path), "sata", "vdi")), tmp_path / "guest"
    )
    with pytest.raises(CheckpointError, match="did not start the guest") as caught, guest:
        pass
    assert "no kernel driver" in caught.value.details
    assert calls(host)[-1][1] == "unregistervm"


def test_no_process_of_virtualbox_is_left_when_the_owner_fails(host: Path, tmp_path: Path) -> None:
    guest_spec = spec(tmp_path, Drive(image(tmp_path), "sata", "vdi"))
    guest = VirtualBox(environment(host)).guest(guest_spec, tmp_path / "guest")
    with pytest.raises(ZeroDivisionError), guest:
        raise ZeroDivisionError
    left = subprocess.run(["pgrep", "-f", str(host / "VBoxHeadless")], capture_output=True)
    assert left.stdout == b""


def test_a_bhyve_guest_boots_a_copy_and_talks(host: Path, tmp_path: Path) -> None:
    disk = image(tmp_path)
    bhyve = Bhyve(environment(host), firmware=host)
    guest_spec = spec(tmp_path, Drive(disk, "virtio"))
    with bhyve.guest(guest_spec, tmp_path / "guest") as guest:
        assert "login:" in talk(guest)
        with pytest.raises(CheckpointError, match="no pictures"):
            guest.screenshot(tmp_path / "screen.png")
        pid = int((host / "pid").read_text())
        assert alive(pid)
    assert not alive(pid)
    assert b"answer to question" in guest_spec.console_log.read_bytes()
    before, start, after = calls(host)
    assert before == after == ["bhyvectl", "--destroy", "--vm=verify-vdi", ""]
    assert start[0] == "bhyve"
    assert start[start.index("-m") + 1] == "512M"
    assert start[start.index("-c") + 1] == "2"
    assert f"bootrom,{host / 'BHYVE_RELEASE.fd'}" in start
    (place,) = [part.split(",")[2] for part in start if ",virtio-blk," in part]
    assert Path(place) == tmp_path / "guest/disk.vdi.copy"
    assert Path(place).read_bytes() == disk.read_bytes()
    assert start[-2] == "verify-vdi"


def test_bhyve_without_firmware_says_so(host: Path, tmp_path: Path) -> None:
    guest_spec = spec(tmp_path, Drive(image(tmp_path), "virtio"), firmware="bios")
    guest = Bhyve(environment(host), firmware=host).guest(guest_spec, tmp_path / "guest")
    with pytest.raises(Unprepared, match="no BIOS firmware") as caught, guest:
        pass
    assert "BHYVE_RELEASE_CSM.fd" in caught.value.details


@pytest.mark.parametrize("name", ["virtualbox", "bhyve"])
def test_a_hypervisor_that_is_not_installed_is_named(name: Any, tmp_path: Path) -> None:
    hypervisor = hypervisor_named(name, {"PATH": str(tmp_path)})
    guest = hypervisor.guest(spec(tmp_path, Drive(image(tmp_path), "virtio")), tmp_path / "guest")
    with pytest.raises(Unprepared, match="is not installed") as caught, guest:
        pass
    assert "qemu" in caught.value.resolution


@pytest.mark.parametrize("name", ["qemu", "virtualbox", "bhyve"])
def test_every_hypervisor_says_what_it_reads_and_attaches(name: Any) -> None:
    hypervisor = hypervisor_named(name, {})
    assert hypervisor.name == name
    assert "raw" in hypervisor.formats
    expected: set[Attachment] = {"virtio", "sata", "nvme", "cdrom"}
    assert expected <= hypervisor.attachments
    assert tools_of(name, uefi=True)


def test_one_module_alone_calls_virtualbox() -> None:
    root = Path(__file__).parents[3]
    calling = {
        path.relative_to(root).as_posix()
        for room in ("dcd", "store")
        for path in (root / room).rglob("*.py")
        if re.search(r"VBox(Manage|Headless)", path.read_text())
    }
    # tools.py says where the programs come from.
    assert calling == {"dcd/platform/hypervisor/virtualbox.py", "store/host/tools.py"}


def test_a_private_copy_keeps_holes_and_stays_within_its_part(tmp_path: Path) -> None:
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.truncate(64 << 20)
        os.pwrite(file.fileno(), b"before", 0)
        os.pwrite(file.fileno(), b"within", 20 << 20)
        os.pwrite(file.fileno(), b"after", 60 << 20)
    whole = Drive(source, "virtio").copy_to(tmp_path / "whole")
    assert whole.read_bytes() == source.read_bytes()
    assert whole.stat().st_blocks == source.stat().st_blocks
    part = Drive(source, "virtio", offset=10 << 20, length=30 << 20).copy_to(tmp_path / "part")
    assert part.read_bytes() == source.read_bytes()[10 << 20 : 40 << 20]
