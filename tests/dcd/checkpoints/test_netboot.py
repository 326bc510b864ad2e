"""NetbootKit, and VerifyBoot with it: what is in the kit, what its scripts say, and that firmware boots it.

The kernel of these kits is a few bytes that print their command line; whole systems are booted by the tests
of the system.
"""

import hashlib
import io
import os
import re
import socket
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.media.netboot import NetbootKit
from dcd.checkpoints.media.verify_boot import VerifyBoot
from dcd.manifest.diagnostics import refuse
from dcd.platform.hypervisor import ConsoleText, GuestSpec, NetworkBoot, Qemu, wait_for
from statemachine.errors import CheckpointError, InvalidManifest

EPOCH = 1700000000
SQUASHFS = b"hsqs" + bytes(100_001)

REAL_MODE = bytes.fromhex(
    "fc668b3628028cd8660fb7c066c1e0046629c6ac84c0741288c4bafd03eca82074fbbaf80388e0eeebe9f4ebfd"
)
"""cld; mov esi,[cmd_line_ptr]; esi -= ds << 4;
next: lodsb; test al,al; jz end; mov ah,al; mov dx,3fd; wait: in al,dx; test al,20; jz wait;
mov dx,3f8; mov al,ah; out dx,al; jmp next; end: hlt; jmp end."""
PROTECTED_MODE = bytes.fromhex(
    "fc8bb628020000ac84c0741488c466bafd03eca82074fb66baf80388e0eeebe7f4ebfd"
)
"""The same, with the boot parameters in esi."""


