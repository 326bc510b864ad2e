"""Old manifests in the new vocabulary: what goes where, nothing silently dropped, a result that validates."""

from pathlib import Path
from string import ascii_lowercase, digits

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from dcd.manifest.damage import Damage
from dcd.manifest.data_object import Element
from dcd.manifest.diagnostics import ManifestError
from dcd.manifest.doc import checkpoints_of, configurations_for, software_for
from dcd.manifest.includes import CapturedFile
from dcd.manifest.migrate import Migrated, migrate
from dcd.manifest.objects import BootEntry, BootMods, DiskImage, Publisher, User, VmFormat, VmIm
from dcd.planning.load import Loaded, load
from dcd.planning.readiness import examine

ROOT = Path(__file__).resolve().parents[3]
PRECUD = (ROOT / "tests/data/precud", ROOT.parent / "shared/data/precud")
"""Samples of this project, and the original's own manifests where they are beside the checkout."""

SCRIPTS = "/usr/share/distro_const"


def old(
    *scripts: str, params: str = "", rest: str = "", archive: str = "", name: str = "old"
) -> str:
    """An old manifest with these finalizer scripts."""
    return f"""<distribution name="{name}"><distro_constr_params>
<build_area>rpool/dc</build_area><output_image><finalizer>{"".join(scripts)}</finalizer>
<boot_archive>{archive}</boot_archive></output_image></distro_constr_params>
<img_params>{params}</img_params>{rest}</distribution>"""


def script(path: str, name: str, arguments: str = "", message: str = "") -> str:
    told = f' message="{message}"' if message else ""
    listed = f"<argslist>{arguments}</argslist>" if arguments else ""
    where = path if path.startswith("/") else f"{SCRIPTS}/{path}"
    return f'<script name="{where}"><checkpoint name="{name}"{told}/>{listed}</script>'


def authority(tag: str, url: str, name: str, mirror: str = "") -> str:
    mirrored = f'<mirror url="{mirror}"/>' if mirror else ""
    return f'<{tag}><main url="{url}" authname="{name}"/>{mirrored}</{tag}>'


POP = script("im_pop.py", "im-pop", message="Image area creation")
REPOSITORY = authority("pkg_repo_default_authority", "http://a.example.org/", "a")
PACKAGES = '<packages><pkg name="pkg:/entire"/></packages>'


def result(text: str, defaults: str | None = None) -> tuple[Loaded, Migrated]:
    """The migrated manifest, loaded as any other: it has to be valid."""
    migrated = migrate(text, "/home/me/old.xml", defaults)
    return validated(migrated.text), migrated


def validated(text: str) -> Loaded:
    """Load, with a file for each that is asked for, and let the checkpoints check it."""
    files: dict[str, CapturedFile | None] = {}
    loaded = load(text, "/home/me/new.xml", files=files)
    files.update({wanted.path: CapturedFile("0" * 64) for wanted in loaded.missing})
    loaded = load(text, "/home/me/new.xml", files=files)
    assert loaded.missing == ()
    assert loaded.diagnostics == ()
    found = examine(loaded.doc, Damage(), ())
    faults = [each.message for each in found if each.severity == "error"]
    # Samples have only the scripts that a test is about, and media for SPARC are not made.
    expected = ("nothing before it makes", "for SPARC machines")
    assert [each for each in faults if not any(part in each for part in expected)] == []
    return loaded


def told(migrated: Migrated) -> str:
    """What could not be carried over, a line each; it stands in the comments too."""
    root = etree.fromstring(migrated.text.encode())
    comments = [str(found.text) for found in root.iter(etree.Comment)]
    for found in migrated.left:
        assert any(found.message.replace("--", "- -") in text for text in comments)
    return "\n".join(found.message for found in migrated.left)


def constructors(loaded: Loaded) -> dict[str, str]:
    return {spec.name: spec.checkpoint_class for spec in checkpoints_of(loaded.doc)}


