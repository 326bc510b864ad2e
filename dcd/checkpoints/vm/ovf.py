"""The OVF descriptor of a virtual machine, which importers read before the rest of a package.

It is written for the importers of VMware and VirtualBox, which are stricter than the specification: every
controller has a subtype that both know, paravirtual hardware of only one of them is replaced, there is no
`vbox:Machine` (VirtualBox would ignore all other elements), and memory is counted in MiB. Pure: the same
machine gives the same bytes.
Source: DMTF DSP0243 1.1.0 and 2.1.1, DSP8023; CIM_OperatingSystem.OSType; CIM_ResourceAllocationSettingData.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from xml.sax.saxutils import escape

Version = Literal["1.1", "2.0"]
Controller = Literal["scsi", "sata", "nvme", "ide"]

_CIM = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_"
_DESCRIPTOR = f"""\
<?xml version='1.0' encoding='UTF-8'?>
<Envelope xmlns="{{ovf}}" xmlns:ovf="{{ovf}}" xmlns:rasd="{_CIM}ResourceAllocationSettingData"\
 xmlns:vssd="{_CIM}VirtualSystemSettingData" xmlns:vmw="http://www.vmware.com/schema/ovf"\
 xmlns:vbox="http://www.virtualbox.org/ovf/machine"{{namespaces}}>
  <References>
    <File ovf:href="{{file_name}}" ovf:id="file1" ovf:size="{{disk.size_bytes}}"/>
  </References>
  <DiskSection>
    <Info>The virtual disks of the package</Info>
    <Disk ovf:capacity="{{disk.capacity_bytes}}" ovf:capacityAllocationUnits="byte" ovf:diskId="vmdisk1"\
 ovf:fileRef="file1"\
 ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"\
 ovf:populatedSize="{{disk.populated_bytes}}"/>
  </DiskSection>{{networks}}
  <VirtualSystem ovf:id="{{id}}">
    <Info>A virtual machine</Info>
    <Name>{{name}}</Name>
    <ProductSection>
      <Info>What the machine is</Info>
      <Product>{{name}}</Product>{{product}}
    </ProductSection>
    <OperatingSystemSection ovf:id="{{system.cim}}" vmw:osType="{{system.vmware}}">
      <Info>The operating system that is installed</Info>
      <Description>{{system.description}}</Description>
      <vbox:OSType ovf:required="false">{{system.virtualbox}}</vbox:OSType>
    </OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>The machine's hardware</Info>
      <System>
        <vssd:ElementName>Virtual hardware family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>{{name}}</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>vmx-13</vssd:VirtualSystemType>
      </System>{{hardware}}
    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
"""
"""The hardware version is that of VMware ESXi 6.5, the first with NVMe."""

_NAMESPACES_OF_2 = (
    f' xmlns:epasd="{_CIM}EthernetPortAllocationSettingData.xsd"'
    f' xmlns:sasd="{_CIM}StorageAllocationSettingData.xsd"'
)
_NETWORKS = """
  <NetworkSection>
    <Info>The networks of the package</Info>{networks}
  </NetworkSection>"""
_NETWORK = """
    <Network ovf:name="{id}">
      <Description>The network {name}</Description>
    </Network>"""
_EFI = """
      <vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>"""


@dataclass(frozen=True, slots=True)
class OperatingSystem:
    """An operating system: its number in CIM, and its names in VMware and VirtualBox."""

    cim: int
    description: str
    vmware: str
    virtualbox: str


OPERATING_SYSTEMS = (
    OperatingSystem(96, "Debian 64-Bit", "debian10_64Guest", "Debian_64"),
    OperatingSystem(94, "Ubuntu 64-Bit", "ubuntu64Guest", "Ubuntu_64"),
    OperatingSystem(80, "RedHat Enterprise Linux 64-Bit", "rhel7_64Guest", "RedHat_64"),
    OperatingSystem(101, "Linux 64-Bit", "fedora64Guest", "Fedora_64"),
    OperatingSystem(83, "SUSE 64-Bit", "opensuse64Guest", "OpenSUSE_64"),
    OperatingSystem(101, "Linux 64-Bit", "otherLinux64Guest", "Linux_64"),
    OperatingSystem(29, "Solaris", "solaris11_64Guest", "OpenSolaris_64"),
    OperatingSystem(29, "Solaris", "solaris11_64Guest", "Solaris11_64"),
    OperatingSystem(102, "Other 64-Bit", "otherGuest64", "Other_64"),
)

ADAPTERS: Mapping[str, str] = {
    # VMware has no virtio but its own paravirtual adapter. VirtualBox replaces a model that it does not
    # have by the usual one of the system.
    "virtio": "VmxNet3",
    "vmxnet3": "VmxNet3",
    "e1000": "E1000",
    "e1000e": "E1000e",
    "pcnet": "PCNet32",
}
"""Network adapters: the manifest's name, and the importers'."""

_CONTROLLERS: Mapping[Controller, tuple[int, str, str]] = {
    "ide": (5, "PIIX4", "IDE controller"),
    "scsi": (6, "lsilogic", "SCSI controller"),
    "sata": (20, "vmware.sata.ahci", "SATA controller"),
    "nvme": (20, "vmware.nvme.controller", "NVMe controller"),
}
"""CIM's resource type, a subtype that VMware and VirtualBox know, and a name."""


