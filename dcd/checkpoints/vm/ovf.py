"""The OVF descriptor of a virtual machine: what importers read of a package before anything else.

Written for what VMware's and VirtualBox's importers take, where they are stricter than the specification:
every controller has a subtype that both know, paravirtual hardware that only one of them has is replaced,
there is no `vbox:Machine` (VirtualBox would believe it and nothing else), memory is counted in MiB.
Pure: the same machine gives the same bytes.
Source: DMTF DSP0243 1.1.0 and 2.1.1, DSP8023; CIM_OperatingSystem.OSType; CIM_ResourceAllocationSettingData.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from lxml import etree

Version = Literal["1.1", "2.0"]
Controller = Literal["scsi", "sata", "nvme", "ide"]

STREAM_FORMAT = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"

_ENVELOPE = "http://schemas.dmtf.org/ovf/envelope/"
_CIM = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/"
_RASD = f"{_CIM}CIM_ResourceAllocationSettingData"
_VSSD = f"{_CIM}CIM_VirtualSystemSettingData"
_EPASD = f"{_CIM}CIM_EthernetPortAllocationSettingData.xsd"
_SASD = f"{_CIM}CIM_StorageAllocationSettingData.xsd"
_VMW = "http://www.vmware.com/schema/ovf"
_VBOX = "http://www.virtualbox.org/ovf/machine"

_HARDWARE_VERSION = "vmx-13"
"""VMware's of ESXi 6.5, the first that has NVMe."""


@dataclass(frozen=True, slots=True)
class OperatingSystem:
    """An operating system as CIM numbers it, and as VMware and VirtualBox call it."""

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
    # VMware has no virtio; its own paravirtual adapter stands for it. VirtualBox takes the system's
    # usual adapter for a model that it does not have.
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
    """A network adapter: a key of `ADAPTERS`, and the name of the network it is on."""

    model: str
    network: str


@dataclass(frozen=True, slots=True)
class PackagedDisk:
    """The disk's file in the package with its size, the size of the disk that the machine sees, and how
    much of that is in use; all in bytes."""

    file_name: str
    size_bytes: int
    capacity_bytes: int
    populated_bytes: int


@dataclass(frozen=True, slots=True)
class Product:
    """What the machine is, for whoever imports it. What is empty is left out."""

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
    """The operating system that VirtualBox or VMware calls so, or None. Case does not matter."""
    wanted = name.lower()
    for system in OPERATING_SYSTEMS:
        if wanted in (system.virtualbox.lower(), system.vmware.lower()):
            return system
    return None


def descriptor(machine: Machine, version: Version) -> bytes:
    """The descriptor's text."""
    return _Descriptor(version).text(machine)