@pytest.mark.parametrize("with_defaults", [True, False])
@pytest.mark.parametrize(
    ("directory", "name"),
    [
        (directory, str(path.relative_to(directory)))
        for directory in PRECUD
        for path in sorted(directory.rglob("*.xml"))
        if "<distribution" in path.read_text()
    ],
)
def test_each_real_manifest_migrates_to_one_that_validates(
    directory: Path, name: str, with_defaults: bool
) -> None:
    text = (directory / name).read_text()
    defaults = (directory / "DC-manifest.defval.xml").read_text() if with_defaults else None
    loaded, migrated = result(text, defaults)
    before = etree.fromstring(text.encode())
    names = [str(found.get("name")) for found in before.iter("checkpoint")]
    kept = constructors(loaded)
    parts = told(migrated)
    for checkpoint in names:
        assert checkpoint in kept or f"{checkpoint} (" in parts
    assert [each for each in kept if each in names] == [each for each in names if each in kept]
    assert "has no counterpart" not in parts
    packages = [str(found.get("name")) for found in before.iter("pkg")]
    assert all(f"<name>{package}</name>" in migrated.text for package in packages)
    contents = [str(found.text) for found in before.iter("base_include", "base_exclude")]
    assert all(f"<name>{entry}</name>" in migrated.text for entry in contents)


def test_publishers_and_packages_become_the_transfers_software() -> None:
    params = (
        authority(
            "pkg_repo_default_authority", "http://a.example.org/", "a", "http://m.example.org/"
        )
        + authority("pkg_repo_addl_authority", "http://b.example.org/", "b")
        + authority("post_install_repo_default_authority", "http://c.example.org/", "c")
        + '<packages><pkg name="x"/><pkg name="y"/></packages>'
        + '<post_install_remove_packages><pkg name="y"/></post_install_remove_packages>'
        + "<generate_ips_search_index> true </generate_ips_search_index>"
    )
    loaded, migrated = result(old(POP, params=params))
    assert told(migrated) == ""
    assert constructors(loaded) == {"im-pop": "TransferIPS", "set-ips-attributes": "TransferIPS"}
    assert checkpoints_of(loaded.doc)[0].desc == "Image area creation"
    software = software_for(loaded.doc, "im-pop")
    assert software is not None
    assert software.names("install") == ["x", "y"]
    assert software.names("uninstall") == ["y"]
    publishers = software.get_descendants(class_type=Publisher)
    assert [found.name for found in publishers] == ["a", "b"]
    assert '<mirror name="http://m.example.org/"/>' in migrated.text
    assert 'index="true"' in migrated.text
    after = software_for(loaded.doc, "set-ips-attributes")
    assert after is not None
    assert [found.name for found in after.get_descendants(class_type=Publisher)] == ["c"]


def test_the_boot_archives_contents_and_their_adjustments_become_a_list_of_files() -> None:
    contents = (
        '<boot_archive_contents><base_include type="file">usr/bin/a</base_include>'
        '<base_include type="dir">etc</base_include><base_include type="dir">opt</base_include>'
        '<base_exclude type="dir">etc/x</base_exclude>'
        '<adjustment delete="/opt"/><adjustment add="/etc/x"/></boot_archive_contents>'
    )
    archive = (
        '<compression type="gzip" level="7"/><size_pad_mb>9</size_pad_mb><nbpi>16384</nbpi>'
        '<adjustment add="/usr/b"/>'
    )
    scripts = [
        script("boot_archive_initialize.py", "init"),
        script("boot_archive_archive.py", "ar"),
    ]
    loaded, migrated = result(old(*scripts, params=contents, archive=archive))
    assert told(migrated).count("\n") == 0  # what the script copied beside files
    software = software_for(loaded.doc, "init")
    assert software is not None
    assert software.names("install") == ["usr/bin/a", "etc", "etc/x", "usr/b"]
    assert software.names("uninstall") == ["opt"]
    assert checkpoints_of(loaded.doc)[1].kwargs == {
        "compression_type": "gzip",
        "compression_level": "7",
        "size_pad": "9",
        "bytes_per_inode": "16384",
    }


def test_entries_of_the_grub_menu_become_boot_entries() -> None:
    menu = """<grub_menu_modifications><title>Mine</title><timeout>7</timeout>
    <default_entry>0</default_entry>
    <entry position="0"><title_suffix>first</title_suffix>
      <line>kernel$ /platform/i86pc/kernel/$ISADIR/unix -B a=b -v</line>
      <line>module$ /platform/i86pc/$ISADIR/boot_archive</line></entry>
    <entry><title_suffix>plain</title_suffix>
      <line>kernel$ /platform/i86pc/kernel/$ISADIR/unix</line></entry>
    <entry position="3"><title_suffix>disk</title_suffix><line>chainloader +1</line></entry>
    </grub_menu_modifications>"""
    loaded, migrated = result(old(script("grub_setup.py", "menu", '"livecd"'), params=menu))
    (mods,) = loaded.doc.volatile.get_descendants(class_type=BootMods)
    assert (mods.title, mods.timeout) == ("Mine", 7)
    entries = mods.get_children(class_type=BootEntry)
    assert [
        (entry.title_suffix, entry.kernel_args, entry.insert_at, entry.default_entry)
        for entry in entries
    ] == [
        ("first", "-B a=b -v", "start", True),
        ("plain", None, "end", False),
        ("disk", None, "end", False),
    ]
    assert constructors(loaded) == {"menu": "LiveCDISOImageBootMenu"}
    assert "chainloader +1" in told(migrated)
    assert "position 3" in told(migrated)


