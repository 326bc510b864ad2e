"""A checkpoint that cannot find what it needs of those before it is found when the manifest is checked."""

from functools import partial
from pathlib import Path

import pytest

from dcd.manifest.diagnostics import Diagnostic, ManifestError
from dcd.planning.load import Settings, load
from dcd.planning.readiness import examine

MODULES = {
    "TransferDEB": "transfer/deb",
    "TransferArchive": "transfer/archive",
    "CustomScript": "custom_script",
    "DebianPrePkgImgMod": "image/configure",
    "DebianInstaller": "image/installer",
    "DebianBootArchive": "boot/archive",
    "GrubBootMenu": "boot/menu",
    "SquashfsPkgImgMod": "image/compress",
    "CreateISO": "media/iso",
    "CreateUSB": "media/usb",
    "VerifyBoot": "media/verify_boot",
    "CreateDisk": "vm/create_disk",
    "InstallOffline": "vm/install_offline",
    "InstallISCSI": "vm/install_iscsi",
    "Relabel": "vm/relabel",
    "Convert": "vm/convert",
    "CreateOVA": "vm/ova",
}
PLUGIN = ("silent_plugin",)
SILENT = """
from dcd.checkpoints.interface import Checkpoint
class Silent(Checkpoint):
    def execute(self, context):
        pass
"""
LIVE = "linux-image-amd64 live-boot"
MEDIUM = ["TransferDEB", "DebianBootArchive", "GrubBootMenu", "SquashfsPkgImgMod", "CreateISO"]
FORMATS = {"Convert": '<vm_format type="qcow2"/>', "CreateOVA": '<vm_format type="ova"/>'}
"""What each of these checkpoints makes."""


def element(cls: str, module: str) -> str:
    return f'<checkpoint name="{cls}" mod_path="{module}" checkpoint_class="{cls}"/>'


def found(
    *checkpoints: str, packages: str = LIVE, pause_before: str | None = None
) -> list[Diagnostic]:
    """What is wrong with these checkpoints in this order, each on a line of its own, the first on line 1. A
    name, or a whole element."""
    names = "".join(f"<name>{name}</name>" for name in packages.split())
    data = f"<software_data>{names}</software_data>" if names else ""
    software = f'<software name="TransferDEB" type="DEB">{data}</software>'
    has_software = software if "TransferDEB" in checkpoints else ""
    formats = "".join(made for name, made in FORMATS.items() if name in checkpoints)
    machine = f"<distro_spec><img_params><vm_im>{formats}</vm_im></img_params></distro_spec>"
    text = f'<dc><distro name="x">{machine}{has_software}<execution>' + "\n".join(
        each if each.startswith("<") else element(each, f"dcd/checkpoints/{MODULES[each]}")
        for each in checkpoints
    )
    check = partial(examine, allowed=PLUGIN, pause_before=pause_before)
    text += "</execution></distro></dc>"
    settings = Settings(allowed_modules=PLUGIN)
    try:
        diagnostics = load(text, "/m.xml", examine=check, settings=settings).diagnostics
    except ManifestError as refused:
        diagnostics = refused.diagnostics
    return [each for each in diagnostics if "reads this format" not in each.message]


def errors(*checkpoints: str, packages: str = LIVE) -> list[tuple[int, str]]:
    return [
        (each.line, each.message)
        for each in found(*checkpoints, packages=packages)
        if each.severity == "error"
    ]


def script(text: str, chroot: bool = False) -> str:
    inside = "<kwargs><arg name='chroot'>true</arg></kwargs>" if chroot else ""
    return (
        '<checkpoint name="s" mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript">'
        f"<args>{text}</args>{inside}</checkpoint>"
    )


def test_checkpoints_that_find_what_they_need_are_fine() -> None:
    assert found(*MEDIUM, "CreateUSB", "VerifyBoot") == []
    grub = "linux-image-amd64 grub-pc-bin grub-efi-amd64-bin"
    machine = [
        "TransferDEB",
        "DebianBootArchive",
        "CreateDisk",
        "InstallOffline",
        "Relabel",
        "Convert",
        "CreateOVA",
    ]
    assert found(*machine, packages=grub) == []


@pytest.mark.parametrize(
    ("checkpoints", "line", "message", "remedy"),
    [
        (
            ["TransferDEB", "DebianBootArchive", "GrubBootMenu", "CreateISO", "SquashfsPkgImgMod"],
            4,
            "CreateISO needs the compressed image, which SquashfsPkgImgMod makes after it",
            "put SquashfsPkgImgMod before CreateISO",
        ),
        (
            ["TransferDEB", "DebianBootArchive", "SquashfsPkgImgMod", "CreateISO"],
            4,
            "CreateISO needs a boot menu, and nothing before it makes that",
            "GrubBootMenu",
        ),
        (
            ["TransferDEB", "GrubBootMenu"],
            2,
            "GrubBootMenu needs a boot archive, which is kernel and initramfs, and nothing",
            "DebianBootArchive",
        ),
        (["SquashfsPkgImgMod"], 1, "SquashfsPkgImgMod needs an image", "TransferDEB"),
        (["DebianPrePkgImgMod"], 1, "DebianPrePkgImgMod needs an image", "TransferDEB"),
        (["DebianInstaller"], 1, "DebianInstaller needs an image", "TransferDEB"),
        (["CreateUSB"], 1, "CreateUSB needs an ISO", "CreateISO"),
        (["VerifyBoot"], 1, "VerifyBoot needs an ISO", "CreateISO"),
        (["Relabel"], 1, "Relabel needs a disk", "CreateDisk"),
        (["Convert"], 1, "Convert needs a disk", "CreateDisk"),
        (["CreateOVA", "CreateDisk"], 1, "CreateOVA needs a disk, which CreateDisk makes", "put"),
        (
            ["TransferDEB", "CreateDisk", "InstallOffline"],
            3,
            "InstallOffline needs a boot archive with a kernel of the image",
            "DebianBootArchive",
        ),
        (["CreateDisk", "InstallISCSI"], 2, "InstallISCSI needs an ISO", "CreateISO"),
    ],
)
def test_what_nothing_before_makes_is_an_error_at_the_checkpoint(
    checkpoints: list[str], line: int, message: str, remedy: str
) -> None:
    all_found = found(*checkpoints)
    (first,) = [each for each in all_found if each.message.startswith(message)]
    assert (first.severity, first.line) == ("error", line)
    assert remedy in first.suggestion


