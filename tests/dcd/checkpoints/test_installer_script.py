"""What the installer on a live medium does to the system that it has copied: run here, without a guest."""

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from dcd.checkpoints.image.installer_script import SCRIPT

BEGIN, END = "# The system's own versions", "for directory in dev proc sys"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A system that was copied, with files, kernels and directories of its own."""
    root = tmp_path / "target"
    for name in ("etc/default", "etc/private", "boot"):
        (root / name).mkdir(parents=True)
    (root / "etc/private").chmod(0o700)
    (root / "etc/hostname").write_text("live\n")
    (root / "etc/hosts").write_text("127.0.0.1\tlocalhost\n127.0.1.1\tlive.example live\n")
    (root / "etc/fstab").write_text(
        "# its own\noverlay / overlay rw 0 0\ntmpfs /tmp tmpfs size=1g 0 0\n/swapfile none swap sw 0 0\n"
    )
    (root / "etc/default/grub").write_text("GRUB_THEME=/x\n")
    for version in (os.uname().release, "1.0-other"):
        (root / f"boot/vmlinuz-{version}").touch()
    return root


def finish(tmp_path: Path, root: Path, hostname: str = "") -> None:
    """Run the part of the script that makes it an installed system."""
    for name in ("here/answers", "medium", "files/etc/default", "files/etc/private"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "files/etc/fstab").write_text(
        "# <file system>\nUUID=1 / ext4 defaults 0 1\nUUID=2 none swap sw 0 0\n"
    )
    (tmp_path / "files/etc/default/grub").write_text("GRUB_TIMEOUT=3\n")
    (tmp_path / "files/etc/private/new").write_text("new")
    with tarfile.open(tmp_path / "here/answers/files.tar", "w") as archive:
        archive.add(tmp_path / "files", ".")
    (tmp_path / "medium/initrd.img").write_text("of the medium")
    part = SCRIPT[SCRIPT.index(BEGIN) : SCRIPT.index(END)]
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "target": str(root),
        "here": str(tmp_path / "here"),
        "medium": str(tmp_path / "medium"),
        "hostname": hostname,
    }
    subprocess.run(["sh", "-euc", part], env=environment, check=True)


def test_what_the_system_has_of_its_own_stays_beside_the_answers(
    tmp_path: Path, target: Path
) -> None:
    finish(tmp_path, target)
    assert (target / "etc/fstab").read_text().splitlines() == [
        "# <file system>",
        "UUID=1 / ext4 defaults 0 1",
        "UUID=2 none swap sw 0 0",
        "tmpfs /tmp tmpfs size=1g 0 0",
        "/swapfile none swap sw 0 0",
    ]
    assert (target / "etc/default/grub").read_text() == "GRUB_THEME=/x\n"
    assert (target / "etc/default/grub.d/dcd.cfg").read_text() == "GRUB_TIMEOUT=3\n"
    assert (target / "etc/private").stat().st_mode & 0o777 == 0o700
    assert (target / "etc/private/new").read_text() == "new"


def test_the_host_name_is_the_one_of_the_answers_everywhere(tmp_path: Path, target: Path) -> None:
    finish(tmp_path, target, "box")
    assert (target / "etc/hostname").read_text() == "box\n"
    assert (target / "etc/hosts").read_text() == "127.0.0.1\tlocalhost\n127.0.1.1\tbox\n"


def test_without_a_host_name_it_stays_the_live_systems(tmp_path: Path, target: Path) -> None:
    finish(tmp_path, target)
    assert (target / "etc/hostname").read_text() == "live\n"
    assert "127.0.1.1\tlive.example live\n" in (target / "etc/hosts").read_text()


def test_the_mediums_initramfs_is_given_to_its_own_kernel_only(
    tmp_path: Path, target: Path
) -> None:
    finish(tmp_path, target)
    made = [file.name for file in (target / "boot").glob("initrd.img-*")]
    assert made == [f"initrd.img-{os.uname().release}"]


def test_the_script_is_one_for_any_shell() -> None:
    subprocess.run(["sh", "-n"], input=SCRIPT, text=True, check=True)
