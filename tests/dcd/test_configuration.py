"""Settings: every value and where it came from; every mistake with its line and the remedy."""

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcd.configuration import (
    SETTINGS,
    Configuration,
    InvalidConfiguration,
    Live,
    from_smf,
    load,
)
from dcd.configuration.settings import Mode


def write(directory: Path, text: str) -> Path:
    path = directory / "dcd.toml"
    path.write_text(text)
    return path


def problems_of(directory: Path, text: str) -> list[str]:
    with pytest.raises(InvalidConfiguration) as raised:
        load(write(directory, text), environment={})
    return raised.value.problems


def test_without_anything_every_value_is_the_default() -> None:
    effective = load(None, environment={})
    assert effective.configuration == Configuration()
    assert {origin for _, _, origin in effective.rows()} == {"default"}


def test_each_value_knows_where_it_came_from(tmp_path: Path) -> None:
    path = write(tmp_path, '# settings\nmax_running_builds = 4\n\nstate_dir = "/srv/dcd"\n')
    effective = load(
        path, {"socket": Path("here.sock"), "state_dir": None}, {"DCD_STATE_DIR": "/env/dcd"}
    )
    assert effective.configuration.max_running_builds == 4
    assert effective.origins["max_running_builds"] == f"{path}:2"
    assert effective.configuration.state_dir == Path("/env/dcd")
    assert effective.origins["state_dir"] == "$DCD_STATE_DIR"
    assert effective.configuration.socket == Path.cwd() / "here.sock"
    assert effective.origins["socket"] == "--socket"


def test_every_kind_of_value_is_read(tmp_path: Path) -> None:
    text = """
stop_grace_seconds = 5
socket_mode = "0600"
include_directories = ["/srv/a", "/srv/b"]
observe = ["@staff", "alice"]
[include_map]
"/usr/share/distro_const/" = "/srv/caiman"
"""
    configuration = load(write(tmp_path, text), environment={}).configuration
    assert configuration.stop_grace_seconds == 5.0
    assert configuration.socket_mode == 0o600
    assert configuration.include_directories == (Path("/srv/a"), Path("/srv/b"))
    assert configuration.observe == ("@staff", "alice")
    assert configuration.include_map == {"/usr/share/distro_const/": Path("/srv/caiman")}


def test_all_mistakes_are_told_at_once_each_with_its_line_and_the_remedy(tmp_path: Path) -> None:
    text = (
        'max_runing_builds = 2\nlog_level = "inof"\nsocket_mode = 660\n\n[include_maps]\na = "b"\n'
    )
    unknown, level, mode, table = problems_of(tmp_path, text)
    path = tmp_path / "dcd.toml"
    assert unknown == (
        f"{path}:1: unknown setting 'max_runing_builds'; did you mean 'max_running_builds'?"
    )
    assert level == (
        f"{path}:2: log_level must be one of debug, info, warning, error (did you mean 'info'?), "
        "not 'inof'"
    )
    assert mode == f'{path}:3: socket_mode must be permissions in octal, such as "0660", not 660'
    assert table.startswith(f"{path}:5: unknown setting 'include_maps'")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('max_running_builds = "2"', "a whole number"),
        ("max_running_builds = true", "a whole number"),
        ("max_running_builds = 0", "1 or more"),
        ("stop_grace_seconds = -1", "0 or more"),
        ("stop_grace_seconds = nan", "0 or more"),
        ("stop_grace_seconds = inf", "0 or more"),
        ('stop_grace_seconds = "5s"', "a number of seconds"),
        ('state_dir = "var/lib"', "an absolute path"),
        ('state_dir = "/var\\u0000"', "text without NUL characters"),
        ('observe = "alice"', "a list of strings"),
        ("observe = [1]", "a list of strings"),
        ('include_map = ["/a"]', "a table of absolute paths"),
        ('include_map = {"/a" = "b"}', "an absolute path"),
        ('socket_mode = "rw-rw----"', "permissions in octal"),
    ],
)
def test_a_wrong_value_is_told_what_it_must_be(tmp_path: Path, line: str, expected: str) -> None:
    (problem,) = problems_of(tmp_path, f"\n{line}\n")
    assert problem.startswith(f"{tmp_path}/dcd.toml:2: {line.split()[0]} must be {expected}")


