"""Paths of a manifest and names of products stay beneath their area, whatever values and links are there."""

import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.areas import area_directory, area_path
from dcd.checkpoints.boot.menu import GrubBootMenu
from dcd.checkpoints.image.compress import SquashfsPkgImgMod
from dcd.checkpoints.media.grub import check_modules
from dcd.checkpoints.media.iso import CreateISO
from dcd.checkpoints.media.usb import CreateUSB
from dcd.checkpoints.recorded import record_medium
from dcd.checkpoints.transfer.archive import TransferArchive
from dcd.checkpoints.transfer.cpio import TransferCPIO
from dcd.checkpoints.vm.create_disk import CreateDisk
from dcd.manifest.doc import DataObjectDict
from dcd.platform.hardware import PC
from dcd.platform.inside import require_no_links
from statemachine.errors import CheckpointError


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A directory of the build host with a file that no checkpoint may read or change."""
    directory = tmp_path / "host"
    directory.mkdir()
    (directory / "secret").write_text("of the host")
    return directory


def with_value(bench: Any, value: str) -> Any:
    """The context of a checkpoint; `%{//values/one}` in the manifest stands for the value."""
    doc = bench.empty_doc()
    doc.persistent.insert_children(DataObjectDict("values", {"one": value}))
    return bench.context(doc)


@pytest.mark.parametrize(
    ("text", "real"),
    [
        ("{PKG_IMAGE_PATH}", "pkg_image"),
        ("{PKG_IMAGE_PATH}/etc/motd", "pkg_image/etc/motd"),
        ("{PKG_IMAGE_PATH}//etc//./motd/", "pkg_image/etc/motd"),
        ("{BOOT_ARCHIVE}/x", "boot_archive/x"),
        ("{BUILD_DATA}/media/iso", "media/iso"),
        ("{MEDIA_DIR}%{//values.one}", "media/etc/passwd"),
        ("files/x", "files/x"),
        ("/etc/passwd", "etc/passwd"),
        ("{PKG_IMAGE_PATH}/absolute/motd", "pkg_image/etc/motd"),
        ("{PKG_IMAGE_PATH}/climbing/motd", "pkg_image/etc/motd"),
        ("{PKG_IMAGE_PATH}/host/secret", "pkg_image{host}/secret"),
    ],
)
def test_a_path_is_resolved_beneath_its_area(bench: Any, host: Path, text: str, real: str) -> None:
    for name, target in (
        ("absolute", "/etc"),
        ("climbing", "../../../../../../../etc"),
        ("host", str(host)),
    ):
        (bench.image / name).symlink_to(target)
    found = area_path(with_value(bench, "/etc/passwd"), text)
    assert found == bench.root / real.replace("{host}", str(host))


@pytest.mark.parametrize("value", ["/../..", "/..", "../x", "/a/../../x", "x", "-x", "/a\0b"])
@pytest.mark.parametrize("use", [area_path, area_directory])
def test_a_value_does_not_lead_out_of_the_area(bench: Any, value: str, use: Any) -> None:
    with pytest.raises(CheckpointError, match="is not a path in its area"):
        use(with_value(bench, value), "{PKG_IMAGE_PATH}%{//values.one}")
    assert sorted(path.name for path in bench.root.iterdir()) == [
        "boot_archive",
        "media",
        "pkg_image",
        "tmp",
    ]


@pytest.mark.root
@pytest.mark.parametrize("kind", ["CPIO", "ARCHIVE"])
def test_a_transfer_through_a_link_to_the_host_stays_in_the_image(
    bench: Any, host: Path, tmp_path: Path, kind: str
) -> None:
    (bench.image / "out").symlink_to(host)
    (bench.image / "new").write_text("transferred")
    software = (
        f'<software name="test" type="{kind}">'
        '<destination><dir path="{PKG_IMAGE_PATH}/out"/></destination>'
        '<source><dir path="{PKG_IMAGE_PATH}"/></source>'
        '<software_data action="install"><name>new</name></software_data></software>'
    )
    if kind == "CPIO":
        bench.execute(TransferCPIO("test"), software)
    else:
        archive = tmp_path / "a.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(bench.image / "new", "new")
        bench.execute(TransferArchive("test", archive), software, inputs={str(archive): archive})
    assert [path.name for path in host.iterdir()] == ["secret"]
    assert (bench.image / str(host).lstrip("/") / "new").read_text() == "transferred"


@pytest.mark.root
def test_nothing_of_the_host_is_copied_through_a_link(bench: Any, host: Path) -> None:
    (bench.image / "out").symlink_to(host)
    software = (
        '<software name="test" type="CPIO"><source><dir path="{PKG_IMAGE_PATH}/out"/></source>'
        '<software_data action="install"><name>secret</name></software_data></software>'
    )
    with pytest.raises(CheckpointError, match="none of the 1 entries to copy exists"):
        bench.execute(TransferCPIO("test"), software)
    assert list((bench.root / "boot_archive").iterdir()) == []


def make_ready(bench: Any) -> Any:
    """A bench on which media can be made."""
    (bench.image / "file").write_text("of the image")
    for name in ("vmlinuz", "initrd.img"):
        (bench.root / "boot_archive" / name).write_text(name)
    return bench


MACHINE = '<target><disk><disk_image name="test.raw" size="256mb"/></disk></target>'


@pytest.mark.parametrize(
    ("checkpoint", "product", "needed"),
    [
        (GrubBootMenu("test"), "iso/boot/grub/grub.cfg", ()),
        (SquashfsPkgImgMod("test", compression_type="gzip"), "iso/live/filesystem.squashfs", ()),
        (CreateISO("test"), "test.iso", ("xorriso", "grub-mkimage", "mformat")),
        (CreateUSB("test"), "made.usb", ()),
    ],
)
def test_a_product_replaces_a_link_that_is_in_its_place(
    bench: Any, host: Path, checkpoint: Any, product: str, needed: tuple[str, ...]
) -> None:
    if not all(map(shutil.which, ("mksquashfs", *needed))):
        pytest.skip("tools are missing")
    make_ready(bench)
    media = bench.root / "media"
    doc = bench.empty_doc()
    if isinstance(checkpoint, CreateISO):
        for part in ("boot/grub/grub.cfg", "live/filesystem.squashfs"):
            (media / "iso" / part).parent.mkdir(parents=True, exist_ok=True)
            (media / "iso" / part).write_text(part)
    if isinstance(checkpoint, CreateUSB):
        (media / "made.iso").write_text("made")
        record_medium(bench.context(doc), "iso", media / "made.iso")
    for target in (host / "secret", host / "new"):
        path = media / product
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(target)
        checkpoint.execute(bench.context(doc))
        assert path.is_file() and not path.is_symlink()
    assert [path.name for path in host.iterdir()] == ["secret"]
    assert (host / "secret").read_text() == "of the host"


def test_a_directory_that_leads_to_the_host_is_taken_in_the_area(bench: Any, host: Path) -> None:
    make_ready(bench)
    (bench.root / "media/iso").symlink_to(host)
    GrubBootMenu("test").execute(bench.context(bench.empty_doc()))
    assert [path.name for path in host.iterdir()] == ["secret"]
    assert (bench.root / "media" / str(host).lstrip("/") / "boot/grub/grub.cfg").is_file()


@pytest.mark.parametrize("name", ["vmlinuz", "extra"])
@pytest.mark.parametrize("part", ["boot/grub/grub.cfg", "live/filesystem.squashfs", None])
def test_no_file_of_the_host_gets_onto_the_iso_through_a_link(
    bench: Any, host: Path, name: str, part: str | None
) -> None:
    if not all(map(shutil.which, ("xorriso", "grub-mkimage", "mformat"))):
        pytest.skip("tools are missing")
    make_ready(bench)
    tree = bench.root / "media/iso"
    for each in ("boot/grub/grub.cfg", "live/filesystem.squashfs"):
        (tree / each).parent.mkdir(parents=True, exist_ok=True)
        if each == part:
            (tree / each).symlink_to(host / "secret")
        else:
            (tree / each).write_text(each)
    if part is None:
        (bench.root / "boot_archive" / name).unlink(missing_ok=True)
        (bench.root / "boot_archive" / name).symlink_to(host / "secret")
    with pytest.raises(CheckpointError, match=r"is a link|there is no"):
        CreateISO("test").execute(bench.context(bench.empty_doc()))


def test_a_link_on_the_medium_stays_a_link(bench: Any, host: Path, tmp_path: Path) -> None:
    if not all(map(shutil.which, ("xorriso", "grub-mkimage", "mformat"))):
        pytest.skip("tools are missing")
    make_ready(bench)
    tree = bench.root / "media/iso"
    for each in ("boot/grub/grub.cfg", "live/filesystem.squashfs"):
        (tree / each).parent.mkdir(parents=True, exist_ok=True)
        (tree / each).write_text(each)
    (tree / "out").symlink_to(host / "secret")
    (tree / "outside").symlink_to(host)
    CreateISO("test").execute(bench.context(bench.empty_doc()))
    found = subprocess.run(
        ["xorriso", "-no_rc", "-indev", bench.root / "media/test.iso", "-find", "/", "-type", "l"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert set(found.replace("'", "").split()) == {"/out", "/outside"}
    assert b"of the host" not in (bench.root / "media/test.iso").read_bytes()


def test_a_disk_is_not_made_through_a_link(bench: Any, host: Path) -> None:
    (bench.root / "media/test.raw").symlink_to(host / "new")
    with pytest.raises(CheckpointError, match="already"):
        bench.execute(CreateDisk("test"), MACHINE)
    assert not (host / "new").exists()


def test_a_boot_loader_made_of_links_is_refused(bench: Any, host: Path) -> None:
    modules = bench.image / "usr/lib/grub/i386-pc"
    modules.mkdir(parents=True)
    (modules / "moddep.lst").write_text("")
    (modules / "kernel.img").symlink_to(host / "secret")
    with pytest.raises(CheckpointError, match=r"kernel\.img .* is a link"):
        check_modules(bench.image, PC, {"bios"})


@pytest.mark.parametrize("link", ["etc", "etc/apt", "etc/apt/auth.conf.d", "var/lib"])
def test_tools_of_the_host_are_not_led_out_of_the_image(bench: Any, host: Path, link: str) -> None:
    paths = ("etc/apt/auth.conf.d/00dcd.conf", "var/lib/dpkg/status")
    require_no_links(bench.image, paths)
    (bench.image / link).parent.mkdir(parents=True, exist_ok=True)
    (bench.image / link).symlink_to(host)
    with pytest.raises(CheckpointError, match=f"/{link} of the image is a link"):
        require_no_links(bench.image, paths)
