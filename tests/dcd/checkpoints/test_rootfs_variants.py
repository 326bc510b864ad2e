"""IncusImage, LXCImage and WSLImage: archives with what their importers look for."""

import configparser
import json
import os
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.rootfs.incus import IncusImage
from dcd.checkpoints.rootfs.lxc import LXCImage
from dcd.checkpoints.rootfs.wsl import WSLImage
from dcd.manifest.diagnostics import refuse
from statemachine.errors import CheckpointError, InvalidManifest
from tests.dcd.checkpoints.hostile_tree import EPOCH, fingerprint, plant

pytestmark = pytest.mark.root

OS_RELEASE = (
    'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_CODENAME=bookworm\nbad line\n'
)

STATUS = "Package: dpkg\nStatus: install ok installed\nVersion: 1\nArchitecture: amd64\n"


@pytest.fixture
def system(bench: Any) -> Any:
    """A bench with a hostile tree that has init, a user and packages."""
    plant(bench.image)
    for path, text in (
        ("etc/os-release", OS_RELEASE),
        ("etc/resolv.conf", "nameserver 192.0.2.1\n"),
        ("etc/group", "root:x:0:\n"),
        ("var/lib/dpkg/status", STATUS),
        ("sbin/init", "#!/bin/sh\n"),
        ("usr/lib/systemd/systemd", "#!/bin/sh\n"),
    ):
        file = bench.image / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    with (bench.image / "etc/passwd").open("a") as passwd:
        passwd.write("ada:x:1007:1007::/home/ada:/bin/sh\n")
    return bench


def made(bench: Any, checkpoint: Any) -> list[Path]:
    """What the checkpoint delivers."""
    doc = bench.doc()
    refuse(checkpoint.check(doc))
    bench.artifacts.clear()
    checkpoint.execute(bench.context(doc, environment={"SOURCE_DATE_EPOCH": str(EPOCH)}))
    return [bench.root / artifact.path for artifact in bench.artifacts]


def unpacked(archive: Path, directory: Path) -> Path:
    directory.mkdir()
    subprocess.run(
        ["tar", "--extract", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner",
         "--preserve-permissions", "--file", archive, "--directory", directory],
        check=True,
    )  # fmt: skip
    return directory


def test_a_unified_incus_image_has_metadata_and_the_whole_tree(system: Any, tmp_path: Path) -> None:
    (archive,) = made(system, IncusImage("incus"))
    assert archive.name == "test-incus.tar.xz"
    out = unpacked(archive, tmp_path / "out")
    assert fingerprint(out / "rootfs") == fingerprint(system.image)
    metadata = json.loads((out / "metadata.yaml").read_text())
    assert metadata["architecture"] == "x86_64"
    assert metadata["creation_date"] == EPOCH
    assert metadata["properties"] == {
        "architecture": "amd64",
        "description": "Debian GNU/Linux 12 (bookworm) amd64 (20231114)",
        "name": "test",
        "os": "debian",
        "release": "bookworm",
        "serial": "20231114",
    }
    (template,) = metadata["templates"].values()
    assert (out / "templates" / template["template"]).read_text() == "{{ container.name }}\n"
    with tarfile.open(archive) as tar:
        assert tar.getnames()[0] == "metadata.yaml"  # importers need not read the whole archive


def test_a_split_incus_image_has_a_squashfs_beside_its_metadata(
    system: Any, tmp_path: Path
) -> None:
    archive, file_system = made(system, IncusImage("incus", form="split", compression="zstd"))
    assert (archive.name, file_system.name) == ("test-incus.tar.zst", "test-incus.squashfs")
    out = unpacked(archive, tmp_path / "out")
    assert sorted(path.name for path in out.rglob("*")) == [
        "hostname.tpl",
        "metadata.yaml",
        "templates",
    ]
    listing = subprocess.run(
        ["unsquashfs", "-l", "-d", "", file_system], check=True, capture_output=True
    ).stdout
    assert b"/sbin/init" in listing


def test_an_incus_image_without_init_is_warned_of(system: Any) -> None:
    (system.image / "sbin/init").unlink()
    made(system, IncusImage("incus", form="split"))
    assert "no /sbin/init" in system.messages()


