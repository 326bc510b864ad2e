"""CreateOVA: packages that importers take. What the specification, VMware's tools and VirtualBox's reader
demand is written out here, rule by rule; another project's OVF parser reads them too."""

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from COT.vm_description import ovf as parser
from lxml import etree

from dcd.checkpoints.interface import Context
from dcd.checkpoints.recorded import recorded_media
from dcd.checkpoints.vm.convert import Convert
from dcd.checkpoints.vm.disk import DiskLayout, record_disk
from dcd.checkpoints.vm.ova import LARGEST_MEMBER_BYTES, CreateOVA
from dcd.checkpoints.vm.ovf import OPERATING_SYSTEMS, system_named
from dcd.manifest.diagnostics import refuse
from statemachine.errors import CheckpointError, InvalidManifest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("qemu-img") is None, reason="no qemu-utils"),
]

MIB = 1 << 20
DISK_BYTES = 40 * MIB
EPOCH = 1_700_000_000

RASD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
SASD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_StorageAllocationSettingData.xsd"
EPASD = (
    "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_EthernetPortAllocationSettingData.xsd"
)
VMW = "http://www.vmware.com/schema/ovf"
VBOX = "http://www.virtualbox.org/ovf/machine"

MACHINE = """<distro_spec><img_params>
<vm_im memory="1536mb" cpus="2" firmware="{firmware}" os_type="{system}">
<vm_format type="vmdk"/><vm_format type="ova"/>{controllers}
<vm_network model="virtio" network="NAT"/><vm_network model="e1000" network="Bridged"/>
<vm_network model="e1000" network="NAT"/></vm_im>
</img_params></distro_spec>"""


def machine(
    firmware: str = "both", system: str = "Debian_64", controllers: tuple[str, ...] = ("virtio",)
) -> str:
    return MACHINE.format(
        firmware=firmware,
        system=system,
        controllers="".join(f'<vm_controller type="{kind}"/>' for kind in controllers),
    )


def with_disk(bench: Any, described: str) -> Context:
    context: Context = bench.context(
        bench.doc(described), environment={"SOURCE_DATE_EPOCH": str(EPOCH)}
    )
    disk = bench.root / "media/disk.img"
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
        os.pwrite(file.fileno(), hashlib.shake_256(b"a system").digest(3 * MIB), MIB)
    record_disk(context, disk, DiskLayout("disk.img", DISK_BYTES, 512, "8d2c-guid", ()))
    return context


def packed(bench: Any, described: str | None = None, **arguments: Any) -> Path:
    """The OVA of a machine whose disk was converted before."""
    context = with_disk(bench, described or machine())
    Convert("convert").execute(context)
    checkpoint = CreateOVA("ova", **arguments)
    refuse(checkpoint.check(context.doc))
    checkpoint.execute(context)
    path = recorded_media(context)["ova"]
    assert path is not None
    return path


class Descriptor:
    """A descriptor as importers look at it."""

    def __init__(self, ova: Path) -> None:
        with tarfile.open(ova) as tar:
            member = tar.extractfile("test.ovf")
            assert member is not None
            self.root = etree.fromstring(member.read())
        self.ovf = etree.QName(self.root).namespace

    def all(self, path: str) -> list[Any]:
        """Elements by a path of local names below the envelope."""
        return self.root.findall("/".join(f"{{{self.ovf}}}{part}" for part in path.split("/")))

    def one(self, path: str) -> Any:
        (element,) = self.all(path)
        return element

    def attribute(self, element: Any, name: str) -> str:
        value: str = element.attrib[f"{{{self.ovf}}}{name}"]
        return value

    def items(self) -> list[dict[str, str]]:
        """The hardware: the properties of each, whatever its namespace, and its element as `item`."""
        hardware = self.one("VirtualSystem/VirtualHardwareSection")
        return [
            {"item": etree.QName(item).localname, **{local(p): p.text or "" for p in item}}
            for item in hardware
            if local(item) in ("Item", "StorageItem", "EthernetPortItem")
        ]

    def of_type(self, kind: int) -> list[dict[str, str]]:
        return [item for item in self.items() if item["ResourceType"] == str(kind)]


def local(element: Any) -> str:
    return etree.QName(element).localname


@pytest.fixture(params=["1.1", "2.0"])
def package(request: pytest.FixtureRequest, bench: Any) -> Iterator[Path]:
    yield packed(bench, ovf_version=request.param, vendor="Example & Sons", version="7.1")


