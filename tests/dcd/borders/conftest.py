"""What programs receive of texts of a manifest.

A listener hands a text to the project's own writer of a language, has the program that reads the language
read the result, and returns what that found in it.
"""

import json
import shlex
import subprocess
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from lxml import etree

from dcd.checkpoints.boot.menu import Entry, Menu, grub_cfg
from dcd.checkpoints.image.network import apply_network
from dcd.checkpoints.interface import Context
from dcd.checkpoints.media.netboot_scripts import grub_network_cfg, ipxe_script
from dcd.checkpoints.mkisofs import MKISOFS
from dcd.checkpoints.vm import installed, ovf
from dcd.checkpoints.vm.answers import sfdisk_script, volumes_table
from dcd.checkpoints.vm.disk import (
    DiskLayout,
    DiskPartition,
    Subvolume,
    Volume,
    VolumePartition,
)
from dcd.checkpoints.vm.menu_settings import write_menu_settings
from dcd.checkpoints.vm.volumes import Place, make_volume
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.objects import Interface
from dcd.platform.apt import Source, settings_text, source_list
from store.host.process import operand, run

Listener = Callable[[str, Path], str]
"""Called with a text and an empty directory; returns the text as it was received."""

LINUX = "0fc63daf-8483-4772-8e79-3d69d8477de4"
ROOT = Volume("ext4", str(uuid.uuid4()), mountpoint="/")
MIB = 1 << 20


def apt_conf(text: str, directory: Path) -> str:
    """apt.conf(5), read by apt-config."""
    file = directory / "apt.conf"
    file.write_text(settings_text([("Test::Value", text)]))
    found = run(["apt-config", "-c", file, "shell", "RECEIVED", "Test::Value"], capture=True)
    words = dict(word.split("=", 1) for word in shlex.split(found.stdout))
    extra = run(["apt-config", "-c", file, "dump", "X"], capture=True).stdout
    assert not extra, extra
    return words.get("RECEIVED", "")


def _sources(source: Source, directory: Path) -> list[list[str]]:
    file = directory / "test.sources"
    file.write_text(source_list([source]))
    options = [
        *("-o", f"Dir::Etc::sourcelist={file}", "-o", "Dir::Etc::sourceparts=/dev/null"),
        *("-o", "Dir::State::lists=/nonexistent"),
    ]
    fields = "$(TARGET_OF)\t$(CREATED_BY)\t$(REPO_URI)\t$(RELEASE)\t$(COMPONENT)"
    listing = run(
        ["apt-get", *options, "indextargets", "--no-release-info", "--format", fields], capture=True
    )
    rows = [line.split("\t") for line in listing.stdout.splitlines()]
    # One for each architecture of the host.
    found = dict.fromkeys(tuple(row[2:]) for row in rows if row[:2] == ["deb", "Packages"])
    return [list(row) for row in found]


def uri_of_source(text: str, directory: Path) -> str:
    """sources.list(5), read by apt-get."""
    (found,) = _sources(Source(text, "bookworm"), directory)
    return found[0] if text.endswith("/") else found[0].removesuffix("/")


def suite_of_source(text: str, directory: Path) -> str:
    """sources.list(5), read by apt-get."""
    components = () if text.endswith("/") else ("main",)
    (found,) = _sources(Source("http://192.0.2.1/d", text, components), directory)
    return found[1]


def components_of_source(text: str, directory: Path) -> str:
    """sources.list(5), read by apt-get."""
    found = _sources(Source("http://192.0.2.1/d", "bookworm", tuple(text.split())), directory)
    return " ".join(dict.fromkeys(row[2] for row in found))


def argument(text: str, directory: Path) -> str:
    """A word of a command line that is no option: mmdebstrap(1), apt-get(8), pkg(1), useradd(8)."""
    return option(operand(text), directory)


def option(text: str, directory: Path) -> str:
    """The value of an option on a command line."""
    program = directory / "program"
    program.write_text('#!/bin/sh\nprintf %s "$1" > "$(dirname "$0")/received"\n')
    program.chmod(0o755)
    run([program, text])
    return (directory / "received").read_bytes().decode()


