"""UnifiedKernelImage: what is in the program, its signature, and that media and disks start with it."""

import shutil
import subprocess
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints import secure_boot
from dcd.checkpoints.boot.unified import UnifiedKernelImage
from dcd.checkpoints.media.iso import CreateISO
from dcd.checkpoints.recorded import record_values
from dcd.checkpoints.vm.disk import DiskLayout, Volume, VolumePartition, record_disk
from dcd.manifest.diagnostics import refuse
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.secrets import secret_text
from dcd.platform.pe import loaded_range
from statemachine.errors import CheckpointError
from store.host.tools import missing
from tests.dcd.checkpoints import efi

LACKING = missing((*UnifiedKernelImage.TOOLS, *CreateISO.TOOLS))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}"),
]

MEDIA = """<distro_spec><img_params {}><media_im><boot_mods title="Live"><boot_entry default_entry="true">
<title_suffix>(serial)</title_suffix><kernel_args>console=ttyS0 a="b c"</kernel_args></boot_entry>
</boot_mods></media_im>{}</img_params></distro_spec>"""


@pytest.fixture
def ready(bench: Any) -> Any:
    """A bench with a stub in the image, and a boot archive larger than El Torito can tell."""
    efi.program(bench.image / "usr/lib/systemd/boot/efi/linuxx64.efi.stub")
    (bench.image / "etc").mkdir()
    (bench.image / "etc/os-release").write_text('ID=debian\nPRETTY_NAME="Debian"\n')
    efi.program(bench.root / "boot_archive/vmlinuz")
    with (bench.root / "boot_archive/initrd.img").open("wb") as initramfs:
        initramfs.write(b"initramfs")
        initramfs.truncate(40 << 20)
    return bench


def make(
    bench: Any, attributes: str = "", signing: str = "", **arguments: Any
) -> tuple[Path, DataObjectCache]:
    doc: DataObjectCache = bench.doc(MEDIA.format(attributes, signing))
    checkpoint = UnifiedKernelImage("uki", **arguments)
    refuse(checkpoint.check(doc))
    record_values(bench.context(doc), "boot_archive", {"kernel_version": efi.KERNEL_VERSION})
    context = bench.context(doc, inputs={"db.crt": efi.keys()[1]})
    checkpoint.execute(context)
    return secure_boot.unified_of(context) or Path(), doc


def test_the_program_holds_kernel_initramfs_arguments_and_release(ready: Any) -> None:
    program, _ = make(ready)
    assert efi.section(program, ".linux") == (ready.root / "boot_archive/vmlinuz").read_bytes()
    assert efi.section(program, ".initrd") == (ready.root / "boot_archive/initrd.img").read_bytes()
    assert efi.section(program, ".osrel") == (ready.image / "etc/os-release").read_bytes()
    assert efi.section(program, ".uname").decode() == efi.KERNEL_VERSION
    assert [artifact.name for artifact in ready.artifacts] == ["test.efi"]


def test_it_starts_like_the_default_entry_of_the_menu(ready: Any) -> None:
    program, _ = make(ready)
    line = efi.section(program, ".cmdline").decode()
    assert line == 'boot=live components quiet console=ttyS0 "a=b c"'
    program, _ = make(ready, kernel_args="boot=live debug")
    assert efi.section(program, ".cmdline").startswith(b"boot=live debug console=ttyS0")


def test_the_sections_are_behind_the_stub_and_do_not_overlap(ready: Any) -> None:
    program, _ = make(ready)
    base, size = loaded_range(ready.image / "usr/lib/systemd/boot/efi/linuxx64.efi.stub")
    listed = subprocess.run(["objdump", "-h", program], capture_output=True, text=True, check=True)
    rows = [line.split() for line in listed.stdout.splitlines() if line.strip()[:1].isdigit()]
    places = sorted((int(row[3], 16), int(row[2], 16), row[1]) for row in rows)
    ours = [place for place in places if place[0] >= base + size]
    assert [name for _, _, name in ours] == [".osrel", ".uname", ".cmdline", ".initrd", ".linux"]
    assert all(a + length <= b for (a, length, _), (b, _, _) in pairwise(ours))


