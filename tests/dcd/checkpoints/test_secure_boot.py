"""Secure Boot: media and disks start with signed programs, and each lack is an error that names its remedy.

The programs are small ones with a key of the tests; whole images are booted by the tests of the system.
"""

import os
import shutil
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints import secure_boot
from dcd.checkpoints.interface import Checkpoint
from dcd.checkpoints.media.iso import CreateISO
from dcd.checkpoints.media.verify_boot import VerifyBoot
from dcd.checkpoints.recorded import record_medium
from dcd.checkpoints.vm import verify_boot as vm
from dcd.checkpoints.vm.create_disk import CreateDisk
from dcd.checkpoints.vm.disk import DiskLayout, recorded_disk
from dcd.checkpoints.vm.install_offline import InstallOffline
from dcd.checkpoints.vm.layout_checks import ESP
from dcd.manifest.diagnostics import Diagnostic, ManifestError, refuse
from dcd.manifest.doc import DataObjectDict
from dcd.manifest.secrets import secret_text
from dcd.planning.load import load
from dcd.planning.readiness import examine
from dcd.platform.efi_signing import checked_pair
from dcd.platform.hypervisor import GuestTrouble
from dcd.platform.pe import is_signed
from statemachine.errors import CheckpointError
from store.host.tools import missing
from tests.dcd.checkpoints import efi

LACKING = missing((*CreateISO.TOOLS, *InstallOffline.TOOLS))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}"),
]

EPOCH = 1_700_000_000

MEDIA = "<distro_spec><img_params {}><media_im/></img_params></distro_spec>"
VM = "<distro_spec><img_params {}><vm_im firmware='uefi'/></img_params></distro_spec>"
DISTRIBUTION = 'secure_boot="distribution"'
SHIM, GRUB, MOK = "EFI/BOOT/BOOTX64.EFI", "EFI/BOOT/grubx64.efi", "EFI/BOOT/mmx64.efi"


@pytest.fixture
def ready(bench: Any) -> Any:
    """A bench with everything for an ISO or a disk, and the signed programs of a distribution."""
    (bench.root / "media/iso/boot/grub").mkdir(parents=True)
    (bench.root / "media/iso/boot/grub/grub.cfg").write_text("set timeout=0\n")
    (bench.root / "media/iso/live").mkdir()
    (bench.root / "media/iso/live/filesystem.squashfs").write_bytes(b"hsqs" + bytes(100_000))
    efi.signed(bench.root / "boot_archive/vmlinuz")
    (bench.root / "boot_archive/initrd.img").write_bytes(b"initramfs")
    efi.add_distribution(bench.image)
    return bench


def make_iso(bench: Any, attributes: str = DISTRIBUTION) -> dict[str, bytes]:
    """Make the ISO; returns the files of its EFI system partition."""
    doc = bench.doc(MEDIA.format(attributes))
    refuse(CreateISO("iso").check(doc))
    CreateISO("iso").execute(bench.context(doc, environment={"SOURCE_DATE_EPOCH": str(EPOCH)}))
    iso, esp = bench.root / "media/test.iso", bench.root / "esp.img"
    return efi.files_of_esp(extracted(iso, "/boot/grub/efi.img", esp))


def test_the_iso_starts_with_the_signed_programs_unchanged(ready: Any) -> None:
    files = make_iso(ready)
    shim = ready.image / "usr/lib/shim"
    assert files[SHIM] == (shim / "shimx64.efi.signed").read_bytes()
    assert files[MOK] == (shim / "mmx64.efi.signed").read_bytes()
    assert sorted(files) == [SHIM, GRUB, MOK, "EFI/debian/grub.cfg"]
    (ready.root / "grub").write_bytes(files[GRUB])
    assert "subject: /CN=tests" in efi.signers(ready.root / "grub")


def test_the_signed_grub_is_led_to_the_menu_of_this_medium(ready: Any) -> None:
    first, second, third = make_iso(ready)["EFI/debian/grub.cfg"].decode().splitlines()
    assert first.startswith("search --no-floppy --file --set=root /.disk/dcd-")
    assert (second, third) == ("set prefix=($root)/boot/grub", "configfile $prefix/grub.cfg")