def test_users_passwords_and_profiles_become_configurations() -> None:
    params = """<rootpass is_plaintext="false">$5$x</rootpass><hostname>box</hostname>
    <root_user><homedir>/root</homedir><shell>/bin/bash</shell></root_user>
    <user username="jack" UID="101" GID="10"><homedir>/jack</homedir>
      <password encrypted="true">$5$y</password></user>
    <netservices_SMF_profile>/var/svc/profile/net.xml</netservices_SMF_profile>"""
    archive = """<smf_service_profile>
    <profile path="/etc/svc/profile/a.xml" use_build_sys_file="false"/>
    <profile path="/opt/b.xml"/><profile path="/opt/c.xml" use_build_sys_file="true"/>
    </smf_service_profile>"""
    mod = script("pre_boot_archive_pkg_image_mod.py", "im-mod")
    loaded, migrated = result(old(mod, params=params, archive=archive))
    assert checkpoints_of(loaded.doc)[0].kwargs == {
        "root_password": "$5$x",
        "is_plaintext": "false",
        "hostname": "box",
    }
    found = configurations_for(loaded.doc, "im-mod")
    assert [each.source for each in found if each.source] == [
        "/var/svc/profile/net.xml",
        "/etc/svc/profile/a.xml",
        "{PKG_IMAGE_PATH}/opt/b.xml",
        "/opt/c.xml",
    ]
    users = found[-1].get_children(class_type=User)
    assert [(user.name, user.uid, user.home, user.shell) for user in users] == [
        ("root", None, "/root", "/bin/bash"),
        ("jack", 101, "/jack", None),
    ]
    assert '<password hashed="true">$5$y</password>' in migrated.text
    assert 'GID="10" of <user> has no counterpart' in told(migrated)


def test_scripts_of_ones_own_are_called_as_before() -> None:
    mine = script("/opt/my scripts/tune", "tune", '"one two" "three"')
    loaded, migrated = result(old(mine))
    (spec,) = checkpoints_of(loaded.doc)
    assert spec.checkpoint_class == "CustomScript"
    (command,) = spec.args
    assert command == (
        "'/opt/my scripts/tune' '' {PKG_IMAGE_PATH} {TMP_DIR} {BOOT_ARCHIVE} {MEDIA_DIR}"
        " 'one two' three"
    )
    assert "tune still runs /opt/my scripts/tune" in told(migrated)


def test_a_script_of_the_originals_name_elsewhere_is_ones_own() -> None:
    loaded, _ = result(old(script("/export/mine/create_iso", "iso")))
    assert constructors(loaded) == {"iso": "CustomScript"}


@pytest.mark.parametrize(
    ("scripts", "expected"),
    [
        ([script("boot_archive_configure", "c", '".livecd"')], "LiveCD"),
        ([script("boot_archive_configure", "c", '".autoinstall"')], "AI"),
        ([script("boot_archive_configure", "c", '".textinstall"')], "Text"),
        ([script("boot_archive_configure", "c"), script("slim_cd/x", "x")], "LiveCD"),
        ([script("boot_archive_configure", "c"), script("auto_install/x", "x")], "AI"),
    ],
)
def test_the_kind_of_image_is_told_from_its_scripts(scripts: list[str], expected: str) -> None:
    loaded, _ = result(old(*scripts))
    assert constructors(loaded)["c"] == f"{expected}BootArchiveConfigure"


def test_a_kind_that_cannot_be_told_is_said_to_be_assumed() -> None:
    loaded, migrated = result(old(script("grub_setup.py", "menu")))
    assert constructors(loaded) == {"menu": "TextISOImageBootMenu"}
    assert "Text is assumed" in told(migrated)