def test_a_wsl_image_is_a_tar_with_its_two_files(system: Any, tmp_path: Path) -> None:
    (archive,) = made(system, WSLImage("wsl", default_user="ada"))
    assert archive.name == "test.wsl"
    out = unpacked(archive, tmp_path / "out")
    settings = configparser.ConfigParser()
    settings.optionxform = str  # type: ignore[assignment,method-assign]
    settings.read([out / "etc/wsl.conf", out / "etc/wsl-distribution.conf"])
    assert {name: dict(settings[name]) for name in settings.sections()} == {
        "boot": {"systemd": "true"},
        "user": {"default": "ada"},
        "oobe": {"defaultName": "test", "defaultUid": "1007"},
    }
    assert not (out / "etc/resolv.conf").exists()
    kept = fingerprint(system.image)
    del kept[b"etc/resolv.conf"]
    assert fingerprint(out) == kept


def test_files_of_wsl_that_the_image_has_are_kept(system: Any, tmp_path: Path) -> None:
    (system.image / "etc/wsl.conf").write_text("[boot]\nsystemd=false\n")
    (archive,) = made(system, WSLImage("wsl"))
    out = unpacked(archive, tmp_path / "out")
    assert (out / "etc/wsl.conf").read_text() == "[boot]\nsystemd=false\n"


def test_a_kernel_for_wsl_is_warned_of(system: Any) -> None:
    (system.image / "boot").mkdir()
    (system.image / "boot/vmlinuz-6.1").write_text("kernel")
    made(system, WSLImage("wsl"))
    assert "a kernel, which WSL does not use" in system.messages()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"default_user": "eve"}, "no user eve"), ({"systemd": True}, "no systemd to start")],
)
def test_what_wsl_cannot_start_is_an_error(bench: Any, arguments: Any, message: str) -> None:
    (bench.image / "etc").mkdir()
    with pytest.raises(CheckpointError, match=message):
        made(bench, WSLImage("wsl", **arguments))
    assert list((bench.root / "media").iterdir()) == []


@pytest.mark.parametrize("checkpoint", [IncusImage("i", level=10), WSLImage("w", level=0)])
def test_a_level_that_does_not_exist_is_refused(bench: Any, checkpoint: Any) -> None:
    with pytest.raises(InvalidManifest, match="has no level"):
        refuse(checkpoint.check(bench.doc()))


def lxc(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **environment}
    )
    return done.stdout


def test_lxc_makes_a_container_of_its_image(system: Any, tmp_path: Path) -> None:
    (system.image / "etc/hostname").write_text("web\n")
    metadata, root = made(system, LXCImage("lxc"))
    assert (metadata.name, root.name) == ("test-lxc-meta.tar.xz", "test-lxc-rootfs.tar.xz")
    said = lxc(
        *("lxc-create", "--lxcpath", tmp_path, "--name", "first", "--template", "local", "--"),
        *("--metadata", metadata, "--fstree", root),
    )
    assert "A container of Debian GNU/Linux 12 (bookworm) (amd64) was created." in said
    container = tmp_path / "first"
    assert (container / "rootfs/etc/hostname").read_text() == "first\n"
    settings = (container / "config").read_text()
    assert "lxc.arch = x86_64\n" in settings
    assert "lxc.include = /usr/share/lxc/config/common.conf\n" in settings
    assert "LXC_" not in settings
    known = lxc("lxc-info", "--lxcpath", tmp_path, "--name", "first", "--config", "lxc.uts.name")
    assert known == "lxc.uts.name = first\n"
    unpacked = fingerprint(container / "rootfs")
    expected = fingerprint(system.image)
    assert unpacked.keys() - expected.keys() <= {b"dev", b"dev/pts"}
    assert expected.keys() <= unpacked.keys()


def test_an_image_for_lxc_leaves_devices_to_the_containers_of_users(
    system: Any, tmp_path: Path
) -> None:
    (system.image / "dev").mkdir(exist_ok=True)
    os.mknod(system.image / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    metadata, _ = made(system, LXCImage("lxc"))
    out = unpacked(metadata, tmp_path / "out")
    assert "./dev/null" in (out / "excludes-user").read_text().splitlines()
    assert "userns.conf" in (out / "config-user").read_text()
    assert "userns.conf" not in (out / "config").read_text()
    assert "unpacks no capabilities and attributes" in system.messages()
