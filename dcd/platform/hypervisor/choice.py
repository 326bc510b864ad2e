"""The hypervisors by name, as manifests choose one."""

from collections.abc import Callable, Mapping
from typing import Literal, get_args

from dcd.platform.hypervisor import bhyve, virtualbox
from dcd.platform.hypervisor.bhyve import Bhyve
from dcd.platform.hypervisor.interface import Hypervisor
from dcd.platform.hypervisor.qemu import PROGRAM, Qemu
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
_TOOLS: Mapping[HypervisorName, tuple[str, ...]] = {
    "qemu": (PROGRAM,),
    "virtualbox": virtualbox.TOOLS,
    "bhyve": bhyve.TOOLS,
}


def hypervisor_named(name: HypervisorName, environment: Mapping[str, str]) -> Hypervisor:
    """The hypervisor of that name; `environment` is added to that of its processes."""
    return _CLASSES[name](environment)


def devices_of(name: HypervisorName) -> tuple[str, ...]:
    """The devices that its guests use if the host has them, as `Needs.devices` names them."""
    return _DEVICES[name]


def tools_of(name: HypervisorName, *, uefi: bool) -> tuple[str, ...]:
    """The tools that its guests need, as `Needs.tools` names them."""
    return (*_TOOLS[name], "ovmf") if uefi and name == "qemu" else _TOOLS[name]


def all_tools() -> tuple[str, ...]:
    """The tools that guests of any of them may need."""
    names: tuple[HypervisorName, ...] = get_args(HypervisorName)
    return tuple(dict.fromkeys(tool for name in names for tool in tools_of(name, uefi=True)))
