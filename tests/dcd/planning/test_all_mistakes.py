"""One pass reports every mistake of a manifest, each at the line where it is."""

from collections.abc import Iterator
from functools import partial

import pytest

from dcd.checkpoints.interface import Checkpoint
from dcd.construction import constructors
from dcd.construction.arguments import parameters_of
from dcd.manifest.diagnostics import Diagnostic, ManifestError
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.objects import DC, Distro
from dcd.planning.load import load
from dcd.planning.readiness import examine


def mistakes(text: str, files: dict[str, None] | None = None) -> tuple[Diagnostic, ...]:
    """All errors of a manifest."""
    try:
        loaded = load(text, "/me/m.xml", files=files, examine=partial(examine, allowed=()))
    except ManifestError as refused:
        return tuple(each for each in refused.diagnostics if each.severity == "error")
    assert not any(each.severity == "error" for each in loaded.diagnostics)
    return ()


def lines(text: str, files: dict[str, None] | None = None) -> list[int]:
    return [each.line for each in mistakes(text, files)]


TEN = """\
<dc><distro name="ten">
  <distro_spec><img_params><vm_im memory="much">
    <vm_format type="qcow2" compression="rar"/>
    <vm_format type="vhd" subformat="huge"/></vm_im></img_params></distro_spec>
  <target><disk><disk_image name="d.img" size="100mb"/>
    <gpt_partition name="1" part_type="bios_boot"><size val="1mb"/></gpt_partition>
    <gpt_partition name="2" part_type="esp"><size val="64mb"/></gpt_partition>
    <gpt_partition name="3" part_type="linux"><size val="500mb"/>
      <format type="ext4" label="much too long for ext4" mountpoint="/"/></gpt_partition>
  </disk></target>
  <software name="deb" type="DEB"><source>
    <repository suite="bookworm" uri="https://me:secret@example.org/"/></source>
    <software_data><name>Not A Package</name>
      <package>grub-pc</package>
      <name>--option</name></software_data></software>
  <execution>
    <checkpoint name="deb" mod_path="dcd/checkpoints/transfer/deb" checkpoint_class="TransferDEB"/>
    <checkpoint name="conf" mod_path="dcd/checkpoints/image/configure"
      checkpoint_class="DebianPrePkgImgMod"><kwargs>
      <arg name="hostname">under_score</arg>
      <arg name="locale">not a locale</arg>
      <arg name="colour">red</arg></kwargs></checkpoint>
    <checkpoint name="squash" mod_path="dcd/checkpoints/image/compress"
      checkpoint_class="SquashfsPkgImgMod"><kwargs>
      <arg name="compression_level">99</arg>
      <arglist name="exclude"><argitem>var/cache</argitem>
        <argitem>/</argitem></arglist>
      <arg name="block_size_kib">many</arg></kwargs></checkpoint>
    <checkpoint name="disk" mod_path="dcd/checkpoints/vm/create_disk" checkpoint_class="CreateDisk"/>
    <checkpoint name="inst" mod_path="dcd/checkpoints/vm/install_offline"
      checkpoint_class="InstallOffline"><kwargs>
      <arg name="serial_console">COM1</arg>
      <arg name="kernel_args">quiet "</arg></kwargs></checkpoint>
    <checkpoint name="conv" mod_path="dcd/checkpoints/vm/convert" checkpoint_class="Convert"/>
  </execution>
  <configuration name="conf" type="user">
    <user name="Live User"/>
    <interface match="en*" dhcp="false"
      address="192.0.2.10"
      dns="one.example"/>
  </configuration>
  <configuration name="conf" source="nothere" dest="etc/x"/>
</distro></dc>
"""


def test_every_mistake_of_a_manifest_is_reported_at_its_own_line() -> None:
    expected = [
        *(2, 3, 4, 8, 9),  # memory, two formats, the partition's size, its label
        *(12, 13, 14, 15),  # a login, a package, an element, another package
        *(20, 21, 22),  # host name, locale, an argument that is not there
        *(25, 27, 28),  # level, item of a list, block size
        *(32, 33),  # serial line, kernel arguments
        *(37, 39, 40, 42, 42),  # account name, address, server, dest and source of a file
    ]
    assert lines(TEN, {"/me/nothere": None}) == expected


def test_a_mistake_does_not_hide_others_of_its_checkpoint() -> None:
    found = mistakes(
        """<dc><distro name="x"><execution>
        <checkpoint name="s" mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript"><kwargs>
          <arg name="shell">sh</arg>
          <arg name="chroot">perhaps</arg>
          <arg name="timeout_seconds">-1</arg>
          <arglist name="environment"><argitem>A=b</argitem>
            <argitem>1=2</argitem>
            <argitem>C</argitem></arglist>
          <arglist name="capabilities">
            <argitem>SYS_ADMIN</argitem>
            <argitem>CAP_KILL</argitem></arglist>
        </kwargs></checkpoint></execution></distro></dc>"""
    )
    assert [each.line for each in found] == [3, 4, 5, 7, 8, 11]


def test_what_follows_from_a_mistake_is_not_reported_as_another() -> None:
    text = """<dc><distro name="x">
      <software name="deb" type="DEB"><destination><image variant="custom"/></destination>
        <software_data><nam>linux-image-amd64</nam></software_data></software>
      <execution><checkpoint name="deb" mod_path="dcd/checkpoints/transfer/deb"
        checkpoint_class="TransferDEB"/></execution></distro></dc>"""
    assert lines(text) == [3]
    assert lines(text.replace("nam>", "name>")) == []
    misnamed = text.replace("nam>", "name>").replace('software name="deb"', 'software name="dev"')
    assert lines(misnamed) == [2]


def test_a_missing_name_of_the_distribution_hides_nothing() -> None:
    found = lines(TEN.replace('<distro name="ten">', "<distro>"), {"/me/nothere": None})
    assert found[0] == 1
    assert len(found) == 23


def test_an_argument_in_args_has_its_own_place() -> None:
    text = """<dc><distro name="x"><execution>
      <checkpoint name="iso" mod_path="dcd/checkpoints/media/iso" checkpoint_class="CreateISO">
        <args>%s</args>
      </checkpoint></execution></distro></dc>"""
    (found,) = [each for each in mistakes(text % ("x" * 40)) if "volume id" in each.message]
    assert found.line == 3


def every_checkpoint() -> Iterator[type[Checkpoint]]:
    for module in constructors.own_modules():
        found = constructors.factories(constructors.import_module(module, module))
        yield from (each for each in found.values() if isinstance(each, type))


@pytest.mark.parametrize(
    "cls", list(every_checkpoint()), ids=lambda cls: f"{cls.__module__}:{cls.__name__}"
)
def test_checks_and_needs_raise_nothing_for_a_manifest_that_says_nothing(
    cls: type[Checkpoint],
) -> None:
    needed = {p.name: "x" for p in parameters_of(cls) if p.default is p.empty}
    checkpoint = cls("c", **needed)
    doc = DataObjectCache()
    manifest, distro = DC(), Distro(name="x")
    doc.volatile.insert_children(manifest)
    manifest.insert_children(distro)
    assert all(isinstance(each, Diagnostic) for each in checkpoint.check(doc))
    checkpoint.needs(doc)