def title_of_menu(text: str, directory: Path) -> str:
    """grub.cfg, checked by GRUB's own parser."""
    (line,) = [one for one in _menu(Entry(text, ())) if one.startswith("menuentry ")]
    opening, title, brace = shlex.split(line)
    assert (opening, brace) == ("menuentry", "{")
    return title


def arguments_in_menu(text: str, directory: Path) -> str:
    """grub.cfg, checked by GRUB's own parser."""
    words = tuple(shlex.split(text))
    (line,) = [one for one in _menu(Entry("x", words)) if one.startswith("    linux ")]
    return text if tuple(shlex.split(line)[2:]) == words else line


def url_in_netboot_scripts(text: str, directory: Path) -> str:
    """The scripts of a netboot kit; GRUB's checked by its own parser."""
    menu = Menu("", 5, (Entry("x", ()),), 0, 0)
    grub = grub_network_cfg(menu, text, fetched=True)
    run(["grub-script-check"], stdin=grub.encode())
    (line,) = [one for one in grub.splitlines() if "set base_url=" in one]
    (ipxe,) = [one for one in ipxe_script(menu, text, fetched=True).splitlines() if "set" in one]
    words = ipxe.split(" ")
    return words[-1] if shlex.split(line) == ["set", f"base_url={words[-1]}"] else line


def _menu(entry: Entry) -> list[str]:
    text = grub_cfg(Menu("", 5, (entry,), 0, 0))
    checked = subprocess.run(["grub-script-check"], input=text.encode(), capture_output=True)
    assert checked.returncode == 0, checked.stderr
    return text.splitlines()


def title_in_settings(text: str, directory: Path) -> str:
    """/etc/default/grub, read by sh."""
    return _grub_setting("GRUB_DISTRIBUTOR", text, (), directory)


def arguments_in_settings(text: str, directory: Path) -> str:
    """/etc/default/grub, read by sh; then a line of GRUB's."""
    words = tuple(shlex.split(text))
    found = _grub_setting("GRUB_CMDLINE_LINUX", "x", words, directory)
    return text if tuple(shlex.split(found)) == words else found


def _grub_setting(name: str, title: str, words: tuple[str, ...], directory: Path) -> str:
    entries = [Entry("x", words), Entry(title, words)]
    write_menu_settings(directory, Menu(title, 5, tuple(entries), 0, 1), None)
    settings = directory / "etc/default/grub"
    script = (directory / "etc/grub.d/41_dcd").read_text()
    run(["sh", "-n"], stdin=script.encode())
    return run(
        ["sh", "-c", f'. "$0" && printf %s "${name}"', settings], capture=True, env={"x": "WRONG"}
    ).stdout


def _layout(*partitions: DiskPartition, name: str = "disk.img") -> DiskLayout:
    return DiskLayout(name, 64 * MIB, 512, str(uuid.uuid4()), partitions)


def mountpoint_in_fstab(text: str, directory: Path) -> str:
    """fstab(5), read by findmnt(8)."""
    volume = Volume("ext4", str(uuid.uuid4()), mountpoint=text)
    return _fstab(volume, directory)["target"]


def options_in_fstab(text: str, directory: Path) -> str:
    """fstab(5), read by findmnt(8)."""
    return _fstab(Volume("ext4", ROOT.uuid, mountpoint="/srv", options=text), directory)["options"]


def subvolume_in_fstab(text: str, directory: Path) -> str:
    """The same: the option subvol."""
    subvolumes = (Subvolume(text, "/srv"),)
    volume = Volume("btrfs", ROOT.uuid, subvolumes=subvolumes)
    return _fstab(volume, directory)["options"].removeprefix("subvol=")


def _fstab(volume: Volume, directory: Path) -> dict[str, str]:
    partition = VolumePartition(2, LINUX, str(uuid.uuid4()), MIB, MIB, volume=volume)
    installed.write_fstab(directory, _layout(partition), grow_root=False)
    found = run(
        [
            *("findmnt", "--fstab", "--tab-file", directory / "etc/fstab", "--json"),
            *("--output", "TARGET,OPTIONS", "--list"),
        ],
        capture=True,
    )
    (line,) = json.loads(found.stdout)["filesystems"]
    return dict(line)


