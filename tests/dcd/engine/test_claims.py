"""Resources that could outlive a worker: recorded before they exist, gone whoever dies when.

The resource is a file outside the state directory, of a kind that is added to every process of this
daemon; nothing but its release removes it.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Daemon

pytestmark = pytest.mark.root

KIND = '''
"""Adds a kind of resource: a file in RESOURCES. One that is stuck is not released."""

from pathlib import Path

from dcd.platform import resources
from statemachine.errors import DcdError


def release(name):
    if Path("RESOURCES/stuck").exists():
        raise DcdError(f"{name} cannot be withdrawn", "it is stuck", "get it loose")
    Path("RESOURCES", name).unlink(missing_ok=True)


resources.RELEASE = {**resources.RELEASE, "file": release}
'''

CHECKPOINT = '''
"""A checkpoint that makes such a resource, and waits where it is told to."""

import time
from pathlib import Path

from dcd.checkpoints.interface import Checkpoint, Context, Needs

PLACE = Path("RESOURCES")


class Claims(Checkpoint):
    def needs(self, doc) -> Needs:
        return Needs(writes=(PLACE,))

    def execute(self, context: Context) -> None:
        name = context.attempt.replace(":", ".")
        self.reach("before")
        context.claim("file", name)
        self.reach("claimed")
        (PLACE / name).write_text("made")
        (context.media / "half").write_text("half done")
        self.reach("made")
        (PLACE / name).unlink()
        self.reach("withdrawn")
        if (PLACE / "leave").exists():
            (PLACE / name).write_text("left behind")

    def reach(self, point: str) -> None:
        (PLACE / f"at-{point}").touch()
        while (PLACE / f"wait-{point}").exists():
            time.sleep(0.01)
'''


class Resources:
    """Where the resources are, and the points at which the checkpoint waits."""

    def __init__(self, place: Path, daemon: Daemon, manifest: Path) -> None:
        self.place = place
        self.daemon = daemon
        self.manifest = manifest

    def made(self) -> list[str]:
        """The resources that exist."""
        return sorted(file.name for file in self.place.iterdir() if file.name.count(".") == 3)

    def hold(self, point: str) -> None:
        (self.place / f"wait-{point}").touch()

    def let_go(self, point: str) -> None:
        (self.place / f"wait-{point}").unlink()

    def wait_until(self, point: str) -> None:
        at = self.place / f"at-{point}"
        for _ in range(3000):
            if at.exists():
                return
            time.sleep(0.01)
        pytest.fail(f"it never came to {point}: {self.daemon.log.read_text()[-3000:]}")


@pytest.fixture
def resources(
    cold_daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Resources]:
    place, modules = tmp_path / "resources", tmp_path / "modules"
    place.mkdir()
    modules.mkdir()
    (modules / "sitecustomize.py").write_text(KIND.replace("RESOURCES", str(place)))
    (modules / "dcd_test_claims.py").write_text(CHECKPOINT.replace("RESOURCES", str(place)))
    root = Path(__file__).parents[3]
    monkeypatch.setenv("PYTHONPATH", f"{modules}:{root}")
    cold_daemon.settings["checkpoint_modules"] = ["dcd_test_claims"]
    manifest = tmp_path / "claims.xml"
    manifest.write_text(
        '<dc><distro name="claims"><execution>'
        '<checkpoint name="first" mod_path="dcd/checkpoints/custom_script"'
        ' checkpoint_class="CustomScript"><args>echo whole > {MEDIA_DIR}/before</args></checkpoint>'
        '<checkpoint name="claims" mod_path="dcd_test_claims" checkpoint_class="Claims"/>'
        "</execution></distro></dc>"
    )
    yield Resources(place, cold_daemon.start(), manifest)
    assert cold_daemon.stop() == 0, cold_daemon.log.read_text()[-3000:]
    assert cold_daemon.leaks() == []


def claims(daemon: Daemon, build: str) -> list[dict[str, Any]]:
    return [event["data"] for event in daemon.events(build) if event["type"] == "ResourceClaimed"]


def test_a_claim_is_an_event_before_the_resource_exists(resources: Resources) -> None:
    resources.hold("claimed")
    build = resources.daemon.submit(resources.manifest)
    resources.wait_until("claimed")
    (claimed,) = claims(resources.daemon, build)
    assert resources.made() == []
    assert (claimed["checkpoint"], claimed["attempt"], claimed["kind"]) == ("claims", 1, "file")
    assert claimed["name"].endswith(f".{build}.claims.1")
    resources.let_go("claimed")
    resources.daemon.wait(build, "completed")
    resources.daemon.ctl("events", build, "--verify")
    assert resources.made() == []


@pytest.mark.parametrize("point", ["before", "claimed", "made", "withdrawn"])
def test_a_daemon_killed_at_any_point_leaves_nothing_after_its_next_start(
    resources: Resources, point: str
) -> None:
    daemon = resources.daemon
    resources.hold(point)
    build = daemon.submit(resources.manifest)
    resources.wait_until(point)
    first = daemon.state_dir.glob("layers/*/*/tree/media/before")
    before = {path: path.read_text() for path in first}
    daemon.kill()
    assert len(resources.made()) == (point == "made")

    resources.let_go(point)
    resources.hold("before")
    (resources.place / "at-before").unlink()
    daemon.start()
    resources.wait_until("before")

    # The second attempt has begun and has made nothing yet: what there was, was the first's.
    assert resources.made() == []
    assert list(daemon.state_dir.glob(f"layers/*/.work/{build}.1.2")) == []
    assert {path: path.read_text() for path in before} == before
    resources.let_go("before")
    status = daemon.wait(build, "completed")
    assert [c["attempts"] for c in status["checkpoints"]] == [1, 2]
    assert resources.made() == []
    daemon.ctl("events", build, "--verify")


def test_what_a_checkpoint_leaves_behind_is_released_when_it_ends(resources: Resources) -> None:
    (resources.place / "leave").touch()
    build = resources.daemon.submit(resources.manifest)
    resources.daemon.wait(build, "completed")
    assert resources.made() == []


def test_a_cancelled_attempt_leaves_nothing(resources: Resources) -> None:
    resources.hold("made")
    build = resources.daemon.submit(resources.manifest)
    resources.wait_until("made")
    resources.daemon.ctl("cancel", build)
    resources.daemon.wait(build, "cancelled")
    assert resources.made() == []


def test_what_cannot_be_released_fails_the_checkpoint_and_says_what_to_do(
    resources: Resources,
) -> None:
    daemon = resources.daemon
    (resources.place / "stuck").touch()
    build = daemon.submit(resources.manifest)
    status = daemon.wait(build, "failed")
    assert "cannot be withdrawn" in status["error"]["brief"]
    assert status["error"]["resolution"] == "get it loose"
    (resources.place / "stuck").unlink()
    daemon.ctl("resume", build)
    daemon.wait(build, "completed")


def test_what_cannot_be_released_after_a_crash_fails_the_checkpoint_too(
    resources: Resources,
) -> None:
    daemon = resources.daemon
    resources.hold("made")
    build = daemon.submit(resources.manifest)
    resources.wait_until("made")
    daemon.kill()
    (resources.place / "stuck").touch()
    daemon.start()
    status = daemon.wait(build, "failed")
    assert "cannot be withdrawn" in status["error"]["brief"]
    (resources.place / "stuck").unlink()
    resources.let_go("made")
    daemon.ctl("resume", build)
    daemon.wait(build, "completed")
