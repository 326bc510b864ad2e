"""What a hypervisor promises.

A *guest* is one virtual machine with a lifetime: `Hypervisor.guest` is a context manager that starts
it and, whatever happens inside, leaves no process of it behind. The guest has no network. Its serial
console is read and written through the `Guest`; what was read of it is also in `GuestSpec.console_log`,
written as it comes, so the log is there when the reader dies.
All methods block and belong to the thread that opened the guest; several guests may run side by side
in several threads.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from dcd.platform.iscsi.interface import Export

Firmware = Literal["bios", "uefi"]
Accelerator = Literal["kvm", "hvf", "tcg"]
"""Linux's, macOS' and QEMU's own, which is emulation. Hypervisors of one way to run guests ignore it."""

Attachment = Literal["cdrom", "usb", "virtio", "scsi", "sata", "nvme", "ide"]
"""How the guest sees an image: as a CD, a USB stick, or a disk on one of the controllers."""


@dataclass(frozen=True, slots=True)
class Drive:
    """An image and how it is attached. `format` is QEMU's name of it (`raw`, `qcow2`, ...). Nothing
    is written to the image unless it is `writable`: what the guest writes is thrown away. With a
    `length` the image is that many bytes of the file from `offset` on. `sector_size` is the bytes of
    a sector that the guest sees."""

    image: Path
    attachment: Attachment
    format: str = "raw"
    writable: bool = False
    offset: int = 0
    length: int | None = None
    sector_size: int = 512


@dataclass(frozen=True, slots=True)
class NetworkDisk:
    """A disk that an iSCSI target serves, for reading and writing. The guest sees a disk with that
    `serial` number; the hypervisor is the initiator."""

    export: Export
    attachment: Attachment
    serial: str
    sector_size: int = 512


@dataclass(frozen=True, slots=True)
class GuestSpec:
    """One guest. It boots from the first of its `drives`. `name` shows in process lists.
    `network_disks` come after the drives; of the hypervisors only QEMU is an initiator."""

    name: str
    firmware: Firmware
    accelerator: Accelerator
    memory_mb: int
    cpus: int
    drives: tuple[Drive, ...]
    console_log: Path
    network_disks: tuple[NetworkDisk, ...] = ()


class Guest(Protocol):
    """A running guest."""

    def read_console(self, wait_seconds: float) -> bytes | None:
        """What came over the serial console since the last call, as soon as there is anything;
        b"" when nothing came in time, None when the guest has ended."""
        ...

    def write_console(self, text: bytes) -> None:
        """Type on the serial console."""
        ...

    def firmware_says_unbootable(self) -> bool:
        """Whether the firmware has given up finding something to boot."""
        ...

    def stopped_reason(self) -> str:
        """Why the hypervisor no longer runs the guest, in its own term (QEMU's `RunState`, such as
        `internal-error`); empty while it runs, has ended, or where the hypervisor does not say."""
        ...

    def screenshot(self, png: Path) -> None:
        """Write what the guest's screen shows as a PNG file. Raises `CheckpointError` when the guest
        has ended, or the hypervisor cannot."""
        ...


class Hypervisor(Protocol):
    """A way to run guests on this host. `formats` are those of `Drive.format` that it reads, and
    `attachments` what it can attach a drive as."""

    name: str
    formats: frozenset[str]
    attachments: frozenset[Attachment]

    def guest(self, spec: GuestSpec, directory: Path) -> AbstractContextManager[Guest]:
        """Run a guest for the duration of the context, with `directory` for its own files. Raises
        `Unprepared` when the host lacks something, `CheckpointError` when it does not start."""
        ...