class _Descriptor:
    """Builds the elements of one version of OVF."""

    def __init__(self, version: Version) -> None:
        self._old = version == "1.1"
        self._ovf = _ENVELOPE + ("1" if self._old else "2")

    def text(self, machine: Machine) -> bytes:
        names = {None: self._ovf, "ovf": self._ovf, "rasd": _RASD, "vssd": _VSSD}
        names |= {"vmw": _VMW, "vbox": _VBOX}
        if not self._old:
            names |= {"epasd": _EPASD, "sasd": _SASD}
        root = etree.Element(f"{{{self._ovf}}}Envelope", nsmap=names)  # type: ignore[arg-type]
        self._references(root, machine.disk)
        self._disks(root, machine.disk)
        self._networks(root, machine.networks)
        self._system(root, machine)
        return etree.tostring(root, xml_declaration=True, encoding="UTF-8", pretty_print=True)

    def _add(
        self, parent: etree._Element, tag: str, text: str | None = None, **attributes: object
    ) -> etree._Element:
        element = etree.SubElement(parent, f"{{{self._ovf}}}{tag}")
        element.text = text
        for name, value in attributes.items():
            element.set(f"{{{self._ovf}}}{name}", str(value))
        return element

    def _section(
        self, parent: etree._Element, tag: str, info: str, **attributes: object
    ) -> etree._Element:
        section = self._add(parent, tag, None, **attributes)
        self._add(section, "Info", info)
        return section

    def _references(self, root: etree._Element, disk: PackagedDisk) -> None:
        references = self._add(root, "References")
        self._add(references, "File", href=disk.file_name, id="file1", size=disk.size_bytes)

    def _disks(self, root: etree._Element, disk: PackagedDisk) -> None:
        section = self._section(root, "DiskSection", "The virtual disks of the package")
        self._add(
            section,
            "Disk",
            capacity=disk.capacity_bytes,
            capacityAllocationUnits="byte",
            diskId="vmdisk1",
            fileRef="file1",
            format=STREAM_FORMAT,
            populatedSize=disk.populated_bytes,
        )

    def _networks(self, root: etree._Element, networks: tuple[Network, ...]) -> None:
        if not networks:
            return
        section = self._section(root, "NetworkSection", "The networks of the package")
        for name in dict.fromkeys(network.network for network in networks):
            network = self._add(section, "Network", name=name)
            self._add(network, "Description", f"The network {name}")

    def _system(self, root: etree._Element, machine: Machine) -> None:
        product, known = machine.product, machine.system
        system = self._section(root, "VirtualSystem", "A virtual machine", id=product.name)
        self._add(system, "Name", product.name)
        section = self._section(system, "ProductSection", "What the machine is")
        self._add(section, "Product", product.name)
        for tag, text in (
            ("Vendor", product.vendor),
            ("Version", product.version),
            ("ProductUrl", product.url),
        ):
            if text:
                self._add(section, tag, text)
        info = "The operating system that is installed"
        section = self._section(system, "OperatingSystemSection", info, id=known.cim)
        section.set(f"{{{_VMW}}}osType", known.vmware)
        self._add(section, "Description", known.description)
        kind = etree.SubElement(section, f"{{{_VBOX}}}OSType")
        kind.set(f"{{{self._ovf}}}required", "false")
        kind.text = known.virtualbox
        self._hardware(system, machine)

    def _hardware(self, system: etree._Element, machine: Machine) -> None:
        section = self._section(system, "VirtualHardwareSection", "The machine's hardware")
        described = self._add(section, "System")
        for name, text in (
            ("ElementName", "Virtual hardware family"),
            ("InstanceID", "0"),
            ("VirtualSystemIdentifier", machine.product.name),
            ("VirtualSystemType", _HARDWARE_VERSION),
        ):
            etree.SubElement(described, f"{{{_VSSD}}}{name}").text = text
        for number, (tag, namespace, properties) in enumerate(self._items(machine), start=1):
            item = self._add(section, tag)
            # The schema wants them in the order of their names.
            for name, value in sorted({**properties, "InstanceID": number}.items()):
                etree.SubElement(item, f"{{{namespace}}}{name}").text = str(value)
        if machine.efi:
            config = etree.SubElement(section, f"{{{_VMW}}}Config")
            config.set(f"{{{self._ovf}}}required", "false")
            config.set(f"{{{_VMW}}}key", "firmware")
            config.set(f"{{{_VMW}}}value", "efi")

    def _items(self, machine: Machine) -> Iterator[tuple[str, str, dict[str, object]]]:
        """The hardware, numbered from 1 as it comes: element, namespace of what is in it, and that."""
        disks = ("Item", _RASD) if self._old else ("StorageItem", _SASD)
        ethernet = ("Item", _RASD) if self._old else ("EthernetPortItem", _EPASD)
        yield (
            *("Item", _RASD),
            {
                "AllocationUnits": "hertz * 10^6",
                "Description": "Number of virtual CPUs",
                "ElementName": f"{machine.cpus} virtual CPU(s)",
                "ResourceType": 3,
                "VirtualQuantity": machine.cpus,
            },
        )
        yield (
            *("Item", _RASD),
            {
                "AllocationUnits": "byte * 2^20",
                "Description": "Memory size",
                "ElementName": f"{machine.memory_mb} MB of memory",
                "ResourceType": 4,
                "VirtualQuantity": machine.memory_mb,
            },
        )
        kind, subtype, name = _CONTROLLERS[machine.controller]
        yield (
            *("Item", _RASD),
            {
                "Address": 0,
                "Description": name,
                "ElementName": f"{name} 0",
                "ResourceSubType": subtype,
                "ResourceType": kind,
            },
        )
        yield (
            *disks,
            {
                "AddressOnParent": 0,
                "Description": "Disk image",
                "ElementName": "Hard disk 1",
                "HostResource": "ovf:/disk/vmdisk1",
                "Parent": 3,
                "ResourceType": 17,
            },
        )
        for number, network in enumerate(machine.networks):
            adapter = ADAPTERS[network.model]
            yield (
                *ethernet,
                {
                    "AddressOnParent": number,
                    "AutomaticAllocation": "true",
                    "Connection": network.network,
                    "Description": f"{adapter} adapter on {network.network}",
                    "ElementName": f"Network adapter {number + 1}",
                    "ResourceSubType": adapter,
                    "ResourceType": 10,
                },
            )