def label_of_partition(text: str, directory: Path) -> str:
    """A script for sfdisk(8), which divides a disk by it."""
    if len(text.encode("utf-16-le")) > 72 or not text.isprintable():
        return text  # The layout refuses it.
    layout = _layout(DiskPartition(1, LINUX, str(uuid.uuid4()), MIB, MIB, label=text))
    disk = directory / "disk"
    with disk.open("wb") as file:
        file.truncate(layout.size)
    # It waits a quarter of a second before the kernel reads a disk again; this one is a file.
    run(["sfdisk", "--quiet", "--no-tell-kernel", disk], stdin=sfdisk_script(layout).encode())
    found = run(["sfdisk", "--json", disk], capture=True).stdout
    return str(json.loads(found)["partitiontable"]["partitions"][0]["name"])


def label_of_volume(text: str, directory: Path) -> str:
    """The installer's table of volumes, read by sh."""
    if not text.isprintable() or text == "-":
        return text  # The layout refuses it.
    volume = Volume("ext4", ROOT.uuid, label=text, mountpoint="/a b")
    partition = VolumePartition(1, LINUX, str(uuid.uuid4()), MIB, MIB, volume=volume)
    script = "IFS='\t' read -r a b c label point && printf '%s\\n%s' \"$label\" \"$point\""
    found = run(
        ["sh", "-c", script], stdin=volumes_table(_layout(partition)).encode(), capture=True
    ).stdout
    label, point = found.split("\n")
    assert point == "/a b"
    return label


def name_of_disk(text: str, directory: Path) -> str:
    """`FILE@@OFFSET` of mtools and `FILE?offset=` of debugfs(8) and mke2fs(8)."""
    return text if _makes_file_systems(directory / text, directory) else "nothing was made"


def _makes_file_systems(disk: Path, directory: Path) -> bool:
    fat = Volume("vfat", "1234-ABCD", label="HERE")
    ext4 = Volume("ext4", str(uuid.uuid4()), label="here")
    layout = DiskLayout(
        disk.name,
        64 * MIB,
        512,
        str(uuid.uuid4()),
        (
            VolumePartition(1, LINUX, str(uuid.uuid4()), MIB, 16 * MIB, volume=fat),
            VolumePartition(2, LINUX, str(uuid.uuid4()), 20 * MIB, 20 * MIB, volume=ext4),
        ),
    )
    with disk.open("wb") as file:
        file.truncate(layout.size)
    tree = directory / "tree"
    tree.mkdir(exist_ok=True)
    (directory / "tmp").mkdir(exist_ok=True)
    context = Context(
        root=directory,
        doc=DataObjectCache(),
        evidence=directory,
        inputs={},
        report=lambda report: None,
        deliver=lambda artifact: None,
        claim=lambda kind, name: None,
        attempt="state:build:test:1",
    )
    for partition in layout.partitions:
        make_volume(context, Place(disk, layout, partition, 1_700_000_000), tree)
    labels = [
        run(
            [
                *("blkid", "--probe", "--match-tag", "LABEL", "--output", "value"),
                *("--offset", str(partition.start), "--size", str(partition.size), disk),
            ],
            capture=True,
        ).stdout.strip()
        for partition in layout.partitions
    ]
    return labels == ["HERE", "here"]


def product_of_ovf(text: str, directory: Path) -> str:
    """A descriptor, read by an XML parser."""
    machine = ovf.Machine(
        product=ovf.Product("x", text, "", ""),
        system=ovf.OPERATING_SYSTEMS[0],
        cpus=1,
        memory_mb=64,
        controller="sata",
        networks=(ovf.Network("e1000", text),),
        efi=False,
        disk=ovf.PackagedDisk("x.vmdk", 1, 1, 1),
    )
    root = etree.fromstring(ovf.descriptor(machine, "1.1"))
    names = {"o": "http://schemas.dmtf.org/ovf/envelope/1"}
    (vendor,) = root.findall(".//o:Vendor", names)
    (network,) = root.findall(".//o:Network", names)
    assert network.get(f"{{{names['o']}}}name") == text
    return vendor.text or ""


def volume_id_of_iso(text: str, directory: Path) -> str:
    """The option -V of xorriso(1), seen in the medium's primary volume descriptor."""
    result = directory / "x.iso"
    run([*MKISOFS, "-V", text, "-o", result, directory])
    with result.open("rb") as file:
        file.seek(16 * 2048 + 40)
        return file.read(32).decode("ascii").rstrip(" ")


