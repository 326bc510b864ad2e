"""What belongs to one machine: in no image, by whatever way it is delivered, and made anew at the start."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.boot.menu import GrubBootMenu
from dcd.checkpoints.image.compress import SquashfsPkgImgMod
from dcd.checkpoints.image.identity import remove_identity, without_host_keys
from dcd.checkpoints.media.iso import CreateISO
from dcd.checkpoints.media.usb import CreateUSB
from dcd.platform.inside import resolve

SECRET = b"-----BEGIN OPENSSH PRIVATE KEY----- of one machine"

IDENTITY = (
    *(
        "etc/ssh/ssh_host_rsa_key",
        "etc/ssh/ssh_host_ed25519_key",
        "etc/ssh/ssh_host_ed25519_key.pub",
    ),
    *("etc/dropbear/dropbear_ed25519_host_key", "etc/ssl/private/ssl-cert-snakeoil.key"),
    *("etc/machine-id", "var/lib/dbus/machine-id", "var/lib/systemd/random-seed", "etc/hostid"),
    *("var/lib/systemd/credential.secret", "etc/nvme/hostnqn", "etc/iscsi/initiatorname.iscsi"),
    *("var/lib/dhcp/dhclient.eth0.leases", "var/lib/dhcpcd/eth0.lease", "var/lib/dhcpcd/duid"),
    *("var/lib/NetworkManager/secret_key", "var/lib/NetworkManager/internal-0-eth0.lease"),
    *("var/log/dpkg.log", "var/log/apt/term.log", "var/log/journal/1234/system.journal"),
    *("var/log/private/daemon.log", "var/lib/cloud/instances/i-1/user-data.txt"),
)
PROGRAMS = (
    "usr/sbin/sshd",
    "usr/bin/dropbearkey",
    "usr/sbin/make-ssl-cert",
    "usr/lib/systemd/systemd",
)
UNITS = ("ssh-host-keys.service", "dropbear-host-keys.service", "snakeoil-certificate.service")


def make_system(root: Path) -> None:
    """A tree as packages leave it that have been configured on one machine."""
    for name in (*IDENTITY, *PROGRAMS):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(SECRET)
    (root / "etc/ssh/sshd_config").write_text("PermitRootLogin no")
    (root / "boot/grub").mkdir(parents=True)


def squashfs(bench: Any) -> Path:
    SquashfsPkgImgMod("squash", compression_type="gzip").execute(bench.context(bench.doc()))
    return bench.root / "media/iso/live/filesystem.squashfs"


def iso(bench: Any) -> Path:
    squashfs(bench)
    for name in ("vmlinuz", "initrd.img"):
        (bench.root / "boot_archive" / name).write_text(name)
    doc = bench.doc()
    GrubBootMenu("menu").execute(bench.context(doc))
    CreateISO("iso").execute(bench.context(doc))
    CreateUSB("usb").execute(bench.context(doc))
    return bench.root / "media/test.iso"


def unpacked_squashfs(bench: Any, to: Path) -> None:
    subprocess.run(["unsquashfs", "-q", "-n", "-f", "-d", to, squashfs(bench)], check=True)


def unpacked_medium(suffix: str) -> Callable[[Any, Path], None]:
    def unpack(bench: Any, to: Path) -> None:
        medium, live = iso(bench).with_suffix(suffix), to.with_name("filesystem.squashfs")
        command = ["xorriso", "-no_rc", "-osirrox", "on", "-indev", medium]
        command += ["-extract", "/live/filesystem.squashfs", live]
        subprocess.run(command, check=True, capture_output=True)
        subprocess.run(["unsquashfs", "-q", "-n", "-f", "-d", to, live], check=True)

    return unpack


def copied_image(bench: Any, to: Path) -> None:
    """What a disk is filled with, and what a script packs after a transfer."""
    remove_identity(bench.image)
    shutil.copytree(bench.image, to, symlinks=True)


WAYS = {
    "squashfs": unpacked_squashfs,
    "iso": unpacked_medium(".iso"),
    "usb": unpacked_medium(".usb"),
    "tree": copied_image,
}


@pytest.mark.root
@pytest.mark.parametrize("way", WAYS)
def test_nothing_of_one_machine_is_delivered(bench: Any, tmp_path: Path, way: str) -> None:
    needed = ("mksquashfs", "unsquashfs", "xorriso", "grub-mkimage", "mformat")
    if lacking := [tool for tool in needed if not shutil.which(tool)]:
        pytest.skip(f"not installed: {', '.join(lacking)}")
    make_system(bench.image)
    delivered = tmp_path / "delivered"
    WAYS[way](bench, delivered)
    holding = {
        str(path.relative_to(delivered))
        for path in delivered.rglob("*")
        if path.is_file() and not path.is_symlink() and SECRET in path.read_bytes()
    }
    assert holding == set(PROGRAMS)
    assert (delivered / "etc/machine-id").read_bytes() == b""
    assert (delivered / "etc/iscsi/initiatorname.iscsi").read_text() == "GenerateName=yes\n"
    assert (delivered / "etc/ssh/sshd_config").read_text() == "PermitRootLogin no"
    for unit in UNITS:
        assert (delivered / "etc/systemd/system" / unit).is_file()
        wants = (delivered / "etc/systemd/system").glob("*.wants")
        wanting = [link for where in wants for link in where.iterdir() if link.name == unit]
        assert wanting
        for link in wanting:
            assert resolve(delivered, str(link.relative_to(delivered))).is_file()


def test_a_log_keeps_its_file_owner_and_mode(tmp_path: Path) -> None:
    log = tmp_path / "var/log/app/app.log"
    log.parent.mkdir(parents=True)
    log.write_text("a line of the build host")
    log.chmod(0o620)
    before = log.stat()
    remove_identity(tmp_path)
    after = log.stat()
    assert (after.st_size, after.st_ino, after.st_mode) == (0, before.st_ino, before.st_mode)


def system(root: Path, *programs: str) -> Path:
    for path in ("usr/sbin/sshd", "etc/ssh/ssh_host_rsa_key", *programs):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("")
    return root


def test_keys_are_made_anew_where_scripts_start_the_server(tmp_path: Path) -> None:
    root = system(tmp_path, "etc/init.d/ssh", "usr/bin/ssh-keygen")
    (root / "etc/default").mkdir()
    (root / "etc/default/ssh").write_text("SSHD_OPTS=-4")
    for _ in range(2):
        remove_identity(root)
    settings = (root / "etc/default/ssh").read_text()
    assert settings.startswith("SSHD_OPTS=-4\n")
    assert settings.count("/usr/bin/ssh-keygen -A") == 1
    subprocess.run(["sh", "-n", root / "etc/default/ssh"], check=True)
    assert not without_host_keys(root)


def test_settings_stay_as_they_are_where_systemd_starts_the_server(tmp_path: Path) -> None:
    root = system(tmp_path, "etc/init.d/ssh", "usr/lib/systemd/systemd")
    remove_identity(root)
    assert not (root / "etc/default/ssh").exists()
    assert not without_host_keys(root)


def test_a_server_whose_keys_nobody_makes_is_warned_of(bench: Any) -> None:
    system(bench.image)
    bench.execute(SquashfsPkgImgMod("s", compression_level=1))
    (said,) = [report.message for report in bench.reports if report.warning]
    assert "ssh-keygen -A" in said


def test_links_lead_nowhere_outside_the_image(tmp_path: Path) -> None:
    host, root = tmp_path / "host", tmp_path / "root"
    for name in ("ssh", "log", "dhcp"):
        (host / name).mkdir(parents=True)
        (host / name / "ssh_host_rsa_key").write_text("the host's")
        (host / name / "a.leases").write_text("the host's")
    (root / "etc").mkdir(parents=True)
    (root / "var/lib").mkdir(parents=True)
    (root / "etc/ssh").symlink_to(host / "ssh")
    (root / "etc/machine-id").symlink_to(host / "log/a.leases")
    (root / "var/log").symlink_to(host / "log")
    (root / "var/lib/dhcp").symlink_to(host / "dhcp")
    remove_identity(root)
    assert {path.read_text() for path in host.rglob("*") if path.is_file()} == {"the host's"}
    assert len([path for path in host.rglob("*") if path.is_file()]) == 6


def test_a_log_that_is_another_file_too_leaves_that_alone(tmp_path: Path) -> None:
    program = tmp_path / "usr/bin/program"
    program.parent.mkdir(parents=True)
    program.write_text("code")
    (tmp_path / "var/log").mkdir(parents=True)
    os.link(program, tmp_path / "var/log/program.log")
    remove_identity(tmp_path)
    assert program.read_text() == "code"
    assert not (tmp_path / "var/log/program.log").exists()


def test_a_tree_without_a_system_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("x")
    remove_identity(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["data"]


def test_once_more_changes_nothing(tmp_path: Path) -> None:
    make_system(tmp_path)
    remove_identity(tmp_path)
    before = {path: path.lstat().st_size for path in tmp_path.rglob("*")}
    remove_identity(tmp_path)
    assert {path: path.lstat().st_size for path in tmp_path.rglob("*")} == before


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_the_units_are_clean(tmp_path: Path) -> None:
    make_system(tmp_path)
    remove_identity(tmp_path)
    units = [tmp_path / "etc/systemd/system" / unit for unit in UNITS]
    for unit in units:
        # The programs are the image's: this host may lack them.
        unit.write_text(re.sub(r"(?m)^ExecStart=/\S+", "ExecStart=/bin/true", unit.read_text()))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        capture_output=True,
        text=True,
        check=False,
    )
    assert [line for line in verified.stderr.splitlines() if any(u in line for u in UNITS)] == []