def test_the_settings_are_where_the_grub_of_another_distribution_looks(ready: Any) -> None:
    efi.signed(ready.image / "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed", "/EFI/ubuntu")
    assert "EFI/ubuntu/grub.cfg" in make_iso(ready)


def test_the_same_image_gives_the_same_iso(ready: Any) -> None:
    make_iso(ready)
    first = (ready.root / "media/test.iso").read_bytes()
    shutil.rmtree(ready.root / "tmp")
    (ready.root / "tmp").mkdir()
    make_iso(ready)
    assert (ready.root / "media/test.iso").read_bytes() == first


def test_without_secure_boot_a_warning_says_that_signed_programs_are_not_used(ready: Any) -> None:
    assert list(make_iso(ready, "")) == [SHIM]
    (warned,) = (each.message for each in ready.reports if each.warning)
    assert 'secure_boot="distribution"' in warned


@pytest.mark.parametrize(
    ("path", "package"),
    [
        ("usr/lib/shim/shimx64.efi.signed", "shim-signed"),
        ("usr/lib/shim/mmx64.efi.signed", "shim-signed"),
        ("usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed", "grub-efi-amd64-signed"),
    ],
)
def test_a_missing_program_is_an_error_with_its_package(
    ready: Any, path: str, package: str
) -> None:
    (ready.image / path).unlink()
    with pytest.raises(CheckpointError) as caught:
        make_iso(ready)
    assert path in caught.value.details
    assert f"<name>{package}</name>" in caught.value.resolution
    assert not ready.artifacts


def test_a_program_without_a_signature_is_refused(ready: Any) -> None:
    efi.program(ready.image / "usr/lib/shim/shimx64.efi.signed")
    with pytest.raises(CheckpointError, match=r"shimx64\.efi\.signed of the image is not signed"):
        make_iso(ready)


def test_a_kernel_without_a_signature_is_refused(ready: Any) -> None:
    efi.program(ready.root / "boot_archive/vmlinuz")
    with pytest.raises(CheckpointError, match="the kernel vmlinuz is not signed") as caught:
        make_iso(ready)
    assert "linux-image-amd64" in caught.value.resolution


def test_a_link_in_the_image_leads_to_no_file_of_the_host(ready: Any, tmp_path: Path) -> None:
    outside = efi.signed(tmp_path / "outside")
    shim = ready.image / "usr/lib/shim/shimx64.efi.signed"
    shim.unlink()
    shim.symlink_to(outside)
    with pytest.raises(CheckpointError, match="the signed shim in the image is missing"):
        make_iso(ready)


def test_a_boot_loader_of_absurd_size_is_refused(ready: Any) -> None:
    with (ready.image / "usr/lib/shim/shimx64.efi.signed").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(CheckpointError, match="too large for a boot loader"):
        make_iso(ready)


