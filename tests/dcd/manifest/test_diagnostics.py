"""What a person is told about a manifest: the place, what is wrong, why, and what would be right."""

import pytest

from dcd.manifest.diagnostics import Diagnostic, ManifestError
from dcd.planning.load import Settings, load

MANIFEST = """\
<dc>
  <parameter name="hostname" default="live"/>
  <distro name="live">
    <distro_spec><img_params><media_im>
      <boot_mods title="Live" timeout="5">
        <boot_entry default_entry="true"><title_suffix>serial</title_suffix></boot_entry>
        <boot_entry insert_at="start"><title_suffix>quiet</title_suffix></boot_entry>
      </boot_mods>
      <max_size><size val="4gb"/></max_size>
    </media_im></img_params></distro_spec>
    <target name="desired">
      <disk in_zpool="rpool" in_vdev="v0"><disk_name name="c1t0d0"/></disk>
      <logical><zpool name="rpool" is_root="true"><vdev name="v0"/></zpool></logical>
    </target>
    <software name="transfer" type="DEB">
      <destination><image img_root="{PKG_IMAGE_PATH}"/></destination>
      <source><repository suite="bookworm"/></source>
      <software_data><name>linux</name></software_data>
    </software>
    <execution>
      <checkpoint name="transfer" mod_path="sample_checkpoints" checkpoint_class="Transfer"/>
      <checkpoint name="configure"
                  mod_path="sample_checkpoints"
                  checkpoint_class="Options">
        <args>echo ${hostname} %{//boot_mods.title}
          &gt; {PKG_IMAGE_PATH}/etc/motd</args>
        <kwargs><arg name="level">3</arg></kwargs>
      </checkpoint>
    </execution>
    <configuration name="configure" type="user">
      <user name="root"><password locked="true"/></user>
    </configuration>
    <configuration name="configure" type="network"><interface match="en*"/></configuration>
  </distro>
</dc>
"""


@pytest.fixture
def settings(checkpoints: str) -> Settings:
    return Settings(allowed_modules=(checkpoints,))


def diagnose(text: str, settings: Settings, **parameters: str) -> tuple[Diagnostic, ...]:
    try:
        return load(text, "/home/me/live.xml", parameters=parameters, settings=settings).diagnostics
    except ManifestError as refused:
        return refused.diagnostics


def test_the_sample_is_without_fault(settings: Settings) -> None:
    assert diagnose(MANIFEST, settings) == ()


