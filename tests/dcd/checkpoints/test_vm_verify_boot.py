"""VerifyBoot of virtual machines: every image is booted, none is written to. Real guests, of one boot
sector, emulated; whole systems are booted by the tests of the system."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.boots import guests_at_once
from dcd.checkpoints.interface import Context
from dcd.checkpoints.recorded import record_medium, recorded_media
from dcd.checkpoints.vm.convert import Convert
from dcd.checkpoints.vm.disk import DiskLayout, record_disk
from dcd.checkpoints.vm.ova import CreateOVA
from dcd.checkpoints.vm.verify_boot import VerifyBoot, _matrix
from dcd.manifest.diagnostics import refuse
from dcd.platform.hypervisor import Guest, wait_for
from statemachine.errors import CheckpointError, InvalidManifest, Unprepared

BootDisk = Callable[[bytes, str], Path]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("qemu-system-x86_64") is None or shutil.which("qemu-img") is None,
        reason="QEMU is not installed",
    ),
]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """These guests show nothing on the screen that is worth waiting for."""
    monkeypatch.setattr("dcd.checkpoints.boots._SETTLE_SECONDS", 0.0)


MACHINE = """<distro_spec><img_params><vm_im memory="64mb" firmware="bios">{formats}
<vm_controller type="sata"/></vm_im></img_params></distro_spec>"""

USERS = """<configuration name="pre" type="user">
<user name="live"><password>s3cret</password></user>
<user name="hashed"><password hashed="true">$6$x</password></user>
<user name="root"><password locked="true"/></user></configuration>"""


def machine(*formats: str) -> str:
    return MACHINE.format(formats="".join(f"<vm_format type={form}/>" for form in formats))


def with_images(bench: Any, disk: Path, *formats: str) -> Context:
    """A context in which the disk was converted to these formats."""
    context: Context = bench.context(bench.doc(machine(*formats), USERS))
    target = Path(shutil.copy(disk, bench.root / "media/disk.img"))
    size = target.stat().st_size
    record_disk(context, target, DiskLayout("disk.img", size, 512, "guid", ()))
    if formats != ('"ova"',):
        Convert("convert").execute(context)
    if '"ova"' in formats:
        CreateOVA("ova").execute(context)
    bench.artifacts.clear()
    bench.reports.clear()
    return context


def verify(**arguments: Any) -> VerifyBoot:
    return VerifyBoot("verify", **{"accelerator": "tcg", "timeout_seconds": 60.0, **arguments})


def summary(bench: Any) -> Any:
    return json.loads((bench.root / "media/verify.json").read_text())


def test_every_format_boots_and_none_is_written_to(bench: Any, boot_disk: BootDisk) -> None:
    disk = boot_disk(b"host login:", "halt")
    every = (
        '"raw"',
        '"qcow2" compression="zstd"',
        '"vmdk"',
        '"vmdk" subformat="monolithicSparse"',
        '"vdi"',
        '"vhd"',
        '"vhd" subformat="fixed"',
        '"vhdx"',
        '"ova"',
    )
    context = with_images(bench, disk, *every)
    before = {path: hashlib.sha256(path.read_bytes()).digest() for path in images_in(context)}
    assert len(before) == len(every)
    for path in before:
        path.chmod(0o400)
    checkpoint = verify()
    refuse(checkpoint.check(context.doc))
    checkpoint.execute(context)
    assert {path: hashlib.sha256(path.read_bytes()).digest() for path in before} == before
    kinds = recorded_media(context)
    booted = [boot["boot"] for boot in summary(bench)["boots"]]
    assert sorted(booted) == sorted(f"{kind}-bios-sata" for kind in kinds)
    names = [artifact.name for artifact in bench.artifacts]
    assert sorted(names) == sorted(
        [f"verify-{label}.{suffix}" for label in booted for suffix in ("log", "png")]
        + ["verify.json"]
    )
    assert "host login:" in (bench.root / "media/verify-ova-bios-sata.log").read_text()
    assert bench.reports[-1].fraction == 1.0
    assert list((bench.root / "tmp").iterdir()) == []


def images_in(context: Context) -> list[Path]:
    return list(recorded_media(context).values())


def test_the_summary_says_how_long_each_boot_took(bench: Any, boot_disk: BootDisk) -> None:
    context = with_images(bench, boot_disk(b"login:", "halt"), '"qcow2"')
    verify(controllers=("virtio", "nvme"), matrix="full").execute(context)
    told = summary(bench)
    assert told["hypervisor"] == "qemu"
    assert told["accelerator"] == "tcg"
    assert [(b["image"], b["firmware"], b["controller"]) for b in told["boots"]] == [
        ("test.qcow2", "bios", "virtio"),
        ("test.qcow2", "bios", "nvme"),
    ]
    for boot in told["boots"]:
        assert 0 <= boot["seconds_to_marker"] < 60
        assert boot["seconds_to_answer"] is None
    delivered = {artifact.name: artifact for artifact in bench.artifacts}
    assert delivered["verify.json"].format == "json"


def test_somebody_logs_in_and_a_command_gives_its_answer(bench: Any, boot_disk: BootDisk) -> None:
    talk = b"host login:\0Password:\0live@host:~$ \0uname\r\nLinux\r\n"
    context = with_images(bench, boot_disk(talk, "converse"), '"qcow2"')
    checkpoint = verify(login="live", command="uname", answer="Linux")
    refuse(checkpoint.check(context.doc))
    checkpoint.execute(context)
    console = (bench.root / "media/verify-qcow2-bios-sata.log").read_text()
    # The line's end may come after the answer, when nobody listens any more.
    assert console.rstrip().replace("\n", " ").endswith("live@host:~$ uname Linux")
    assert summary(bench)["boots"][0]["seconds_to_answer"] is not None
    assert "s3cret" not in bench.messages()


def test_a_command_without_its_answer_fails_at_the_time_limit(
    bench: Any, boot_disk: BootDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(guest: Guest, marker: str, timeout_seconds: float, *given: Any, **more: Any) -> float:
        if marker == "Linux":
            # The time limit begins when the guest has given another answer.
            wait_for(guest, "SunOS", timeout_seconds, *given, **more)
            timeout_seconds = 0.1
        return wait_for(guest, marker, timeout_seconds, *given, **more)

    monkeypatch.setattr("dcd.checkpoints.boots.wait_for", wait)
    talk = b"login:\0Password:\0$ \0uname\r\nSunOS\r\n"
    context = with_images(bench, boot_disk(talk, "converse"), '"raw"')
    checkpoint = verify(login="live", command="uname", answer="Linux")
    with pytest.raises(CheckpointError, match="raw-bios-sata: the guest did not print 'Linux'"):
        checkpoint.execute(context)
    assert b"SunOS" in (bench.evidence / "verify-raw-bios-sata.log").read_bytes()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"Kernel panic - not syncing: no init", "vdi-bios-sata: the guest's kernel panicked"),
        (b"(initramfs) ", "vdi-bios-sata: the guest stopped in the initramfs"),
    ],
)
def test_a_guest_in_trouble_fails_at_once_and_leaves_evidence(
    bench: Any, boot_disk: BootDisk, text: bytes, problem: str
) -> None:
    context = with_images(bench, boot_disk(text, "halt"), '"vdi"')
    with pytest.raises(CheckpointError, match=problem) as caught:
        verify().execute(context)
    assert caught.value.resolution
    assert text.decode().strip() in caught.value.details
    assert (bench.evidence / "verify-vdi-bios-sata.png").read_bytes().startswith(b"\x89PNG")
    assert not bench.artifacts


def test_a_guest_that_hangs_is_ended_by_the_time_limit(bench: Any, boot_disk: BootDisk) -> None:
    context = with_images(bench, boot_disk(b"", "halt"), '"raw"')
    with pytest.raises(CheckpointError, match=r"within 0\.5 seconds"):
        verify(timeout_seconds=0.5).execute(context)


def test_an_image_that_is_corrupt_is_named_with_qemus_own_words(
    bench: Any, boot_disk: BootDisk
) -> None:
    context = with_images(bench, boot_disk(b"login:", "halt"), '"qcow2"', '"vdi"')
    image = recorded_media(context)["qcow2"]
    image.write_bytes(b"QFI\xfb" + bytes(100))
    with pytest.raises(CheckpointError, match="qcow2-bios-sata: QEMU did not start") as caught:
        verify(formats=("qcow2",)).execute(context)
    assert "test.qcow2" in caught.value.details


@pytest.mark.parametrize("content", [b"", b"not a tar" * 100, b"\0" * 10240])
def test_a_package_that_is_corrupt_is_called_that(
    bench: Any, boot_disk: BootDisk, content: bytes
) -> None:
    context = with_images(bench, boot_disk(b"login:", "halt"), '"ova"')
    recorded_media(context)["ova"].write_bytes(content)
    with pytest.raises(CheckpointError, match=r"test\.ova is corrupt"):
        verify().execute(context)


def test_formats_are_chosen_by_argument(bench: Any, boot_disk: BootDisk) -> None:
    context = with_images(bench, boot_disk(b"login:", "halt"), '"raw"', '"vdi"', '"vhd"')
    verify(formats=("vhd", "raw"), side_by_side=1).execute(context)
    assert {boot["image"] for boot in summary(bench)["boots"]} == {"disk.img", "test.vhd"}


def test_media_of_other_checkpoints_are_not_its_business(bench: Any, boot_disk: BootDisk) -> None:
    context = with_images(bench, boot_disk(b"login:", "halt"), '"raw"')
    record_medium(context, "iso", bench.root / "media/test.iso")
    verify().execute(context)
    assert [boot["boot"] for boot in summary(bench)["boots"]] == ["raw-bios-sata"]


def test_cancel_ends_the_boots(bench: Any, boot_disk: BootDisk) -> None:
    context = with_images(bench, boot_disk(b"", "halt"), '"raw"')
    checkpoint = verify()
    with pytest.raises(CheckpointError, match="stopped"):
        bench.execute_and_cancel(checkpoint, context, "verify-raw-bios-sata.log")


FIRMWARE = ("bios", "uefi")


@pytest.mark.parametrize("images", [1, 2, 3, 7])
@pytest.mark.parametrize("controllers", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("kinds", [("bios",), ("uefi",), FIRMWARE])
def test_the_economical_matrix_leaves_nothing_out_and_repeats_nothing(
    images: int, controllers: int, kinds: tuple[Any, ...]
) -> None:
    names = [f"image{number}" for number in range(images)]
    chosen: Any = ("virtio", "scsi", "sata", "nvme", "ide")[:controllers]
    trials = list(_matrix(names, kinds, chosen, "economical"))
    assert {(image, kind) for image, kind, _ in trials} == {(i, k) for i in names for k in kinds}
    assert {controller for _, _, controller in trials} == set(chosen)
    assert len(trials) == max(images * len(kinds), controllers)
    assert len(set(trials)) == len(trials)
    assert set(trials) <= set(_matrix(names, kinds, chosen, "full"))


def test_the_full_matrix_is_everything() -> None:
    trials = list(_matrix(["raw", "vdi"], FIRMWARE, ("virtio", "nvme", "ide"), "full"))
    assert len(set(trials)) == len(trials) == 12


def test_no_firmware_always_meets_the_same_controller() -> None:
    trials = list(_matrix(["a", "b"], FIRMWARE, ("virtio", "sata"), "economical"))
    assert {(kind, controller) for _, kind, controller in trials} == {
        (kind, controller) for kind in FIRMWARE for controller in ("virtio", "sata")
    }


def test_guests_share_processors_and_half_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = {"SC_PHYS_PAGES": 8 << 18, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr("os.sysconf", pages.__getitem__)
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    assert guests_at_once(1024) == 4
    assert guests_at_once(128) == 16
    assert guests_at_once(65536) == 1


def test_what_the_manifest_says_of_the_machine_is_the_default(bench: Any) -> None:
    doc = bench.doc(
        '<distro_spec><img_params><vm_im memory="2gb" cpus="2">'
        '<vm_format type="raw"/></vm_im></img_params></distro_spec>'
    )
    checkpoint = verify()
    assert checkpoint._memory_mb(doc) == 2048
    assert checkpoint._cpus(doc) == 2
    assert checkpoint._controllers(doc) == ("virtio",)
    assert checkpoint._firmware(doc) == FIRMWARE
    assert "ovmf" in checkpoint.needs(doc).tools
    assert "ovmf" not in verify(firmware=("bios",)).needs(doc).tools


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"formats": ("vdi",)}, "vdi is not among the formats"),
        ({"formats": ("raw", "raw")}, "formats names each once"),
        ({"firmware": ("uefi", "uefi")}, "firmware names each once"),
        ({"controllers": ("ide", "ide")}, "controllers names each once"),
        ({"marker": " "}, "marker"),
        ({"memory_mb": 1}, "memory_mb"),
        ({"cpus": 0}, "cpus"),
        ({"timeout_seconds": 0.0}, "timeout_seconds"),
        ({"side_by_side": 0}, "at least one guest"),
        ({"command": "uname"}, "belong together"),
        ({"command": "uname", "answer": "Linux"}, "belong together"),
        ({"login": "live", "command": "echo Linux", "answer": "Linux"}, "echo of the command"),
        ({"login": "live", "command": "uname", "answer": " "}, "echo of the command"),
        ({"login": "nobody"}, "the manifest has no plain password of 'nobody'"),
        ({"login": "hashed"}, "no plain password of"),
        ({"login": "root"}, "no plain password of"),
        ({"hypervisor": "bhyve", "controllers": ("ide",)}, "bhyve has no ide"),
        ({"hypervisor": "bhyve", "formats": ("qcow2",)}, "bhyve does not read qcow2"),
    ],
)
def test_impossible_arguments_are_refused_when_the_manifest_is_checked(
    bench: Any, arguments: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidManifest, match=problem):
        refuse(verify(**arguments).check(bench.doc(machine('"raw"', '"qcow2"'), USERS)))


def test_without_images_it_is_said_what_makes_some(bench: Any, boot_disk: BootDisk) -> None:
    context = with_images(bench, boot_disk(b"login:", "halt"), '"raw"')
    with pytest.raises(CheckpointError, match="no image of format vdi") as caught:
        verify(formats=("vdi",)).execute(context)
    assert "Convert" in caught.value.resolution
    empty = bench.context(bench.doc(machine('"raw"')))
    with pytest.raises(CheckpointError, match="no image to boot"):
        verify().execute(empty)


def test_a_hypervisor_that_is_not_there_is_named(bench: Any, boot_disk: BootDisk) -> None:
    context = with_images(bench, boot_disk(b"login:", "halt"), '"raw"', '"qcow2"')
    checkpoint = verify(hypervisor="virtualbox")
    assert checkpoint.needs(context.doc).tools == ("VBoxManage", "VBoxHeadless")
    with pytest.raises(Unprepared, match="VirtualBox is not installed"):
        checkpoint.execute(context)
    assert "virtualbox does not read qcow2: not booted" in bench.messages()


def test_large_sectors_boot_only_where_firmware_reads_them(bench: Any, boot_disk: BootDisk) -> None:
    context = with_images(bench, boot_disk(b"login:", "halt"), '"raw"')
    disk = bench.root / "media/disk.img"
    record_disk(context, disk, DiskLayout("disk.img", disk.stat().st_size, 4096, "guid", ()))
    with pytest.raises(CheckpointError, match="sectors of 4096 bytes does not boot"):
        verify(controllers=("virtio",)).execute(context)
    with pytest.raises(CheckpointError, match="sectors of 4096 bytes does not boot"):
        verify(firmware=("uefi",), controllers=("sata",)).execute(context)