def kernel() -> bytes:
    """A kernel that prints its command line on the first serial port. Source: Linux, "The Linux/x86 Boot
    Protocol"."""
    setup = bytearray(1024)
    for offset, value in (
        (0x1F1, b"\x01"),  # setup_sects
        (0x1F4, (len(PROTECTED_MODE) // 16 + 1).to_bytes(4, "little")),
        (0x1FE, b"\x55\xaa"),
        (0x200, b"\xeb\x5e"),
        (0x202, b"HdrS"),
        (0x206, b"\x06\x02"),  # version 2.06
        (0x211, b"\x01"),  # LOADED_HIGH
        (0x214, (0x100000).to_bytes(4, "little")),
        (0x22C, (0x37FFFFFF).to_bytes(4, "little")),  # initrd_addr_max
        (0x238, (2047).to_bytes(4, "little")),  # cmdline_size
        (0x260, REAL_MODE),
    ):
        setup[offset : offset + len(value)] = value
    return bytes(setup) + PROTECTED_MODE.ljust(512, b"\0")


@pytest.fixture
def ready(bench: Any) -> Any:
    """A bench with everything that goes into a kit."""
    live = bench.root / "media/iso/live"
    live.mkdir(parents=True)
    (live / "filesystem.squashfs").write_bytes(SQUASHFS)
    os.utime(live / "filesystem.squashfs", (EPOCH, EPOCH))
    (bench.root / "boot_archive/vmlinuz").write_bytes(kernel())
    (bench.root / "boot_archive/initrd.img").write_bytes(b"initramfs")
    return bench


MENU = """<boot_mods title="Live" timeout="1"><boot_entry default_entry="true" insert_at="end">
<title_suffix>(serial)</title_suffix><kernel_args>console=ttyS0 dyndbg="file x +p"</kernel_args>
</boot_entry></boot_mods>"""


def kit_of(bench: Any, directory: Path, *elements: str, **arguments: Any) -> Path:
    """The directory that GNU tar unpacks from the delivered kit."""
    bench.execute(NetbootKit("kit", **arguments), *elements)
    directory.mkdir(exist_ok=True)
    subprocess.run(
        ["tar", "-C", directory, "-xf", bench.root / "media/test-netboot.tar"], check=True
    )
    return directory / "test-netboot"


def test_the_kit_is_one_directory_of_plain_files(ready: Any, tmp_path: Path) -> None:
    kit = kit_of(ready, tmp_path / "kit")
    names = ["boot.ipxe", "core.0", "filesystem.squashfs", "grub.cfg", "grubnetx64.efi"]
    assert sorted(path.name for path in kit.iterdir()) == [*names, "initrd.img", "vmlinuz"]
    assert (kit / "filesystem.squashfs").read_bytes() == SQUASHFS
    assert (kit / "initrd.img").read_bytes() == b"initramfs"
    assert {path.stat().st_mtime for path in kit.iterdir()} == {EPOCH}
    assert {path.stat().st_mode & 0o777 for path in kit.iterdir()} == {0o644}
    listed = subprocess.run(
        ["tar", "-tvf", ready.root / "media/test-netboot.tar"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert {line.split()[1] for line in listed.splitlines()} <= {"0/0", "root/root"}


def test_the_artifact_is_the_tar(ready: Any) -> None:
    ready.execute(NetbootKit("kit"))
    [artifact] = ready.artifacts
    content = (ready.root / artifact.path).read_bytes()
    assert (artifact.name, artifact.format) == ("test-netboot.tar", "netboot")
    assert artifact.sha256 == hashlib.sha256(content).hexdigest()


def test_the_same_layer_gives_the_same_kit(ready: Any, tmp_path: Path) -> None:
    made = []
    for live_system in ("fetch", "initramfs", "fetch", "initramfs"):
        ready.execute(NetbootKit("kit", live_system=live_system), MENU)
        made.append((ready.root / "media/test-netboot.tar").read_bytes())
        for name in ("vmlinuz", "initrd.img"):
            os.utime(ready.root / "boot_archive" / name)
    assert made[:2] == made[2:]


def test_grub_reads_its_configuration(ready: Any, tmp_path: Path) -> None:
    for arguments in ({}, {"base_url": "http://192.0.2.1/live/"}, {"live_system": "initramfs"}):
        kit = kit_of(ready, tmp_path / "kit", MENU, **arguments)
        subprocess.run(["grub-script-check", kit / "grub.cfg"], check=True)
    assert "live-media=/medium" in (kit / "grub.cfg").read_text()


def test_the_scripts_have_the_entries_of_the_manifest(ready: Any, tmp_path: Path) -> None:
    kit = kit_of(ready, tmp_path / "kit", MENU)
    ipxe, grub = (kit / "boot.ipxe").read_text(), (kit / "grub.cfg").read_text()
    assert ipxe.startswith("#!ipxe\n")
    assert "item entry1 Live (serial)" in ipxe
    assert "choose --default entry1 --timeout 1000" in ipxe
    assert 'console=ttyS0 "dyndbg=file x +p" fetch=${base_url}filesystem.squashfs' in ipxe
    assert "menuentry 'Live (serial)'" in grub
    assert "set default=1" in grub


def test_the_url_of_the_manifest_is_in_both_scripts(ready: Any, tmp_path: Path) -> None:
    kit = kit_of(ready, tmp_path / "kit", base_url="http://192.0.2.1/live/")
    assert "set base_url http://192.0.2.1/live/\n" in (kit / "boot.ipxe").read_text()
    assert "set base_url=http://192.0.2.1/live/\n" in (kit / "grub.cfg").read_text()


def test_cpio_finds_the_live_medium_in_the_initramfs(ready: Any, tmp_path: Path) -> None:
    kit = kit_of(ready, tmp_path / "kit", live_system="initramfs")
    assert not (kit / "filesystem.squashfs").exists()
    initramfs = (kit / "initrd.img").read_bytes()
    assert initramfs.endswith(b"initramfs")
    place = tmp_path / "unpacked"
    place.mkdir()
    subprocess.run(["cpio", "-idm", "--quiet"], input=initramfs, cwd=place, check=True)
    live = place / "medium/live/filesystem.squashfs"
    assert live.read_bytes() == SQUASHFS
    assert live.stat().st_mtime == EPOCH
    # What follows is aligned, as Linux wants it.
    assert initramfs.index(b"initramfs", len(SQUASHFS)) % 4 == 0


@pytest.mark.parametrize(
    ("lacking", "remedy"),
    [
        ("media/iso/live/filesystem.squashfs", "SquashfsPkgImgMod"),
        ("boot_archive/vmlinuz", "DebianBootArchive"),
        ("boot_archive/initrd.img", "DebianBootArchive"),
    ],
)
def test_what_is_lacking_is_said_with_the_checkpoint_that_makes_it(
    ready: Any, lacking: str, remedy: str
) -> None:
    (ready.root / lacking).unlink()
    with pytest.raises(CheckpointError) as caught:
        ready.execute(NetbootKit("kit"))
    assert remedy in caught.value.resolution
    assert not ready.artifacts


@pytest.mark.parametrize(
    ("element", "reason"),
    [
        ('<boot_mods title="One || two"/>', "reads '||' as its own"),
        ('<boot_mods title="Build #4"/>', ""),
        ('<boot_mods title="One ${two}"/>', "reads '${two}' as its own"),
    ],
)
def test_a_text_that_ipxe_would_change_is_refused(ready: Any, element: str, reason: str) -> None:
    more = "<boot_entry><title_suffix>x</title_suffix></boot_entry></boot_mods>"
    menu = element.replace("/>", f">{more}")
    with pytest.raises(CheckpointError, match="cannot be in a script of iPXE") as caught:
        ready.execute(NetbootKit("kit"), menu)
    assert reason in caught.value.details


def test_an_initramfs_too_large_for_its_format_is_refused(ready: Any) -> None:
    with (ready.root / "media/iso/live/filesystem.squashfs").open("wb") as file:
        file.truncate(1 << 32)
    with pytest.raises(CheckpointError, match="4 GiB and more") as caught:
        ready.execute(NetbootKit("kit", live_system="initramfs"))
    assert "fetch" in caught.value.resolution


@pytest.mark.parametrize("url", ["https://a.example/", "http://a.example/b", "http://a.example/?/"])
def test_a_url_that_the_initramfs_cannot_fetch_from_is_refused(bench: Any, url: str) -> None:
    with pytest.raises(InvalidManifest, match="http URL of a directory"):
        refuse(NetbootKit("kit", base_url=url).check(bench.empty_doc()))


def test_arguments_that_contradict_each_other_are_refused(bench: Any) -> None:
    kit = NetbootKit("kit", live_system="initramfs", base_url="http://192.0.2.1/")
    with pytest.raises(InvalidManifest, match="nothing is fetched"):
        refuse(kit.check(bench.empty_doc()))
    with pytest.raises(InvalidManifest, match="boots from no network"):
        refuse(verify(hypervisor="bhyve").check(bench.empty_doc()))
    with pytest.raises(InvalidManifest, match="with BIOS only"):
        refuse(verify(boot_loader="ipxe", firmware=("uefi",)).check(bench.empty_doc()))


def verify(**arguments: Any) -> VerifyBoot:
    given = {"media": "network", "memory_mb": 256, "accelerator": "tcg", "timeout_seconds": 90.0}
    return VerifyBoot("verify", **{"firmware": ("bios",), **given, **arguments})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("boot_loader", "bootif"), [("ipxe", "01-52-54-00-12-34-56"), ("grub", "01-52:54:00:12:34:56")]
)
def test_bios_boots_the_kit_through_a_network_that_serves_the_image_itself(
    ready: Any, boot_loader: str, bootif: str
) -> None:
    doc = ready.execute(NetbootKit("kit", base_url="http://boot.example.org/live/"), MENU)
    verify(boot_loader=boot_loader, marker=f"BOOTIF={bootif}").execute(ready.context(doc))
    console = (ready.root / "media/verify-bios.log").read_text()
    assert 'console=ttyS0 "dyndbg=file x +p" fetch=tftp://10.0.2.2/filesystem.squashfs' in console
    assert "from the guest's network in place of http://boot.example.org" in ready.messages()


@pytest.mark.slow
def test_a_guest_on_its_own_network_reaches_nothing_of_the_host(tmp_path: Path) -> None:
    kit = tmp_path / "kit"
    kit.mkdir()
    (kit / "vmlinuz").write_bytes(kernel())
    (tmp_path / "secret").write_text("of the host")
    with socket.create_server(("127.0.0.1", 0)) as server:
        host = f"http://10.0.2.2:{server.getsockname()[1]}/"
        (kit / "boot.ipxe").write_text(
            f"#!ipxe\nimgfetch {host} && set web 1 ||\nimgfetch ../secret && set file 1 ||\n"
            "kernel vmlinuz [${web}${file}] done\nboot\n"
        )
        network = NetworkBoot(kit, "boot.ipxe")
        spec = GuestSpec("test", "bios", "tcg", 128, 1, (), tmp_path / "log", network=network)
        console = ConsoleText()
        with Qemu().guest(spec, tmp_path / "guest") as guest:
            wait_for(guest, "done", 60.0, console)
    assert "[] done" in console.text


@pytest.mark.slow
def test_a_kit_without_a_file_fails_with_the_firmwares_verdict(ready: Any) -> None:
    doc = ready.execute(NetbootKit("kit"))
    kit = ready.root / "media/test-netboot.tar"
    with tarfile.open(kit, "w") as tar:
        tar.addfile(tarfile.TarInfo("kit/nothing"), io.BytesIO())
    with pytest.raises(CheckpointError, match="could not boot from the network") as caught:
        verify().execute(ready.context(doc))
    assert "picture" in caught.value.resolution


@pytest.mark.parametrize("number", range(4))
def test_dnsmasq_reads_the_configurations_of_the_how_to(tmp_path: Path, number: int) -> None:
    page = (Path(__file__).parents[3] / "docs/how-to/netboot.md").read_text()
    configuration = re.findall(r"^```ini\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[number]
    (tmp_path / "dnsmasq.conf").write_text(configuration)
    subprocess.run(["dnsmasq", "--test", "-C", tmp_path / "dnsmasq.conf"], check=True)
