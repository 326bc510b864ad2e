"""Disks with LUKS, LVM, subvolumes and dm-verity: what other programs read on them.

The host's kernel may lack the device mapper: cryptsetup and lvm2 read headers, the volume key is used by
python's cryptography, and the file systems are mounted at their places.
"""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from dcd.checkpoints.boot.unified import UnifiedKernelImage
from dcd.checkpoints.vm.create_disk import CreateDisk
from dcd.checkpoints.vm.disk import ContainerPartition, DiskLayout, recorded_disk
from dcd.checkpoints.vm.install_offline import InstallOffline
from dcd.checkpoints.vm.layout_checks import ESP
from dcd.checkpoints.vm.opening import NO_GROWTH
from dcd.manifest.doc import DataObjectDict
from statemachine.errors import CheckpointError
from store.host.tools import missing
from tests.dcd.checkpoints import efi
from tests.dcd.checkpoints.test_netboot import kernel
from tests.dcd.checkpoints.test_vm_install_offline import (
    VERSION,
    clean,
    described,
    install,
    mounted,
    partition,
    ready,
    target,
)
from tests.system.plain_qemu import console_with

LACKING = missing((*InstallOffline.TOOLS, "grub-bios", "grub-efi", "losetup"))
pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}"),
    pytest.mark.usefixtures("own_mounts"),
]

__all__ = ["ready"]
"""The fixture of the small image."""

MIB = 1 << 20
PASSPHRASE, RECOVERY = "correct horse", "battery staple"

BOOT = partition(3, "ext4", "/boot", "64mb")
GROUP = """<volume_group name="vg0">
<logical_volume name="home"><size val="22mb"/><format type="ext4" mountpoint="/srv"/></logical_volume>
<logical_volume name="spare"><size val="8mb"/></logical_volume>
<logical_volume name="root"><format type="ext4" mountpoint="/"/></logical_volume>
</volume_group>"""
LUKS = f"""<luks name="system"><passphrase env="DCD_SECRET_RECOVERY" recovery="true"/>
<passphrase env="DCD_SECRET_DISK"/>{GROUP}</luks>"""


def held(content: str, number: int = 4, attributes: str = "") -> str:
    return f'<gpt_partition name="{number}" part_type="linux"{attributes}>{content}</gpt_partition>'


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCD_SECRET_DISK", PASSPHRASE)
    monkeypatch.setenv("DCD_SECRET_RECOVERY", RECOVERY)


def output(*argv: str | Path, stdin: str = "", status: int = 0) -> str:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def part_of(disk: Path, layout: DiskLayout, number: int, to: Path) -> ContainerPartition:
    """A container, whose bytes are copied to a file of their own."""
    [found] = [one for one in layout.containers if one.number == number]
    dd = ("dd", f"if={disk}", f"of={to}", "bs=1M", "status=none", "conv=sparse")
    output(*dd, f"skip={found.start // MIB}", f"count={found.size // MIB}")
    return found


def decrypted(image: Path, to: Path, tmp_path: Path) -> None:
    """Decrypt LUKS2 as its specification says, without any code of cryptsetup but for the volume key."""
    key = tmp_path / "volume-key"
    dump = ("cryptsetup", "luksDump", "--batch-mode", "--dump-volume-key", "--key-file", "-")
    output(*dump, "--volume-key-file", key, image, stdin=PASSPHRASE)
    cipher = algorithms.AES(key.read_bytes())
    with image.open("rb") as source, to.open("wb") as sink:
        source.seek(16 * MIB)
        number = 0
        while sector := source.read(4096):
            decryptor = Cipher(cipher, modes.XTS(number.to_bytes(16, "little"))).decryptor()
            sink.write(decryptor.update(sector))
            number += 8  # plain64 counts in sectors of 512 bytes


@contextmanager
def attached(image: Path) -> Iterator[str]:
    device = output("losetup", "--find", "--show", image).strip()
    try:
        yield device
    finally:
        output("losetup", "--detach", device)


def lvm(device: str, *command: str) -> str:
    settings = f'devices {{ use_devicesfile=0 scan_lvs=0 filter=["a|^{device}$|","r|.*|"] }}'
    settings += " activation { udev_sync=0 udev_rules=0 }"
    return output("lvm", *command, "--config", settings)


