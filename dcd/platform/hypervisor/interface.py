"""The contract of a hypervisor.

A *guest* is one virtual machine: `Hypervisor.guest` is a context manager that starts it and never leaves a
process of it behind. The guest has no network, or one of its own. Its serial console is read and written
through the `Guest`; `GuestSpec.console_log` receives the output as soon as it is read, so the log survives
its reader. All methods block and belong to the thread that opened the guest; several guests may run in
several threads.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from dcd.platform.copying import copy_into
from dcd.platform.iscsi.interface import Export

Firmware = Literal["bios", "uefi"]
Accelerator = Literal["kvm", "hvf", "tcg"]
"""The accelerators of Linux and macOS, and QEMU's emulation. VirtualBox and bhyve ignore it."""

Attachment = Literal["cdrom", "usb", "virtio", "scsi", "sata", "nvme", "ide"]
"""The form in which the guest sees an image: a CD, a USB stick, or a disk on one of the controllers."""


@dataclass(frozen=True, slots=True)
class Drive:
    """An image and its attachment. `format` is QEMU's name for it (`raw`, `qcow2`, ...). Unless it is
    `writable`, the guest's writes are discarded. With a `length`, the image is that number of bytes of the
    file from `offset` on. `sector_size` is the sector size, in bytes, that the guest sees."""

    image: Path
    attachment: Attachment
    format: str = "raw"
    writable: bool = False
    offset: int = 0
    length: int | None = None
    sector_size: int = 512

    def copy_to(self, target: Path) -> Path:
        """Copy the image to the new file `target`, holes included, and return its path. Raises OSError."""
        end = self.image.stat().st_size if self.length is None else self.offset + self.length
        with target.open("wb") as copy:
            copy.truncate(end - self.offset)
        copy_into(self.image, target, 0, begin=self.offset, end=end)
        return target


@dataclass(frozen=True, slots=True)
class NetworkDisk:
    """A disk that an iSCSI target serves, for reading and writing. The guest sees a disk with that
    `serial` number; the hypervisor is the initiator."""

    export: Export
    attachment: Attachment
    serial: str
    sector_size: int = 512


@dataclass(frozen=True, slots=True)
class NetworkBoot:
    """A network of the guest's own, on which DHCP names `file`, and TFTP serves the files of `directory`.
    Nothing else answers on it."""

    directory: Path
    file: str


@dataclass(frozen=True, slots=True)
class GuestSpec:
    """One guest. It boots from `network`, or else from the first of its `drives`. `name` appears in process
    lists. `network_disks` follow the drives; only QEMU is an initiator, and boots from a network. With
    `secure_boot` its UEFI firmware starts only programs that the keys of its package have signed,
    Microsoft's, or those that the key of a `certificate` (a file, PEM) has signed. Only QEMU has such
    firmware, and guests of another `architecture` (by Debian's name) than that of PCs."""

    name: str
    firmware: Firmware
    accelerator: Accelerator
    memory_mb: int
    cpus: int
    drives: tuple[Drive, ...]
    console_log: Path
    network_disks: tuple[NetworkDisk, ...] = ()
    secure_boot: bool = False
    certificate: Path | None = None
    architecture: str = "amd64"
    network: NetworkBoot | None = None


class Guest(Protocol):
    """A running guest."""

    def read_console(self, wait_seconds: float) -> bytes | None:
        """The output of the serial console since the last call, as soon as there is any; b"" when there
        is none in time, None when the guest has ended."""
        ...

    def write_console(self, text: bytes) -> None:
        """Type on the serial console."""
        ...

    def firmware_says_unbootable(self) -> bool:
        """Whether the firmware has given up finding something to boot."""
        ...

    def stopped_reason(self) -> str:
        """The reason why the hypervisor stopped the guest, in its own term (QEMU's `RunState`, such as
        `internal-error`); "" while the guest runs, after its end, or if the hypervisor does not report it."""
        ...

    def screenshot(self, png: Path) -> None:
        """Write a screenshot as a PNG file. Raises `CheckpointError` when the guest has ended, or the
        hypervisor makes none."""
        ...


class Hypervisor(Protocol):
    """A way to run guests on this host. `formats` are the readable values of `Drive.format`, and
    `attachments` the possible ones of `Drive.attachment`."""

    name: str
    formats: frozenset[str]
    attachments: frozenset[Attachment]

    def guest(self, spec: GuestSpec, directory: Path) -> AbstractContextManager[Guest]:
        """Run a guest for the duration of the context, with `directory` for its own files. Raises
        `Unprepared` when the host lacks a requirement, `CheckpointError` when the guest does not start."""
        ...
