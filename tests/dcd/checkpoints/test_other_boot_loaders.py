"""A boot loader in the image that is not used is said to be so, at its place and when it is found."""

from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints import other_boot_loaders
from dcd.checkpoints.interface import Checkpoint
from dcd.checkpoints.media.iso import CreateISO
from dcd.checkpoints.vm.install_offline import InstallOffline

FIRMWARE = "<distro_spec><img_params><vm_im firmware='{}'/></img_params></distro_spec>"


def packages(*names: str, action: str = "install", kind: str = "DEB") -> str:
    listed = "\n".join(f"<name>{name}</name>" for name in names)
    return (
        f'<software name="t" type="{kind}"><software_data action="{action}">\n{listed}'
        "</software_data></software>"
    )


def warned(doc: Any, checkpoint: Checkpoint) -> list[tuple[int, str]]:
    """The line and the message of each warning about a boot loader."""
    return [
        (each.origin.line, each.message)
        for each in checkpoint.check(doc)
        if each.severity == "warning" and each.origin and "is in the image" in each.message
    ]


@pytest.mark.parametrize("checkpoint", [CreateISO("iso"), InstallOffline("install")])
def test_signed_boot_loaders_are_warned_of_at_their_place(bench: Any, checkpoint: Any) -> None:
    listed = ("bash", "shim-signed", "grub-efi-amd64-signed:amd64", "shim-helpers-amd64-signed=1+2")
    found = warned(bench.doc(packages(*listed)), checkpoint)
    assert [line for line, _ in found] == [3, 4, 5]
    assert all("does not start with Secure Boot" in message for _, message in found)


def test_other_boot_loaders_are_warned_of(bench: Any) -> None:
    found = warned(bench.doc(packages("systemd-boot", "refind", "isolinux")), CreateISO("iso"))
    assert len(found) == 3
    assert all("starts with GRUB" in message for _, message in found)


@pytest.mark.parametrize(
    "elements",
    [
        (packages("grub-efi-amd64", "grub-pc-bin", "linux-image-amd64"),),
        (packages("shim-signed", action="uninstall"),),
        (packages("shim-signed", kind="IPS"),),
        (FIRMWARE.format("bios"), packages("shim-signed")),
    ],
)
def test_nothing_is_said_where_nothing_is_ignored(bench: Any, elements: tuple[str, ...]) -> None:
    assert warned(bench.doc(*elements), InstallOffline("install")) == []


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("usr/lib/shim/shimx64.efi.signed", "does not start with Secure Boot"),
        ("usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed", "does not start with Secure Boot"),
        ("usr/lib/systemd/boot/efi/systemd-bootx64.efi", "systemd-boot is not set up"),
        ("usr/lib/ISOLINUX/isolinux.bin", "ISOLINUX is not set up"),
        ("usr/lib/grub/x86_64-efi/monolithic/grubx64.efi", ""),
    ],
)
def test_what_is_found_in_the_image_is_said(bench: Any, path: str, message: str) -> None:
    file: Path = bench.image / path
    file.parent.mkdir(parents=True)
    file.touch()
    other_boot_loaders.report_found(bench.context(bench.doc()), "the disk")
    assert message in bench.messages()
    assert bool(message) == bool(bench.messages())
