"""Profiles and conditions: what stays in a manifest, and what is said of mistakes."""

import pytest

from dcd.manifest.diagnostics import ManifestError
from dcd.manifest.profiles import BadCondition, holds, parse
from dcd.planning.load import Loaded, Settings, load

TEXT = """<dc>
<parameter name="suite" default="bookworm"/>
<parameter name="debug" default="yes" when="dev"/>
<profile name="dev" description="with tools"/>
<profile name="ci"/>
<distro name="a">
<software name="deb" type="DEB">
<software_data action="install">
<name>base</name>
<name when="dev">strace</name>
<name when="dev and suite=trixie">gdb-${suite}</name>
<name when="not dev">small</name>
</software_data></software>
<execution>
<checkpoint name="deb" mod_path="sample_checkpoints" checkpoint_class="Transfer"/>
<checkpoint name="tool" mod_path="sample_checkpoints" checkpoint_class="Options" when="ci or dev">
<args>${suite}</args><kwargs><arg name="level" when="suite!=bookworm">2</arg></kwargs></checkpoint>
</execution></distro></dc>"""


@pytest.fixture
def loaded(checkpoints: str):
    def load_it(
        *profiles: str, text: str = TEXT, inherited: tuple[str, ...] = (), **values: str
    ) -> Loaded:
        settings = Settings(allowed_modules=(checkpoints,))
        return load(
            text,
            "/m.xml",
            parameters=values,
            profiles=profiles,
            inherited_profiles=inherited,
            settings=settings,
        )

    return load_it


def faults(loaded, *profiles: str, text: str = TEXT, **values: str) -> list[tuple[int, str, str]]:
    with pytest.raises(ManifestError) as refused:
        loaded(*profiles, text=text, **values)
    return [(each.line, each.message, each.suggestion) for each in refused.value.diagnostics]


def names(of: Loaded) -> list[str]:
    return [
        line.strip().removeprefix("<name>").removesuffix("</name>")
        for line in of.canonical.splitlines()
        if "<name>" in line
    ]


def test_an_element_stays_where_its_condition_holds(loaded) -> None:
    assert names(loaded()) == ["base", "small"]
    assert names(loaded("dev")) == ["base", "strace"]
    assert names(loaded("dev", suite="trixie")) == ["base", "strace", "gdb-trixie"]
    assert 'name="tool"' in loaded("ci").canonical and 'name="tool"' not in loaded().canonical
    assert 'name="level"' in loaded("ci", suite="sid").canonical


def test_the_stored_manifest_has_neither_profiles_nor_conditions(loaded) -> None:
    for stored in (loaded().canonical, loaded("dev", "ci").canonical):
        assert "profile" not in stored and "when" not in stored


def test_a_profile_that_changes_nothing_gives_the_same_manifest(loaded) -> None:
    plain = TEXT.replace(' when="ci or dev"', "").replace('<name when="not dev">small</name>', "")
    assert loaded("ci", text=plain).canonical == loaded(text=plain).canonical


def test_a_list_of_which_nothing_is_left_is_left_out(loaded) -> None:
    more = """<software_data action="uninstall"><name when="dev">nano</name></software_data></software>"""
    users = """<configuration name="deb" type="user"><user name="root" when="dev">
<password locked="true"/></user></configuration></distro>"""
    text = TEXT.replace("</software>", more).replace("</distro>", users)
    for part in ("uninstall", "configuration"):
        assert part in loaded("dev", text=text).canonical
        assert part not in loaded(text=text).canonical


def test_a_parameter_may_belong_to_a_profile(loaded) -> None:
    assert loaded("dev", debug="no")
    assert faults(loaded, debug="no")[0][1] == "the manifest has no parameter 'debug'"


def test_profiles_of_a_replaced_manifest_count_where_they_are_still_declared(loaded) -> None:
    assert names(loaded(inherited=("dev", "gone"))) == ["base", "strace"]


@pytest.mark.parametrize(
    ("condition", "line", "message", "suggestion"),
    [
        ("dve", 10, "there is no profile 'dve'; did you mean 'dev'?", "dev"),
        ("suit=trixie", 10, "there is no parameter 'suit'; did you mean 'suite'?", "suite"),
        ("suite", 10, "there is no profile 'suite'", "suite=VALUE"),
        ("dev=yes", 10, "there is no parameter 'dev'", "dev"),
        ("dev ci", 10, "when='dev ci': there is neither 'and' nor 'or' before 'ci'", ""),
        ("dev and", 10, "when='dev and': it ends where", ""),
        ("", 10, "when='': it ends where", ""),
        ("${suite}", 10, "when='${suite}': '${suite}' cannot be read", ""),
        ("(dev)", 10, "when='(dev)': '(dev)' cannot be read", ""),
        ("dev,ci", 10, "when='dev,ci': 'dev,ci' cannot be read", ""),
    ],
)
def test_a_mistake_in_a_condition_has_its_line_and_a_remedy(
    loaded, condition: str, line: int, message: str, suggestion: str
) -> None:
    text = TEXT.replace('<name when="dev">', f'<name when="{condition}">')
    found = [each for each in faults(loaded, text=text) if each[0] == line]
    assert len(found) == 1 and found[0][1].startswith(message), found
    assert suggestion in found[0][2] and found[0][2]


def test_a_mistake_in_a_part_that_is_left_out_is_found_too(loaded) -> None:
    text = TEXT.replace("<args>", '<args when="nobody">')
    assert faults(loaded, text=text)[0][:2] == (17, "there is no profile 'nobody'")


def test_a_condition_elsewhere_is_refused(loaded) -> None:
    for old, new, line in (
        ("<dc>", '<dc when="dev">', 1),
        ('<profile name="ci"/>', '<profile name="ci" when="dev"/>', 5),
        ('when="dev"/>', 'when="suite=sid"/>', 3),
    ):
        assert faults(loaded, text=TEXT.replace(old, new, 1))[0][0] == line


def test_an_unknown_profile_is_refused_with_the_known_ones(loaded) -> None:
    [(line, message, suggestion)] = faults(loaded, "dve")
    assert (line, suggestion) == (1, "--profile dev")
    assert message == "the manifest has no profile 'dve'; did you mean 'dev'?"


def test_a_profile_is_declared_once_and_has_a_name(loaded) -> None:
    twice = TEXT.replace('<profile name="ci"/>', '<profile name="dev"/><profile name="and"/>')
    twice = twice.replace("ci or dev", "dev")
    messages = [each[1] for each in faults(loaded, text=twice)]
    assert messages[0] == "profile 'dev' is declared twice"
    assert "'and'" in messages[1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", True),
        ("not a", False),
        ("not not a", True),
        ("b or a and x=1", True),
        ("a and b or x='two words'", False),
        ("x!=2", True),
        ("not x!=2", False),
        ("missing=1", False),
        ("x = 1 and a", True),
    ],
)
def test_and_binds_more_tightly_than_or(text: str, expected: bool) -> None:
    assert holds(parse(text), {"a"}, {"x": "1"}) is expected


@pytest.mark.parametrize(
    "text", ["or a", "a not b", "not", "x=", "x=1 2", "a and or b", "a && b", "x='1"]
)
def test_other_texts_are_no_conditions(text: str) -> None:
    with pytest.raises(BadCondition):
        parse(text)