def test_the_package_is_a_ustar_of_descriptor_manifest_and_disk_in_this_order(
    package: Path,
) -> None:
    with tarfile.open(package) as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == ["test.ovf", "test.mf", "test-disk1.vmdk"]
    for member in members:
        assert (member.mode, member.uid, member.gid, member.mtime) == (0o644, 0, 0, EPOCH)
        assert member.isreg()
        assert not member.pax_headers
    raw = package.read_bytes()
    assert raw[257:265] == b"ustar\x0000"
    listed = subprocess.run(["tar", "tf", package], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == [member.name for member in members]


def test_the_manifest_has_the_digest_of_every_other_file_as_vmware_reads_it(package: Path) -> None:
    with tarfile.open(package) as tar:
        content = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}  # type: ignore[union-attr]
    lines = content.pop("test.mf").decode().splitlines()
    found = [re.fullmatch(r"SHA256\(([^)]+)\)= ([0-9a-f]{64})", line) for line in lines]
    assert all(found), lines
    assert {match[1]: match[2] for match in found if match} == {
        name: hashlib.sha256(data).hexdigest() for name, data in content.items()
    }


def test_the_disk_in_the_package_is_the_disk(package: Path, tmp_path: Path, bench: Any) -> None:
    with tarfile.open(package) as tar:
        (member,) = (one for one in tar if one.name == "test-disk1.vmdk")
        with tar.extractfile(member) as packed, (tmp_path / member.name).open("wb") as disk:
            shutil.copyfileobj(packed, disk)
    subprocess.run(
        ["qemu-img", "compare", bench.root / "media/disk.img", tmp_path / "test-disk1.vmdk"],
        check=True,
    )
    assert [artifact.name for artifact in bench.artifacts] == ["test.vmdk", "test.ova"]
    assert bench.artifacts[-1].format == "ova"


def test_the_stream_that_convert_made_is_packed_as_it_is(package: Path, bench: Any) -> None:
    with tarfile.open(package) as tar:
        member = tar.extractfile("test-disk1.vmdk")
        assert member is not None
        assert member.read() == (bench.root / "media/test.vmdk").read_bytes()
    assert list((bench.root / "tmp").iterdir()) == []


def test_without_one_it_makes_the_stream_itself_and_delivers_only_the_package(bench: Any) -> None:
    text = machine().replace('<vm_format type="vmdk"/>', "")
    context = with_disk(bench, text)
    checkpoint = CreateOVA("ova")
    assert checkpoint.needs(context.doc).tools == ("qemu-img",)
    checkpoint.execute(context)
    assert sorted(p.name for p in (bench.root / "media").iterdir()) == ["disk.img", "test.ova"]
    assert [artifact.name for artifact in bench.artifacts] == ["test.ova"]


def test_the_same_disk_gives_the_same_package(bench: Any) -> None:
    context = with_disk(bench, machine())
    Convert("convert").execute(context)
    for _ in range(2):
        CreateOVA("ova").execute(context)
    assert bench.artifacts[-1] == bench.artifacts[-2]


def test_the_envelope_has_references_sections_and_system_in_the_schemas_order(
    package: Path,
) -> None:
    found = Descriptor(package)
    assert [local(child) for child in found.root] == [
        "References",
        "DiskSection",
        "NetworkSection",
        "VirtualSystem",
    ]
    assert [local(child) for child in found.one("VirtualSystem")] == [
        "Info",
        "Name",
        "ProductSection",
        "OperatingSystemSection",
        "VirtualHardwareSection",
    ]
    for section in found.root.iter():
        if local(section).endswith("Section") or local(section) == "VirtualSystem":
            assert local(section[0]) == "Info", "the first child of each section"
            assert section[0].text


def test_the_namespace_is_that_of_the_version(bench: Any) -> None:
    envelope = "http://schemas.dmtf.org/ovf/envelope/"
    assert Descriptor(packed(bench)).ovf == f"{envelope}1"
    assert Descriptor(packed(bench, ovf_version="2.0")).ovf == f"{envelope}2"


def test_every_reference_in_the_descriptor_leads_somewhere(package: Path) -> None:
    found = Descriptor(package)
    file, disk = found.one("References/File"), found.one("DiskSection/Disk")
    with tarfile.open(package) as tar:
        member = tar.getmember(found.attribute(file, "href"))
    assert found.attribute(file, "size") == str(member.size)
    assert found.attribute(disk, "fileRef") == found.attribute(file, "id")
    (drive,) = found.of_type(17)
    assert drive["HostResource"] == f"ovf:/disk/{found.attribute(disk, 'diskId')}"
    controllers = [item["InstanceID"] for kind in (5, 6, 20) for item in found.of_type(kind)]
    assert drive["Parent"] in controllers
    networks = [found.attribute(n, "name") for n in found.all("NetworkSection/Network")]
    assert networks == ["NAT", "Bridged"]
    assert [item["Connection"] for item in found.of_type(10)] == ["NAT", "Bridged", "NAT"]


