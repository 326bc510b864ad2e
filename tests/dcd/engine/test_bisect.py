"""`dcctl diff` and `dcctl bisect` with a real daemon: what differs, and which of it makes a test fail."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.root, pytest.mark.daemon]

KIND = 'mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript"'


def write(directory: Path, files: str, *values: str) -> Path:
    """A manifest whose test fails when the file says `broken` and the second value is `bad`."""
    directory.mkdir(exist_ok=True)
    (directory / "part.sh").write_text(f"echo {files} > $PKG_IMAGE_PATH/part\n")
    (directory / "other.sh").write_text(f"echo {files} > $PKG_IMAGE_PATH/other\n")
    made = "".join(
        f'<checkpoint name="make-{number}" {KIND}><args>echo {value} > {{PKG_IMAGE_PATH}}/{number}'
        "</args></checkpoint>"
        for number, value in enumerate(values)
    )
    scripts = "".join(
        f'<checkpoint name="{name}" {KIND}><kwargs><arg name="script">{name}.sh</arg></kwargs></checkpoint>'
        for name in ("part", "other")
    )
    check = 'cd {PKG_IMAGE_PATH} &amp;&amp; ! { [ "$(cat part)" = broken ] &amp;&amp; [ "$(cat 1)" = bad ]; }'
    file = directory / "image.xml"
    file.write_text(
        f'<dc><distro name="image"><execution>{scripts}{made}<checkpoint name="test" {KIND}>'
        f'<args>{check}</args></checkpoint><checkpoint name="after" {KIND}><args>true</args>'
        "</checkpoint></execution></distro></dc>"
    )
    return file


def test_the_changes_that_make_a_test_fail_are_found_and_nothing_is_built_twice(
    daemon: Any, tmp_path: Path
) -> None:
    good = daemon.submit(write(tmp_path / "good", "fine", "a", "b", "c"))
    daemon.wait(good, "completed")
    bad = daemon.submit(write(tmp_path / "bad", "broken", "x", "bad", "z"))
    daemon.wait(bad, "failed")

    found = daemon.json("diff", good, bad)
    assert [each["name"] for each in found["inputs"]] == ["other.sh", "part.sh"]
    assert any(line.startswith("+") and "bad" in line for line in found["manifest"])
    assert {(each["path"], *each["kinds"]) for each in found["files"]} >= {
        ("pkg_image/part", "content"),
        ("pkg_image/1", "content"),
    }
    outcomes = {each["name"]: each for each in found["checkpoints"]}
    assert outcomes["test"]["first"]["state"] == "completed"
    assert outcomes["test"]["second"]["state"] == "failed"
    printed = daemon.ctl("diff", good, bad)
    assert "pkg_image/part" in printed
    assert "not compared: packages" in printed

    command = [sys.executable, "-m", "cli.main", "bisect", good, bad, "--json"]
    environment = {**os.environ, "DCD_SOCKET": str(daemon.socket)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as search:
        while len(daemon.json("list", "--all")) < 4:
            time.sleep(0.05)
        daemon.kill()
        time.sleep(0.5)
        daemon.start()
        assert search.stdout is not None
        cause = json.loads(search.stdout.read().splitlines()[-1])
    assert search.returncode == 0, "the search survives a restart"
    assert cause["test"] == "test"
    assert [(each["kind"], each["what"].split()[-1]) for each in cause["changes"]] == [
        ("manifest", "make-1"),
        ("file", "part.sh"),
    ]
    assert cause["build"]["state"] == "failed"

    builds = len(daemon.json("list", "--all"))
    assert "fails with 2 changes of 5" in daemon.ctl("bisect", good, bad)
    assert len(daemon.json("list", "--all")) == builds, (
        "the same search finds what is built already"
    )

    assert "wrong way round" in daemon.run("bisect", bad, good).stderr
    assert "has not passed test" in daemon.run("bisect", bad, good, "--test", "test").stderr
    assert "no checkpoint" in daemon.run("bisect", good, bad, "--test", "nothing").stderr
