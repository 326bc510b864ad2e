"""The plug-in in examples/plugin, installed as its README says, and used by a real daemon."""

import json
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.root, pytest.mark.slow]

ROOT = Path(__file__).parents[3]
PLUGIN = ROOT / "examples/plugin"

SITE_MODULE = '''
from dcd.checkpoints.interface import Checkpoint


class Touch(Checkpoint):
    """Make the file `path` of the image."""

    def __init__(self, name: str, path: str) -> None:
        super().__init__(name)
        self.path = path

    def execute(self, context):
        (context.pkg_image / self.path).touch()
'''


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The site-packages of a virtual environment that has the project, and the plug-in installed."""
    directory = tmp_path_factory.mktemp("venv")
    venv.create(directory, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = directory / "lib" / version / "site-packages"
    # The project and what it needs, as they are here; only the plug-in is new.
    here = [str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))]
    (packages / "here.pth").write_text("".join(f"{path}\n" for path in here))
    source = shutil.copytree(PLUGIN, directory / "plugin")  # building it leaves files beside it
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run(
        [*pip, "--no-deps", "--no-build-isolation", "--no-index", "--target", packages, source],
        check=True,
    )
    yield packages


@pytest.fixture
def host(
    cold_daemon: Any, environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """A daemon in that environment, whose configuration lists a module beside the plug-in."""
    monkeypatch.setattr(sys, "executable", str(environment.parents[2] / "bin/python"))
    (environment / "site_steps.py").write_text(SITE_MODULE)
    cold_daemon.settings["checkpoint_modules"] = ["site_steps"]
    yield cold_daemon.start()
    assert cold_daemon.stop() == 0
    assert cold_daemon.leaks() == []


def test_a_build_uses_the_plug_ins_checkpoint_and_data_object(host: Any) -> None:
    build = host.submit(PLUGIN / "stamp.xml")
    assert host.wait(build)["state"] == "completed", host.log.read_text()
    printed = host.ctl("logs", build, "show")
    assert "the release is 7.1" in printed
    stamp = json.loads(printed[printed.index("{") : printed.index("}") + 1])
    assert stamp == {"name": "stamped", "version": "7.1", "codename": "seven", "supported": True}


def test_a_release_that_changes_runs_the_plug_ins_checkpoint_again(
    host: Any, tmp_path: Path
) -> None:
    host.wait(host.submit(PLUGIN / "stamp.xml"))
    text = (PLUGIN / "stamp.xml").read_text()
    manifest = tmp_path / "stamp.xml"
    actions = []
    for version in ("7.1", "7.2"):
        manifest.write_text(text.replace("7.1", version))
        actions.append(host.json("plan", manifest)["checkpoints"][0]["action"])
    assert actions == ["reuse", "run"]


def test_what_a_plug_in_declares_is_checked_like_the_projects_own(
    host: Any, tmp_path: Path
) -> None:
    text = (PLUGIN / "stamp.xml").read_text()
    manifest = tmp_path / "wrong.xml"
    manifest.write_text(text.replace('codename="seven"', 'codname="seven" supported="maybe"'))
    found = host.json("validate", manifest, status=8)["diagnostics"]
    messages = [diagnostic["message"] for diagnostic in found]
    assert "<release> has no attribute 'codname'; did you mean 'codename'?" in messages
    assert any("supported='maybe'" in message for message in messages)
    manifest.write_text(text.replace('<release version="7.1" codename="seven"/>', ""))
    assert "does not say which release" in host.run("plan", manifest).stderr


def test_modules_of_the_configured_list_are_used_and_others_are_not(
    host: Any, tmp_path: Path
) -> None:
    manifest = tmp_path / "listed.xml"
    manifest.write_text(
        '<dc><distro name="listed"><execution><checkpoint name="touch" mod_path="site_steps"'
        ' checkpoint_class="Touch"><args>mark</args></checkpoint></execution></distro></dc>'
    )
    assert host.wait(host.submit(manifest))["state"] == "completed"
    manifest.write_text(manifest.read_text().replace("site_steps", "release_stamp/data_object"))
    assert "may not be used" in host.run("submit", manifest).stderr


def test_checkpoint_types_lists_both(host: Any) -> None:
    answer = host.json("checkpoint-types")
    places = {(each["mod_path"], each["checkpoint_class"]) for each in answer["types"]}
    assert {("release_stamp/checkpoint", "StampRelease"), ("site_steps", "Touch")} <= places
    assert answer["problems"] == []
    assert "/etc/image-release" in host.ctl("checkpoint-types", "StampRelease")


def test_a_broken_plug_in_is_named_and_nothing_is_built_without_it(
    host: Any, environment: Path, write_manifest: Any
) -> None:
    metadata = environment / "broken-1.dist-info"
    metadata.mkdir()
    try:
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
        (metadata / "entry_points.txt").write_text("[dcd.data_objects]\nx = release_stamp:Absent\n")
        outcome = host.run("submit", write_manifest(("one", "true")))
    finally:
        for file in metadata.iterdir():
            file.unlink()
        metadata.rmdir()
    assert outcome.returncode == 11
    assert "release_stamp:Absent of a plug-in cannot be loaded" in outcome.stderr
