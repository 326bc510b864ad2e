"""The hypervisors by name, as manifests choose one."""

from collections.abc import Callable, Mapping
from typing import Literal, get_args

from dcd.platform.hypervisor import bhyve, virtualbox
from dcd.platform.hypervisor.bhyve import Bhyve
from dcd.platform.hypervisor.boards import BOARDS
from dcd.platform.hypervisor.interface import Attachment, Hypervisor
from dcd.platform.hypervisor.qemu import Qemu
from dcd.platform.hypervisor.virtualbox import VirtualBox

HypervisorName = Literal["qemu", "virtualbox", "bhyve"]

_CLASSES: Mapping[HypervisorName, Callable[[Mapping[str, str]], Hypervisor]] = {
    "qemu": Qemu,
    "virtualbox": VirtualBox,
    "bhyve": Bhyve,
}
_DEVICES: Mapping[HypervisorName, tuple[str, ...]] = {
    "qemu": ("kvm",),
    "virtualbox": ("vboxdrv", "vboxdrvu", "vboxnetctl"),
    "bhyve": (),
}
_TOOLS: Mapping[str, tuple[str, ...]] = {
    "virtualbox": virtualbox.TOOLS,
    "bhyve": bhyve.TOOLS,
}


def hypervisor_named(name: HypervisorName, environment: Mapping[str, str]) -> Hypervisor:
    """The hypervisor of that name; `environment` is added to that of its processes."""
    return _CLASSES[name](environment)


def devices_of(name: HypervisorName) -> tuple[str, ...]:
    """The devices that its guests use if the host has them, as `Needs.devices` names them."""
    return _DEVICES[name]


def tools_of(name: HypervisorName, *, uefi: bool, architecture: str = "amd64") -> tuple[str, ...]:
    """The tools that its guests of an architecture need, as `Needs.tools` names them."""
    if name != "qemu":
        return _TOOLS[name]
    board = BOARDS.get(architecture, BOARDS["amd64"])
    return (board.program, board.firmware) if uefi else (board.program,)


def attachments_of(name: HypervisorName, architecture: str) -> frozenset[Attachment]:
    """The forms in which its guests of an architecture can see an image."""
    offered = hypervisor_named(name, {}).attachments
    board = BOARDS.get(architecture, BOARDS["amd64"])
    return offered if board.is_pc else offered - {"ide"}


def all_tools() -> tuple[str, ...]:
    """The tools that guests of any of them may need."""
    names: tuple[HypervisorName, ...] = get_args(HypervisorName)
    found = [tool for kind in BOARDS for tool in tools_of("qemu", uefi=True, architecture=kind)]
    found += [tool for name in names for tool in tools_of(name, uefi=True)]
    return tuple(dict.fromkeys(found))
