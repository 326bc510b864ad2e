"""Virtual machines behind one interface: boot an image, follow its console, take its picture."""

from dcd.platform.hypervisor.console import ConsoleText, GuestTrouble, wait_for
from dcd.platform.hypervisor.interface import (
    Accelerator,
    Attachment,
    Drive,
    Firmware,
    Guest,
    GuestSpec,
    Hypervisor,
)
from dcd.platform.hypervisor.probe import KvmVerdict, probe_accelerator, probe_kvm
from dcd.platform.hypervisor.qemu import Qemu

__all__ = [
    "Accelerator",
    "Attachment",
    "ConsoleText",
    "Drive",
    "Firmware",
    "Guest",
    "GuestSpec",
    "GuestTrouble",
    "Hypervisor",
    "KvmVerdict",
    "Qemu",
    "probe_accelerator",
    "probe_kvm",
    "wait_for",
]
