"""`dcctl checkpoint-types` on what the API really says of the project's checkpoints."""

import json
from collections.abc import Callable

import msgspec
import pytest

from dcd.api.schemas import CheckpointTypes
from dcd.construction.checkpoint_types import registered


@pytest.fixture
def types(daemon: object) -> list[object]:
    """The answer of the daemon."""
    found = tuple(registered()[0])
    answer = msgspec.json.decode(
        msgspec.json.encode(CheckpointTypes(found, ("module 'x' cannot be imported: y",)))
    )
    daemon.answers["GET", "/v1/checkpoint-types"] = 200, answer  # type: ignore[attr-defined]
    return answer["types"]


def test_all_are_listed_and_modules_that_fail_are_a_warning(
    dcctl: Callable[..., object], types: list[object]
) -> None:
    outcome = dcctl("checkpoint-types")
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["CHECKPOINT_CLASS", "MOD_PATH", "DESCRIPTION"]
    assert len(lines) == 1 + len(types)
    assert outcome.err == "dcctl: warning: module 'x' cannot be imported: y\n"
    assert outcome.code == 0
    assert json.loads(dcctl("checkpoint-types", "--json").out)["types"] == types


@pytest.mark.parametrize(
    "name",
    [
        "CustomScript",
        "dcd/checkpoints/custom_script",
        "dcd.checkpoints.custom_script",
        "dcd/checkpoints/custom_script:CustomScript",
        "solaris_install/distro_const/checkpoints/custom_script",
    ],
)
def test_one_is_described_under_each_of_its_names(
    dcctl: Callable[..., object], types: list[object], name: str
) -> None:
    out = dcctl("checkpoint-types", name).out
    assert out.startswith("dcd/checkpoints/custom_script:CustomScript\n  Run a command")
    assert "chroot             false    true or false" in out
    assert "Tools: chroot" in out
    assert "In the original: solaris_install/" in out


def test_a_name_that_is_none_exits_7_with_what_it_may_have_meant(
    dcctl: Callable[..., object], types: list[object]
) -> None:
    outcome = dcctl("checkpoint-types", "CustomScrip")
    assert outcome.code == 7
    assert "there is no checkpoint CustomScrip" in outcome.err
    assert "did you mean CustomScript?" in outcome.err