def test_the_disk_says_what_it_is_and_how_big(package: Path, bench: Any) -> None:
    found = Descriptor(package)
    disk = found.one("DiskSection/Disk")
    assert found.attribute(disk, "capacity") == str(DISK_BYTES)
    assert found.attribute(disk, "capacityAllocationUnits") == "byte"
    populated = int(found.attribute(disk, "populatedSize"))
    assert populated == 3 * MIB
    assert found.attribute(disk, "format") == (
        "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
    )


def test_the_size_of_the_contents_is_no_figure_of_the_file_system(bench: Any) -> None:
    context = with_disk(bench, machine())
    sizes, digests = set(), set()
    for filled in (False, True):
        disk = bench.root / "media/disk.img"
        if filled:
            content = disk.read_bytes()
            disk.write_bytes(content)
        sizes.add(disk.stat().st_blocks)
        CreateOVA("ova").execute(context)
        package = recorded_media(context)["ova"]
        assert package is not None
        digests.add(hashlib.sha256(package.read_bytes()).hexdigest())
        package.unlink()
    assert len(sizes) == 2
    assert len(digests) == 1


def test_hardware_has_what_the_schema_demands_in_its_order(package: Path) -> None:
    found = Descriptor(package)
    identifiers = [item["InstanceID"] for item in found.items()]
    assert len(set(identifiers)) == len(identifiers)
    for item in found.one("VirtualSystem/VirtualHardwareSection"):
        if local(item).endswith("Item"):
            names = [local(child) for child in item]
            assert names == sorted(names)
            assert {"ElementName", "InstanceID", "ResourceType"} <= set(names)
    system = found.one("VirtualSystem/VirtualHardwareSection/System")
    assert [local(child) for child in system] == [
        "ElementName",
        "InstanceID",
        "VirtualSystemIdentifier",
        "VirtualSystemType",
    ]
    assert re.fullmatch(r"vmx-[0-9]+", system[3].text), "what VMware demands"


def test_disks_and_network_adapters_have_the_elements_of_their_version(bench: Any) -> None:
    for version, namespaces in (("1.1", {RASD}), ("2.0", {RASD, SASD, EPASD})):
        found = Descriptor(packed(bench, ovf_version=version))
        hardware = found.one("VirtualSystem/VirtualHardwareSection")
        used = {
            local(item): {etree.QName(child).namespace for child in item}
            for item in hardware
            if local(item).endswith("Item")
        }
        assert set().union(*used.values()) == namespaces
        if version == "2.0":
            assert used == {"Item": {RASD}, "StorageItem": {SASD}, "EthernetPortItem": {EPASD}}


def test_processors_and_memory_are_those_of_the_manifest_in_units_that_virtualbox_takes(
    package: Path,
) -> None:
    found = Descriptor(package)
    (processors,), (memory,) = found.of_type(3), found.of_type(4)
    assert processors["VirtualQuantity"] == "2"
    assert (memory["VirtualQuantity"], memory["AllocationUnits"]) == ("1536", "byte * 2^20")


@pytest.mark.parametrize(
    ("controllers", "kind", "subtypes"),
    [
        (("sata",), 20, {"ahci", "vmware.sata.ahci"}),
        (("nvme", "sata"), 20, {"nvme", "vmware.nvme.controller"}),
        (("scsi",), 6, {"lsilogic", "buslogic", "lsilogicsas"}),
        (("ide",), 5, {"piix3", "piix4", "ich6"}),
        (("virtio", "ide"), 5, {"piix3", "piix4", "ich6"}),
        (("virtio",), 20, {"ahci", "vmware.sata.ahci"}),
        ((), 20, {"ahci", "vmware.sata.ahci"}),
    ],
)
def test_the_controller_is_the_first_that_both_importers_have(
    bench: Any, controllers: tuple[str, ...], kind: int, subtypes: set[str]
) -> None:
    found = Descriptor(packed(bench, machine(controllers=controllers)))
    (drive,) = found.of_type(17)
    (controller,) = [i for i in found.items() if i["InstanceID"] == drive["Parent"]]
    assert controller["ResourceType"] == str(kind)
    assert controller["ResourceSubType"].lower() in subtypes
    assert len([i for k in (5, 6, 20) for i in found.of_type(k)]) == 1


def test_network_adapters_are_models_that_vmware_has(package: Path) -> None:
    models = [item["ResourceSubType"] for item in Descriptor(package).of_type(10)]
    assert models == ["VmxNet3", "E1000", "E1000"]


