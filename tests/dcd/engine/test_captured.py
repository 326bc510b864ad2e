"""Captured packages with a real daemon: lists in events, reuse, collection, and what a worker may say."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest

MODULE = """
import hashlib
from pathlib import Path
from dcd.checkpoints.interface import Checkpoint, Needs
from statemachine.errors import CheckpointError
from store.resolved import Resolved, ResolvedPackage, encoded


class Transfers(Checkpoint):
    def needs(self, doc):
        return Needs(packages=True)

    def execute(self, context):
        store = context.packages
        print("capture", store.capture, flush=True)
        if store.capture == "none":
            return
        file = context.tmp / "p.deb"
        file.write_bytes(self.name.encode() * 1000)
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        if self.name != "lies":
            store.keep(file)
        if self.name == "fails":
            raise CheckpointError("it fails")
        status = context.pkg_image / "var/lib/dpkg/status"
        status.parent.mkdir(parents=True, exist_ok=True)
        with status.open("a") as database:
            database.write(f"Package: {self.name}\\nStatus: install ok installed\\nVersion: 1\\n"
                           "Architecture: all\\nMaintainer: M <m@example.org>\\n\\n")
        package = ResolvedPackage("deb", self.name, "1", "all", sha256, file.stat().st_size, "", True)
        context.resolve(store.add(encoded(Resolved((package,)))))
        file.unlink()
"""


@pytest.fixture
def capturing(cold_daemon: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/dcd_test_captured.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    cold_daemon.settings["checkpoint_modules"] = ["dcd_test_captured"]
    return cold_daemon


SBOM = '<checkpoint name="sbom" mod_path="dcd/checkpoints/sbom" checkpoint_class="WriteSBOM"/>'


def manifest(directory: Path, *names: str, more: str = "") -> Path:
    file = directory / f"{names[0]}.xml"
    checkpoints = "".join(
        f'<checkpoint name="{name}" mod_path="dcd_test_captured" checkpoint_class="Transfers"/>'
        for name in names
    )
    file.write_text(
        f'<dc><distro name="captured"><execution>{checkpoints}{more}</execution></distro></dc>'
    )
    return file


def lists(daemon: Any, build: str) -> list[str]:
    return [
        event["data"]["resolved"]
        for event in map(json.loads, daemon.ctl("events", build, "--json").splitlines())
        if event["type"] in ("CheckpointCompleted", "CheckpointReused")
    ]


def stored(daemon: Any) -> set[str]:
    return {path.name for path in (daemon.state_dir / "packages/kept").iterdir()}


@pytest.mark.root
@pytest.mark.daemon
def test_what_a_build_captured_stays_until_it_is_removed(capturing: Any, tmp_path: Path) -> None:
    capturing.settings["packages_max_bytes"] = 1
    daemon = capturing.start()
    first = daemon.submit(manifest(tmp_path, "one", "two"))
    daemon.wait(first, "completed")
    named = lists(daemon, first)
    assert len(set(named)) == 2
    for name in named:
        [package] = json.loads((daemon.state_dir / "packages/kept" / name).read_text())["packages"]
        assert package["sha256"] in stored(daemon)

    again = daemon.submit(manifest(tmp_path, "one", "two"))
    daemon.wait(again, "completed")
    assert lists(daemon, again) == named  # reused

    daemon.ctl("gc", "--max-bytes", "0")
    assert len(stored(daemon)) == 4
    usage = daemon.json("df")
    assert usage["captured_bytes"] == usage["package_bytes"] > 6000
    daemon.ctl("rm", first)
    daemon.ctl("gc", "--max-bytes", "0")
    assert len(stored(daemon)) == 4
    daemon.ctl("rm", again)
    # The limit holds again without another command: nothing names them any more.
    deadline = time.monotonic() + 30
    while stored(daemon) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert stored(daemon) == set()
    assert daemon.stop() == 0


@pytest.mark.root
@pytest.mark.daemon
def test_a_worker_cannot_name_what_it_has_not_stored(capturing: Any, tmp_path: Path) -> None:
    daemon = capturing.start()
    build = daemon.submit(manifest(tmp_path, "lies"))
    daemon.wait(build, "failed")
    assert "packages of this checkpoint were not captured" in daemon.ctl("status", build)
    assert lists(daemon, build) == []
    assert daemon.stop() == 0


@pytest.mark.root
@pytest.mark.daemon
def test_what_a_failed_checkpoint_has_downloaded_is_stored_before_its_failure(
    capturing: Any, tmp_path: Path
) -> None:
    daemon = capturing.start()
    build = daemon.submit(manifest(tmp_path, "fails"))
    daemon.wait(build, "failed")
    assert stored(daemon) == {hashlib.sha256(b"fails" * 1000).hexdigest()}
    assert daemon.stop() == 0


@pytest.mark.root
@pytest.mark.daemon
def test_nothing_is_captured_when_that_is_set(capturing: Any, tmp_path: Path) -> None:
    capturing.settings["capture"] = "none"
    daemon = capturing.start()
    build = daemon.submit(manifest(tmp_path, "one"))
    daemon.wait(build, "completed")
    assert lists(daemon, build) == [""]
    assert stored(daemon) == set()
    assert daemon.stop() == 0


@pytest.mark.root
@pytest.mark.daemon
def test_provenance_names_the_packages_and_the_list_of_them(capturing: Any, tmp_path: Path) -> None:
    daemon = capturing.start()
    build = daemon.submit(manifest(tmp_path, "one"))
    daemon.wait(build, "completed")
    (listed,) = lists(daemon, build)
    statement = json.loads(daemon.ctl("provenance", build))
    found = {
        each["uri"]: each["digest"]["sha256"]
        for each in statement["predicate"]["buildDefinition"]["resolvedDependencies"]
        if "uri" in each
    }
    assert found["urn:dcd:packages"] == listed
    assert "pkg:deb/debian/one@1?arch=all" in found
    assert daemon.stop() == 0


@pytest.mark.root
@pytest.mark.daemon
def test_the_sbom_has_the_digests_of_all_transfers_and_reuse_keeps_it(
    capturing: Any, tmp_path: Path
) -> None:
    daemon = capturing.start()
    file = manifest(tmp_path, "one", "two", more=SBOM)
    build = daemon.submit(file)
    daemon.wait(build, "completed")
    paths = {each["name"]: Path(each["path"]) for each in daemon.json("artifacts", build)}
    document = json.loads(paths["captured.cdx.json"].read_text())
    assert {
        each["name"]: each["hashes"][0]["content"]
        for each in document["components"]
        if "hashes" in each
    } == {name: hashlib.sha256(name.encode() * 1000).hexdigest() for name in ("one", "two")}
    spdx = paths["captured.spdx.json"].read_bytes()
    assert "captured.spdx.json" in paths["SHA256SUMS"].read_text()
    fresh = daemon.submit(file, "--fresh")
    daemon.wait(fresh, "completed")
    again = {each["name"]: Path(each["path"]) for each in daemon.json("artifacts", fresh)}
    assert again["captured.cdx.json"].read_bytes() == paths["captured.cdx.json"].read_bytes()
    assert again["captured.spdx.json"].read_bytes() == spdx
    assert daemon.stop() == 0
