"""What a manifest may leave out: the place of a class, the usual checkpoints, names with one meaning."""

from functools import partial

import pytest

from dcd.manifest.diagnostics import Diagnostic, ManifestError
from dcd.manifest.doc import DataObjectCache, checkpoints_of, configurations_for, software_for
from dcd.manifest.objects import Image, VmFormat
from dcd.planning.load import Loaded, load
from dcd.planning.readiness import examine

PACKAGES = (
    "<software_data><name>linux-image-amd64</name><name>live-boot</name><name>systemd-sysv</name>"
    "<name>grub-pc-bin</name><name>grub-efi-amd64-bin</name><name>grub2-common</name>"
    "<name>initramfs-tools</name></software_data>"
)
DEBIAN = f'<software type="DEB">{PACKAGES}</software>'
DISK = '<target><disk><disk_image name="d.raw" size="2gb"/></disk></target>'


def loaded(content: str) -> Loaded:
    text = f'<dc>\n<distro name="my-image">\n{content}\n</distro>\n</dc>'
    return load(text, "/me/m.xml", examine=partial(examine, allowed=()))


def refused(content: str) -> list[Diagnostic]:
    with pytest.raises(ManifestError) as failure:
        loaded(content)
    return [each for each in failure.value.diagnostics if each.severity == "error"]


def classes(doc: DataObjectCache) -> list[str]:
    return [
        f"{spec.mod_path.removeprefix('dcd/checkpoints/')}:{spec.checkpoint_class}"
        for spec in checkpoints_of(doc)
    ]


# type="..."


def test_a_type_means_the_module_and_the_class() -> None:
    short = loaded(f'{DEBIAN}<execution><checkpoint name="t" type="TransferDEB"/></execution>')
    named = DEBIAN.replace("type=", 'name="t" type=', 1)
    both = loaded(
        f"{named}<execution>"
        '<checkpoint name="t" mod_path="dcd/checkpoints/transfer/deb" checkpoint_class="TransferDEB"/>'
        "</execution>"
    )
    assert short.canonical == both.canonical
    assert "mod_path" in short.canonical


def test_a_type_that_several_modules_have_belongs_to_the_checkpoints_before_it() -> None:
    medium = '<checkpoint name="m" type="CreateISO"/><checkpoint name="v" type="VerifyBoot"/>'
    disk = '<checkpoint name="m" type="CreateDisk"/><checkpoint name="v" type="VerifyBoot"/>'
    first = f'<execution><checkpoint name="t" type="TransferDEB"/>{medium}'
    text = f"{DEBIAN}{first}</execution>"
    with pytest.raises(ManifestError) as failure:
        loaded(text)  # it lacks the steps between, but the class is found
    assert not any("can mean" in each.message for each in failure.value.diagnostics)
    assert [
        each.message
        for each in refused('<execution><checkpoint name="v" type="VerifyBoot"/></execution>')
    ] == ["type='VerifyBoot' can mean media.VerifyBoot or vm.VerifyBoot"]
    assert "vm.VerifyBoot" not in "".join(
        each.message for each in refused(f"<execution>{disk}</execution>")
    )


def test_a_mistyped_type_is_an_error_at_its_place_with_the_right_one() -> None:
    (error,) = refused(
        f'{DEBIAN}<execution>\n<checkpoint name="t"\n type="TransferDeb"/></execution>'
    )
    assert (error.line, error.suggestion) == (5, 'type="TransferDEB"')


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ('type="TransferDEB" mod_path="x"', "both type and mod_path"),
        ('mod_path="dcd/checkpoints/transfer/deb"', "needs the attribute 'type', or both"),
        ("", "needs the attribute 'type', or both"),
    ],
)
def test_a_checkpoint_names_its_class_in_one_way(attributes: str, message: str) -> None:
    found = refused(f'{DEBIAN}<execution><checkpoint name="t" {attributes}/></execution>')
    assert [each for each in found if message in each.message]


# The default checkpoints


