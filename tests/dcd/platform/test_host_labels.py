"""The labels of this host, and what it takes for them."""

import json
import subprocess
from pathlib import Path

import pytest

from dcd.platform import foreign, host_labels
from store.host.interpreter import module_command


def test_this_host_has_its_architecture_and_its_tools() -> None:
    command = module_command("dcd.platform.host_labels")
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert {foreign.own(), "tool:cp", "tool:dpkg-query"} <= set(found)
    assert found == sorted(found)
    assert not {"alpha", "tool:cat"} & set(found)


def test_secrets_are_labels_by_their_references(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of+team").mkdir()
    (tmp_path / "of+team/the key").write_text("hush")
    monkeypatch.setenv("DCD_SECRET_LIVE", "hush")
    found = host_labels.host_labels([tmp_path, tmp_path / "absent"])
    assert f"secret:{tmp_path}/of%2Bteam/the%20key" in found
    assert "secret:DCD_SECRET_LIVE" in found
    assert "hush" not in " ".join(found)


def test_people_see_the_plain_labels() -> None:
    assert host_labels.plain(["tool:cp", "kvm", "amd64", "secret:/s"]) == "amd64+kvm"
    assert host_labels.plain(["tool:cp"]) == "none"


def test_a_repetition_stays_on_the_member_that_has_what_it_is_compared_with() -> None:
    first = ("amd64", "dcd:1", "host:b")
    assert host_labels.kept_on("a", first) == ("amd64", "host:a"), (
        "with the code that the member has now"
    )
    assert host_labels.kept_on("", ("amd64",)) == ("amd64",)
