"""The hypervisors by name, as manifests choose one."""

from collections.abc import Mapping
from typing import Literal, get_args

from dcd.platform.hypervisor import bhyve, virtualbox
from dcd.platform.hypervisor.bhyve import Bhyve
from dcd.platform.hypervisor.interface import Hypervisor
from dcd.platform.hypervisor.qemu import PROGRAM, Qemu
from dcd.platform.hypervisor.virtualbox import VirtualBox

HypervisorName = Literal["qemu", "virtualbox", "bhyve"]


def hypervisor_named(name: HypervisorName, environment: Mapping[str, str]) -> Hypervisor:
    """The hypervisor of that name; `environment` is added to that of its processes."""
    match name:
        case "qemu":
            return Qemu(environment)
        case "virtualbox":
            return VirtualBox(environment)
        case "bhyve":
            return Bhyve(environment)


def devices_of(name: HypervisorName) -> tuple[str, ...]:
    """The devices that its guests use where the host has them, as `Needs.devices` names them."""
    match name:
        case "qemu":
            return ("kvm",)
        case "virtualbox":
            return ("vboxdrv", "vboxdrvu", "vboxnetctl")
        case "bhyve":
            return ()


def tools_of(name: HypervisorName, *, uefi: bool) -> tuple[str, ...]:
    """The tools that guests of that hypervisor need, as `Needs.tools` names them."""
    match name:
        case "qemu":
            return (PROGRAM, "setpriv", *(("ovmf",) if uefi else ()))
        case "virtualbox":
            return (*virtualbox.TOOLS, "setpriv")
        case "bhyve":
            return bhyve.TOOLS


def all_tools() -> tuple[str, ...]:
    """What guests of any of them may need."""
    names: tuple[HypervisorName, ...] = get_args(HypervisorName)
    return tuple(dict.fromkeys(tool for name in names for tool in tools_of(name, uefi=True)))
