"""A repository that cannot be asked: what a manifest would run is shown all the same, at once."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Daemon

SOFTWARE = """
  <software name="base" type="DEB"><destination><image variant="custom"/></destination>
    <source><repository uri="{uri}" suite="test"/></source>
    <software_data><name>app</name></software_data></software>
"""
SCRIPT = '<checkpoint name="{name}" mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript">'
SCRIPT += "<args>true</args></checkpoint>"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A script, packages of a repository that does not answer, and another script."""
    path = tmp_path / "unreachable.xml"
    path.write_text(
        f'<dc><distro name="unreachable"><!--time-->{SOFTWARE.format(uri="http://127.0.0.1:1/")}'
        f"<execution>{SCRIPT.format(name='before')}"
        '<checkpoint name="base" mod_path="dcd/checkpoints/transfer/deb" checkpoint_class="TransferDEB"/>'
        f"{SCRIPT.format(name='after')}</execution></distro></dc>"
    )
    return path


def actions(daemon: Daemon, manifest: Path, *options: str) -> dict[str, tuple[str, str, bool]]:
    plan = daemon.json("plan", manifest, *options)
    return {
        item["name"]: (item["action"], item["reason"], bool(item["key"]))
        for item in plan["checkpoints"]
    }


def test_the_plan_is_shown_with_the_repository_that_cannot_be_asked(
    daemon: Daemon, manifest: Path
) -> None:
    found = actions(daemon, manifest)
    action, reason, has_key = found["base"]
    assert (action, has_key) == ("unknown", False)
    assert reason.startswith("its repository cannot be queried: ")
    assert "http://127.0.0.1:1/ test" in reason
    assert "tried" not in reason, "a plan is shown without patience"
    # The time of the build, which is in every key, would be that of the repository.
    assert found["before"][0] == "unknown"
    assert found["after"] == (
        "run", "it comes after before, whose key is not known", False,
    )  # fmt: skip
    text = daemon.ctl("plan", manifest)
    assert "2 not known, since a repository is unreachable" in text


def test_what_comes_before_it_is_known_when_the_builds_time_is(
    daemon: Daemon, manifest: Path
) -> None:
    found = actions(daemon, manifest, "--source-date-epoch", "1700000000")
    assert found["before"] == ("run", "no build made it yet", True)
    assert found["base"][0] == "unknown"
    assert "after base, whose key" in found["after"][1]


def test_a_submit_is_refused_and_says_which_repository(daemon: Daemon, manifest: Path) -> None:
    outcome = daemon.run("submit", manifest)
    assert outcome.returncode == 11
    assert "the mirror does not serve http://127.0.0.1:1/ test" in outcome.stderr
    assert "tried 4 times" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert daemon.json("list", "--all") == []


def test_distro_const_lists_the_checkpoints(
    daemon: Daemon, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCD_SOCKET", str(daemon.socket))
    command = [sys.executable, "-m", "cli.distro_const", "build", "-l", manifest]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert outcome.returncode == 0
    listed = [line.split()[0] for line in outcome.stdout.splitlines()[2:]]
    assert listed == ["before", "base", "after", "sbom"]
    assert "base: its repository cannot be queried" in outcome.stderr


@pytest.mark.parametrize("command", ["validate", "plan", "submit"])
@pytest.mark.parametrize("scheme", ["file", "copy"])
def test_a_repository_that_workers_do_not_see_is_refused_when_the_manifest_is_read(
    daemon: Daemon, manifest: Path, command: str, scheme: str
) -> None:
    manifest.write_text(
        manifest.read_text().replace("http://127.0.0.1:1/", f"{scheme}:///home/somebody/repo")
    )
    outcome = daemon.run(command, manifest)
    assert outcome.returncode == 8
    said = outcome.stdout + outcome.stderr
    assert f"{manifest.name}:3" in said
    assert "checkpoints cannot read /home/somebody/repo of this host" in said
    assert "serve it over http" in said
