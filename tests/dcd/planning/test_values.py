"""Reasons for runs show what a part of the manifest was and what it is now."""

import pytest

from dcd.manifest.mixture import Edit, mixed
from dcd.planning.values import with_values

MANIFEST = """<dc><distro name="live"><software name="t"><software_data action="install"><name>sudoo</name>
</software_data></software><software name="u"><software_data><name>vim</name></software_data></software>
<configuration name="c"><user name="ann" uid="1000"/></configuration>
<execution><checkpoint name="t" type="TransferDEB"/><checkpoint name="s" type="CustomScript">
<args>true</args></checkpoint><checkpoint name="i" type="CreateISO"><kwargs><arg name="level">4</arg>
</kwargs></checkpoint></execution></distro></dc>"""


@pytest.mark.parametrize(
    ("before", "after", "checkpoint", "reason", "values"),
    [
        ("sudoo", "sudo", "t", "software/t changed at line 1", "package sudoo -> sudo"),
        ("sudoo<", "sudoo</name><name>nano<", "t", "software/t changed", "package nano is new"),
        ("<args>true", "<args>false", "s", "argument command changed at line 4", "true -> false"),
        (">4<", ">8<", "i", "argument level changed at line 4", "4 -> 8"),
        ("1000", "1001", "c", "configuration/c 1 changed at line 3", "uid 1000 -> 1001"),
        ("<args>true", "<args>" + "x" * 99, "s", "argument command changed", "true -> " + "x" * 57 + "..."),
        ("sudoo", "sudo", "u", "software/u changed at line 2", ""),
        ("sudoo", "sudo", "t", "an earlier checkpoint changed", ""),
        (">4<", ">8<", "s", "argument command changed at line 4", ""),
    ],
)  # fmt: skip
def test_a_reason_has_the_values_of_its_own_part(
    before: str, after: str, checkpoint: str, reason: str, values: str
) -> None:
    _, edits = mixed(MANIFEST, MANIFEST.replace(before, after), ())
    assert edits
    expected = f"{reason} ({values})" if values else reason
    assert with_values(checkpoint, reason, edits) == expected


def test_of_a_script_the_lines_that_differ_are_shown() -> None:
    before = "set -e\nnosuch --x\necho done"
    edits = [
        Edit(
            "dc/distro a/execution/checkpoint s/kwargs/arg text",
            before,
            before.replace("nosuch", "ls"),
        )
    ]
    told = with_values("s", "argument text changed at line 4", edits)
    assert told == "argument text changed at line 4 (nosuch --x -> ls --x)"


def test_of_many_changes_the_first_are_shown() -> None:
    names = "".join(f"<name>p{number}</name>" for number in range(9))
    _, edits = mixed(MANIFEST, MANIFEST.replace("<name>vim</name>", f"<name>vim</name>{names}"), ())
    told = with_values("u", "software/u changed at line 2", edits)
    assert told.endswith("(package p0 is new; package p1 is new; package p2 is new; and 6 more)")