def test_luks_holds_a_volume_group_with_the_system(ready: Any, tmp_path: Path) -> None:
    disk, layout = install(ready, target(BOOT + held(LUKS), size="288mb"), grow_root=False)
    assert NO_GROWTH in (ready.image / "boot/grub/grub.cfg").read_text()
    wanted = described(ready.image)
    image, plain = tmp_path / "luks", tmp_path / "plain"
    container = part_of(disk, layout, 4, image)
    assert container.luks is not None
    dump = output("cryptsetup", "luksDump", image)
    assert container.luks.uuid in dump
    assert len(re.findall(r"^  \d: luks2\n", dump, re.MULTILINE)) == 2
    assert dump.count("argon2id") == 2
    assert "aes-xts-plain64" in dump
    opening = ("cryptsetup", "open", "--test-passphrase", "--key-file", "-", image)
    for passphrase, status in ((PASSPHRASE, 0), (RECOVERY, 0), ("another", 2)):
        output(*opening, stdin=passphrase, status=status)
    with disk.open("rb") as content:
        assert b"of the directory" not in content.read()

    decrypted(image, plain, tmp_path)
    with attached(plain) as device:
        lvm(device, "vgck", "vg0")
        volumes = lvm(device, "lvs", "--noheadings", "--units", "m", "-o", "lv_name,lv_size")
        assert volumes.split() == ["home", "24.00m", "root", "108.00m", "spare", "8.00m"]
    # The same disk with the plain text in place.
    with disk.open("r+b") as whole, plain.open("rb") as text:
        whole.seek(container.start + 16 * MIB)
        while piece := text.read(MIB):
            whole.write(piece)
    with mounted(disk, layout, tmp_path / "mounted") as system:
        found = described(system)
    extra = {name for name in found if name.rpartition("/")[2] == "lost+found"}
    initramfs = f"boot/initrd.img-{VERSION}"
    wanted[initramfs] = (*wanted[initramfs][:-1], 1)
    assert {name: found[name] for name in found if name not in extra} == wanted
    assert PASSPHRASE not in ready.messages()


def test_a_volume_group_is_read_by_lvm_and_grub_and_grows(ready: Any, tmp_path: Path) -> None:
    disk, layout = install(ready, target(held(GROUP, 3), size="288mb"))
    image = tmp_path / "pv"
    part_of(disk, layout, 3, image)
    with attached(image) as device:
        lvm(device, "vgck", "vg0")
        assert lvm(device, "pvs", "--noheadings", "-o", "vg_name,pv_free").split() == ["vg0", "0"]
    listed = output("grub-fstest", disk, "ls", "(lvm/vg0-root)/boot/")
    assert f"vmlinuz-{VERSION}" in listed
    unit = (ready.image / "etc/systemd/system/dcd-grow-group.service").read_text()
    assert f"pvresize /dev/disk/by-partuuid/{layout.partitions[-1].uuid}\n" in unit
    assert "+100%%FREE vg0/root\n" in unit


def test_a_volume_group_starts_with_bios_beside_an_empty_floppy_drive(
    ready: Any, tmp_path: Path
) -> None:
    """The machine `pc` of QEMU has such a drive, at whose error GRUB ends its search for groups."""
    (ready.image / f"boot/vmlinuz-{VERSION}").write_bytes(kernel())
    disk, _ = install(ready, target(held(GROUP, 3), size="288mb"), kernel_args="of the menu")
    drive = ("-drive", f"if=virtio,format=raw,snapshot=on,file={disk}")
    console_with("of the menu", 60.0, tmp_path / "pc", drive, firmware="bios", machine="pc")


