"""What checkpoints do for an image of another architecture: its firmware, its boot loader, its serial line,
and errors for what its machines do not have."""

from typing import Any

import pytest

from dcd.checkpoints.boot.archive import DebianBootArchive
from dcd.checkpoints.boot.menu import GrubBootMenu
from dcd.checkpoints.interface import Checkpoint
from dcd.checkpoints.media import verify_boot as of_media
from dcd.checkpoints.media.iso import CreateISO
from dcd.checkpoints.media.netboot import NetbootKit
from dcd.checkpoints.vm import verify_boot as of_vm
from dcd.checkpoints.vm.install_iscsi import InstallISCSI
from dcd.checkpoints.vm.layout import disk_layout, firmware
from dcd.checkpoints.vm.layout_checks import BIOS_BOOT, ESP
from dcd.checkpoints.vm.ova import CreateOVA
from dcd.manifest.diagnostics import ManifestError
from statemachine.errors import CheckpointError, Unprepared


def software(architecture: str) -> str:
    return (
        f'<software name="deb" type="DEB"><destination><image architecture="{architecture}"/>'
        "</destination></software>"
    )


def machine(firmware: str) -> str:
    return f'<distro_spec><img_params><vm_im firmware="{firmware}"/></img_params></distro_spec>'


def faults(bench: Any, checkpoint: Checkpoint, *elements: str) -> list[str]:
    return [each.message for each in checkpoint.check(bench.doc(*elements))]


def test_the_menu_of_a_medium_has_the_serial_line_of_its_machines(bench: Any) -> None:
    for name in ("vmlinuz", "initrd.img"):
        (bench.root / "boot_archive" / name).touch()
    for architecture, line in (("amd64", "ttyS0"), ("arm64", "ttyAMA0"), ("riscv64", "ttyS0")):
        bench.execute(GrubBootMenu("menu"), software(architecture))
        text = (bench.root / "media/iso/boot/grub/grub.cfg").read_text()
        assert f"console={line},115200 console=tty0" in text


@pytest.mark.parametrize(
    ("architecture", "file", "package"),
    [
        ("arm64", "vmlinuz", "linux-image-arm64"),
        ("riscv64", "vmlinux", "linux-image-riscv64"),
    ],
)
def test_a_missing_kernel_is_named_as_its_architecture_has_it(
    bench: Any, architecture: str, file: str, package: str
) -> None:
    with pytest.raises(CheckpointError, match="has no kernel") as caught:
        bench.execute(DebianBootArchive("archive"), software(architecture))
    assert f"/boot/{file}-VERSION" in caught.value.details
    assert package in caught.value.resolution


def test_a_medium_of_another_architecture_needs_its_boot_loader_in_the_image(bench: Any) -> None:
    tree = bench.root / "media/iso"
    for part in ("boot/grub/grub.cfg", "live/filesystem.squashfs"):
        (tree / part).parent.mkdir(parents=True, exist_ok=True)
        (tree / part).touch()
    checkpoint = CreateISO("iso")
    assert ("grub_uefi", "unified") in list(checkpoint.requires(bench.doc(software("arm64"))))
    assert ("grub_uefi", "unified") not in list(checkpoint.requires(bench.doc(software("amd64"))))
    assert "grub-bios" not in checkpoint.needs(bench.doc(software("arm64"))).tools
    with pytest.raises(CheckpointError) as caught:
        bench.execute(checkpoint, software("arm64"))
    assert "grub-efi-arm64-bin" in caught.value.resolution


def test_a_netboot_kit_of_another_architecture_needs_its_boot_loader_in_the_image(
    bench: Any,
) -> None:
    checkpoint = NetbootKit("kit")
    assert ("grub_uefi",) in list(checkpoint.requires(bench.doc(software("arm64"))))
    assert checkpoint.needs(bench.doc(software("arm64"))).tools == ("grub-mkimage",)
    assert "grub-bios" in checkpoint.needs(bench.doc(software("amd64"))).tools


def test_links_among_the_modules_of_the_boot_loader_are_refused(bench: Any) -> None:
    tree = bench.root / "media/iso"
    for part in ("boot/grub/grub.cfg", "live/filesystem.squashfs"):
        (tree / part).parent.mkdir(parents=True, exist_ok=True)
        (tree / part).touch()
    modules = bench.image / "usr/lib/grub/arm64-efi"
    modules.mkdir(parents=True)
    (modules / "moddep.lst").touch()
    (modules / "fat.mod").symlink_to("/etc/shadow")
    with pytest.raises(CheckpointError, match="is a link"):
        bench.execute(CreateISO("iso"), software("arm64"))


def test_a_disk_has_the_partitions_for_the_firmware_of_its_machines(bench: Any) -> None:
    for architecture, kinds in (("amd64", {"bios", "uefi"}), ("arm64", {"uefi"})):
        doc = bench.doc(software(architecture))
        assert firmware(doc) == kinds
        types = {partition.type for partition in disk_layout(doc).partitions}
        assert {BIOS_BOOT, ESP} & types == ({ESP} if architecture == "arm64" else {BIOS_BOOT, ESP})


@pytest.mark.parametrize("wanted", ["bios", "both"])
def test_firmware_that_its_machines_do_not_have_is_an_error(bench: Any, wanted: str) -> None:
    with pytest.raises(ManifestError) as caught:
        disk_layout(bench.doc(machine(wanted), software("arm64")))
    assert "machines of arm64 have no BIOS" in [one.message for one in caught.value.diagnostics]


def test_a_boot_needs_the_emulator_and_the_firmware_of_its_machines(bench: Any) -> None:
    doc = bench.doc(software("arm64"))
    for checkpoint in (of_media.VerifyBoot("v"), of_vm.VerifyBoot("v")):
        assert checkpoint.needs(doc).tools == ("qemu-system-aarch64", "aavmf")


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        (of_media.VerifyBoot("v", firmware=("bios",)), "machines of arm64 have no BIOS"),
        (of_vm.VerifyBoot("v", controllers=("ide",)), "qemu has no ide controller"),
        (of_vm.VerifyBoot("v", hypervisor="virtualbox"), "virtualbox boots no images of arm64"),
        (CreateOVA("v"), "v describes machines of amd64 or i386 only"),
        (InstallISCSI("v"), "v installs machines of amd64 or i386 only"),
    ],
)
def test_what_its_machines_lack_is_an_error(
    bench: Any, checkpoint: Checkpoint, message: str
) -> None:
    found = faults(bench, checkpoint, software("arm64"))
    assert any(message in each for each in found), found
    assert not any(message in each for each in faults(bench, checkpoint, software("amd64")))


def test_kvm_of_this_host_runs_no_guests_of_another_architecture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    accelerator_for = of_vm.boots.accelerator_for
    assert accelerator_for("qemu", "auto", "arm64") == "tcg"
    with pytest.raises(Unprepared, match="KVM runs no guests of arm64"):
        accelerator_for("qemu", "kvm", "arm64")
