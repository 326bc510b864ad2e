"""VerifyBoot types the passphrase of an encrypted disk, and says so when the guest refuses it. Real guests of
one boot sector that converse like the initramfs; a whole system is booted by the tests of the system."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.interface import Context
from dcd.checkpoints.vm.convert import Convert
from dcd.checkpoints.vm.disk import ContainerPartition, DiskLayout, Luks, record_disk
from dcd.platform.hypervisor import GuestTrouble
from statemachine.errors import Unprepared
from tests.dcd.checkpoints.test_vm_verify_boot import at_once, machine, verify

BootDisk = Callable[[bytes, str], Path]

pytestmark = pytest.mark.skipif(
    shutil.which("qemu-system-x86_64") is None or shutil.which("qemu-img") is None,
    reason="QEMU is not installed",
)

__all__ = ["at_once"]
"""The fixture that makes these guests quick."""

PASSPHRASE = "correct horse"
ENCRYPTED = """<target><disk><disk_image name="disk.img" size="1gb"/>
<gpt_partition name="4" part_type="linux"><luks name="system">
<passphrase env="DCD_SECRET_RECOVERY" recovery="true"/><passphrase env="DCD_SECRET_DISK"/>
<format type="ext4" mountpoint="/"/></luks></gpt_partition></disk></target>"""


def encrypted(bench: Any, disk: Path) -> Context:
    context: Context = bench.context(bench.doc(machine('"raw"'), ENCRYPTED))
    target = Path(shutil.copy(disk, bench.root / "media/disk.img"))
    partition = ContainerPartition(4, "t", "u", 0, 1, contents=(), luks=Luks("u", "system"))
    layout = DiskLayout("disk.img", target.stat().st_size, 512, "guid", (partition,))
    record_disk(context, target, layout)
    Convert("convert").execute(context)
    bench.reports.clear()
    return context


def test_the_usual_passphrase_is_typed_at_the_prompt(
    bench: Any, boot_disk: BootDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCD_SECRET_DISK", PASSPHRASE)
    context = encrypted(bench, boot_disk(b"Please unlock disk system: \0host login:", "converse"))
    checkpoint = verify()
    assert set(checkpoint.needs(context.doc).secrets) == {"DCD_SECRET_DISK"}
    checkpoint.execute(context)
    console = (bench.root / "media/verify-raw-bios-sata.log").read_text()
    assert "host login:" in console
    assert PASSPHRASE not in console + bench.messages()


def test_a_refused_passphrase_is_a_clear_result(
    bench: Any, boot_disk: BootDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCD_SECRET_DISK", "another")
    refusal = b"cryptsetup: ERROR: system: cryptsetup failed, bad password or options?"
    talk = b"Please unlock disk system: \0" + refusal
    context = encrypted(bench, boot_disk(talk, "converse"))
    with pytest.raises(GuestTrouble, match="refused the passphrase of system") as caught:
        verify().execute(context)
    assert "the secret DCD_SECRET_DISK is not the one" in caught.value.resolution
    assert "another" not in caught.value.details


def test_a_missing_secret_is_named_before_anything_boots(
    bench: Any, boot_disk: BootDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DCD_SECRET_DISK", raising=False)
    context = encrypted(bench, boot_disk(b"never read", "halt"))
    with pytest.raises(Unprepared, match="no variable 'DCD_SECRET_DISK'"):
        verify().execute(context)
    assert list(bench.evidence.iterdir()) == []
