"""VerifyBoot: a medium that boots is proven, one that does not is explained. Real guests, of one boot
sector, emulated; whole images are booted by the tests of the system."""

import hashlib
import shutil
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints import boots
from dcd.checkpoints.interface import Context
from dcd.checkpoints.media.iso import CreateISO
from dcd.checkpoints.media.verify_boot import VerifyBoot
from dcd.checkpoints.recorded import record_medium
from dcd.manifest.diagnostics import refuse
from dcd.platform.hypervisor import Drive, Guest, GuestSpec, GuestTrouble, KvmVerdict, Qemu
from statemachine.errors import CheckpointError, InvalidManifest, Unprepared
from store.host.tools import missing

BootDisk = Callable[[bytes, str], Path]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86 is not installed"
    ),
]


def with_medium(bench: Any, medium: Path | None) -> Context:
    """A context in which an earlier checkpoint has made this medium."""
    context: Context = bench.context(bench.empty_doc())
    if medium is not None:
        stick = Path(shutil.copy(medium, bench.root / "media/test.usb"))
        record_medium(context, "usb", stick)
    return context


def verify(**arguments: Any) -> VerifyBoot:
    given = {"media": "usb", "memory_mb": 64, "accelerator": "tcg", "timeout_seconds": 60.0}
    return VerifyBoot("verify", **{"firmware": ("bios",), **given, **arguments})


def test_a_medium_that_boots_delivers_its_console_and_its_screen(
    bench: Any, boot_disk: BootDisk
) -> None:
    context = with_medium(bench, boot_disk(b"\x1b[1mhost login:\x1b[0m ", "halt"))
    verify().execute(context)
    delivered = {artifact.name: artifact for artifact in bench.artifacts}
    assert sorted(delivered) == ["verify-bios.log", "verify-bios.png"]
    log = bench.root / delivered["verify-bios.log"].path
    assert log.read_text().strip() == "host login:"
    picture = (bench.root / delivered["verify-bios.png"].path).read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert delivered["verify-bios.png"].sha256 == hashlib.sha256(picture).hexdigest()
    assert all(artifact.evidence for artifact in bench.artifacts)
    assert "bios: 'login:' after" in bench.messages()
    assert bench.reports[-1].fraction == 1.0


def test_a_medium_that_panics_fails_at_once_and_leaves_evidence(
    bench: Any, boot_disk: BootDisk
) -> None:
    context = with_medium(bench, boot_disk(b"Kernel panic - not syncing: no init", "halt"))
    with pytest.raises(CheckpointError, match="bios: the guest's kernel panicked") as caught:
        verify().execute(context)
    assert "not syncing: no init" in caught.value.details
    assert caught.value.resolution
    assert b"no init" in (bench.evidence / "verify-bios.log").read_bytes()
    assert (bench.evidence / "verify-bios.png").read_bytes().startswith(b"\x89PNG")
    assert not bench.artifacts


def test_the_time_limit_ends_a_boot_that_says_nothing(bench: Any, boot_disk: BootDisk) -> None:
    context = with_medium(bench, boot_disk(b"", "halt"))
    with pytest.raises(CheckpointError, match=r"within 0\.5 seconds") as caught:
        verify(timeout_seconds=0.5).execute(context)
    assert "timeout_seconds" in caught.value.resolution


class HalfThere:
    """QEMU on a host whose KVM runs a tiny guest, and stops in every other."""

    name = "qemu"

    def __init__(self, silent: Path) -> None:
        self.silent = silent

    def guest(self, spec: GuestSpec, directory: Path) -> AbstractContextManager[Guest]:
        if spec.accelerator == "kvm":
            spec = replace(spec, accelerator="tcg", drives=(Drive(self.silent, "usb"),))
        return Qemu().guest(spec, directory)