def test_what_is_not_toml_or_not_there_is_told(tmp_path: Path) -> None:
    assert "line 2" in problems_of(tmp_path, "\nobserve = oops\n")[0]
    with pytest.raises(InvalidConfiguration, match="No such file"):
        load(tmp_path / "absent.toml")
    (tmp_path / "dcd.toml").write_bytes(b"group = '\xff'")
    with pytest.raises(InvalidConfiguration, match="not UTF-8"):
        load(tmp_path / "dcd.toml")


def test_smf_properties_are_read_with_their_escapes() -> None:
    text = (
        "config/state_dir astring /export/with\\ blank\n"
        'config/group astring ""\n'
        "config/max_running_builds count 3\n"
        "config/socket_mode astring 0600\n"
        "config/include_directories astring /a /b\n"
        "config/include_map astring http://x/?a\\;b=/srv/x\n"
        "config/observe astring\n"
        "config/value_authorization astring solaris.smf.value.dcd\n"
    )
    effective = from_smf(text, environment={})
    configuration = effective.configuration
    assert configuration.state_dir == Path("/export/with blank")
    assert configuration.group == ""
    assert configuration.max_running_builds == 3
    assert configuration.socket_mode == 0o600
    assert configuration.include_directories == (Path("/a"), Path("/b"))
    assert configuration.include_map == {"http://x/?a;b": Path("/srv/x")}
    assert configuration.observe == ()
    assert effective.origins["group"] == "property config/group"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("config/statedir astring /x", "did you mean 'state_dir'"),
        ("config/max_running_builds count many", "must be a whole number, not 'many'"),
        ("config/max_running_builds count 1 2", "must be one value"),
        ("config/state_dir astring x", "must be an absolute path"),
        ("config/include_map astring /x", "PREFIX=DIRECTORY"),
        ("general/enabled boolean true", "unexpected line"),
    ],
)
def test_wrong_smf_properties_are_told(line: str, expected: str) -> None:
    with pytest.raises(InvalidConfiguration) as raised:
        from_smf(line + "\n")
    assert expected in raised.value.problems[0]


def escaped(value: str) -> str:
    """As svcprop(1) prints it."""
    special = "\\;&()|^<>\n \t\"'`"
    return "".join("\\" + c if c in special else c for c in value) or '""'


text_values = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\0\x1c\x1d\x1e\x1f\x85")
)


@given(st.lists(text_values, max_size=3))
def test_any_smf_value_comes_through(values: list[str]) -> None:
    values = [v for v in values if all(c in "\n\t " or not c.isspace() for c in v)]
    line = f"config/observe astring {' '.join(map(escaped, values))}\n"
    assert from_smf(line).configuration.observe == tuple(values)


def test_reload_takes_what_it_can_and_says_what_waits_for_a_restart(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    live = Live(lambda: load(path, environment={}))
    write(tmp_path, 'max_running_builds = 7\nstate_dir = "/elsewhere"\n')
    outcome = live.reload()
    assert (outcome.changed, outcome.waiting) == (("max_running_builds",), ("state_dir",))
    assert (live().max_running_builds, live().state_dir) == (7, Configuration().state_dir)
    origins = {each.setting.name: (each.origin, each.waiting) for each in live.settings()}
    assert origins["max_running_builds"] == (f"{path}:1", None)
    assert origins["state_dir"] == ("default", (Path("/elsewhere"), f"{path}:2"))


def test_every_setting_is_described_and_its_default_is_valid() -> None:
    assert list(SETTINGS) == [field.name for field in fields(Configuration)]
    for setting in SETTINGS.values():
        assert setting.description.endswith((".", "systemd passes a socket."))
        assert not setting.name.endswith(("_bytes", "_seconds")) or setting.unit
        assert not setting.choices or setting.default in setting.choices


def test_a_mode_is_shown_in_octal() -> None:
    assert str(Mode(0o660)) == "0660"