def test_each_subvolume_has_its_part_of_the_system(ready: Any, tmp_path: Path) -> None:
    content = """<format type="btrfs"><subvolume name="@" mountpoint="/" options="compress=zstd"/>
    <subvolume name="@var" mountpoint="/var"/><subvolume name="@snapshots"/></format>"""
    disk, layout = install(ready, target(held(content, 3), size="768mb"))
    wanted = described(ready.image)
    (tmp_path / "top").mkdir()
    found = layout.partitions[-1]
    options = f"ro,loop,offset={found.start},sizelimit={found.size},subvolid=5"
    output("mount", "-o", options, disk, tmp_path / "top")
    try:
        listed = output("btrfs", "subvolume", "list", tmp_path / "top")
        assert [line.split()[-1] for line in listed.splitlines()] == ["@", "@var", "@snapshots"]
        top = described(tmp_path / "top/@")
        assert list((tmp_path / "top/@/var").iterdir()) == []
        assert described(tmp_path / "top/@var")["lib/program"] == wanted["var/lib/program"]
    finally:
        output("umount", tmp_path / "top")
    assert top["usr/bin/program"] == wanted["usr/bin/program"]
    lines = (ready.image / "etc/fstab").read_text().splitlines()
    identity = layout.mounted_at("/").volume.uuid
    assert f"UUID={identity} / btrfs subvol=@,compress=zstd,x-systemd.growfs 0 0" in lines
    assert f"UUID={identity} /var btrfs subvol=@var 0 0" in lines
    menu = (ready.image / "boot/grub/grub.cfg").read_text()
    assert f"linux /@/boot/vmlinuz-{VERSION} root=UUID={identity} ro rootflags=subvol=@ " in menu
    output("grub-fstest", disk, "cat", f"(loop0,gpt3)/@/boot/vmlinuz-{VERSION}")


VERIFIED = (
    BOOT
    + held('<format type="ext4" mountpoint="/"/><verity>{}</verity>', 4)
    + partition(5, "ext4", "/var", "64mb")
)


def verified(key: str = "") -> str:
    sized = VERIFIED.format(key).replace(
        '<format type="ext4" mountpoint="/"/>',
        '<size val="128mb"/><format type="ext4" mountpoint="/"/>',
    )
    return target(sized, size="384mb")


