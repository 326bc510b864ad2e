"""DebianBootArchive: which kernel it takes, and what it says when there is none. (That the result boots
is for the tests that build whole images.)"""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.boot.archive import DebianBootArchive
from dcd.manifest.diagnostics import refuse
from statemachine.errors import CheckpointError, InvalidManifest


def add_kernel(image: Path, version: str, modules: bool = True) -> None:
    (image / "boot").mkdir(exist_ok=True)
    (image / f"boot/vmlinuz-{version}").write_text(f"kernel {version}")
    if modules:
        (image / f"lib/modules/{version}").mkdir(parents=True)


def add_mkinitramfs(image: Path, script: str) -> None:
    (image / "usr/sbin").mkdir(parents=True, exist_ok=True)
    (image / "usr/sbin/mkinitramfs").write_text(f"#!/bin/sh\n{script}\n")
    (image / "usr/sbin/mkinitramfs").chmod(0o755)


SHOW_SETTINGS = """
while read -r line; do echo "$line"; done < /etc/initramfs-tools/conf.d/zz-dcd > "$2"
echo "version $3" >> "$2"
"""


@pytest.mark.root
def test_kernel_and_initramfs_of_the_one_kernel(bench: Any, own_mounts: None) -> None:
    bench.add_shell()
    add_kernel(bench.image, "6.1.0-1-amd64")
    add_mkinitramfs(bench.image, SHOW_SETTINGS)
    doc = bench.execute(DebianBootArchive("ba-arch"))
    archive = bench.root / "boot_archive"
    assert (archive / "vmlinuz").read_text() == "kernel 6.1.0-1-amd64"
    assert (archive / "initrd.img").read_text().split("\n")[:4] == [
        "MODULES=most",
        "COMPRESS=gzip",
        "COMPRESSLEVEL=1",
        "version 6.1.0-1-amd64",
    ]
    assert doc.find_path("/persistent/boot_archive.kernel_version") == ["6.1.0-1-amd64"]
    assert not (bench.image / "etc/initramfs-tools/conf.d/zz-dcd").exists()
    assert not list(bench.image.glob("*initrd*"))


MKINITRAMFS_OF_DEBIAN_11 = """
. /etc/initramfs-tools/conf.d/zz-dcd
compress=$COMPRESS
case "${compress}" in
gzip)
	compress="gzip -n"
	;;
lz4)	compress="lz4 -9 -l" ;;
zstd)	compress="zstd -q -19 -T0" ;;
xz)	compress="xz --check=crc32"
	;;
esac
$compress -c file > "$2"
"""


@pytest.mark.root
@pytest.mark.parametrize(
    ("compressor", "arguments"),
    [
        ("zstd", "-5 -c file"),
        ("lz4", "-5 -l -c file"),
        ("gzip", "-5 -n -c file"),
        ("xz", "-5 --check=crc32 -c file"),
    ],
)
def test_the_level_is_that_of_the_manifest_where_mkinitramfs_has_none(
    bench: Any, own_mounts: None, compressor: Any, arguments: str
) -> None:
    bench.add_shell()
    add_kernel(bench.image, "5.10.0-1-amd64")
    add_mkinitramfs(bench.image, MKINITRAMFS_OF_DEBIAN_11)
    program = bench.image / "usr/bin" / compressor
    program.parent.mkdir(exist_ok=True)
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    checkpoint = DebianBootArchive("ba", compression_type=compressor, compression_level=5)
    bench.execute(checkpoint)
    made = (bench.root / "boot_archive/initrd.img").read_text()
    assert made == f"{arguments}\n"


@pytest.mark.root
def test_the_kernels_that_are_not_chosen_are_finished_too(bench: Any, own_mounts: None) -> None:
    bench.add_shell()
    for version, modules in (("6.1.0-1-amd64", True), ("6.9.0-2-amd64", True), ("5.0", False)):
        add_kernel(bench.image, version, modules)
    add_kernel(bench.image, "6.5.0-3-amd64")
    (bench.image / "boot/initrd.img-6.5.0-3-amd64").write_text("its own")
    add_mkinitramfs(bench.image, 'echo "for $3" > "$2"')
    bench.execute(DebianBootArchive("ba-arch", kernel="6.1.0-1-amd64"))
    assert (bench.root / "boot_archive/initrd.img").read_text() == "for 6.1.0-1-amd64\n"
    made = {file.name: file.read_text() for file in (bench.image / "boot").glob("initrd*")}
    assert made == {
        "initrd.img-6.9.0-2-amd64": "for 6.9.0-2-amd64\n",
        "initrd.img-6.5.0-3-amd64": "its own",
    }


