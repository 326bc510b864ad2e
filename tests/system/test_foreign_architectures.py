"""A medium and a disk for arm64, on a host whose processor is another: the real kernel, GRUB and firmware of
arm64, and an init of three lines. The medium is booted; disk and netboot kit are read by other tools.

The packages are only unpacked, which takes seconds; to install a system of arm64 under qemu-user takes
minutes. docs/how-to/architectures-and-suites.md says what was built and booted so, by hand.
"""

import json
import os
import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.boot.menu import GrubBootMenu
from dcd.checkpoints.media.iso import CreateISO
from dcd.checkpoints.media.netboot import NetbootKit
from dcd.checkpoints.media.verify_boot import VerifyBoot
from dcd.checkpoints.vm.create_disk import CreateDisk
from dcd.checkpoints.vm.install_offline import InstallOffline
from dcd.checkpoints.vm.layout_checks import ESP, TYPES
from dcd.manifest.diagnostics import refuse
from dcd.manifest.doc import DataObjectDict
from dcd.platform.apt import host_codename, host_sources, source_list, sources_for
from tests.dcd.checkpoints.conftest import Bench, doc_of
from tests.directories import remove_unmounted

pytestmark = [pytest.mark.system, pytest.mark.root, pytest.mark.timeout(900)]

SOFTWARE = """<software name="deb" type="DEB"><destination><image architecture="arm64"/></destination>
</software>"""

KERNEL = "linux-image-cloud-arm64"
PACKAGES = (KERNEL, "busybox-static", "grub-efi-arm64-bin")

INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
echo "login: on $(/bin/busybox uname -m)" >/dev/ttyAMA0
/bin/busybox sleep 1000
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A workspace whose image has the packages of arm64, unpacked, and whose boot archive starts `INIT`."""
    tmp_path = tmp_path_factory.mktemp("arm64")
    root = tmp_path / "workspace"
    for area in ("pkg_image", "boot_archive", "media", "tmp", "media/iso/live"):
        (root / area).mkdir(parents=True, exist_ok=True)
    (tmp_path / "evidence").mkdir()
    found = Bench(root, tmp_path / "evidence")
    unpack(tmp_path / "apt", found.image)
    (kernel,) = (found.image / "boot").glob("vmlinuz-*")
    (root / "boot_archive/vmlinuz").write_bytes(kernel.read_bytes())
    make_initramfs(found.image, tmp_path / "initramfs", root / "boot_archive/initrd.img")
    (root / "media/iso/live/filesystem.squashfs").write_bytes(b"hsqs")
    yield found
    remove_unmounted(tmp_path)


def unpack(apt: Path, image: Path) -> None:
    """Fetch the packages from the mirror that this host's apt uses, and unpack them."""
    for directory in ("lists/partial", "archives/partial", "packages"):
        (apt / directory).mkdir(parents=True)
    sources = apt / "arm64.sources"
    sources.write_text(source_list(sources_for(host_sources(), host_codename())))
    settings = apt / "apt.conf"
    settings.write_text(
        'APT::Architecture "arm64";\nAPT::Architectures "arm64";\nAcquire::Languages "none";\n'
        f'Dir::Etc::SourceList "{sources}";\nDir::Etc::SourceParts "/dev/null";\n'
        f'Dir::State::Lists "{apt}/lists";\nDir::State::Status "/dev/null";\n'
        f'Dir::Cache "{apt}";\nAPT::Sandbox::User "root";\n'
    )
    environment = {**os.environ, "APT_CONFIG": str(settings)}

    def run(*command: str) -> str:
        done = subprocess.run(
            command,
            env=environment,
            cwd=apt / "packages",
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    run("apt-get", "update", "-q")
    depends = run("apt-cache", "depends", KERNEL)
    (kernel,) = re.findall(r"Depends: (linux-image-\S+-cloud-arm64)", depends)
    run("apt-get", "download", "-q", kernel, *PACKAGES[1:])
    for package in (apt / "packages").glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", package, image], check=True)


def make_initramfs(image: Path, tree: Path, result: Path) -> None:
    for directory in ("bin", "dev"):
        (tree / directory).mkdir(parents=True)
    (tree / "bin/busybox").write_bytes((image / "bin/busybox").read_bytes())
    (tree / "init").write_text(INIT)
    for program in ("bin/busybox", "init"):
        (tree / program).chmod(0o755)
    names = "\n".join(str(path.relative_to(tree)) for path in tree.rglob("*"))
    command = ["cpio", "--quiet", "--create", "--format=newc"]
    with result.open("wb") as file:
        subprocess.run(command, cwd=tree, input=names.encode(), stdout=file, check=True)


def test_a_medium_for_arm64_boots_on_a_machine_of_arm64(bench: Bench) -> None:
    doc = doc_of(SOFTWARE)
    for checkpoint in (GrubBootMenu("menu"), CreateISO("iso")):
        checkpoint.execute(bench.context(doc))
    iso = bench.root / "media/test.iso"
    command = ["xorriso", "-no_rc", "-indev", iso, "-report_el_torito", "plain"]
    images = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "UEFI" in images
    assert "BIOS" not in images
    verify = VerifyBoot("boot", memory_mb=512, marker="login: on aarch64", timeout_seconds=600.0)
    assert verify.needs(doc).tools == ("qemu-system-aarch64", "aavmf")
    verify.execute(bench.context(doc))
    delivered = {artifact.name: bench.root / artifact.path for artifact in bench.artifacts}
    assert "login: on aarch64" in delivered["boot-uefi.log"].read_text()
    assert delivered["boot-uefi.png"].read_bytes().startswith(b"\x89PNG")


def test_a_netboot_kit_for_arm64_starts_with_uefi_alone(bench: Bench) -> None:
    doc = doc_of(SOFTWARE)
    refuse(NetbootKit("kit").check(doc))
    NetbootKit("kit").execute(bench.context(doc))
    with tarfile.open(bench.root / "media/test-netboot.tar") as kit:
        programs = [name for name in kit.getnames() if re.search(r"core|grubnet", name)]
        program = kit.extractfile("test-netboot/grubnetaa64.efi")
        assert program is not None
        assert pe_machine(program.read()) == 0xAA64
    assert programs == ["test-netboot/grubnetaa64.efi"]


@pytest.mark.usefixtures("own_mounts")
def test_the_disk_of_a_machine_of_arm64_starts_with_uefi(bench: Bench, tmp_path: Path) -> None:
    doc = doc_of(SOFTWARE, '<target><disk><disk_image name="disk.raw" size="1gb"/></disk></target>')
    doc.persistent.insert_children(
        DataObjectDict("boot_archive", {"kernel_version": kernel_version(bench)})
    )
    for checkpoint in (CreateDisk("disk"), InstallOffline("install", grow_root=False)):
        refuse(checkpoint.check(doc))
        checkpoint.execute(bench.context(doc))
    disk = bench.root / "media/disk.raw"
    table = subprocess.run(["sfdisk", "--json", disk], capture_output=True, check=True).stdout
    partitions = json.loads(table)["partitiontable"]["partitions"]
    assert [one["type"].lower() for one in partitions] == [ESP, TYPES["linux"]]
    assert pe_machine(program_of(disk, partitions[0], tmp_path / "esp.img")) == 0xAA64
    menu = (bench.image / "boot/grub/grub.cfg").read_text()
    assert "console=ttyAMA0,115200" in menu
    assert (bench.image / "boot/grub/arm64-efi/normal.mod").is_file()


def kernel_version(bench: Bench) -> str:
    (kernel,) = (bench.image / "boot").glob("vmlinuz-*")
    return kernel.name.removeprefix("vmlinuz-")


def program_of(disk: Path, partition: dict[str, Any], esp: Path) -> bytes:
    """The program that UEFI of arm64 starts from the partition. `esp` is made."""
    with disk.open("rb") as file:
        file.seek(512 * partition["start"])
        esp.write_bytes(file.read(512 * partition["size"]))
    command = ["mtype", "-i", esp, "::EFI/BOOT/BOOTAA64.EFI"]
    return subprocess.run(command, capture_output=True, check=True).stdout


def pe_machine(program: bytes) -> int:
    """The machine of a program of UEFI. Source: the PE format, "COFF File Header"."""
    header = int.from_bytes(program[0x3C:0x40], "little")
    assert program[header : header + 4] == b"PE\0\0"
    return int.from_bytes(program[header + 4 : header + 6], "little")