@pytest.mark.parametrize("asked", [False, True])
def test_a_guest_that_falls_silent_under_kvm_is_booted_under_emulation_unless_kvm_was_asked_for(
    bench: Any, boot_disk: BootDisk, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    monkeypatch.setattr(boots, "SILENCE_SECONDS", 1.0)
    talks, silent = boot_disk(b"login:", "halt"), boot_disk(b"", "halt")
    context = with_medium(bench, None)
    host = HalfThere(silent)
    conditions = boots.Conditions(
        *("verify", host, "login:", 2.0 if asked else 60.0, "kvm", 64, 1, 1), fall_back=not asked
    )
    trials = [boots.Trial("bios", "bios", Drive(talks, "usb"))]

    def boot() -> list[boots.Boot]:
        return boots.boot_all(context, trials, conditions, threading.Event())

    if asked:
        with pytest.raises(GuestTrouble, match="within 2 seconds"):
            boot()
    else:
        (booted,) = boot()
        assert booted.accelerator == "tcg"
        assert "printed nothing for 1 seconds under KVM" in bench.messages()


def test_a_medium_without_a_boot_record_is_called_that(bench: Any, tmp_path: Path) -> None:
    (tmp_path / "zeros").write_bytes(bytes(1 << 20))
    context = with_medium(bench, tmp_path / "zeros")
    with pytest.raises(CheckpointError, match="firmware found nothing to boot"):
        verify().execute(context)


def test_a_medium_that_boots_with_bios_only_fails_for_uefi(bench: Any, boot_disk: BootDisk) -> None:
    context = with_medium(bench, boot_disk(b"login:", "halt"))
    with pytest.raises(CheckpointError, match="uefi: ") as caught:
        verify(firmware=("bios", "uefi"), timeout_seconds=120.0).execute(context)
    assert "UEFI firmware found nothing to boot" in caught.value.brief
    assert not bench.artifacts


GREETING = """
if [ "$grub_platform" = pc ]; then
    serial
    terminal_output serial
fi
echo "GRUB on $grub_platform, root $root, login:"
sleep 600
"""


@pytest.mark.slow
@pytest.mark.parametrize("media", ["cdrom", "usb"])
def test_an_iso_boots_with_both_firmwares_as_cd_and_as_stick(bench: Any, media: str) -> None:
    if lacking := missing((*CreateISO("iso").needs(bench.empty_doc()).tools, "ovmf")):
        pytest.skip(f"not installed: {', '.join(lacking)}")
    tree = bench.root / "media/iso"
    (tree / "boot/grub").mkdir(parents=True)
    (tree / "boot/grub/grub.cfg").write_text(GREETING)
    (tree / "live").mkdir()
    (tree / "live/filesystem.squashfs").write_bytes(b"hsqs")
    context = bench.context(bench.empty_doc())
    CreateISO("iso").execute(context)
    verify(media=media, memory_mb=256, firmware=("bios", "uefi"), timeout_seconds=200.0).execute(
        context
    )
    assert "GRUB on pc" in (bench.root / "media/verify-bios.log").read_text()
    assert "GRUB on efi" in (bench.root / "media/verify-uefi.log").read_text()


def test_cancel_ends_the_boot(bench: Any, boot_disk: BootDisk) -> None:
    context = with_medium(bench, boot_disk(b"", "halt"))
    checkpoint = verify()
    with pytest.raises(CheckpointError, match="stopped"):
        bench.execute_and_cancel(checkpoint, context, "verify-bios.log")


def test_without_a_medium_it_is_said_what_makes_one(bench: Any) -> None:
    with pytest.raises(CheckpointError, match="an ISO is missing") as caught:
        verify().execute(with_medium(bench, None))
    assert "CreateISO" in caught.value.resolution


def test_kvm_that_does_not_work_is_refused_where_it_is_demanded_and_passed_over_for_auto(
    bench: Any, boot_disk: BootDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dcd.checkpoints.boots.probe_kvm", lambda: KvmVerdict(False, "it hangs"))
    context = with_medium(bench, boot_disk(b"login:", "halt"))
    with pytest.raises(Unprepared, match="KVM does not work") as caught:
        verify(accelerator="kvm").execute(context)
    assert caught.value.details == "it hangs"
    verify(accelerator="auto").execute(context)
    assert "under TCG" in bench.messages()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"firmware": ("bios", "bios")}, "firmware"),
        ({"marker": " "}, "marker"),
        ({"memory_mb": 1}, "memory_mb"),
        ({"cpus": 0}, "cpus"),
        ({"timeout_seconds": 0.0}, "timeout_seconds"),
    ],
)
def test_impossible_arguments_are_refused_when_the_manifest_is_checked(
    bench: Any, arguments: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidManifest, match=problem) as caught:
        refuse(verify(**arguments).check(bench.empty_doc()))
    assert problem in caught.value.resolution
