"""Two layers for one checkpoint, and results that grow from earlier ones.

The checkpoint stands for a transfer of packages: its base is what the software's variant brings, and each
listed name is a file. `clash` is a name that changes what the base brings.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Daemon

pytestmark = pytest.mark.root

CHECKPOINT = '''
import time
from pathlib import Path

from dcd.checkpoints.interface import Base, Checkpoint, Stage, UnsuitedBase
from dcd.checkpoints.transfer.deb_base import base_of
from dcd.checkpoints.transfer.listed import software_of

PLACE = Path("@")


class Bundle(Checkpoint):
    """Installs names as files."""

    def needs(self, doc):
        from dcd.checkpoints.interface import Needs

        return Needs(writes=(PLACE,))

    def base(self, doc) -> Base:
        return base_of(software_of(doc, self, "DEB"))

    def execute(self, context) -> None:
        names = software_of(context.doc, self, "DEB").names("install")
        with (PLACE / "stages").open("a") as stages:
            stages.write(f"{context.stage}\\n")
        aside = context.root / "aside"
        if context.stage is Stage.REST and aside.exists():
            if "clash" in names:
                raise UnsuitedBase("clash replaces a part of it")
            aside.unlink()
        if context.stage is not Stage.REST:
            (context.pkg_image / "base").write_text("brought")
        if context.stage is Stage.BASE:
            aside.write_text("kept for the rest")
        else:
            for name in names:
                (context.pkg_image / name).touch()
        while (PLACE / f"wait-{context.stage}").exists():
            time.sleep(0.01)
'''

MANIFEST = """<dc><distro name="{name}"{grow}>
  <software name="bundle" type="DEB">
    <destination><image variant="{variant}"/></destination>
    <software_data>{names}</software_data>
  </software>
  <execution>
    <checkpoint name="bundle" mod_path="dcd_test_bundle" checkpoint_class="Bundle"/>
    <checkpoint name="list" mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript">
      <args>cd {{PKG_IMAGE_PATH}} &amp;&amp; ls -1 .. * &gt; {{MEDIA_DIR}}/listing</args>
      <kwargs><arglist name="deliver"><argitem>listing</argitem></arglist></kwargs>
    </checkpoint>
  </execution>