CASES = [
    # what is replaced by what; then line, column, message, why (part), suggestion
    (
        ('title="Live"', 'titel="Live"'),
        (5, 18),
        "<boot_mods> has no attribute 'titel'; did you mean 'title'?",
        "It has title and timeout.",
        '<boot_mods timeout="5" title="Live">',
    ),
    (
        ('timeout="5"', 'timeout="soon"'),
        (5, 31),
        "timeout='soon' of <boot_mods> is not a whole number",
        "Seconds before the default entry starts.",
        "",
    ),
    (
        ('timeout="5"', 'timeout="-5"'),
        (5, 31),
        "timeout='-5' of <boot_mods> is not a whole number of at least 0",
        "",
        "",
    ),
    (
        ('default_entry="true"', 'default_entry="yes"'),
        (6, 21),
        "default_entry='yes' of <boot_entry> is not true or false",
        "Start this entry by default.",
        'default_entry="true"',
    ),
    (
        ('insert_at="start"', 'insert_at="strat"'),
        (7, 21),
        "insert_at='strat' of <boot_entry> is not start or end; did you mean 'start'?",
        "",
        'insert_at="start"',
    ),
    (
        ("<title_suffix>quiet</title_suffix>", ""),
        (7, 9),
        "<boot_entry> needs <title_suffix>",
        "Appended to the menu's title",
        "add <title_suffix>",
    ),
    (
        ("<title_suffix>quiet<", "<title_suffix>a</title_suffix><title_suffix>quiet<"),
        (7, 69),
        "<boot_entry> holds more than one <title_suffix>",
        "The first is at /home/me/live.xml:7.",
        "keep one of them",
    ),
    (
        ('<max_size><size val="4gb"/></max_size>', '<maxsize><size val="4gb"/></maxsize>'),
        (9, 7),
        "there is no element <maxsize>; did you mean <max_size>?",
        "<media_im> may hold <boot_mods> or <max_size>.",
        "<max_size>",
    ),
    (
        ('val="4gb"', 'val="4"'),
        (9, 23),
        "val='4' of <size> is not a size with its unit (such as 512mb, 4gb or 2048secs)",
        "",
        "",
    ),
    (
        ('<target name="desired">', '<target name="desired">stray'),
        (11, 5),
        "<target> holds the text 'stray'",
        "<target> has elements and attributes only, no text.",
        "remove the text, or put it into the element that it belongs to",
    ),
    (
        ('in_zpool="rpool"', 'in_zpool="rpol"'),
        (12, 13),
        "there is no zpool 'rpol' in this target; did you mean 'rpool'?",
        "It has rpool.",
        'in_zpool="rpool"',
    ),
    (
        ('in_vdev="v0"', 'in_vdev="x"'),
        (12, 30),
        "there is no vdev 'x' in this target",
        "It has v0.",
        '<vdev name="x"/>',
    ),
    (
        ('<disk_name name="c1t0d0"/>', ""),
        (12, 7),
        "<disk> needs <disk_name>, <disk_prop>, <disk_keyword>, <disk_image> or <iscsi>",
        "A disk of the host, by name.",
        "add <disk_name>, <disk_prop>, <disk_keyword>, <disk_image> or <iscsi>",
    ),
    (
        ('<disk_name name="c1t0d0"/>', '<disk_name name="a"/><disk_keyword key="boot_disk"/>'),
        (12, 64),
        "<disk> holds <disk_name> and <disk_keyword>",
        "Only one of these may be used.",
        "keep either <disk_name> or <disk_keyword>",
    ),
    (
        ('<disk_name name="c1t0d0"/>', '<iscsi target_ip="192.0.2.1"/>'),
        (12, 43),
        "this iSCSI disk needs target_lun",
        "",
        '<iscsi target_ip="192.0.2.1" target_lun="0"/>',
    ),
    (
        ('<disk_name name="c1t0d0"/>', '<disk_name name_type="ctd"/>'),
        (12, 43),
        "<disk_name> needs the attribute 'name'",
        "The name.",
        "",
    ),
    (
        ('type="DEB"', 'type="RPM"'),
        (15, 31),
        "type='RPM' of <software> is not IPS, DEB, SVR4, CPIO, ARCHIVE, IMAGE, DIR, P5I, DU or P5P",
        "The kind of transfer.",
        'type="IPS"',
    ),
    (
        ('software name="transfer"', 'software name="tranfser"'),
        (15, 15),
        "<software> is for checkpoint 'tranfser', which does not exist; did you mean 'transfer'?",
        "The checkpoints are transfer and configure.",
        'name="transfer"',
    ),
    (
        ('{PKG_IMAGE_PATH}"', '{PKG_IMAGE}"'),
        (16, 27),
        "there is no token {PKG_IMAGE}",
        "Known are {PKG_IMAGE_PATH}, {BOOT_ARCHIVE}, {MEDIA_DIR}, {TMP_DIR} and {BUILD_DATA}.",
        "{PKG_IMAGE_PATH}",
    ),
    (
        ('suite="bookworm"', 'uri="https://example.org"'),
        (17, 27),
        "this repository has a uri but no suite",
        "",
        '<repository uri="https://example.org" suite="bookworm"/>',
    ),
    (
        ("<name>linux</name>", ""),
        (18, 7),
        "this list is empty",
        "A <software_data> lists packages or files.",
        "list something in it, each in a <name>, or remove it",
    ),
    (
        ("<name>linux</name>", "<name> </name>"),
        (18, 22),
        "<name> is empty",
        "",
        "remove it",
    ),
    (
        ("<software_data>", "<user name='x'/><software_data>"),
        (18, 7),
        "<user> does not belong in <software>",
        "<software> may hold <debconf>, <destination>, <dpkg_option>, <pin>, <software_data> or <source>.",
        "put it into <configuration>",
    ),
    (
        (
            "<execution>",
            '<execution><checkpoint name="transfer" mod_path="sample_checkpoints" '
            'checkpoint_class="Transfer"/>',
        ),
        (21, 19),
        "there are two checkpoints named 'transfer'",
        "The first is at /home/me/live.xml:20.",
        'name="transfer-2"',
    ),
    (
        (
            "<execution>",
            '<execution><checkpoint name="bad/../x" mod_path="sample_checkpoints" '
            'checkpoint_class="Transfer"/>',
        ),
        (20, 28),
        "name='bad/../x' of <checkpoint> is not a name of letters, digits, dots, underscores and "
        "hyphens (such as ba-init)",
        "Its name, unique in the manifest.",
        'name="bad-x"',
    ),
    (
        ('"Options"', '"Option"'),
        (24, 19),
        "sample_checkpoints has no checkpoint 'Option'; did you mean 'Options'?",
        "It has Anything, Options, Transfer, broken and made.",
        'checkpoint_class="Options"',
    ),
    (
        ('mod_path="sample_checkpoints"\n', 'mod_path="os"\n'),
        (23, 19),
        "module 'os' may not be used",
        "",
        "have the module added to the configuration",
    ),
    (
        ("${hostname}", "${hostnam}"),
        (25, 9),
        "there is no parameter 'hostnam'",
        "$${ means",
        "${hostname}",
    ),
    (
        ("%{//boot_mods.title}", "%{//boot_mods[.title}"),
        (25, 9),
        "'//boot_mods[.title' is not a path string",
        "",
        "write /child, //descendant, /name[@Class#count?depth] or /name.attribute",
    ),
    (
        ("&gt; {PKG_IMAGE_PATH}", "&gt; {PKG_IMAGE_PTH}"),
        (26, 1),
        "there is no token {PKG_IMAGE_PTH}",
        "",
        "{PKG_IMAGE_PATH}",
    ),
    (
        ('<arg name="level">3<', '<arg name="level">three<'),
        (27, 17),
        "checkpoint 'configure': argument 'level' is 'three', not a whole number",
        "Without it, 1 is used.",
        '<arg name="level">1</arg>',
    ),
    (
        ('<arg name="level">3<', '<arg name="levl">3<'),
        (27, 17),
        "checkpoint 'configure': there is no argument 'levl'; did you mean 'level'?",
        "Its arguments are command (text), verbose (true or false)",
        '<arg name="level">3</arg>',
    ),
    (
        ('<user name="root">', '<user name="root"/><user name="root">'),
        (31, 32),
        "there are two users named 'root'",
        "The first is at /home/me/live.xml:31.",
        "keep one of them",
    ),
    (
        ('<password locked="true"/>', '<password locked="true">x</password>'),
        (31, 25),
        "this password is given by locked and text",
        "",
        '<password locked="true"/>',
    ),
    (
        ('<interface match="en*"/>', '<interface match="en*" dhcp="false"/>'),
        (33, 52),
        "this interface has neither DHCP nor an address",
        "",
        '<interface match="en*" dhcp="false" address="192.0.2.7/24"/>',
    ),
    (
        ('<interface match="en*"/>', ""),
        (33, 5),
        "this configuration configures nothing",
        "",
        '<configuration name="CHECKPOINT" source="FILE"/>',
    ),
    (
        ("<kwargs>", '<arg name="level">3</arg><kwargs>'),
        (27, 9),
        "<arg> does not belong in <checkpoint>",
        "<checkpoint> may hold <args> or <kwargs>.",
        "put it into <kwargs>",
    ),
]


