"""The `dcd` command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def dcd(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "dcd.main", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=60,
    )


@pytest.fixture
def svcprop(tmp_path: Path):
    """A stand-in for svcprop(1) that prints the given properties."""

    def install(*lines: str) -> str:
        tool = tmp_path / "bin" / "svcprop"
        tool.parent.mkdir()
        tool.write_text("#!/bin/sh\ncat <<'END'\n" + "\n".join(lines) + "\nEND\n")
        tool.chmod(0o755)
        return f"{tool.parent}:{os.environ['PATH']}"

    return install


def test_serve_under_smf_says_which_property_is_wrong_and_exits_as_smf_expects(svcprop):
    path = svcprop("config/max_running_builds count 0")

    result = dcd("serve", "--from-smf", PATH=path, SMF_FMRI="svc:/application/dcd:default")

    assert result.returncode == 96
    assert "max_running_builds" in result.stderr
    assert "Traceback" not in result.stderr


def test_serve_under_smf_outside_smf_is_refused():
    result = dcd("serve", "--from-smf")

    assert result.returncode == 95
    assert "SMF_FMRI" in result.stderr


def test_wrong_settings_end_the_start_with_file_and_line(tmp_path):
    config = tmp_path / "dcd.toml"
    config.write_text('\nlayer_backent = "copy"\n')

    result = dcd("serve", "--config", str(config), "--state-dir", str(tmp_path / "state"))

    assert result.returncode == 2
    assert f"{config}:2" in result.stderr
    assert "layer_backend" in result.stderr


def test_smf_manifest_names_the_installation():
    assert f"{sys.prefix}/bin/dcd" in dcd("smf-manifest").stdout


def test_doctor_lists_only_packages_on_request():
    result = dcd("doctor", "--packages")

    assert result.returncode == 0
    assert len(result.stdout.splitlines()) == 1


def test_config_shows_each_setting_with_where_it_comes_from(tmp_path):
    config = tmp_path / "dcd.toml"
    config.write_text("max_running_builds = 7\n")

    shown = json.loads(dcd("config", "--config", str(config), "--json").stdout)

    assert shown["max_running_builds"] == {"value": 7, "origin": f"{config}:1"}
    assert shown["layer_backend"]["origin"] == "default"
    lines = dcd("config", "--config", str(config)).stdout.splitlines()
    assert ["max_running_builds", "7", f"({config}:1)"] in [line.split() for line in lines]
