"""What starts an image on the machines of its architecture: firmware, GRUB, and the first serial line.

Source: UEFI specification 2.10, 3.5.1.1 (the programs of removable media); the GRUB manual; Linux,
Documentation/admin-guide/serial-console.rst.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from dcd.platform.hypervisor.interface import Firmware


@dataclass(frozen=True, slots=True)
class Hardware:
    """The machines of an architecture.

    `grub` is GRUB's platform for each kind of firmware that they have, `packages` are the Debian packages
    with its modules, `video` the modules for the screen of UEFI. `uefi_program` is the file in EFI/BOOT that
    UEFI starts. `serial` is the kernel's name of the first serial line, `kernel` a package with a kernel.
    `kernel_file` is the beginning of the names of kernels in /boot, without the version.
    """

    grub: Mapping[Firmware, str]
    packages: Mapping[Firmware, str]
    video: tuple[str, ...]
    uefi_program: str
    serial: str
    kernel: str
    kernel_file: str = "vmlinuz"

    @property
    def uefi_path(self) -> PurePosixPath:
        """The path in an EFI system partition of the program that UEFI starts."""
        return PurePosixPath("EFI/BOOT", self.uefi_program)

    @property
    def network_program(self) -> str:
        """The name of GRUB's program for UEFI that boots from a network, as Debian's signed ones have it."""
        kind = self.uefi_program.removeprefix("BOOT").removesuffix(".EFI").lower()
        return f"grubnet{kind}.efi"

    @property
    def firmware(self) -> tuple[Firmware, ...]:
        """The kinds of firmware."""
        return tuple(self.grub)


PC = Hardware(
    grub={"bios": "i386-pc", "uefi": "x86_64-efi"},
    packages={"bios": "grub-pc-bin", "uefi": "grub-efi-amd64-bin"},
    video=("efi_gop", "efi_uga"),
    uefi_program="BOOTX64.EFI",
    serial="ttyS0",
    kernel="linux-image-amd64",
)

HARDWARE: Mapping[str, Hardware] = {
    "amd64": PC,
    "i386": PC,
    "arm64": Hardware(
        grub={"uefi": "arm64-efi"},
        packages={"uefi": "grub-efi-arm64-bin"},
        video=("efi_gop",),
        uefi_program="BOOTAA64.EFI",
        serial="ttyAMA0",
        kernel="linux-image-arm64",
    ),
    "riscv64": Hardware(
        grub={"uefi": "riscv64-efi"},
        packages={"uefi": "grub-efi-riscv64-bin"},
        video=("efi_gop",),
        uefi_program="BOOTRISCV64.EFI",
        serial="ttyS0",
        kernel="linux-image-riscv64",
        kernel_file="vmlinux",
    ),
}
"""The architectures of Debian whose images can be made to start."""