def test_a_verified_root_has_its_root_hash_in_the_menu(ready: Any, tmp_path: Path) -> None:
    disk, layout = install(ready, verified())
    image = tmp_path / "verity"
    container = part_of(disk, layout, 4, image)
    assert container.verity is not None
    menu = (ready.image / "boot/grub/grub.cfg").read_text()
    root_hash = re.search(r"roothash=([0-9a-f]{64})", menu)[1]
    offset = container.verity.data_bytes
    assert f"systemd.verity_root_options=hash-offset={offset} " in menu
    assert f"systemd.verity_root_data=PARTUUID={container.uuid} " in menu
    assert "root=/dev/mapper/root ro " in menu
    check = ("veritysetup", "verify", f"--hash-offset={offset}", image, image)
    output(*check, root_hash)
    with image.open("r+b") as content:
        content.seek(offset // 2)
        content.write(b"changed")
    output(*check, root_hash, status=2)
    fstab = (ready.image / "etc/fstab").read_text()
    assert "/dev/mapper/root / ext4 ro 0 0\n" in fstab
    assert not (ready.image / "etc/repart.d").exists()
    # /boot of the disk has the same menu as the image.
    assert root_hash in output("grub-fstest", disk, "cat", "(loop0,gpt3)/grub/grub.cfg")


def test_a_unified_kernel_image_has_the_root_hash_in_it(ready: Any, tmp_path: Path) -> None:
    efi.program(ready.image / "usr/lib/systemd/boot/efi/linuxx64.efi.stub")
    efi.program(ready.root / "boot_archive/vmlinuz")
    doc = ready.doc(verified())
    doc.persistent.insert_children(DataObjectDict("boot_archive", {"kernel_version": VERSION}))
    CreateDisk("disk").execute(ready.context(doc))
    UnifiedKernelImage("unified").execute(ready.context(doc))
    assert not ready.artifacts, "without the root hash it does not start"
    InstallOffline("install").execute(ready.context(doc))
    disk, layout = recorded_disk(ready.context(doc))
    assert [each.name for each in ready.artifacts] == ["test.efi"]
    program = ready.root / "media/test.efi"
    assert efi.section(program, ".initrd") == b"initramfs"
    arguments = efi.section(program, ".cmdline").decode().split()
    assert arguments[:2] == ["root=/dev/mapper/root", "ro"]
    menu = (ready.image / "boot/grub/grub.cfg").read_text()
    of_menu = re.findall(r"(?:roothash|systemd\.verity_root_\w+)=\S+", menu)
    assert arguments[-4:] == of_menu[:4]
    (esp,) = (one for one in layout.partitions if one.type == ESP)
    assert efi.files_of_esp(disk, esp.start)["EFI/BOOT/BOOTX64.EFI"] == program.read_bytes()


def test_a_root_hash_is_signed_with_a_key_and_openssl_agrees(
    ready: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    making = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test")
    output(*making, "-keyout", key, "-out", certificate)
    monkeypatch.setenv("DCD_SECRET_KEY", key.read_text() + certificate.read_text())
    disk, _ = install(ready, verified('<signing_key env="DCD_SECRET_KEY"/>'), grow_root=False)
    for name in ("root.roothash", "root.roothash.p7s"):
        found = subprocess.run(
            ["grub-fstest", disk, "cat", f"(loop0,gpt3)/{name}"], capture_output=True, check=True
        )
        (tmp_path / name).write_bytes(found.stdout)
    output(
        *("openssl", "smime", "-verify", "-binary", "-inform", "der", "-noverify"),
        *("-in", tmp_path / "root.roothash.p7s", "-content", tmp_path / "root.roothash"),
        *("-certfile", certificate, "-CAfile", certificate),
    )
    menu = (ready.image / "boot/grub/grub.cfg").read_text()
    assert "root-hash-signature=base64:" in menu
    assert "PRIVATE KEY" not in ready.messages() + menu


def test_a_key_of_another_certificate_is_refused(
    ready: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = []
    for name in ("one", "two"):
        key, certificate = tmp_path / f"{name}.key", tmp_path / f"{name}.pem"
        making = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test")
        output(*making, "-keyout", key, "-out", certificate)
        texts.append((key.read_text(), certificate.read_text()))
    for secret, problem in (
        (texts[0][0] + texts[1][1], "the root hash cannot be signed"),
        (texts[0][0], "the signing key is no PEM with a private key and its certificate"),
    ):
        monkeypatch.setenv("DCD_SECRET_KEY", secret)
        with pytest.raises(CheckpointError, match=problem) as caught:
            install(ready, verified('<signing_key env="DCD_SECRET_KEY"/>'), grow_root=False)
        assert "DCD_SECRET_KEY" in caught.value.details
        assert "PRIVATE" not in caught.value.details
        clean(ready)


def test_a_secret_that_is_no_passphrase_is_refused(
    ready: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCD_SECRET_DISK", "two\nlines")
    with pytest.raises(CheckpointError, match="a passphrase is empty, too long") as caught:
        install(ready, target(BOOT + held(LUKS), size="288mb"))
    assert "DCD_SECRET_DISK" in caught.value.details
    assert "two" not in str(caught.value.details)


def test_what_does_not_fit_into_a_logical_volume_is_said_with_its_name(ready: Any) -> None:
    (ready.image / "srv/big").write_bytes(bytes(range(256)) * (30 << 12))
    with pytest.raises(
        CheckpointError, match="does not fit into logical volume vg0/home"
    ) as caught:
        install(ready, target(held(GROUP, 3), size="288mb"))
    assert "(/srv, 24 MiB)" in caught.value.brief


def test_every_kernel_has_an_entry_of_its_own(ready: Any) -> None:
    for version in ("6.1.0-9-amd64", "6.1.0-10-amd64", "5.9.0-1-amd64"):
        (ready.image / f"boot/vmlinuz-{version}").write_bytes(b"other")
        if not version.startswith("5"):
            (ready.image / f"boot/initrd.img-{version}").write_bytes(b"initramfs")
    install(ready, target())
    menu = (ready.image / "boot/grub/grub.cfg").read_text()
    assert re.findall(r"linux /boot/vmlinuz-(\S+)", menu) == [
        VERSION,
        "6.1.0-10-amd64",
        "6.1.0-9-amd64",
    ]
    assert re.findall(r"initrd /boot/initrd.img-(\S+)", menu) == [
        VERSION,
        "6.1.0-10-amd64",
        "6.1.0-9-amd64",
    ]
    assert "no entry for kernel 5.9.0-1-amd64: it has no initramfs" in ready.messages()