def test_debian_packages_alone_make_a_live_iso() -> None:
    made = loaded(f"{DEBIAN}<configuration><user name='ada'/></configuration>")
    assert classes(made.doc) == [
        "transfer/deb:TransferDEB",
        "image/configure:DebianPrePkgImgMod",
        "boot/archive:DebianBootArchive",
        "boot/menu:GrubBootMenu",
        "image/compress:SquashfsPkgImgMod",
        "media/iso:CreateISO",
        "media/verify_boot:VerifyBoot",
        "sbom:WriteSBOM",
    ]
    assert checkpoints_of(made.doc)[1].kwargs["hostname"] == "my-image"
    assert len(configurations_for(made.doc, "configure")) == 1
    assert "a live ISO, since the manifest has Debian packages" in made.choice


def test_a_medium_of_type_netboot_makes_a_netboot_kit() -> None:
    medium = '<distro_spec><img_params><media_im type="netboot"/></img_params></distro_spec>'
    made = loaded(medium + DEBIAN)
    assert classes(made.doc)[2:] == [
        "boot/archive:DebianBootArchive",
        "image/compress:SquashfsPkgImgMod",
        "media/netboot:NetbootKit",
        "media/verify_boot:VerifyBoot",
        "sbom:WriteSBOM",
    ]
    assert 'a netboot kit, since the manifest has <media_im type="netboot">' in made.choice


@pytest.mark.parametrize(
    "machine", [DISK, "<distro_spec><img_params><vm_im/></img_params></distro_spec>"]
)
def test_a_disk_or_a_machine_makes_the_disk_of_a_virtual_machine(machine: str) -> None:
    made = loaded(machine + DEBIAN)
    assert classes(made.doc)[3:] == [
        "vm/create_disk:CreateDisk",
        "vm/install_offline:InstallOffline",
        "vm/relabel:Relabel",
        "vm/convert:Convert",
        "vm/verify_boot:VerifyBoot",
        "sbom:WriteSBOM",
    ]
    formats = made.doc.volatile.get_descendants(class_type=VmFormat)
    assert [each.type for each in formats] == ["qcow2"]
    assert "the manifest has a disk or a machine" in made.choice


@pytest.mark.parametrize(
    ("formats", "makers"),
    [
        (("ova",), ["vm/ova:CreateOVA"]),
        (("raw", "vdi"), ["vm/convert:Convert"]),
        (("raw", " ova "), ["vm/convert:Convert", "vm/ova:CreateOVA"]),
    ],
)
def test_every_format_that_the_manifest_asks_for_has_its_checkpoint(
    formats: tuple[str, ...], makers: list[str]
) -> None:
    asked = "".join(f'<vm_format type="{each}"/>' for each in formats)
    made = loaded(
        f"<distro_spec><img_params><vm_im>{asked}</vm_im></img_params></distro_spec>{DISK}{DEBIAN}"
    )
    found = classes(made.doc)
    start = found.index("vm/relabel:Relabel") + 1
    assert found[start : found.index("vm/verify_boot:VerifyBoot")] == makers
    assert not any("format" in each.message for each in made.diagnostics)


def test_names_in_the_manifest_are_those_of_the_default_checkpoints() -> None:
    named = DEBIAN.replace("<software ", '<software name="base" ')
    made = loaded(f"{named}<configuration name='site'><user name='ada'/></configuration>")
    assert [spec.name for spec in checkpoints_of(made.doc)][:2] == ["base", "site"]


def test_a_manifest_with_checkpoints_keeps_them() -> None:
    made = loaded(f'{DEBIAN}<execution><checkpoint name="t" type="TransferDEB"/></execution>')
    assert classes(made.doc) == ["transfer/deb:TransferDEB", "sbom:WriteSBOM"]
    assert made.choice == ""


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("", 2, "<distro> needs <execution>"),
        (
            DEBIAN.replace("DEB", "IPS"),
            3,
            "there are no default checkpoints for software of type IPS",
        ),
        (
            f"<distro_spec><img_params><media_im/></img_params></distro_spec>{DISK}{DEBIAN}",
            2,
            "<distro> needs <execution>",
        ),
        (
            f"{DEBIAN}<configuration name='a'/><configuration name='b'/>",
            2,
            "<distro> needs <execution>",
        ),
    ],
)
def test_where_several_lists_are_possible_the_error_says_what_decides(
    content: str, line: int, message: str
) -> None:
    errors = refused(content)
    assert (errors[0].line, errors[0].message) == (line, message)
    assert errors[0].suggestion