HELPFUL = [
    ("<name>linux</name>", "<package>linux</package>", "<name>linux</name>"),
    ('<user name="root">', '<user name="Rööt User">', 'name="root-user"'),
    ('<interface match="en*"/>', "<interface/>", ""),
    (
        '<user name="root">',
        '<user name="root"><authorized_key>ssh-ed25519 A</authorized_key>',
        "<ssh_key source=",
    ),
]


@pytest.mark.parametrize(("old", "new", "suggestion"), HELPFUL)
def test_a_suggestion_can_be_written_there_or_there_is_none(
    settings: Settings, old: str, new: str, suggestion: str
) -> None:
    assert old in MANIFEST
    (found,) = diagnose(MANIFEST.replace(old, new, 1), settings)
    assert suggestion in found.suggestion
    assert suggestion or not found.suggestion


@pytest.mark.parametrize(
    ("change", "place", "message", "why", "suggestion"), CASES, ids=[case[2] for case in CASES]
)
def test_one_fault_gives_one_diagnostic_at_its_place(
    settings: Settings,
    change: tuple[str, str],
    place: tuple[int, int],
    message: str,
    why: str,
    suggestion: str,
) -> None:
    assert change[0] in MANIFEST
    (found,) = diagnose(MANIFEST.replace(*change, 1), settings)
    assert found.message == message
    assert (found.severity, found.file) == ("error", "/home/me/live.xml")
    assert (found.line, found.column) == place
    assert why in found.why
    assert found.suggestion == suggestion
    assert "..." not in suggestion  # what a person would have to fill in


WARNINGS = [
    (
        ("<boot_entry insert_at", '<boot_entry default_entry="true" insert_at'),
        (6, 21),
        "another entry after this one is the default",
    ),
    (
        ("<execution>", '<execution stop_on_error="false">'),
        (20, 16),
        "a build always stops at the first checkpoint that fails",
    ),
    (
        ('software name="transfer"', "software"),
        (15, 5),
        "this software has no name, so that no checkpoint transfers it",
    ),
    (
        ("<software_data><name>linux</name></software_data>", ""),
        (15, 5),
        "no packages are listed for 'transfer'",
    ),
    (("echo", "echo {ELSEWHERE}"), (25, 9), "{ELSEWHERE} is no token and is left unchanged"),
    (("echo", "echo %{arch}"), (25, 9), "%{arch} is no path into the DOC"),
]


