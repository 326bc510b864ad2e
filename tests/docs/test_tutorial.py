"""The tutorial's command blocks, run exactly as they are written, in a copy of the checkout whose image is a
smaller one: tests/system/test_live_image.py has that of the page."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.conftest import ROOT, blocks

pytestmark = [pytest.mark.system, pytest.mark.root, pytest.mark.timeout(2400)]

TUTORIAL = ROOT / "docs" / "tutorial" / "first-image.md"

SMALLER = (
    ('default="linux-image-amd64"', 'default="linux-image-cloud-amd64"'),
    ("<argitem>bios</argitem><argitem>uefi</argitem>", "<argitem>bios</argitem>"),
    ("console=ttyS0,115200<", "console=ttyS0,115200 loglevel=6<"),
    ("${hostname} login:", "Linux version"),
)
"""What is changed in the example: a kernel of a tenth, and one boot instead of two, by BIOS from a CD, until
the kernel runs. The test of the page's image boots it by UEFI from a CD to its init, and by BIOS from a stick
to the login."""

SOCKET = "/tmp/dcd.sock"
"""The page's socket. Each run has its own: another one may be on this host."""

FAILS = {"sed -i 's/<name>less</<name>lesss</' examples/mine.xml": 3}
"""The exit status of a block that ends with another than 0, as the page says; by its first line."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what git tracks, with a `.venv` that looks installed and leads to this environment. It has no
    pip, so that nothing can be installed into this environment from here."""
    checkout = tmp_path / "dcd"
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    for name in filter(None, tracked):
        if (ROOT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, checkout / name)
    example = checkout / "examples" / "debian-live.xml"
    for old, new in SMALLER:
        assert example.read_text().count(old) == 1
        example.write_text(example.read_text().replace(old, new))
    this, venv = Path(sys.executable).parents[1], checkout / ".venv"
    (venv / "bin").mkdir(parents=True)
    for program in ("dcctl", "dcd", "distro_const", "python", "python3"):
        (venv / "bin" / program).symlink_to(this / "bin" / program)
    for name in ("lib", "pyvenv.cfg"):
        (venv / name).symlink_to(this / name)
    (venv / ".installed").touch()
    return checkout


def test_the_tutorial_works_as_it_is_written(checkout: Path) -> None:
    found = blocks(TUTORIAL, "sh")
    script = ["set -o pipefail"]
    for block in found:
        status = FAILS.get(block.text.splitlines()[0], 0)
        script += [f"echo '>>> {block}'", block.text.replace(SOCKET, str(checkout / "s"))]
        script.append(f"[ $? = {status} ] || {{ echo 'failed: {block}'; exit 1; }}")
    daemon_pid = checkout / "image" / "state" / "lock"
    try:
        done = subprocess.run(
            ["bash", "-c", "\n".join(script)], cwd=checkout, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={"PATH": os.environ["PATH"], "HOME": "/root", "TERM": "dumb"},
        )  # fmt: skip
    finally:
        if daemon_pid.exists() and (pid := daemon_pid.read_text().strip()):
            subprocess.run(["kill", pid], check=False, stderr=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout
    said = dict(zip(found, done.stdout.split(">>> ")[1:], strict=True))
    by_first_line = {block.text.split("\n")[0]: text for block, text in said.items()}
    assert "verify-boot completed" in by_first_line["make image"]
    again = by_first_line["dcctl submit examples/debian-live.xml --follow"]
    assert "reused from" in again
    assert "completed in" not in again.replace("debian-live completed in", "")
    changed = by_first_line["sed 's/title=\"[^\"]*\"/title=\"My first image\"/' examples/debian-live.xml > examples/mine.xml"]  # fmt: skip # noqa: E501
    assert "reuse" in changed
    assert "boot-setup" in changed
    assert "line" in changed
    assert "lesss" in by_first_line["sed -i 's/<name>less</<name>lesss</' examples/mine.xml"]
    assert not (checkout / "examples" / "mine.xml").exists()
