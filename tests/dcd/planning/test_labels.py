"""What a build requires of the host that makes it, and the refusal of one that lacks it."""

import re

import pytest

from dcd.manifest.diagnostics import ManifestError
from dcd.planning.labels import (
    code_label,
    placement,
    refuse_secrets,
    require_labels,
    required,
    with_code,
)
from dcd.planning.load import load
from dcd.platform import foreign
from dcd.platform.host_labels import public
from statemachine.errors import Unprepared, UsageError
from statemachine.plan import Plan, PlannedCheckpoint

MANIFEST = """<dc><distro name="x">{}
<software name="transfer" type="DEB"><source/>{}</software><execution>
<checkpoint name="transfer" mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript">
<args>true</args></checkpoint></execution></distro></dc>"""


def doc(placed: str = "", image: str = "") -> object:
    return load(MANIFEST.format(placed, image), "/me/m.xml").doc


def plan(**needs: tuple[str, ...]) -> Plan:
    return Plan((PlannedCheckpoint("a", "", "m", "C", "k", (), **needs),))  # type: ignore[arg-type]


def test_a_build_requires_architecture_tools_secrets_and_what_its_manifest_asks_for() -> None:
    found = doc(
        '<placement><require label="kvm"/><require label="rack:2"/><require label="kvm"/></placement>',
        '<destination><image architecture="arm64"/></destination>',
    )
    assert placement(found) == ("kvm", "rack:2")
    needs = plan(tools=("xorriso", "cp"), secrets=("/etc/dcd/secrets/a+b", "DCD_SECRET_X"))
    assert required(needs, found) == (
        "arm64", "kvm", "rack:2", "secret:/etc/dcd/secrets/a%2Bb", "secret:DCD_SECRET_X", "tool:cp",
        "tool:xorriso",
    )  # fmt: skip


def test_without_an_architecture_it_is_that_of_the_host_which_plans() -> None:
    assert required(plan(), doc()) == (foreign.own(),)


@pytest.mark.parametrize("label", ["", "a b", "a+b", "-a", "x" * 256])
def test_what_is_no_label_is_an_error_at_its_place(label: str) -> None:
    with pytest.raises(ManifestError) as caught:
        doc(f'<placement>\n<require label="{label}"/></placement>')
    assert caught.value.diagnostics[0].line == 2


def test_a_placement_without_a_label_is_an_error() -> None:
    with pytest.raises(ManifestError, match="placement"):
        doc("<placement/>")


def test_a_host_without_a_label_refuses_and_says_what_it_has() -> None:
    require_labels({"amd64"}, ["amd64", "tool:cp"])
    with pytest.raises(Unprepared) as caught:
        require_labels({"kvm", "arm64"}, ["amd64", "tool:cp"])
    assert caught.value.brief == "no member has arm64+kvm; this host has amd64"
    assert caught.value.details == "it lacks arm64 and kvm"
    assert "--require" in caught.value.resolution


def test_nobody_learns_by_a_label_whether_a_secret_exists() -> None:
    said = []
    for found in (["amd64", "secret:/etc/dcd/secrets/x"], ["amd64"]):
        with pytest.raises(Unprepared) as caught:
            require_labels({"secret:/etc/dcd/secrets/x"}, found)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_in_a_farm_no_label_of_a_secret_is_asked_for() -> None:
    refuse_secrets({"amd64", "rack:2"})
    with pytest.raises(UsageError, match="secret:/etc/dcd/secrets/x") as caught:
        refuse_secrets({"amd64", "secret:/etc/dcd/secrets/x"})
    assert "--require" in caught.value.resolution


def test_not_everybody_sees_the_names_of_secrets() -> None:
    assert public(["amd64", "secret:/etc/dcd/secrets/key", "tool:cp"]) == ("amd64", "tool:cp")


def test_the_code_of_checkpoints_is_in_keys_where_other_code_planned_the_build() -> None:
    """So no key means results of two codes, and after the way back the keys are as planned."""
    own, other = code_label(), "dcd:0123456789ab"
    assert re.fullmatch("dcd:[0-9a-f]{12}", own)
    assert with_code({"deb": "x"}, ["amd64", own]) == {"deb": "x"}
    assert with_code({"deb": "x"}, ["amd64"]) == {"deb": "x"}, "a build of a single machine"
    found = with_code({"deb": "x"}, ["amd64", other])
    assert found == {"deb": "x", "dcd of the host": own.removeprefix("dcd:")}
    assert with_code(found, [own]) == {"deb": "x"}