@dataclass(frozen=True, slots=True)
class Network:
    """A network adapter: a key of `ADAPTERS`, and the name of its network."""

    model: str
    network: str


@dataclass(frozen=True, slots=True)
class PackagedDisk:
    """The disk's file in the package with its size, the capacity of the disk, and the part of it in use; all
    in bytes."""

    file_name: str
    size_bytes: int
    capacity_bytes: int
    populated_bytes: int


@dataclass(frozen=True, slots=True)
class Product:
    """A description of the machine for its importers; empty fields are left out."""

    name: str
    vendor: str = ""
    version: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """A virtual machine. With `efi` its firmware is UEFI."""

    product: Product
    system: OperatingSystem
    cpus: int
    memory_mb: int
    controller: Controller
    networks: tuple[Network, ...]
    efi: bool
    disk: PackagedDisk


def system_named(name: str) -> OperatingSystem | None:
    """The operating system of that name in VirtualBox or VMware, or None. Case does not matter."""
    wanted = name.lower()
    for system in OPERATING_SYSTEMS:
        if wanted in (system.virtualbox.lower(), system.vmware.lower()):
            return system
    return None


def descriptor(machine: Machine, version: Version) -> bytes:
    """The text of the descriptor."""
    product = machine.product
    details = {"Vendor": product.vendor, "Version": product.version, "ProductUrl": product.url}
    networks = "".join(
        _NETWORK.format(id=_quoted(name), name=escape(name))
        for name in dict.fromkeys(network.network for network in machine.networks)
    )
    text = _DESCRIPTOR.format(
        ovf=f"http://schemas.dmtf.org/ovf/envelope/{version[0]}",
        namespaces=_NAMESPACES_OF_2 if version == "2.0" else "",
        disk=machine.disk,
        file_name=_quoted(machine.disk.file_name),
        networks=_NETWORKS.format(networks=networks) if networks else "",
        id=_quoted(product.name),
        name=escape(product.name),
        product="".join(
            f"\n      <{tag}>{escape(value)}</{tag}>" for tag, value in details.items() if value
        ),
        system=machine.system,
        hardware=_hardware(machine, version) + (_EFI if machine.efi else ""),
    )
    return text.encode()


def _hardware(machine: Machine, version: Version) -> str:
    controller, subtype, name = _CONTROLLERS[machine.controller]
    old = version == "1.1"
    storage = ("Item", "rasd") if old else ("StorageItem", "sasd")
    ethernet = ("Item", "rasd") if old else ("EthernetPortItem", "epasd")
    cpus, memory_mb = machine.cpus, machine.memory_mb
    items = [
        _item(1, 3, f"{cpus} virtual CPU(s)", "Number of virtual CPUs")
        | {"AllocationUnits": "hertz * 10^6", "VirtualQuantity": cpus},
        _item(2, 4, f"{memory_mb} MB of memory", "Memory size")
        | {"AllocationUnits": "byte * 2^20", "VirtualQuantity": memory_mb},
        _item(3, controller, f"{name} 0", name) | {"Address": 0, "ResourceSubType": subtype},
    ]
    disk = _item(4, 17, "Hard disk 1", "Disk image")
    disk |= {"AddressOnParent": 0, "HostResource": "ovf:/disk/vmdisk1", "Parent": 3}
    elements = [*(("Item", "rasd", item) for item in items), (*storage, disk)]
    for number, network in enumerate(machine.networks):
        adapter = ADAPTERS[network.model]
        description = f"{adapter} adapter on {network.network}"
        card = _item(5 + number, 10, f"Network adapter {number + 1}", description)
        card |= {"AddressOnParent": number, "AutomaticAllocation": "true"}
        card |= {"Connection": network.network, "ResourceSubType": adapter}
        elements.append((*ethernet, card))
    return "".join(_element(*element) for element in elements)


def _item(number: int, kind: int, name: str, description: str) -> dict[str, object]:
    """The properties that all hardware has. `kind` is CIM's resource type."""
    return {
        "Description": description,
        "ElementName": name,
        "InstanceID": number,
        "ResourceType": kind,
    }


def _element(tag: str, prefix: str, properties: Mapping[str, object]) -> str:
    # The schema requires the properties in the order of their names.
    lines = [
        f"        <{prefix}:{name}>{escape(str(value))}</{prefix}:{name}>\n"
        for name, value in sorted(properties.items())
    ]
    return f"\n      <{tag}>\n{''.join(lines)}      </{tag}>"


def _quoted(text: str) -> str:
    """The text as the value of an attribute."""
    return escape(text, {'"': "&quot;"})
