"""What a manifest gives twice, though only one can count, is refused with both places."""

import pytest

from dcd.manifest.diagnostics import ManifestError
from dcd.planning.load import load

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
    assert fault[:2] == (8, "the uid 1001 belongs to 'ada' already")
    assert "/m.xml:7" in fault[2]


def test_a_place_of_a_file() -> None:
    files = "\n".join(
        f'<configuration name="c" source="{name}" dest="/etc/motd"/>' for name in "ab"
    )
    (fault,) = [each for each in _errors(configurations=files) if "cannot read" not in each[1]]
    assert fault[:2] == (7, "two files are to be /etc/motd")
    assert "/m.xml:6" in fault[2]