def _network(key: str, interface: Interface, directory: Path) -> str:
    networkd = directory / "usr/lib/systemd/systemd-networkd"
    networkd.parent.mkdir(parents=True, exist_ok=True)
    networkd.touch()
    apply_network(directory, [interface])
    (file,) = (directory / "etc/systemd/network").iterdir()
    sections: list[tuple[str, str]] = []
    section = ""
    for line in file.read_text().splitlines():
        if line.startswith("["):
            section = line
        elif line:
            name, _, value = line.partition("=")
            sections.append((f"{section}{name}", value))
    assert {name for name, _ in sections} <= {
        "[Match]Name", "[Network]DHCP", "[Network]Address", "[Network]Gateway", "[Network]DNS",
        "[Network]Domains",
    }  # fmt: skip
    return " ".join(value for name, value in sections if name.endswith(f"]{key}"))


def interface_name(text: str, directory: Path) -> str:
    """systemd.network(5)."""
    return _network("Name", Interface(match=text), directory)


def addresses(text: str, directory: Path) -> str:
    """systemd.network(5)."""
    found = _network("DNS", Interface(match="e", dns=text), directory)
    return text if found.split() == text.split() else found


def addresses_with_prefix(text: str, directory: Path) -> str:
    """systemd.network(5)."""
    found = _network("Address", Interface(match="e", address=text), directory)
    return text if found.split() == text.split() else found


def domains(text: str, directory: Path) -> str:
    """systemd.network(5)."""
    return _network("Domains", Interface(match="e", domains=text), directory)


def variable(text: str, directory: Path) -> str:
    """environ(7)."""
    name, _, value = text.partition("=")
    out = subprocess.run(
        ["env", "-0"], env={name: value}, capture_output=True, check=True
    ).stdout.decode()
    return next(one for one in out.split("\0") if one.startswith(f"{name}="))


LISTENERS: Mapping[str, tuple[Listener, ...]] = {
    "ACCOUNT": (argument,),
    "ACCOUNT_PATH": (option,),
    "ADDRESSES": (addresses,),
    "ADDRESSES_WITH_PREFIX": (addresses_with_prefix,),
    "APT_URI": (uri_of_source,),
    "ARCHITECTURE": (apt_conf, option),
    "COMPONENTS": (components_of_source,),
    "DISTRIBUTION": (volume_id_of_iso, title_of_menu, title_in_settings, product_of_ovf),
    "DOMAINS": (domains,),
    "EXCLUDED": (argument,),
    "FACET": (option,),
    "FILE_NAME": (name_of_disk,),
    "FULL_NAME": (option,),
    "GROUPS": (option,),
    "HOST_NAME": (option,),
    "HOST_PATH": (argument,),
    "IMAGE_PATH": (argument,),
    "INTERFACE": (interface_name,),
    "IPS_ORIGIN": (argument,),
    "KERNEL_ARGUMENTS": (arguments_in_menu, arguments_in_settings),
    "KERNEL_VERSION": (argument,),
    "LINE": (label_of_partition, label_of_volume, product_of_ovf),
    "MOUNTPOINT": (mountpoint_in_fstab,),
    "MOUNT_OPTIONS": (options_in_fstab,),
    "SUBVOLUME": (subvolume_in_fstab,),
    "PROXY": (apt_conf,),
    "PUBLISHER": (argument,),
    "SHORT_HOST_NAME": (option,),
    "SUITE": (suite_of_source, argument),
    "TITLE": (title_of_menu, title_in_settings),
    "UNIT": (argument,),
    "URL": (product_of_ovf, url_in_netboot_scripts),
    "VALIDATION_COMMAND": (argument,),
    "VARIABLE": (variable,),
    "VARIANT_VALUE": (option,),
    "VOLUME_ID": (volume_id_of_iso,),
    "WORKING_DIRECTORY": (argument,),
}
"""Who receives texts of a form, by the form's name."""


@pytest.fixture(scope="session")
def listeners() -> Mapping[str, tuple[Listener, ...]]:
    """The listeners of each form that ends in another language, by the form's name."""
    return LISTENERS