@pytest.mark.parametrize(("change", "place", "message"), WARNINGS, ids=[w[2] for w in WARNINGS])
def test_what_is_doubtful_is_a_warning(
    settings: Settings, change: tuple[str, str], place: tuple[int, int], message: str
) -> None:
    (found,) = diagnose(MANIFEST.replace(*change, 1), settings)
    assert (found.severity, found.message) == ("warning", message)
    assert (found.line, found.column) == place


@pytest.mark.parametrize(
    ("name", "part", "suggestion"),
    [
        ("", "name='' of <distro> is not a name of letters, digits", 'name="my-image"'),
        ("x" * 33, "of at most 32 characters (it has 33)", f'name="{"x" * 32}"'),
        ("../x", "is not a name of letters, digits, and blanks", 'name="x"'),
        ("Live: 1/2", "is not a name of letters", 'name="Live-1-2"'),
        ("live.", "is not a name of letters", 'name="live"'),
    ],
)
def test_the_distributions_name_must_fit_a_volume(
    settings: Settings, name: str, part: str, suggestion: str
) -> None:
    (found,) = diagnose(MANIFEST.replace('distro name="live"', f'distro name="{name}"'), settings)
    assert part in found.message
    assert (found.line, found.column, found.suggestion) == (3, 11, suggestion)


def test_all_faults_are_said_in_one_pass_errors_first_in_order(settings: Settings) -> None:
    text = MANIFEST
    for change, *_ in (CASES[0], CASES[8], CASES[16], CASES[29], CASES[33], WARNINGS[1]):
        text = text.replace(*change, 1)
    found = diagnose(text, settings)
    assert [d.severity for d in found] == ["error"] * 5 + ["warning"]
    assert [d.line for d in found] == [5, 9, 15, 26, 31, 20]
    with pytest.raises(ManifestError, match="the manifest has 5 errors"):
        load(text, "/home/me/live.xml", settings=settings)


def test_a_manifest_of_countless_faults_is_told_of_the_first_ones(settings: Settings) -> None:
    found = diagnose(MANIFEST.replace("<execution>", "<wrong/>" * 5000 + "<execution>"), settings)
    assert len(found) == 201
    assert found[-1].message == "there are more than 200 faults; the rest is not shown"


def test_long_values_are_shortened(settings: Settings) -> None:
    (found,) = diagnose(MANIFEST.replace('timeout="5"', f'timeout="{"x" * 9999}"'), settings)
    assert len(found.message) < 150


def test_parameters_that_are_set_must_be_declared(settings: Settings) -> None:
    (found,) = diagnose(MANIFEST, settings, hostnam="x")
    assert found.message == "the manifest has no parameter 'hostnam'"
    assert (found.why, found.suggestion) == ("It declares hostname.", "--set hostname=x")


def test_parameters_without_value_must_be_set(settings: Settings) -> None:
    text = MANIFEST.replace(' default="live"', "")
    (found,) = diagnose(text, settings)
    assert (found.line, found.message) == (2, "parameter 'hostname' has no value")
    assert found.suggestion == "--set hostname=VALUE"
    assert diagnose(text, settings, hostname="x") == ()


def test_values_of_parameters_are_bounded_and_printable(settings: Settings) -> None:
    many = MANIFEST.replace("echo", "echo" + " ${hostname}" * 1000)
    (found,) = diagnose(many, settings, hostname="x" * 10_000)
    assert found.message == "the parameters' values make the manifest too big"
    (found,) = diagnose(MANIFEST, settings, hostname="\x00")
    assert "control characters" in found.message


def test_a_value_is_not_searched_for_parameters_again(settings: Settings) -> None:
    loaded = load(
        MANIFEST,
        "/home/me/live.xml",
        parameters={"hostname": "${hostname}"},
        settings=settings,
    )
    assert loaded.doc.find_path("//args.text")[0].startswith("echo ${hostname} ")  # type: ignore[attr-defined]


def test_shell_variables_need_no_escape_where_no_parameter_is_declared(settings: Settings) -> None:
    text = MANIFEST.replace('<parameter name="hostname" default="live"/>', "")
    assert diagnose(text, settings) == ()
    (found,) = diagnose(text.replace('title="Live"', 'title="${x}"'), settings)
    assert (found.line, found.message) == (5, "there is no parameter 'x'")


def test_another_root_is_explained(settings: Settings) -> None:
    (found,) = diagnose('<distribution name="x"/>', settings)
    assert found.suggestion == "convert it: dcctl migrate MANIFEST"
    (found,) = diagnose("<service_bundle/>", settings)
    assert found.message == "<service_bundle> is not a manifest"
