"""`dcd validate`: the checks of a manifest without a daemon."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.starters import STARTERS
from dcd.configuration import Configuration
from dcd.validate import Given, validate

BEGIN = (
    '<dc><distro name="d">'
    '<software type="DEB"><software_data><name>nano</name></software_data></software>'
)
END = "</distro></dc>"


@pytest.fixture
def manifest(tmp_path: Path):
    """Writes a manifest with these lines in its configuration; returns its path."""

    def write(*lines: str, name: str = "m.xml") -> str:
        path = tmp_path / name
        inner = ["<configuration>", *lines, "</configuration>"] if lines else []
        path.write_text("\n".join([BEGIN, *inner, END]))
        return str(path)

    return write


def checked(path: str, **parameters: str):
    [(_, valid, diagnostics)] = validate([path], Given(parameters), Configuration())
    errors = [each for each in diagnostics if each["severity"] == "error"]
    return valid, [(each["line"], each["message"]) for each in errors]


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "dcd.main", "validate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_each_starter_is_valid(tmp_path):
    for kind, text in STARTERS.items():
        (tmp_path / kind).write_text(text)
    found = list(validate([str(tmp_path / kind) for kind in STARTERS], Given(), Configuration()))
    assert all(valid for _, valid, _ in found)


def test_several_files_are_checked_and_each_error_has_its_line(manifest, tmp_path):
    good, bad = manifest(), manifest("<user/>", "<untree/>", name="bad.xml")

    result = run(good, bad, str(tmp_path / "none.xml"))

    assert result.returncode == 8, result.stderr
    assert f"{good}: valid" in result.stdout
    assert f"{bad}:3:" in result.stdout
    assert f"{bad}:4:" in result.stdout
    assert f"{tmp_path}/none.xml: error: cannot read" in result.stdout
    assert result.stderr == ""


def test_json_has_every_file(manifest):
    good, bad = manifest(), manifest("<untree/>", name="bad.xml")

    result = run("--json", good, bad)

    answer = json.loads(result.stdout)
    assert (result.returncode, answer["ok"]) == (8, False)
    assert [(each["file"], each["ok"]) for each in answer["files"]] == [(good, True), (bad, False)]
    assert answer["files"][1]["diagnostics"][0]["line"] == 3


def test_files_that_a_manifest_names_are_read_and_checked(manifest, tmp_path):
    path = manifest('<tree source="site" dest="/srv"/>', '<script source="setup.sh"/>')
    assert [line for line, _ in checked(path)[1]] == [3, 4]

    (tmp_path / "site").mkdir()
    (tmp_path / "setup.sh").write_text("true\n")
    assert checked(path) == (True, [])

    os.mkfifo(tmp_path / "site" / "pipe")
    [(line, message)] = checked(path)[1]
    assert (line, "named pipe" in message) == (3, True)


def test_parameters_are_set_for_all_manifests(tmp_path):
    path = tmp_path / "m.xml"
    path.write_text('<dc><parameter name="who"/>' + BEGIN[4:].replace('"d"', '"${who}"') + END)
    assert checked(str(path))[0] is False
    assert checked(str(path), who="me") == (True, [])
    assert run("--set", "who", str(path)).returncode == 2


def test_entities_and_remote_includes_are_refused(tmp_path):
    path = tmp_path / "m.xml"
    path.write_text(f'<!DOCTYPE dc [<!ENTITY x SYSTEM "file:///etc/passwd">]>{BEGIN}&x;{END}')
    assert checked(str(path))[0] is False
    xi = '<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="http://127.0.0.1:9/m.xml"/>'
    path.write_text(BEGIN + xi + END)
    assert checked(str(path))[0] is False


def test_commands_of_a_manifest_are_not_run(manifest, tmp_path):
    (tmp_path / "f").write_text("x")
    touch = f'<validation path="/usr/bin/touch" args="{tmp_path}/ran"/>'
    path = manifest()
    Path(path).write_text(
        f'{BEGIN}<configuration source="f" dest="/f">{touch}</configuration>{END}'
    )

    [(_, valid, diagnostics)] = validate([path], Given(), Configuration())

    assert valid, diagnostics
    assert sum("run by the daemon only" in each["message"] for each in diagnostics) == 1
    assert not (tmp_path / "ran").exists()