@pytest.mark.root
def test_a_failed_mkinitramfs_leaves_nothing_behind(bench: Any, own_mounts: None) -> None:
    bench.add_shell()
    add_kernel(bench.image, "6.1.0-1-amd64")
    add_mkinitramfs(bench.image, 'echo half > "$2"; echo E: broken hook >&2; exit 1')
    with pytest.raises(CheckpointError) as caught:
        bench.execute(DebianBootArchive("ba-arch"))
    assert "E: broken hook" in caught.value.details
    assert not (bench.image / "etc/initramfs-tools/conf.d/zz-dcd").exists()
    assert not list(bench.image.glob("*initrd*"))
    assert list((bench.root / "boot_archive").iterdir()) == []


@pytest.mark.root
@pytest.mark.parametrize("status", [0, 2])
def test_a_file_that_an_initramfs_cannot_hold_is_named(
    bench: Any, own_mounts: None, tmp_path: Path, status: int
) -> None:
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 5 << 30)
    said = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"],
        input=b"large\n", cwd=tmp_path, capture_output=True, check=False,
    ).stderr.decode().strip()  # fmt: skip
    bench.add_shell()
    add_kernel(bench.image, "6.1.0-1-amd64")
    add_mkinitramfs(bench.image, f'echo "{said}" >&2; echo made > "$2"; exit {status}')
    with pytest.raises(CheckpointError, match="cannot hold a file of 4 GiB") as caught:
        bench.execute(DebianBootArchive("ba-arch"))
    assert caught.value.details == "large"
    assert list((bench.root / "boot_archive").iterdir()) == []


@pytest.mark.root
def test_what_mkinitramfs_gathers_does_not_stay_in_the_image(bench: Any, own_mounts: None) -> None:
    bench.add_shell()
    add_kernel(bench.image, "6.1.0-1-amd64")
    (bench.image / "var/tmp").mkdir(parents=True)
    add_mkinitramfs(bench.image, 'echo gathered > "$TMPDIR/file" && echo made > "$2"')
    bench.execute(DebianBootArchive("ba-arch"))
    assert (bench.root / "boot_archive/initrd.img").read_text() == "made\n"
    assert list((bench.image / "tmp").iterdir()) == []


@pytest.mark.root
def test_an_image_without_the_compressor_is_told_its_package(bench: Any, own_mounts: None) -> None:
    bench.add_shell()
    add_kernel(bench.image, "6.1.0-1-amd64")
    add_mkinitramfs(bench.image, "true")
    with pytest.raises(CheckpointError) as caught:
        bench.execute(DebianBootArchive("ba-arch", compression_type="xz"))
    assert "add the package xz-utils" in caught.value.resolution


def test_an_image_without_a_kernel_is_told_so(bench: Any) -> None:
    with pytest.raises(CheckpointError, match="no kernel") as caught:
        bench.execute(DebianBootArchive("ba-arch"))
    assert "linux-image-amd64" in caught.value.resolution


def test_several_kernels_ask_for_a_choice(bench: Any) -> None:
    add_kernel(bench.image, "6.1.0-1-amd64")
    add_kernel(bench.image, "6.1.0-2-amd64")
    with pytest.raises(CheckpointError, match="several kernels") as caught:
        bench.execute(DebianBootArchive("ba-arch"))
    assert caught.value.details == "6.1.0-1-amd64, 6.1.0-2-amd64"
    assert '<arg name="kernel">6.1.0-2-amd64</arg>' in caught.value.resolution
    with pytest.raises(CheckpointError, match="no kernel 5"):
        bench.execute(DebianBootArchive("ba-arch", kernel="5"))


def test_a_kernel_without_modules_is_refused(bench: Any) -> None:
    add_kernel(bench.image, "6.1.0-1-amd64", modules=False)
    with pytest.raises(CheckpointError, match="has no modules"):
        bench.execute(DebianBootArchive("ba-arch"))


@pytest.mark.parametrize(("kind", "level"), [("zstd", 20), ("gzip", 0), ("auto", 10), ("lz4", -1)])
def test_a_level_that_the_compressor_does_not_have_is_refused(
    bench: Any, kind: Any, level: int
) -> None:
    checkpoint = DebianBootArchive("ba-arch", compression_type=kind, compression_level=level)
    with pytest.raises(InvalidManifest, match="out of range"):
        refuse(checkpoint.check(bench.empty_doc()))
