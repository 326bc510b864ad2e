"""The virtual machine of the examples, as its users get it: every format held against the raw disk by
qemu-img, the package opened by tar and sha256sum, and the disks booted by a plain QEMU."""

import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.system.plain_qemu import console_with
from tests.system.repetition import assert_identical_again, without_boots

pytestmark = [pytest.mark.system, pytest.mark.root, pytest.mark.timeout(1200)]

EXAMPLES = Path(__file__).parents[2] / "examples"

DRIVERS = {
    "debian-vm.qcow2": "qcow2",
    "debian-vm.vmdk": "vmdk",
    "debian-vm-monolithicSparse.vmdk": "vmdk",
    "debian-vm.vdi": "vdi",
    "debian-vm.vhd": "vpc",
    "debian-vm.vhdx": "vhdx",
}
CHECKED = ("qcow2", "vmdk", "vdi", "vhdx")

BOOTED = "debian-vm.vdi"
DEVICES = ("virtio-scsi-pci", "scsi-hd,drive=disk")
"""The image that a plain machine boots with BIOS, and the devices that it is attached by. The checkpoint
itself boots the OVA with UEFI from NVMe; qemu-img finds all the others equal to the disk."""

SMALL = ("--set", "kernel=linux-image-cloud-amd64", "--set", "disk_size=2gb")
"""A kernel of a tenth, without drivers for SATA."""

VERIFICATION = """
<arg name="marker">${hostname} login:</arg>
<arg name="timeout_seconds">600</arg>
<arg name="login">vm</arg>
<arg name="command">findmnt -no FSTYPE /</arg>
<arg name="answer">ext4</arg>
<arglist name="formats"><argitem>ova</argitem></arglist>
<arglist name="firmware"><argitem>uefi</argitem></arglist>
<arglist name="controllers"><argitem>nvme</argitem></arglist>
"""

BOOT_SECONDS = 600.0
MOST_TAKEN = 1.25
"""How much more than the raw disk an uncompressed format may take."""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """The example, whose own verification boots one image and logs in; its kernel tells of its start."""
    copies = tmp_path / "examples"
    shutil.copytree(EXAMPLES, copies)
    path = copies / "debian-vm.xml"
    before, step, after = path.read_text().partition('checkpoint_class="VerifyBoot"')
    after, count = re.subn(
        r"<kwargs>.*?</kwargs>", f"<kwargs>{VERIFICATION}</kwargs>", after, count=1, flags=re.DOTALL
    )
    assert count == 1
    for quiet in ('<vm_controller type="sata"/>', '<vm_controller type="scsi"/>', "quiet</arg>"):
        assert before.count(quiet) == 1
    before = before.replace('<vm_controller type="sata"/>', "")
    before = before.replace('<vm_controller type="scsi"/>', "")
    path.write_text(before.replace("quiet</arg>", "loglevel=7</arg>") + step + after)
    return path


def test_a_virtual_machine_is_delivered_in_formats_that_others_read_and_boot(
    cold_daemon: Any, manifest: Path, tmp_path: Path
) -> None:
    daemon = cold_daemon.start()
    build = daemon.submit(manifest, *SMALL)
    status = daemon.wait(build, "completed", seconds=900)
    daemon.ctl("artifacts", build, "--verify")
    assert daemon.leaks() == []
    files = {artifact["name"]: Path(artifact["path"]) for artifact in status["artifacts"]}
    raw = files["debian-vm.raw"]
    assert_all_formats_hold_the_disk(raw, files)
    assert_the_package_is_sound(files["debian-vm.ova"], raw, tmp_path / "package")

    (booted,) = json.loads(files["verify-boot.json"].read_text())["boots"]
    assert booted["boot"] == "ova-uefi-nvme"
    assert booted["seconds_to_answer"] > 0
    assert "\next4" in files["verify-boot-ova-uefi-nvme.log"].read_text()
    assert files["verify-boot-ova-uefi-nvme.png"].read_bytes().startswith(b"\x89PNG")

    assert_boots(files[BOOTED], tmp_path / "plain")
    daemon.ctl("artifacts", build, "--verify")
    assert_identical_again(daemon, without_boots(manifest), "create-disk", *SMALL)
    assert daemon.stop() == 0
    assert daemon.leaks() == []


def assert_all_formats_hold_the_disk(raw: Path, files: dict[str, Path]) -> None:
    assert taken(raw) < raw.stat().st_size / 2, "the disk is sparse"
    for name, driver in DRIVERS.items():
        image = files[name]
        compare = ["qemu-img", "compare", "-f", "raw", "-F", driver, raw, image]
        subprocess.run(compare, check=True)
        if driver in CHECKED:
            subprocess.run(["qemu-img", "check", "-f", driver, image], check=True)
        assert taken(image) < MOST_TAKEN * taken(raw), name


def taken(path: Path) -> int:
    """The bytes that a file takes on its file system."""
    return path.stat().st_blocks * 512


def assert_the_package_is_sound(ova: Path, raw: Path, place: Path) -> None:
    place.mkdir()
    subprocess.run(["tar", "xf", ova, "-C", place], check=True)
    with tarfile.open(ova) as tar:
        assert tar.getnames() == ["debian-vm.ovf", "debian-vm.mf", "debian-vm-disk1.vmdk"]
    lines = (place / "debian-vm.mf").read_text().splitlines()
    sums = [re.sub(r"SHA256\((.*)\)= (.*)", r"\2  \1", line) for line in lines]
    subprocess.run(
        ["sha256sum", "--check", "--strict"],
        cwd=place,
        input="\n".join(sums),
        text=True,
        check=True,
    )
    subprocess.run(["qemu-img", "compare", raw, place / "debian-vm-disk1.vmdk"], check=True)
    shutil.rmtree(place)


def assert_boots(image: Path, directory: Path) -> None:
    """To its own init: to the login, the checkpoint has booted the same disk."""
    arguments = ["-drive", f"if=none,id=disk,snapshot=on,file={image}"]
    for device in DEVICES:
        arguments += ["-device", device]
    console_with("Hostname set to <debian-vm>", BOOT_SECONDS, directory, arguments, firmware="bios")