VM_SCRIPTS = (
    script("vmc/prepare_ai_image", "prepare-image", '"/export/ai.iso" "default"'),
    script("vmc/create_vm", "create-vm", '"16000" "1536" "opensolaris_64"'),
    script("vmc/install_vm", "install-vm"),
    script("vmc/post_install_vm_config", "post-config", '"1024" "2" "on"'),
    script("vmc/export_esx", "export-esx", '"esx"'),
    script("vmc/export_ovf", "export-ovf", '"ovf"'),
)


def vm(*scripts: str) -> str:
    return old(*scripts).replace("<img_params></img_params>", "<vmimg_params/>")


def test_the_virtual_machine_is_what_its_scripts_were_told() -> None:
    loaded, migrated = result(vm(*VM_SCRIPTS))
    (machine,) = loaded.doc.volatile.get_descendants(class_type=VmIm)
    assert (machine.memory, machine.cpus, machine.os_type) == ("1024mb", 2, "OpenSolaris_64")
    formats = machine.get_children(class_type=VmFormat)
    assert [found.type for found in formats] == ["vmdk", "ova"]
    (disk,) = loaded.doc.volatile.get_descendants(class_type=DiskImage)
    assert (disk.name, disk.size) == ("old.raw", "16000mb")
    assert "VT-x/AMD-V was on" in told(migrated)


def test_the_virtual_machines_scripts_become_its_checkpoints() -> None:
    loaded, migrated = result(vm(*VM_SCRIPTS))
    assert constructors(loaded) == {
        "create-vm": "CreateDisk",
        "install-vm": "InstallISCSI",
        "post-config": "Relabel",
        "export-esx": "Convert",
        "export-ovf": "CreateOVA",
    }
    (install,) = (spec for spec in checkpoints_of(loaded.doc) if spec.name == "install-vm")
    assert install.kwargs == {"medium": "/export/ai.iso", "memory_mb": "1536"}
    assert "prepare-image (" in told(migrated)
    assert "install-vm reads the messages of dcd's installer" in told(migrated)


def test_what_of_a_virtual_machine_has_no_counterpart_is_told() -> None:
    scripts = [
        script("vmc/prepare_ai_image", "prepare-image", '"/export/ai.iso" "/export/ai.xml"'),
        script("vmc/create_vm", "create-vm", '"16000" "1536" "opensolaris" "odd"'),
        script("vmc/install_vm", "install-vm", '"even"'),
        script("vmc/export_ovf", "export-ovf", '"esx"'),
    ]
    _, migrated = result(vm(*scripts))
    for what in (
        "the manifest /export/ai.xml of the automated installer",
        "the machine had 32 bits",
        "the argument 'odd' of",
        "the argument 'even' of",
        "'esx': export-ovf makes ova",
    ):
        assert what in told(migrated)


def test_defaults_stand_in_where_the_manifest_is_silent_and_only_there() -> None:
    defaults = """<defaults_and_validation_manifest name="version 0.1">
    <default nodepath="img_params/rootpass" from="value" type="element"> solaris </default>
    <default nodepath="img_params/rootpass/is_plaintext" from="value" type="attribute">true</default>
    <default nodepath="img_params/hostname" from="value" type="element">default-name</default>
    <default nodepath="img_params/user/homedir" from="helper" type="element">code</default>
    <default nodepath="img_params/pkg_repo_default_authority/main/url" from="value"
      type="attribute">http://d.example.org/</default>
    </defaults_and_validation_manifest>"""
    scripts = [POP, script("pre_boot_archive_pkg_image_mod.py", "im-mod")]
    params = f"{PACKAGES}<hostname>mine</hostname>"
    loaded, migrated = result(old(*scripts, params=params), defaults)
    assert checkpoints_of(loaded.doc)[1].kwargs == {
        "root_password": "solaris",
        "is_plaintext": "true",
        "hostname": "mine",
    }
    assert '<origin name="http://d.example.org/"/>' in migrated.text


def test_a_name_that_cannot_name_a_volume_and_names_that_cannot_name_checkpoints_are_replaced() -> (
    None
):
    text = old(
        script("/a", "two words"), script("/b", "x"), script("/c", "x"), name="a name: " + "y" * 40
    )
    loaded, migrated = result(text)
    assert list(constructors(loaded)) == ["two-words", "x", "x-2"]
    assert "'two words' is now named 'two-words'" in told(migrated)
    assert "cannot name a volume" in told(migrated)