# Names and actions


def test_a_configuration_without_a_name_belongs_to_the_only_checkpoint_that_reads_it() -> None:
    steps = (
        '<checkpoint name="t" type="TransferDEB"/><checkpoint name="c" type="DebianPrePkgImgMod"/>'
    )
    made = loaded(
        f"{DEBIAN}<execution>{steps}</execution><configuration><user name='ada'/></configuration>"
    )
    assert software_for(made.doc, "t") is not None
    assert len(configurations_for(made.doc, "c")) == 1


def test_of_two_checkpoints_that_read_it_a_configuration_names_one() -> None:
    steps = "".join(f'<checkpoint name="{each}" type="DebianPrePkgImgMod"/>' for each in "ab")
    found = refused(
        f'{DEBIAN}<execution><checkpoint name="t" type="TransferDEB"/>{steps}</execution>'
        "<configuration><user name='ada'/></configuration>"
    )
    assert found[0].message == "this configuration has no name, and a or b could read it"


def test_a_second_transfer_adds_to_the_system_of_the_first() -> None:
    more = '<software name="more" type="DEB"><software_data><name>nano</name></software_data></software>'
    made = loaded(DEBIAN + more)
    assert [spec.name for spec in checkpoints_of(made.doc)][:2] == ["transfer-deb", "more"]
    second = software_for(made.doc, "more")
    assert second is not None
    assert [each.action for each in second.get_descendants(class_type=Image)] == ["use_existing"]


# Root file systems


def rootfs(kind: str) -> str:
    return f'<distro_spec><img_params><rootfs_im type="{kind}"/></img_params></distro_spec>'


SMALL = (
    '<software type="DEB"><destination><image variant="essential"/></destination>'
    "<software_data><name>bash</name></software_data></software>"
)


@pytest.mark.parametrize("kind", ["tar", "cpio", "squashfs", "erofs"])
def test_a_root_file_system_needs_no_kernel_and_no_boot_loader(kind: str) -> None:
    made = loaded(rootfs(kind) + SMALL)
    assert classes(made.doc) == [
        "transfer/deb:TransferDEB",
        "rootfs/archive:RootfsArchive",
        "sbom:WriteSBOM",
    ]
    assert checkpoints_of(made.doc)[1].kwargs == {"format": kind}
    assert made.diagnostics == ()
    assert "a root file system, since the manifest has <rootfs_im>" in made.choice


@pytest.mark.parametrize(
    ("kind", "cls"),
    [("oci", "OCIImage"), ("incus", "IncusImage"), ("lxc", "LXCImage"), ("wsl", "WSLImage")],
)
def test_a_container_has_its_own_checkpoint(kind: str, cls: str) -> None:
    assert checkpoints_of(loaded(rootfs(kind) + SMALL).doc)[1].checkpoint_class == cls


def test_a_root_file_system_is_configured_where_the_manifest_says_how() -> None:
    made = loaded(f"{rootfs('tar')}{SMALL}<configuration><user name='ada'/></configuration>")
    assert classes(made.doc)[1] == "image/configure:DebianPrePkgImgMod"
    assert checkpoints_of(made.doc)[1].kwargs == {"hostname": "my-image"}


def test_a_variant_alone_is_a_root_file_system_without_a_warning() -> None:
    variant = '<destination><image variant="minbase"/></destination>'
    made = loaded(f'{rootfs("tar")}<software type="DEB">{variant}</software>')
    assert made.diagnostics == ()


def test_a_root_file_system_and_a_disk_are_two_images() -> None:
    (error,) = refused(rootfs("tar") + DISK + SMALL)
    assert "both <rootfs_im>" in error.why


def test_a_root_file_system_beside_a_list_of_checkpoints_is_warned_of() -> None:
    made = loaded(
        f'{rootfs("tar")}{SMALL}<execution><checkpoint name="t" type="TransferDEB"/></execution>'
    )
    assert [each.message for each in made.diagnostics] == ["<rootfs_im> has no effect here"]
