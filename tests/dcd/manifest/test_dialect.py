"""What manifests of this family write otherwise than the grammar is read as what it means."""

import pytest

from dcd.manifest.damage import Damage
from dcd.manifest.diagnostics import Diagnostic, ManifestError
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.objects import BootEntry, BootMods, Filesystem, Publisher, Zpool
from dcd.planning.load import Loaded, load
from dcd.planning.readiness import examine as look


def examine(doc: DataObjectCache, damage: Damage) -> list[Diagnostic]:
    return list(look(doc, damage, allowed=()))


def loaded(
    publisher: str = "",
    data: str = "",
    target: str = "",
    mod_path: str = "solaris_install/transfer/ips",
    argument: str = "",
) -> Loaded:
    kwargs = f"<kwargs>{argument}</kwargs>" if argument else ""
    return load(
        f"""<dc><distro name="d">{target}
        <software name="t" type="IPS"><destination><image/></destination><source>
        <publisher name="example.org"><origin name="http://127.0.0.1:1/"/>{publisher}</publisher></source>
        <software_data action="install" {data}><name>hello</name></software_data></software>
        <execution><checkpoint name="t" mod_path="{mod_path}" checkpoint_class="TransferIPS">{kwargs}
        </checkpoint></execution></distro></dc>""",
        "/m.xml",
        examine=examine,
    )


def test_a_type_of_a_list_is_that_of_its_software() -> None:
    assert loaded(data='type="IPS"').diagnostics == ()
    (doubt,) = loaded(data='type="P5I"').diagnostics
    assert (doubt.severity, doubt.line) == ("warning", 4)
    assert "type" not in loaded(data='type="IPS"').canonical.partition("<software_data")[2][:40]


def test_file_systems_in_a_dataset_are_the_pools() -> None:
    target = """<target><logical><zpool name="rpool" action="use_existing"><dataset>
        <filesystem name="dc/sample" action="preserve"/></dataset></zpool></logical></target>"""
    (pool,) = loaded(target=target).doc.get_descendants(class_type=Zpool)
    (file_system,) = pool.get_children(class_type=Filesystem)
    assert file_system.name == "dc/sample"
    assert file_system.origin is not None
    assert file_system.origin.line == 2


def test_sigpolicy_is_the_publishers_signature_policy() -> None:
    found = loaded(publisher='<sigpolicy name="require-signatures"/>')
    (publisher,) = found.doc.get_descendants(class_type=Publisher)
    assert publisher.signature_policy == "require-signatures"
    assert found.diagnostics == ()
    with pytest.raises(ManifestError) as refused:
        loaded(publisher='<sigpolicy name="require-signature"/>')
    assert "did you mean 'require-signatures'" in refused.value.diagnostics[0].message
    assert refused.value.diagnostics[0].line == 3


@pytest.mark.parametrize(
    "older", ["transfer/transfer_ips", "solaris_install/transfer/transfer_ips"]
)
def test_older_names_of_modules_are_known(older: str) -> None:
    assert loaded(mod_path=older).diagnostics == ()


@pytest.mark.parametrize("text", ["True", "False", "true"])
def test_a_yes_or_no_may_have_a_capital(text: str) -> None:
    assert loaded(argument=f'<arg name="show_stdout">{text}</arg>').diagnostics == ()


def test_an_empty_argument_is_one_that_is_not_given() -> None:
    assert script('<arg name="working_directory"></arg><arg name="timeout_seconds"/>') == []
    (needed,) = script('<arg name="chroot"></arg>')
    assert "is '', not true or false" in needed.message


def script(argument: str, command: str = "<args>true</args>") -> list[Diagnostic]:
    text = f"""<dc><distro name="d"><execution><checkpoint name="s" checkpoint_class="CustomScript"
        mod_path="dcd/checkpoints/custom_script">{command}<kwargs>{argument}</kwargs></checkpoint>
        </execution></distro></dc>"""
    try:
        return list(load(text, "/m.xml").diagnostics)
    except ManifestError as refused:
        return list(refused.diagnostics)


def test_the_first_form_of_the_boot_menu_is_that_of_today() -> None:
    text = """<dc><distro name="d"><distro_spec><img_params><media_im>
    <grub_mods min_mem="1000" title="T" timeout="5" default_entry="2">
    <grub_entry position="0"><title_suffix>first</title_suffix>
      <line>kernel$ /platform/i86pc/kernel/$ISADIR/unix -B livemode=text</line>
      <line>module$ /platform/i86pc/$ISADIR/boot_archive</line></grub_entry>
    <grub_entry position="2"><title_suffix>second</title_suffix><line>chainloader +1</line></grub_entry>
    </grub_mods></media_im></img_params></distro_spec>
    <target><target_device><logical><zpool name="rpool" action="use_existing"/></logical></target_device>
    </target>
    <execution><checkpoint name="menu" mod_path="solaris_install/boot/boot"
      checkpoint_class="TextISOImageBootMenu"/></execution></distro></dc>"""
    found = load(text, "/m.xml")
    (menu,) = found.doc.volatile.get_descendants(class_type=BootMods)
    assert (menu.title, menu.timeout) == ("T", 5)
    entries = [
        (each.title_suffix, each.kernel_args, each.insert_at, each.default_entry)
        for each in menu.get_children(class_type=BootEntry)
    ]
    assert entries == [
        ("first", "-B livemode=text", "start", False),
        ("second", None, "end", True),
    ]
    messages = [(each.line, each.message.partition(" has")[0]) for each in found.diagnostics]
    assert messages == [(2, "min_mem"), (6, "the line 'chainloader +1' of the entry")]
    assert found.doc.volatile.get_descendants(class_type=Zpool)
