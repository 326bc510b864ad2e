"""The Debian package: in step with the project, built from the checkout, accepted by lintian."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from dcd.doctor import ENGINE_TOOLS, IMAGE_TOOLS, LAYER_TOOLS, OPTIONAL_TOOLS
from store.host import tools

ROOT = Path(__file__).parents[2]
DEBIAN = ROOT / "packaging" / "debian"
CONTROL = (DEBIAN / "control").read_text()
ESSENTIAL = {"coreutils", "util-linux"}
"""Debian's policy: not to be named in Depends."""


def names(field: str) -> set[str]:
    found = re.search(rf"^{field}:(.*(?:\n .*)*)", CONTROL, re.MULTILINE)
    assert found, field
    return set(
        re.findall(r"(?<![\w${:])[a-z][a-z0-9.+-]+(?![\w}:])", re.sub(r"\[.*?\]", "", found[1]))
    )


def test_the_package_depends_on_recommends_and_suggests_the_tools_that_doctor_looks_for() -> None:
    engine = set(tools.packages(ENGINE_TOOLS)) - ESSENTIAL
    image = set(tools.packages(IMAGE_TOOLS))
    assert engine <= names("Depends")
    assert names("Recommends") == image - names("Depends") - ESSENTIAL
    optional = set(tools.packages([*OPTIONAL_TOOLS, *LAYER_TOOLS.values()]))
    assert names("Suggests") == {*optional, "libpq5"}, "libpq5 is for members of a farm"


def test_package_and_project_have_the_same_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (DEBIAN / "changelog").read_text().startswith(f"dcd ({project['version']}) ")


def test_the_service_starts_what_the_package_installs() -> None:
    unit = (ROOT / "systemd" / "dcd.service").read_text()
    command = re.search(r"^ExecStart=(\S+)", unit, re.MULTILINE)
    assert command
    assert f"{command[1].lstrip('/')} usr/sbin/dcd" in (DEBIAN / "dcd.links").read_text()
    entry = (DEBIAN / "entry" / "dcd").read_text()
    assert entry.startswith("#!/bin/sh\nexec /usr/lib/dcd/bin/python3 ")


def test_the_scripts_are_for_any_posix_shell() -> None:
    scripts = [*DEBIAN.glob("dcd.p*"), *DEBIAN.glob("entry/*"), ROOT / "packaging/build-deb.sh"]
    assert len(scripts) >= 5
    for script in scripts:
        if script.read_text().startswith("#!/bin/sh"):
            subprocess.run(["dash", "-n", script], check=True)


@pytest.mark.system
@pytest.mark.timeout(1800)
def test_lintian_finds_no_errors(debian_package: Path) -> None:
    if not shutil.which("lintian"):
        pytest.skip("lintian is not installed")
    # lintian warns about being run by root, on stderr.
    result = subprocess.run(
        ["lintian", "--fail-on", "error", debian_package],
        capture_output=True,
        text=True,
        check=False,
    )
    errors = [line for line in result.stdout.splitlines() if line.startswith("E:")]
    assert (result.returncode, errors) == (0, [])


@pytest.mark.system
@pytest.mark.timeout(1800)
def test_the_unpacked_package_runs_on_the_systems_python(
    debian_package: Path, tmp_path: Path
) -> None:
    subprocess.run(["dpkg-deb", "-x", debian_package, tmp_path], check=True)
    home = tmp_path / "usr" / "lib" / "dcd"
    (home / "bin" / "python3").unlink()
    (home / "bin" / "python3").symlink_to("/usr/bin/python3")
    for module, program in (("dcd.main", "dcd"), ("cli.main", "dcctl")):
        result = subprocess.run(
            [home / "bin" / "python3", "-I", "-m", module, "--help"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout.startswith(f"usage: {program}")
    farm = [home / "bin" / "python3", "-I", "-m", "dcd.main", "farm", "member", "list"]
    asked = subprocess.run(
        [*farm, "--database", f"host={tmp_path}"], capture_output=True, text=True
    )
    assert (asked.returncode, "cannot be reached" in asked.stderr) == (9, True), asked.stderr
    for page in ("man1/dcctl.1.gz", "man5/dcd.toml.5.gz", "man8/dcd.8.gz"):
        assert (tmp_path / "usr/share/man" / page).is_file()