@pytest.mark.parametrize("content", [b"", b"MZ", b"MZ" + b"\xff" * 200, bytes(5000)])
def test_a_file_that_is_no_program_has_no_signature(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert not is_signed(tmp_path / "file")


def make_disk(
    bench: Any, manifest: str, inputs: dict[str, Path] | None = None
) -> tuple[Path, DiskLayout]:
    doc = bench.doc(manifest)
    doc.persistent.insert_children(
        DataObjectDict("boot_archive", {"kernel_version": efi.KERNEL_VERSION})
    )
    for checkpoint in (CreateDisk("disk"), InstallOffline("install", grow_root=False)):
        refuse(checkpoint.check(doc))
        environment = {"SOURCE_DATE_EPOCH": str(EPOCH)}
        checkpoint.execute(bench.context(doc, inputs=inputs, environment=environment))
    return recorded_disk(bench.context(doc))


@pytest.fixture
def installable(ready: Any, own_mounts: None) -> Any:
    """The bench with an image that can be installed."""
    (ready.image / "boot").mkdir()
    (ready.image / "etc").mkdir()
    efi.signed(ready.image / f"boot/vmlinuz-{efi.KERNEL_VERSION}")
    shutil.copytree(
        "/usr/lib/grub/x86_64-efi",
        ready.image / "usr/lib/grub/x86_64-efi",
        ignore=shutil.ignore_patterns("monolithic", "*.o"),
    )
    return ready


@pytest.mark.root
def test_the_disk_starts_with_the_signed_programs(installable: Any) -> None:
    disk, layout = make_disk(installable, VM.format(DISTRIBUTION))
    (esp,) = (one for one in layout.partitions if one.type == ESP)
    files = efi.files_of_esp(disk, esp.start)
    assert {SHIM, GRUB, MOK} < set(files)
    root = layout.mounted_at("/")
    assert root is not None
    assert files["EFI/debian/grub.cfg"].decode().splitlines() == [
        f"search --no-floppy --fs-uuid --set=root {root.volume.uuid}",
        "set prefix=($root)/boot/grub",
        "configfile $prefix/grub.cfg",
    ]


@pytest.mark.root
def test_an_unsigned_kernel_on_the_disk_is_refused_with_its_name(installable: Any) -> None:
    efi.program(installable.image / "boot/vmlinuz-6.1.0-2-own")
    with pytest.raises(CheckpointError, match=r"vmlinuz-6\.1\.0-2-own is not signed"):
        make_disk(installable, VM.format(DISTRIBUTION))


@pytest.fixture
def key(ready: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The place of a secret, the private key of the tests, of which the image has unsigned programs."""
    directory = tmp_path / "secrets"
    directory.mkdir()
    place = shutil.copy(efi.keys()[0], directory / "db.key")
    monkeypatch.setattr(
        secure_boot, "secret_text", lambda path: secret_text(path, directories=(directory,))
    )
    efi.program(ready.image / "usr/lib/shim/shimx64.efi")
    monolithic = ready.image / "usr/lib/grub/x86_64-efi/monolithic"
    efi.program(monolithic / "grubx64.efi")
    efi.program(monolithic / "grubnetx64.efi", "/grub")
    efi.program(ready.root / "boot_archive/vmlinuz")
    return str(place)


def keys_manifest(key: str) -> str:
    signing = f'<media_im/><signing key="{key}" certificate="db.crt"/>'
    return MEDIA.format('secure_boot="keys"').replace("<media_im/>", signing)


def sign_iso(bench: Any, key: str, certificate: Path | None = None) -> Path:
    """Make an ISO that is signed with the key."""
    doc = bench.doc(keys_manifest(key))
    refuse(CreateISO("iso").check(doc))
    inputs = {"db.crt": certificate or efi.keys()[1]}
    environment = {"SOURCE_DATE_EPOCH": str(EPOCH)}
    CreateISO("iso").execute(bench.context(doc, inputs=inputs, environment=environment))
    made: Path = bench.root / "media/test.iso"
    return made


def extracted(iso: Path, path: str, target: Path) -> Path:
    """A file of an ISO."""
    target.unlink(missing_ok=True)
    command = ["xorriso", "-no_rc", "-osirrox", "on", "-indev", iso, "-extract", path, target]
    subprocess.run(command, check=True, capture_output=True)
    return target


def verified(program: Path) -> bool:
    """Whether sbverify accepts a program by the certificate of the tests."""
    command = ["sbverify", "--cert", efi.keys()[1], program]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_shim_grub_and_kernel_are_signed_with_the_users_key(
    ready: Any, key: str, tmp_path: Path
) -> None:
    iso = sign_iso(ready, key)
    files = efi.files_of_esp(extracted(iso, "/boot/grub/efi.img", tmp_path / "esp"))
    assert sorted(files) == [SHIM, GRUB, "EFI/debian/grub.cfg"]
    for name in (SHIM, GRUB):
        program = tmp_path / "program"
        program.write_bytes(files[name])
        assert verified(program)
    assert verified(extracted(iso, "/live/vmlinuz", tmp_path / "kernel"))
    assert not is_signed(ready.root / "boot_archive/vmlinuz")


def test_the_same_key_gives_the_same_bytes_at_another_time(ready: Any, key: str) -> None:
    first = sign_iso(ready, key).read_bytes()
    shutil.rmtree(ready.root / "tmp")
    (ready.root / "tmp").mkdir()
    time.sleep(1.1)  # The time in a signature has seconds.
    assert sign_iso(ready, key).read_bytes() == first


def test_the_private_key_is_nowhere_in_the_workspace_the_evidence_and_the_log(
    ready: Any, key: str, capfd: pytest.CaptureFixture[str]
) -> None:
    sign_iso(ready, key)
    needle = Path(key).read_text().splitlines()[5]
    below = [*ready.root.rglob("*"), *ready.evidence.rglob("*")]
    assert not [path for path in below if path.is_file() and needle.encode() in path.read_bytes()]
    assert needle not in "".join(capfd.readouterr()) + ready.messages()


def test_a_key_that_has_changed_since_the_plan_signs_nothing(
    ready: Any, key: str, tmp_path: Path
) -> None:
    _, other = efi.new_keys(tmp_path, "other")
    with pytest.raises(CheckpointError, match=r"does not belong to the certificate db\.crt"):
        sign_iso(ready, key, other)
    assert not ready.artifacts


@pytest.mark.root
def test_every_kernel_of_a_disk_is_signed_with_the_users_key(installable: Any, key: str) -> None:
    efi.program(installable.image / f"boot/vmlinuz-{efi.KERNEL_VERSION}")
    efi.program(installable.image / "boot/vmlinuz-6.1.0-2-own")
    signing = f'<vm_im firmware="uefi"/><signing key="{key}" certificate="db.crt"/>'
    vm_keys = f"<distro_spec><img_params secure_boot='keys'>{signing}</img_params></distro_spec>"
    disk, layout = make_disk(installable, vm_keys, {"db.crt": efi.keys()[1]})
    assert verified(installable.image / "boot/vmlinuz-6.1.0-2-own")
    assert verified(installable.image / f"boot/vmlinuz-{efi.KERNEL_VERSION}")
    (esp,) = (one for one in layout.partitions if one.type == ESP)
    program = installable.root / "program"
    program.write_bytes(efi.files_of_esp(disk, esp.start)[GRUB])
    assert verified(program)


@pytest.mark.parametrize(
    ("kind", "damage", "message"),
    [
        ("rsa:2048", "", ""),
        ("rsa:2048", "key", "cannot be used"),
        ("rsa:2048", "certificate", "is no certificate"),
        ("rsa:2048", "other", "does not belong to the certificate"),
        ("ec -pkeyopt ec_paramgen_curve:P-256", "", "is no RSA key"),
    ],
)
def test_a_pair_that_firmware_cannot_use_is_an_error_without_the_key(
    tmp_path: Path, kind: str, damage: str, message: str
) -> None:
    key, certificate = efi.new_keys(tmp_path, "one", kind)
    if damage == "other":
        key, _ = efi.new_keys(tmp_path, "two")
    text = key.read_text()[1 if damage == "key" else 0 :]
    if damage == "certificate":
        certificate.write_text("no certificate")
    if not message:
        assert checked_pair("db.key", text, certificate, "db.crt").certificate == certificate
        return
    with pytest.raises(CheckpointError, match=message) as caught:
        checked_pair("db.key", text, certificate, "db.crt")
    shown = f"{caught.value.brief}{caught.value.details}{caught.value.resolution}"
    assert text.splitlines()[3] not in shown


def test_a_key_with_a_passphrase_is_an_error_that_says_how_to_write_it_without(
    tmp_path: Path,
) -> None:
    key, certificate = efi.new_keys(tmp_path, "one")
    subprocess.run(
        ["openssl", "pkey", "-in", key, "-aes256", "-passout", "pass:word", "-out", tmp_path / "k"],
        check=True,
    )
    with pytest.raises(CheckpointError, match="cannot be used") as caught:
        checked_pair("db.key", (tmp_path / "k").read_text(), certificate, "db.crt")
    assert "without a passphrase" in caught.value.resolution


@pytest.mark.root
@pytest.mark.timeout(120)
def test_what_is_no_file_among_the_kernels_is_left_alone(installable: Any, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("of the host")
    os.mkfifo(installable.image / "boot/vmlinuz-1-fifo")
    (installable.image / "boot/vmlinuz-2-link").symlink_to(outside)
    make_disk(installable, VM.format(DISTRIBUTION))
    assert outside.read_text() == "of the host"


LIVE = ("TransferDEB", "DebianBootArchive", "GrubBootMenu", "SquashfsPkgImgMod", "CreateISO")


def found(attributes: str, packages: str) -> list[Diagnostic]:
    """What a check finds in a manifest of a live ISO with these packages."""
    names = "".join(f"<name>{name}</name>" for name in packages.split())
    steps = "".join(f'<checkpoint name="{each}" type="{each}"/>' for each in LIVE)
    text = (
        f'<dc><distro name="x">{MEDIA.format(attributes)}<software name="TransferDEB" type="DEB">'
        f"<software_data>{names}</software_data></software><execution>{steps}</execution></distro></dc>"
    )
    try:
        return list(load(text, "/m.xml", examine=partial(examine, allowed=())).diagnostics)
    except ManifestError as error:
        return list(error.diagnostics)


def test_a_package_that_is_not_in_the_list_is_an_error_before_the_build() -> None:
    listed = "linux-image-amd64 live-boot"
    errors = [each for each in found(DISTRIBUTION, listed) if each.severity == "error"]
    assert [each.message for each in errors] == [
        "CreateISO needs the signed shim in the image, and nothing before it makes that",
        "CreateISO needs the signed GRUB in the image, and nothing before it makes that",
    ]
    assert [each.suggestion for each in errors] == [
        "add <name>shim-signed</name> to the packages of the transfer",
        "add <name>grub-efi-amd64-signed</name> to the packages of the transfer",
    ]
    assert found(DISTRIBUTION, f"{listed} shim-signed grub-efi-amd64-signed") == []


def test_signed_packages_that_are_not_used_are_a_warning_with_the_remedy() -> None:
    warnings = found("", "linux-image-amd64 live-boot shim-signed grub-efi-amd64-signed")
    assert {each.severity for each in warnings} == {"warning"}
    assert ['secure_boot="distribution"' in each.suggestion for each in warnings] == [True, True]


@pytest.mark.parametrize(
    ("checkpoint", "manifest", "severity", "message"),
    [
        (VerifyBoot("v", firmware=("bios",)), MEDIA, "warning", "only UEFI has Secure Boot"),
        (
            VerifyBoot("v", firmware=("uefi",), hypervisor="virtualbox"),
            MEDIA,
            "error",
            "virtualbox is not started with Secure Boot",
        ),
        (
            vm.VerifyBoot("v", controllers=("ide",)),
            VM,
            "error",
            "a machine with IDE has no Secure Boot",
        ),
    ],
)
def test_a_boot_that_cannot_test_secure_boot_is_reported(
    bench: Any, checkpoint: Checkpoint, manifest: str, severity: str, message: str
) -> None:
    doc = bench.doc(manifest.format(DISTRIBUTION))
    matching = [each for each in checkpoint.check(doc) if message in each.message]
    assert [each.severity for each in matching] == [severity]
    plain = bench.doc(manifest.format(""))
    assert not [each for each in checkpoint.check(plain) if message in each.message]


def boot(bench: Any, manifest: str, marker: str) -> None:
    """Boot the ISO of the bench, as VerifyBoot does for that manifest."""
    doc = bench.doc(manifest)
    context = bench.context(doc, inputs={"db.crt": efi.keys()[1]})
    record_medium(context, "iso", bench.root / "media/test.iso")
    verify = VerifyBoot(
        *("verify", ("uefi",)), accelerator="tcg", memory_mb=256, marker=marker, timeout_seconds=120
    )
    verify.execute(context)


@pytest.mark.slow
def test_firmware_refuses_an_unsigned_loader_and_the_result_says_so(ready: Any) -> None:
    make_iso(ready, "")
    with pytest.raises(GuestTrouble, match="uefi: the UEFI firmware refused the boot loader"):
        boot(ready, MEDIA.format(DISTRIBUTION), "login:")


@pytest.mark.slow
def test_firmware_with_the_users_certificate_starts_what_the_key_has_signed(
    ready: Any, key: str
) -> None:
    sign_iso(ready, key)
    boot(ready, keys_manifest(key), "GRUB")
    assert "with Secure Boot" in ready.messages()
    assert any("did not report it" in each.message for each in ready.reports if each.warning)
