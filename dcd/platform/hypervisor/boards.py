"""QEMU's boards: the machine, processor and firmware with which a guest of an architecture starts.

The board `virt` has PCI, UEFI in flash memory and a serial line, but no BIOS, no ISA and no IDE. Its screen
is a frame buffer that the firmware sets up and every kernel can use. Source: QEMU's docs/system/arm/virt.rst,
docs/system/riscv/virt.rst.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Board:
    """A board. `program` is QEMU's, `target` its name in descriptions of firmware, `firmware` the tool with
    UEFI (see `store.host.tools`), `processor` the model under emulation, and `screen` the options for one."""

    program: str
    target: str
    firmware: str
    processor: str
    screen: tuple[str, ...]
    is_pc: bool = False


_PC = Board(
    "qemu-system-x86_64",
    "x86_64",
    "ovmf",
    # Half the features of `max`: less code is patched and emulated, so a guest boots faster.
    "qemu64",
    ("-vga", "std"),
    is_pc=True,
)

BOARDS: Mapping[str, Board] = {
    "amd64": _PC,
    "i386": _PC,
    # An older processor than `max`, whose pointer authentication is slow to emulate.
    "arm64": Board("qemu-system-aarch64", "aarch64", "aavmf", "cortex-a57", ("-device", "ramfb")),
    "riscv64": Board(
        "qemu-system-riscv64", "riscv64", "qemu-efi-riscv64", "rv64", ("-device", "ramfb")
    ),
}
"""The boards for Debian's architectures."""
