"""What a manifest gives twice, though only one can count, is refused with both places."""

from functools import partial

import pytest

from dcd.manifest.diagnostics import ManifestError
from dcd.planning.load import load
from dcd.planning.readiness import examine

_CONFIGURE = """<dc><distro name="a"><execution>
<checkpoint name="c" mod_path="dcd/checkpoints/image/configure"
  checkpoint_class="DebianPrePkgImgMod"><kwargs>
{arguments}
</kwargs></checkpoint></execution>
{configurations}
</distro></dc>"""

_USER = '<user name="{name}" uid="1001"><password locked="true"/></user>'


def _errors(arguments: str = "", configurations: str = "") -> list[tuple[int, str, str]]:
    text = _CONFIGURE.format(arguments=arguments, configurations=configurations)
    with pytest.raises(ManifestError) as refused:
        load(text, "/m.xml")
    found = refused.value.diagnostics
    return [(each.line, each.message, each.why) for each in found if each.severity == "error"]


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        ('<arg name="hostname">a</arg>', '<arg name="hostname">b</arg>', "hostname"),
        (
            '<arglist name="enable_services"><argitem>ssh</argitem></arglist>',
            '<arglist name="enable_services"><argitem>cron</argitem></arglist>',
            "enable_services",
        ),
        (
            '<arg name="enable_services">ssh</arg>',
            '<arglist name="enable_services"><argitem>cron</argitem></arglist>',
            "enable_services",
        ),
    ],
)
def test_an_argument(first: str, second: str, name: str) -> None:
    (fault,) = _errors(f"{first}\n{second}")
    assert fault[:2] == (5, f"checkpoint 'c' has the argument {name!r} twice")
    assert "/m.xml:4" in fault[2]


def test_a_users_number() -> None:
    users = "\n".join(_USER.format(name=name) for name in ("ada", "bob"))
    (fault,) = _errors(
        configurations=f'<configuration name="c" type="user">\n{users}\n</configuration>'
    )
    assert fault[:2] == (8, "the uid 1001 already belongs to 'ada'")
    assert "/m.xml:7" in fault[2]


def test_a_place_of_a_file() -> None:
    files = "\n".join(
        f'<configuration name="c" source="{name}" dest="/etc/motd"/>' for name in "ab"
    )
    (fault,) = [each for each in _errors(configurations=files) if "cannot read" not in each[1]]
    assert fault[:2] == (7, "two files have the dest /etc/motd")
    assert "/m.xml:6" in fault[2]


def _interfaces(*matches: str, names: str = "cc") -> str:
    return "\n".join(
        f'<configuration name="{name}"><interface match="{match}"/></configuration>'
        for name, match in zip(names, matches, strict=True)
    )


@pytest.mark.parametrize(
    ("first", "second", "twice"),
    [
        ("en*", "en*", "en*"),
        ("eth0", "eth0", "eth0"),
        ("en*", "enp1s0", "enp1s0"),
        ("en*", "enp?s*", "enp?s*"),
        ("*", "wlan0", "wlan0"),
        ("eth0 eth1", "eth2 eth1", "eth1"),
    ],
)
def test_an_interface(first: str, second: str, twice: str) -> None:
    (fault,) = _errors(configurations=_interfaces(first, second))
    assert fault[:2] == (7, f"{first!r} already matches the interfaces {twice!r}")
    assert "/m.xml:6" in fault[2]


@pytest.mark.parametrize(
    ("first", "second"),
    [("enp1s0", "en*"), ("en*", "eth*"), ("en?", "en*"), ("en??", "en?"), ("eth0", "eth1")],
)
def test_what_is_special_may_stand_before_what_is_general(first: str, second: str) -> None:
    text = _CONFIGURE.format(arguments="", configurations=_interfaces(first, second))
    load(text, "/m.xml")


def test_interfaces_of_two_checkpoints_replace_each_other() -> None:
    text = _CONFIGURE.format(arguments="", configurations=_interfaces("en*", "en*", names="cd"))
    second = '<checkpoint name="d" mod_path="dcd/checkpoints/image/configure" '
    second += 'checkpoint_class="DebianPrePkgImgMod"/></execution>'
    load(text.replace("</execution>", second), "/m.xml")


_COPY = """<dc><distro name="a"><execution>
<checkpoint name="c" mod_path="dcd/checkpoints/transfer/cpio" checkpoint_class="TransferCPIO"/>
</execution><software name="c" type="DIR">
<source><dir path="{PKG_IMAGE_PATH}/a"/></source>
<source><dir path="{PKG_IMAGE_PATH}/b"/></source>
</software></distro></dc>"""


def test_a_source_directory() -> None:
    with pytest.raises(ManifestError) as refused:
        load(_COPY, "/m.xml")
    (fault,) = refused.value.diagnostics
    assert (fault.line, fault.message) == (5, "this software already has a source directory")
    assert "/m.xml:4" in fault.why


def test_sources_of_packages_all_count() -> None:
    sources = "".join(
        f'<source><repository suite="x" uri="http://{name}/"/></source>' for name in "ab"
    )
    load(
        '<dc><distro name="a"><execution><checkpoint name="c" checkpoint_class="TransferDEB" '
        f'mod_path="dcd/checkpoints/transfer/deb"/></execution><software name="c" type="DEB">{sources}'
        "<software_data><name>app</name></software_data></software></distro></dc>",
        "/m.xml",
    )


@pytest.mark.parametrize(
    ("argument", "value", "severity", "message"),
    [
        ("timezone", "Europe/Nowhereland", "warning", "no time zone 'Europe/Nowhereland'"),
        ("timezone", "/Europe/Berlin", "error", "not a time zone"),
        ("timezone", "../etc/passwd", "error", "not a time zone"),
        ("locale", "english", "error", "not a locale"),
        ("locale", "en-GB.UTF-8", "error", "not a locale"),
        ("locale", "en_gb.UTF-8", "error", "not a locale"),
    ],
)
def test_a_region_is_looked_at(argument: str, value: str, severity: str, message: str) -> None:
    text = _CONFIGURE.format(arguments=f'<arg name="{argument}">{value}</arg>', configurations="")
    try:
        found = load(text, "/m.xml", examine=partial(examine, allowed=())).diagnostics
    except ManifestError as refused:
        found = list(refused.diagnostics)
    (said,) = [each for each in found if "needs" not in each.message]
    assert (said.severity, said.line) == (severity, 4)
    assert message in said.message