def test_the_same_layer_gives_the_same_program_at_another_time(ready: Any) -> None:
    first = make(ready)[0].read_bytes()
    time.sleep(1.1)  # The time in a header has seconds.
    assert make(ready)[0].read_bytes() == first


@pytest.fixture
def signing(ready: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The element of a key that is a secret of the host."""
    key = shutil.copy(efi.keys()[0], tmp_path / "db.key")
    monkeypatch.setattr(
        secure_boot, "secret_text", lambda path: secret_text(path, directories=(tmp_path,))
    )
    return f'<signing key="{key}" certificate="db.crt"/>'


def test_the_iso_starts_with_the_signed_program_alone(
    ready: Any, signing: str, tmp_path: Path
) -> None:
    program, doc = make(ready, 'secure_boot="keys"', signing)
    command = ["sbverify", "--cert", efi.keys()[1], program]
    subprocess.run(command, check=True, capture_output=True)
    tree = ready.root / "media/iso"
    for name in ("boot/grub/grub.cfg", "live/filesystem.squashfs"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("content")
    CreateISO("iso").execute(ready.context(doc, inputs={"db.crt": efi.keys()[1]}))
    iso, esp = ready.root / "media/test.iso", tmp_path / "esp"
    extract = ["-osirrox", "on", "-indev", iso, "-extract", "/boot/grub/efi.img", esp]
    subprocess.run(["xorriso", "-no_rc", *extract], check=True, capture_output=True)
    assert efi.files_of_esp(esp) == {"EFI/BOOT/BOOTX64.EFI": program.read_bytes()}
    told = subprocess.run(
        ["xorriso", "-no_rc", "-indev", iso, "-report_el_torito", "plain"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    # More than 32 MiB cannot be told; 0 means all up to the end of the medium.
    assert "2  UEFI  y   none  0x0000  0x00      0 " in told


def test_the_arguments_name_the_root_of_the_disk(ready: Any) -> None:
    doc = ready.doc(MEDIA.format("", ""))
    context = ready.context(doc)
    root = VolumePartition(3, "t", "u", 0, 1, volume=Volume("ext4", "6a3c9f0e", mountpoint="/"))
    (ready.root / "media/d").touch()
    record_disk(context, ready.root / "media/d", DiskLayout("d", 1, 512, "guid", (root,)))
    UnifiedKernelImage("uki").execute(context)
    program = secure_boot.unified_of(context)
    assert program is not None
    assert efi.section(program, ".cmdline").startswith(b"root=UUID=6a3c9f0e ro quiet console=ttyS0")


@pytest.mark.parametrize(
    ("lacking", "remedy"),
    [
        ("pkg_image/usr/lib/systemd/boot/efi/linuxx64.efi.stub", "systemd-boot-efi"),
        ("boot_archive/initrd.img", "DebianBootArchive"),
    ],
)
def test_what_is_lacking_is_an_error_with_its_remedy(ready: Any, lacking: str, remedy: str) -> None:
    (ready.root / lacking).unlink()
    with pytest.raises(CheckpointError) as caught:
        make(ready)
    assert remedy in caught.value.resolution


def test_a_stub_that_is_no_program_is_an_error(ready: Any) -> None:
    (ready.image / "usr/lib/systemd/boot/efi/linuxx64.efi.stub").write_bytes(b"MZ" + bytes(500))
    with pytest.raises(CheckpointError, match="no program of UEFI firmware"):
        make(ready)


def test_no_distribution_signs_it(ready: Any) -> None:
    doc = ready.doc(MEDIA.format('secure_boot="distribution"', ""))
    (fault,) = UnifiedKernelImage("uki").check(doc)
    assert "no distribution signs a unified kernel image" in fault.message
