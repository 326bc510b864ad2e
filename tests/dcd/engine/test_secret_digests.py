"""A secret of the host that changed makes what holds it again, and its digest tells nothing."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dcd.engine.secret_digests import secret_state, with_secrets
from dcd.launcher.operations import Operations
from statemachine.keys import chain
from statemachine.plan import PlannedCheckpoint
from store.artifacts import Artifacts
from store.layers.choose import open_store
from store.logs import AttemptLogs
from store.packages import Packages

Digests = Callable[[Sequence[str], bytes], dict[str, str]]


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in which secrets may be kept."""
    directory = tmp_path / "secrets"
    directory.mkdir()
    monkeypatch.setattr("store.host.secret_files.secret_file.__defaults__", ((directory,),))
    return directory


@pytest.fixture
def digests(tmp_path: Path) -> Digests:
    """The digests of secrets as the launcher makes them, with a key."""

    def digests(names: Sequence[str], key: bytes) -> dict[str, str]:
        layers = open_store("copy", tmp_path / "layers")
        artifacts, logs = Artifacts(tmp_path / "artifacts"), AttemptLogs(tmp_path / "logs")
        packages = Packages(tmp_path / "packages")
        blobs = tmp_path / "blobs"
        launcher = Operations(layers, artifacts, logs, blobs, packages, "test", key)
        return secret_state(tuple(names), launcher.secret_digests)

    return digests


def test_a_digest_follows_the_content_and_cannot_be_tried_out(
    secrets: Path, digests: Digests
) -> None:
    file = secrets / "live"
    file.write_text("sesame")
    name = f"secret {file} of the host"
    first = digests([str(file)], b"key")
    assert list(first) == [name]
    assert first[name] != hashlib.sha256(b"sesame").hexdigest()
    assert digests([str(file)], b"another key") != first
    file.write_text("open sesame")
    assert digests([str(file)], b"key") != first
    file.write_text("sesame")
    assert digests([str(file)], b"key") == first


def test_what_is_no_secret_or_not_there_has_no_digest(
    secrets: Path, tmp_path: Path, digests: Digests
) -> None:
    (tmp_path / "outside").write_text("x")
    (secrets / "link").symlink_to(tmp_path / "outside")
    names = [
        str(secrets / "nosuch"),
        str(secrets / "link"),
        str(tmp_path / "outside"),
        str(secrets),
    ]
    assert digests([*names, "DCD_SECRET_NOSUCH"], b"key") == {}


def test_only_checkpoints_with_secrets_and_those_after_get_other_keys() -> None:
    plan = chain(
        PlannedCheckpoint(name, "", "m", "C", "", (), secrets=secrets)
        for name, secrets in (("a", ()), ("b", ("DCD_SECRET_LIVE",)), ("c", ()))
    )
    keyed = with_secrets(plan, lambda names: dict.fromkeys(names, "digest"))
    same = [
        one.key == other.key for one, other in zip(plan.checkpoints, keyed.checkpoints, strict=True)
    ]
    assert same == [True, False, False]


MODULE = """
from dcd.checkpoints.interface import Checkpoint, Needs


class Holds(Checkpoint):
    def needs(self, doc):
        return Needs(secrets=("DCD_SECRET_LIVE",))

    def execute(self, context):
        (context.pkg_image / "x").write_text("x")
"""


@pytest.mark.root
def test_a_changed_secret_is_the_reason_that_a_plan_gives(
    cold_daemon: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/dcd_test_holds.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    monkeypatch.setenv("DCD_SECRET_LIVE", "sesame")
    cold_daemon.settings["checkpoint_modules"] = ["dcd_test_holds"]
    daemon = cold_daemon.start()
    manifest = tmp_path / "holds.xml"
    manifest.write_text(
        '<dc><distro name="holds"><execution><checkpoint name="one" mod_path="dcd_test_holds"'
        ' checkpoint_class="Holds"/></execution></distro></dc>'
    )
    build = daemon.submit(manifest)
    daemon.wait(build, "completed")
    assert "sesame" not in daemon.ctl("events", build, "--json")
    assert [each["action"] for each in daemon.json("plan", manifest)["checkpoints"]] == ["reuse"]
    assert daemon.stop() == 0
    monkeypatch.setenv("DCD_SECRET_LIVE", "open sesame")
    daemon.start()
    (planned,) = daemon.json("plan", manifest)["checkpoints"]
    assert planned["action"] == "run"
    assert planned["reason"] == "secret DCD_SECRET_LIVE of the host changed"
    status = daemon.wait(daemon.submit(manifest), "completed")
    assert status["checkpoints"][0]["state"] == "completed"
    assert daemon.stop() == 0
