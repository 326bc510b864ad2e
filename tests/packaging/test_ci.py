"""The files for CI systems: valid YAML, and their shell parts do what they say."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CI = ROOT / "packaging" / "ci"
ACTION = yaml.safe_load((CI / "action.yml").read_text())
GITLAB = yaml.safe_load((CI / "gitlab.yml").read_text())


def run(script: str, directory: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", script],
        cwd=directory,
        env={**os.environ, "PATH": path, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_action_passes_all_its_inputs_by_the_environment() -> None:
    """An expression inside a script would let the text of an input become code."""
    assert ACTION["runs"]["using"] == "composite"
    steps = ACTION["runs"]["steps"]
    assert all(step["shell"] == "bash" and "${{" not in step["run"] for step in steps)
    given = {value for step in steps for value in step["env"].values()}
    assert given == {f"${{{{ inputs.{name} }}}}" for name in ACTION["inputs"]}


@pytest.mark.root
def test_the_shell_parts_build_and_report(daemon, write_manifest, tmp_path) -> None:
    manifest = str(write_manifest(("one", "true")))
    steps = [step["run"] for step in ACTION["runs"]["steps"]]
    page = tmp_path / "page.md"
    variables = {
        "MANIFEST": manifest,
        "DIRECTORY": "out dir",
        "PARAMETERS": "",
        "SUDO": "",
        "DCD_SOCKET": str(daemon.socket),
        "GITHUB_STEP_SUMMARY": str(page),
        "DCD_MANIFEST": manifest,
        "DCD_DIRECTORY": "image",
    }

    for step in (*steps, *GITLAB[".dcd-validate"]["script"]):
        done = run(step, tmp_path, **variables)
        assert done.returncode == 0, done.stderr
    done = run("set -e\n" + "\n".join(GITLAB[".dcd-build"]["script"]), tmp_path, **variables)
    assert done.returncode == 0, done.stderr

    for directory in ("out dir", "image"):
        suite = ET.parse(tmp_path / directory / "junit.xml").find("testsuite")
        assert suite is not None
        assert suite.get("errors") == suite.get("failures") == "0"
    assert ": completed" in page.read_text()
    failed = run(steps[1], tmp_path, **{**variables, "PARAMETERS": "who=me; touch ran"})
    assert failed.returncode == 8
    assert not (tmp_path / "ran").exists()
    assert "not built" in page.read_text()


def test_the_hooks_check_manifests(tmp_path) -> None:
    [hook] = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    local = yaml.safe_load((CI / "pre-commit.yaml").read_text())["repos"][0]["hooks"][0]
    assert hook["id"] == local["id"] == "dcd-validate"
    (tmp_path / "bad.xml").write_text("<dc/>")
    for each in (hook, local):
        done = run(f"{each['entry']} bad.xml", tmp_path)
        assert done.returncode == 8, done.stderr
        assert "bad.xml:1" in done.stdout