def test_without_networks_there_is_no_network_section(bench: Any) -> None:
    text = re.sub(r"<vm_network[^>]*/>", "", machine())
    found = Descriptor(packed(bench, text))
    assert found.all("NetworkSection") == []
    assert found.of_type(10) == []


def test_the_operating_system_is_told_to_each_importer_in_its_own_words(bench: Any) -> None:
    found = Descriptor(packed(bench, machine(system="debian10_64guest")))
    section = found.one("VirtualSystem/OperatingSystemSection")
    assert found.attribute(section, "id") == "96"
    assert section.attrib[f"{{{VMW}}}osType"] == "debian10_64Guest"
    assert [local(child) for child in section] == ["Info", "Description", "OSType"]
    assert section.find(f"{{{VBOX}}}OSType").text == "Debian_64"


@pytest.mark.parametrize("system", OPERATING_SYSTEMS, ids=lambda system: system.virtualbox)
def test_systems_are_found_by_virtualboxes_and_vmwares_names(system: Any) -> None:
    assert system_named(system.virtualbox.upper()) == system
    found = system_named(system.vmware)
    assert found is not None
    assert found.vmware == system.vmware
    assert 1 <= system.cim <= 102, "what VirtualBox's reader knows"


def test_the_product_is_described_in_the_schemas_order(package: Path) -> None:
    section = Descriptor(package).one("VirtualSystem/ProductSection")
    assert [(local(child), child.text) for child in section][1:] == [
        ("Product", "test"),
        ("Vendor", "Example & Sons"),
        ("Version", "7.1"),
    ]


@pytest.mark.parametrize(("firmware", "efi"), [("uefi", True), ("both", False), ("bios", False)])
def test_a_machine_with_uefi_only_says_so_to_vmware(bench: Any, firmware: str, efi: bool) -> None:
    found = Descriptor(packed(bench, machine(firmware=firmware)))
    hardware = found.one("VirtualSystem/VirtualHardwareSection")
    configs = hardware.findall(f"{{{VMW}}}Config")
    assert [(c.get(f"{{{VMW}}}key"), c.get(f"{{{VMW}}}value")) for c in configs] == (
        [("firmware", "efi")] if efi else []
    )
    assert all(found.attribute(config, "required") == "false" for config in configs)
    if efi:
        assert hardware[-1] is configs[0], "after the items"


def test_there_is_no_machine_of_virtualboxes_own_which_it_would_believe_instead(
    package: Path,
) -> None:
    assert Descriptor(package).root.findall(f".//{{{VBOX}}}Machine") == []


def test_another_projects_parser_finds_the_package_sound(
    bench: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """COT's, which holds the files against the manifest; of OVF 1.x it expects SHA-1, as importers of
    today no longer do."""
    package = packed(bench, ovf_version="2.0", vendor="Example & Sons", version="7.1")
    read = parser.OVF(str(package), None)
    try:
        text = re.sub(r" +", " ", read.info_string(100, "verbose"))
    finally:
        read.destroy()
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []
    assert "Vendor: Example & Sons" in text
    assert "test-disk1.vmdk 3.091 MiB 40 MiB harddisk @ SATA 0:0" in text
    assert "None (default) 2 1.5 GiB 3 0 1 / 40 MiB" in text
    assert "Ethernet device types: VmxNet3 E1000" in text
    assert "Network adapter 2 : Bridged" in text


@pytest.mark.parametrize(
    ("change", "problem", "remedy"),
    [
        (("Debian_64", "Plan9"), "operating system 'Plan9'", "Debian_64"),
        (('model="virtio"', 'model="ne2k"'), "network adapter 'ne2k'", "virtio"),
        (('<vm_format type="ova"/>', ""), "does not ask for an OVA", "leave this checkpoint out"),
    ],
)
def test_what_no_importer_would_take_is_refused_when_the_manifest_is_checked(
    bench: Any, change: tuple[str, str], problem: str, remedy: str
) -> None:
    with pytest.raises(InvalidManifest, match=problem) as caught:
        refuse(CreateOVA("ova").check(bench.doc(machine().replace(*change))))
    assert remedy in caught.value.resolution


def test_a_disk_beyond_what_a_tar_header_can_say_is_refused(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert LARGEST_MEMBER_BYTES == 8 * 1024**3 - 1
    monkeypatch.setattr("dcd.checkpoints.vm.ova.LARGEST_MEMBER_BYTES", MIB)
    with pytest.raises(CheckpointError, match="too big for an OVA"):
        packed(bench)
    assert not (bench.root / "media/test.ova").exists()