def test_what_has_no_place_in_the_result_is_told_with_its_line() -> None:
    text = old(
        POP.replace("im_pop.py", "im_pop.py").replace(
            "</script>", "<argslist>odd</argslist></script>"
        ),
        params=f"{REPOSITORY}{PACKAGES}\n<power_mgmt><enable>true</enable></power_mgmt>"
        "<locale_list>de fr</locale_list><never_heard_of/>",
        rest='<key_value_pairs><pair key="k" value="v"/></key_value_pairs>',
    )
    _, migrated = result(text)
    lines = {found.message: found.line for found in migrated.left}
    assert lines["<enable>true</enable> has no counterpart"] == 5
    assert "<locale_list>de fr</locale_list> has no counterpart" in lines
    assert "<never_heard_of></never_heard_of> has no counterpart" in lines
    assert 'value="v" of <pair> has no counterpart' in lines
    assert any("'odd'" in message for message in lines)


def test_a_manifest_with_the_loader_keeps_its_menu() -> None:
    menu = """<loader_menu_modifications><title>Mine</title><timeout>10</timeout>
        </loader_menu_modifications>"""
    text = old(
        POP,
        script("loader_setup.py", "loader-setup", message="Setup loader menu"),
        params=f"{REPOSITORY}{PACKAGES}{menu}",
    )
    loaded, migrated = result(text)
    (mods,) = loaded.doc.get_descendants(class_type=BootMods)
    assert (mods.title, mods.timeout) == ("Mine", 10)
    assert constructors(loaded)["loader-setup"].endswith("TextISOImageBootMenu")
    assert "no counterpart" not in told(migrated)
    assert "first argument is empty" not in told(migrated)


def test_what_the_script_of_the_boot_archive_copied_beside_files_is_carried_over() -> None:
    text = old(POP, script("boot_archive_initialize.py", "ba-init"), params=REPOSITORY + PACKAGES)
    migrated = migrate(text, "/home/me/old.xml")
    assert '<arg name="skeleton">true</arg>' in migrated.text
    assert told(migrated) == ""


@pytest.mark.parametrize(
    ("text", "defaults", "message"),
    [
        ("<dc/>", None, "is already a manifest of the Caiman Unified Design"),
        ("<service_bundle/>", None, "is not a manifest"),
        ("<distribution", None, "not well-formed"),
        (old(POP), "<dc/>", "is not a file of defaults"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><distribution name="&a;"/>', None, ""),
    ],
)
def test_what_is_no_old_manifest_is_refused(text: str, defaults: str | None, message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        migrate(text, "/old.xml", defaults)
    assert message in caught.value.diagnostics[0].message


def test_many_scripts_of_one_name_take_no_longer_than_they_are_long() -> None:
    migrated = migrate(old(*[script("/x", "n")] * 8000), "/old.xml")
    assert 'name="n-8000"' in migrated.text


TAGS = st.sampled_from(
    ["output_image", "finalizer", "script", "checkpoint", "argslist", "boot_archive", "user",
     "entry", "line", "main", "adjustment", "pair", "pkg", "password", "base_include", "mirror"]
)  # fmt: skip
NAMES = st.sets(st.sampled_from(["name", "key", "value", "url", "add", "position", "username"]))
WORDS = st.text(ascii_lowercase + digits, min_size=5, max_size=9).map("w{}".format)


@st.composite
def elements(draw: st.DrawFn, depth: int = 3) -> Element:
    """Old manifests as nobody would write them."""
    element = etree.Element(draw(TAGS))
    element.text = " ".join(draw(st.lists(WORDS, max_size=3)))
    for name in draw(NAMES):
        element.set(name, draw(WORDS))
    for _ in range(draw(st.integers(0, 3)) if depth else 0):
        element.append(draw(elements(depth - 1)))
    return element


@settings(max_examples=60, deadline=None)
@given(st.lists(elements(), max_size=4))
def test_whatever_is_in_an_old_manifest_is_in_the_result_or_told(added: list[Element]) -> None:
    root = etree.fromstring(old(POP, script("grub_setup.py", "menu"), params=REPOSITORY + PACKAGES))
    places = ["distro_constr_params/output_image", "distro_constr_params", "img_params", "."]
    for place, child in zip(places, added, strict=False):
        parent = root.find(place)
        assert parent is not None
        parent.append(child)
    migrated = migrate(etree.tostring(root, encoding="unicode"), "/old.xml")
    told(migrated)
    for found in (below for child in added for below in child.iter("*")):
        for word in [*(found.text or "").split(), *map(str, found.attrib.values())]:
            assert word in migrated.text