</distro></dc>
"""


class Bundles:
    """Manifests that list names, and what their builds did."""

    def __init__(self, daemon: Daemon, place: Path) -> None:
        self.daemon = daemon
        self.place = place

    def manifest(
        self, *names: str, variant: str = "small", name: str = "b", grow: bool = False
    ) -> Path:
        file = self.place.parent / f"{name}.xml"
        listed = "".join(f"<name>{each}</name>" for each in names)
        grows = ' grow="true"' if grow else ""
        file.write_text(MANIFEST.format(name=name, variant=variant, names=listed, grow=grows))
        return file

    def build(self, manifest: Path, *options: str) -> dict[str, Any]:
        build = self.daemon.submit(manifest, *options)
        return self.daemon.wait(build, "completed")

    def stages(self) -> list[str]:
        """The stages that have run since this was last asked."""
        file = self.place / "stages"
        found = file.read_text().split() if file.exists() else []
        file.unlink(missing_ok=True)
        return found


def listing(status: dict[str, Any]) -> str:
    """What the image holds, as a script saw it."""
    (path,) = (each["path"] for each in status["artifacts"] if each["name"] == "listing")
    return Path(path).read_text()


@pytest.fixture
def cold_bundles(cold_daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundles:
    place, modules = tmp_path / "place", tmp_path / "modules"
    place.mkdir()
    modules.mkdir()
    (modules / "dcd_test_bundle.py").write_text(CHECKPOINT.replace("@", str(place)))
    monkeypatch.setenv("PYTHONPATH", f"{modules}:{Path(__file__).parents[3]}")
    cold_daemon.settings["checkpoint_modules"] = ["dcd_test_bundle"]
    return Bundles(cold_daemon, place)


@pytest.fixture
def bundles(cold_bundles: Bundles) -> Iterator[Bundles]:
    cold_bundles.daemon.start()
    yield cold_bundles
    if cold_bundles.daemon.process and cold_bundles.daemon.process.poll() is None:
        assert cold_bundles.daemon.stop() == 0
    assert cold_bundles.daemon.leaks() == []


def test_manifests_that_differ_in_their_packages_share_the_base(bundles: Bundles) -> None:
    first = bundles.build(bundles.manifest("one"))
    assert bundles.stages() == ["base", "rest"]
    second = bundles.build(bundles.manifest("one", "two"))
    assert bundles.stages() == ["rest"]

    base = first["checkpoints"][0]["base"]
    assert base == second["checkpoints"][0]["base"] != ""
    assert listing(second) == listing(bundles.build(bundles.manifest("one", "two"), "--fresh"))
    assert bundles.stages() == ["base", "rest"]
    assert "aside" not in listing(second)


def test_another_variant_has_another_base(bundles: Bundles) -> None:
    bundles.build(bundles.manifest("one"))
    bundles.stages()
    bundles.build(bundles.manifest("one", variant="large"))
    assert bundles.stages() == ["base", "rest"]


def test_the_plan_names_the_base_that_it_would_use(bundles: Bundles) -> None:
    bundles.build(bundles.manifest("one"))
    plan = bundles.daemon.json("plan", bundles.manifest("two"))
    assert "its base is layer" in plan["checkpoints"][0]["reason"]
    assert [each["name"] for each in plan["checkpoints"]] == ["bundle", "list"]


def test_packages_that_change_what_the_base_brings_are_installed_in_one_go(
    bundles: Bundles,
) -> None:
    bundles.build(bundles.manifest("one"))
    bundles.stages()
    status = bundles.build(bundles.manifest("clash"))
    assert bundles.stages() == ["rest", "whole"]
    assert "aside" not in listing(status)
    bundles.build(bundles.manifest("clash"), "--fresh")
    assert bundles.stages() == ["base", "rest", "whole"]


def test_two_builds_make_a_base_that_both_need_once(bundles: Bundles) -> None:
    (bundles.place / "wait-base").touch()
    builds = [bundles.daemon.submit(bundles.manifest(name, name=name)) for name in ("one", "two")]
    time.sleep(1)
    (bundles.place / "wait-base").unlink()
    for build in builds:
        bundles.daemon.wait(build, "completed")
    assert sorted(bundles.stages()) == ["base", "rest", "rest"]


@pytest.mark.parametrize(("stage", "again"), [("base", ["base", "rest"]), ("rest", ["rest"])])
def test_a_daemon_killed_between_the_layers_keeps_the_base_or_nothing(
    bundles: Bundles, stage: str, again: list[str]
) -> None:
    (bundles.place / f"wait-{stage}").touch()
    build = bundles.daemon.submit(bundles.manifest("one"))
    _wait(lambda: stage in _lines(bundles.place / "stages"))
    bundles.daemon.kill()
    (bundles.place / f"wait-{stage}").unlink()
    bundles.stages()
    bundles.daemon.start()
    bundles.daemon.wait(build, "completed")
    assert bundles.stages() == again


def test_a_base_without_results_is_kept_over_a_restart(bundles: Bundles) -> None:
    (bundles.place / "wait-rest").touch()
    build = bundles.daemon.submit(bundles.manifest("one"))
    _wait(lambda: "rest" in _lines(bundles.place / "stages"))
    bundles.daemon.ctl("cancel", build)
    bundles.daemon.wait(build, "cancelled")
    (bundles.place / "wait-rest").unlink()
    bundles.stages()
    bundles.daemon.stop()
    bundles.daemon.start()
    bundles.build(bundles.manifest("two"))
    assert bundles.stages() == ["rest"]


def test_a_failed_rest_keeps_the_base_and_a_pause_comes_before_both(bundles: Bundles) -> None:
    build = bundles.daemon.submit(bundles.manifest("one"), "--pause-before", "bundle")
    bundles.daemon.wait(build, "paused")
    assert bundles.stages() == []
    bundles.daemon.ctl("resume", build)
    bundles.daemon.wait(build, "completed")
    bundles.stages()
    bundles.daemon.ctl("gc")
    bundles.build(bundles.manifest("two"))
    assert bundles.stages() == ["rest"]


def test_a_lost_base_is_made_again(bundles: Bundles) -> None:
    status = bundles.build(bundles.manifest("one"))
    bundles.daemon.stop()
    (layer,) = bundles.daemon.state_dir.glob(f"layers/*/{status['checkpoints'][0]['base']}")
    layer.rename(bundles.place / "away")
    bundles.stages()
    bundles.daemon.start()
    bundles.build(bundles.manifest("one"))
    assert bundles.stages() == ["base", "rest"]


def test_a_build_grows_from_the_result_with_the_most_of_its_packages(bundles: Bundles) -> None:
    bundles.build(bundles.manifest("one"))
    nearest = bundles.build(bundles.manifest("one", "two"))
    bundles.build(bundles.manifest("one", "four"))
    bundles.stages()

    wanted = bundles.manifest("three", "two", "one")
    plan = bundles.daemon.json("plan", wanted, "--grow")["checkpoints"]
    ground = nearest["checkpoints"][0]["key"]
    assert plan[0]["grown_from"] == ground
    assert f"it adds three to layer {ground[:12]}" in plan[0]["reason"]
    grown = bundles.build(wanted, "--grow")

    assert bundles.stages() == ["rest"]
    assert grown["checkpoints"][0]["grown_from"] == ground
    assert grown["checkpoints"][0]["key"] == plan[0]["key"]
    assert "grown: it adds packages" in bundles.daemon.ctl("status", grown["id"])
    (started,) = (
        event["data"]
        for event in bundles.daemon.events(grown["id"])
        if event["type"] == "CheckpointStarted" and event["data"]["checkpoint"] == "bundle"
    )
    assert started["grown"] == ground
    assert listing(grown) == listing(bundles.build(wanted))


def test_no_other_build_reuses_a_grown_result(bundles: Bundles) -> None:
    bundles.build(bundles.manifest("one"))
    wanted = bundles.manifest("one", "two")
    grown = bundles.build(wanted, "--grow")
    bundles.stages()
    again = bundles.build(wanted, "--grow")
    assert [each["state"] for each in again["checkpoints"]] == ["reused", "reused"]
    assert again["checkpoints"][0]["grown_from"] != ""
    plain = bundles.build(wanted)
    assert bundles.stages() == ["rest"]
    assert plain["checkpoints"][0]["grown_from"] == ""
    assert plain["checkpoints"][0]["key"] != grown["checkpoints"][0]["key"]
    # A result of the whole list is better than a grown one.
    assert bundles.build(wanted, "--grow")["checkpoints"][0]["grown_from"] == ""


def test_a_manifest_may_say_that_it_grows_and_fresh_overrides_it(bundles: Bundles) -> None:
    bundles.build(bundles.manifest("one"))
    manifest = bundles.manifest("one", "two", grow=True)
    assert bundles.build(manifest, "--fresh")["checkpoints"][0]["grown_from"] == ""
    bundles.stages()
    assert bundles.build(bundles.manifest("one", "three", grow=True))["checkpoints"][0][
        "grown_from"
    ]
    assert bundles.stages() == ["rest"]


def test_a_rewound_build_does_not_grow(bundles: Bundles) -> None:
    bundles.build(bundles.manifest("one"))
    build = bundles.daemon.submit(
        bundles.manifest("one", "two"), "--grow", "--pause-before", "list"
    )
    status = bundles.daemon.wait(build, "paused")
    assert status["checkpoints"][0]["grown_from"] != ""
    bundles.stages()
    bundles.daemon.ctl("resume", build, "--from", "bundle")
    status = bundles.daemon.wait(build, "completed")
    assert status["checkpoints"][0]["grown_from"] == ""
    assert bundles.stages() == ["base", "rest"]


def test_growing_is_refused_where_it_contradicts(bundles: Bundles, tmp_path: Path) -> None:
    manifest = bundles.manifest("one")
    said = bundles.daemon.run("submit", manifest, "--grow", "--fresh")
    assert (said.returncode, "not allowed with" in said.stderr) == (2, True)
    plain = tmp_path / "plain.xml"
    plain.write_text(
        '<dc><distro name="p"><execution><checkpoint name="a" checkpoint_class="CustomScript"'
        ' mod_path="dcd/checkpoints/custom_script"><args>true</args></checkpoint></execution>'
        "</distro></dc>"
    )
    assert "nothing in this manifest can grow" in bundles.daemon.run("plan", plain, "--grow").stderr

    assert bundles.daemon.stop() == 0
    bundles.daemon.settings["grown_builds"] = "refused"
    bundles.daemon.start()
    for command in (("submit", manifest, "--grow"), ("plan", bundles.manifest("a", grow=True))):
        assert "grown_builds is refused" in bundles.daemon.run(*command).stderr
    bundles.build(bundles.manifest("one"))


def _lines(file: Path) -> list[str]:
    return file.read_text().split() if file.exists() else []


def _wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.02)
