"""Virtual machines behind one interface: boot an image, follow its console, take its picture."""

from dcd.platform.hypervisor.choice import (
    HypervisorName,
    all_tools,
    attachments_of,
    devices_of,
    hypervisor_named,
    tools_of,
)
from dcd.platform.hypervisor.console import (
    TROUBLES,
    UNBOOTABLE,
    ConsoleText,
    GuestStuck,
    GuestTrouble,
    Trouble,
    listen,
    wait_for,
)
from dcd.platform.hypervisor.interface import (
    Accelerator,
    Attachment,
    Drive,
    Firmware,
    Guest,
    GuestSpec,
    Hypervisor,
    NetworkBoot,
    NetworkDisk,
)
from dcd.platform.hypervisor.probe import KvmVerdict, probe_kvm
from dcd.platform.hypervisor.qemu import Qemu

__all__ = [
    "TROUBLES",
    "UNBOOTABLE",
    "Accelerator",
    "Attachment",
    "ConsoleText",
    "Drive",
    "Firmware",
    "Guest",
    "GuestSpec",
    "GuestStuck",
    "GuestTrouble",
    "Hypervisor",
    "HypervisorName",
    "KvmVerdict",
    "NetworkBoot",
    "NetworkDisk",
    "Qemu",
    "Trouble",
    "all_tools",
    "attachments_of",
    "devices_of",
    "hypervisor_named",
    "listen",
    "probe_kvm",
    "tools_of",
    "wait_for",
]