def test_each_lack_is_said_once() -> None:
    assert [message for _, message in errors("CreateUSB", "VerifyBoot")] == [
        "CreateUSB needs an ISO, and nothing before it makes that"
    ]


def test_a_variant_without_a_kernel_is_an_error_and_packages_that_may_depend_on_one_are_not() -> (
    None
):
    kernel = "DebianBootArchive needs a kernel in the image"
    assert errors(*MEDIUM[:2], packages="")[0][1].startswith(kernel)
    (doubt,) = found(*MEDIUM[:2], packages="openssh-server")
    assert (doubt.severity, doubt.line) == ("warning", 2)
    assert doubt.message.startswith(kernel)
    assert "linux-image-amd64" in doubt.suggestion
    assert found(*MEDIUM[:2], packages="task-laptop linux-generic") == []
    assert found(*MEDIUM[:2], packages="linux-image-6.1.0-9-amd64=6.1.27-1") == []


def test_a_live_medium_without_live_boot_is_doubtful() -> None:
    (doubt,) = found(*MEDIUM, packages="linux-image-amd64")
    assert doubt.severity == "warning"
    assert "live-boot" in doubt.suggestion


def test_what_a_command_or_an_archive_may_make_is_no_error() -> None:
    fake = script("echo k &gt; {BOOT_ARCHIVE}/vmlinuz; echo i &gt; {BOOT_ARCHIVE}/initrd.img")
    assert found("TransferDEB", fake, *MEDIUM[2:]) == []
    apt = script("apt-get install -y linux-image-amd64 live-boot", chroot=True)
    assert found("TransferDEB", apt, *MEDIUM[1:], packages="network-manager") == []
    unrelated = found("TransferDEB", script("date"), "GrubBootMenu")
    assert [each.severity for each in unrelated] == ["warning"]
    inside = found("TransferDEB", script("date", chroot=True), "GrubBootMenu")
    assert [each.severity for each in inside] == ["error"]


def test_a_command_does_not_make_up_for_the_wrong_order() -> None:
    (fault,) = found("TransferDEB", script("date"), *MEDIUM[1:3], "CreateISO", "SquashfsPkgImgMod")
    assert fault.severity == "error"
    assert fault.suggestion == "put SquashfsPkgImgMod before CreateISO"


def test_a_checkpoint_that_does_not_say_what_it_makes_may_make_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "silent_plugin.py").write_text(SILENT)
    monkeypatch.syspath_prepend(tmp_path)
    other = element("Silent", "silent_plugin")
    assert found(other, "SquashfsPkgImgMod", "CreateISO", "Relabel") == []


def test_what_is_not_reached_before_a_pause_is_only_doubtful() -> None:
    late = found("TransferDEB", "SquashfsPkgImgMod", "CreateISO", pause_before="CreateISO")
    assert late
    assert {each.severity for each in late} == {"warning"}
    early = found("SquashfsPkgImgMod", "CreateISO", pause_before="CreateISO")
    assert [each.message.split(" needs ")[0] for each in early if each.severity == "error"] == [
        "SquashfsPkgImgMod"
    ]


DISK = ["TransferDEB", "DebianBootArchive", "CreateDisk", "InstallOffline"]


@pytest.mark.parametrize(
    ("packages", "lacking"),
    [
        ("", "grub-pc-bin grub-efi-amd64-bin"),
        ("grub-pc=2.06", "grub-efi-amd64-bin"),
        ("grub-efi-amd64-bin", "grub-pc-bin"),
        ("grub-pc-bin grub-efi-amd64-bin:amd64", ""),
        ("grub-cloud-amd64", ""),
    ],
)
def test_a_disk_needs_grub_for_its_firmware_among_the_packages(packages: str, lacking: str) -> None:
    faults = found(*DISK, packages=f"linux-image-amd64 {packages}")
    assert [each.severity for each in faults] == ["error"] * len(lacking.split())
    for fault, package in zip(faults, lacking.split(), strict=True):
        assert fault.line == 4
        assert f"<name>{package}</name>" in fault.suggestion


def test_a_disk_of_an_image_from_elsewhere_may_have_grub() -> None:
    install = script("apt-get install -y grub-pc-bin grub-efi-amd64-bin", chroot=True)
    assert found("TransferDEB", install, *DISK[1:], packages="linux-image-amd64") == []


def test_a_mistake_in_what_a_checkpoint_reads_does_not_hide_that_it_comes_too_early() -> None:
    wrong = (
        '<checkpoint name="iso" mod_path="dcd/checkpoints/media/iso" checkpoint_class="CreateISO">'
    )
    argument = f'{wrong}<kwargs><arg name="lable">x</arg></kwargs></checkpoint>'
    messages = [each.message for each in found(argument, "SquashfsPkgImgMod")]
    assert "iso needs the compressed image, which SquashfsPkgImgMod makes after it" in messages
