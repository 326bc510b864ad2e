"""The checkpoint on the page about writing one: it is checked, described and run as the page has it."""

from pathlib import Path

import pytest

from tests.conftest import Daemon
from tests.docs.conftest import ROOT, blocks

PAGE = ROOT / "docs" / "how-to" / "write-a-checkpoint.md"

pytestmark = [pytest.mark.root, pytest.mark.daemon]


@pytest.fixture
def daemon_with_stamp(
    cold_daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Daemon:
    """A daemon that may load the module of the page."""
    package = tmp_path / "code" / "mypackage"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (module,) = blocks(PAGE, "python")
    (package / "stamp.py").write_text(module.text)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    cold_daemon.settings["checkpoint_modules"] = ["mypackage.stamp"]
    return cold_daemon.start()


def manifest(directory: Path, text: str) -> Path:
    (step,) = blocks(PAGE, "xml")
    path = directory / "stamp.xml"
    checkpoint = step.text.replace("release 7", text)
    path.write_text(f'<dc><distro name="stamped"><execution>{checkpoint}</execution></distro></dc>')
    return path


def test_it_runs_as_the_page_has_it(daemon_with_stamp: Daemon, tmp_path: Path) -> None:
    daemon = daemon_with_stamp
    build = daemon.submit(manifest(tmp_path, "release 7"))
    status = daemon.wait(build)
    assert status["state"] == "completed", status
    (stamp,) = daemon.state_dir.glob("layers/*/*/tree/pkg_image/etc/stamp")
    assert stamp.read_text() == "release 7\n"
    assert daemon.stop() == 0


def test_its_check_and_its_descriptions_reach_the_user(
    daemon_with_stamp: Daemon, tmp_path: Path
) -> None:
    daemon = daemon_with_stamp
    refused = daemon.run("validate", manifest(tmp_path, " "))
    assert refused.returncode == 8
    assert "there is nothing to stamp" in refused.stdout + refused.stderr
    types = {each["checkpoint_class"]: each for each in daemon.json("checkpoint-types")["types"]}
    described = {each["name"]: each["meaning"] for each in types["Stamp"]["arguments"]}
    assert described == {
        "text": "The line to write.",
        "place": "The directory of the image that gets it.",
    }
    assert daemon.stop() == 0
