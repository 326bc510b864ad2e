"""Two layers for one checkpoint, and results that grow from earlier ones.

The checkpoint stands for a transfer of packages: its base is what the software's variant brings, and each
listed name is a file. `clash` is a name that changes what the base brings.
"""

import json
import random
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

from dcd.checkpoints.interface import Base, Checkpoint, Inputs, Needs, Stage, UnsuitedBase
from dcd.checkpoints.transfer.deb_base import base_of
from dcd.checkpoints.transfer.listed import software_of

PLACE = Path("@")


class Bundle(Checkpoint):
    """Installs names as files."""

    def needs(self, doc):
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
            context.hand_on("+".join(names))
        else:
            with (PLACE / "handed").open("a") as handed:
                handed.write(f"{context.handed or 'nothing'}\\n")
            for name in names:
                (context.pkg_image / name).touch()
        while (PLACE / f"wait-{context.stage}").exists():
            time.sleep(0.01)


class Index(Checkpoint):
    """Lists the names that begin with i, and no others."""

    INPUTS = Inputs(whole=("pkg_image/i*", "boot_archive/**"), unread=("**",))

    def needs(self, doc):
        return Needs(writes=(PLACE,))

    def execute(self, context) -> None:
        with (PLACE / "stages").open("a") as stages:
            stages.write("index\\n")
        names = sorted(path.name for path in context.pkg_image.glob("i*"))
        (context.boot_archive / "index").write_text("\\n".join(names))
'''

MANIFEST = """<dc><distro name="{name}"{grow}>
  <software name="bundle" type="DEB">
    <destination><image variant="{variant}"/></destination>
    <software_data>{names}</software_data>
  </software>
  <execution>
    <checkpoint name="bundle" mod_path="dcd_test_bundle" checkpoint_class="Bundle"/>
    {more}<checkpoint name="list" mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript">
      <args>cd {{PKG_IMAGE_PATH}}/.. &amp;&amp; ls -1 . *_* &gt; {{MEDIA_DIR}}/listing</args>
      <kwargs><arglist name="deliver"><argitem>listing</argitem></arglist></kwargs>
    </checkpoint>
  </execution>
</distro></dc>
"""

INDEX = '<checkpoint name="index" mod_path="dcd_test_bundle" checkpoint_class="Index"/>'


class Bundles:
    """Manifests that list names, and what their builds did."""

    def __init__(self, daemon: Daemon, place: Path) -> None:
        self.daemon = daemon
        self.place = place

    def manifest(
        self,
        *names: str,
        variant: str = "small",
        name: str = "b",
        grow: bool = False,
        index: bool = False,
    ) -> Path:
        file = self.place.parent / f"{name}.xml"
        listed = "".join(f"<name>{each}</name>" for each in names)
        grows = ' grow="true"' if grow else ""
        more = INDEX if index else ""
        text = MANIFEST.format(name=name, variant=variant, names=listed, grow=grows, more=more)
        file.write_text(text)
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


def test_what_the_base_has_found_out_is_handed_to_the_rest_of_its_attempt_only(
    bundles: Bundles,
) -> None:
    bundles.build(bundles.manifest("one"))
    bundles.build(bundles.manifest("one", "two"))
    bundles.build(bundles.manifest("clash"), "--fresh")
    handed = ["one", "nothing", "nothing"]
    assert _lines(bundles.place / "handed") == handed, "the last one is no rest"


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


def contents(bundles: Bundles, status: dict[str, Any]) -> list[str]:
    """The digests of all that the checkpoints' layers hold."""
    found = []
    for checkpoint in status["checkpoints"]:
        (layer,) = bundles.daemon.state_dir.glob(f"layers/*/{checkpoint['key']}/layer.json")
        found.append(json.loads(layer.read_text())["record"]["content"])
    return found


def test_a_result_is_taken_over_when_what_it_reads_is_the_same(bundles: Bundles) -> None:
    first = bundles.build(bundles.manifest("one", "in", index=True))
    assert bundles.stages() == ["base", "rest", "index"]

    manifest = bundles.manifest("one", "in", "two", index=True)
    source = first["checkpoints"][1]["key"]
    reason = bundles.daemon.json("plan", manifest)["checkpoints"][1]["reason"]
    assert f"layer {source[:12]} from build {first['id']} is taken over if what it reads" in reason
    second = bundles.build(manifest)
    assert bundles.stages() == ["rest"]
    index = second["checkpoints"][1]
    assert (index["state"], index["taken_from"]) == ("reused", source)
    assert "taken over from" in bundles.daemon.ctl("status", second["id"])
    (event,) = (
        event["data"]
        for event in bundles.daemon.events(second["id"])
        if event["type"] == "CheckpointReused"
    )
    assert (event["taken_from"], event["reused_from"]) == (source, first["id"])

    fresh = bundles.build(manifest, "--fresh")
    assert bundles.stages() == ["base", "rest", "index"]
    assert contents(bundles, fresh) == contents(bundles, second)
    # Later builds reuse it by its key.
    again = bundles.build(manifest)
    assert [each["state"] for each in again["checkpoints"]] == ["reused"] * 3
    assert again["checkpoints"][1]["taken_from"] == ""
    bundles.daemon.ctl("gc", "--max-bytes", "0")


def test_a_result_is_made_again_when_something_that_it_reads_differs(bundles: Bundles) -> None:
    bundles.build(bundles.manifest("one", "in", index=True))
    bundles.stages()
    status = bundles.build(bundles.manifest("one", "in", "into", index=True))
    assert bundles.stages() == ["rest", "index"]
    assert status["checkpoints"][1]["taken_from"] == ""


def test_a_rewound_build_takes_nothing_over(bundles: Bundles) -> None:
    bundles.build(bundles.manifest("one", "in", index=True))
    build = bundles.daemon.submit(
        bundles.manifest("one", "in", "two", index=True), "--pause-before", "list"
    )
    assert bundles.daemon.wait(build, "paused")["checkpoints"][1]["taken_from"] != ""
    bundles.stages()
    bundles.daemon.ctl("resume", build, "--from", "index")
    status = bundles.daemon.wait(build, "completed")
    assert bundles.stages() == ["index"]
    assert status["checkpoints"][1]["taken_from"] == ""


def test_over_random_edits_a_build_has_the_contents_of_a_fresh_one(bundles: Bundles) -> None:
    """Names are added, removed and reordered; with growing the base's order would differ too."""
    chance = random.Random(7)
    names = ["one"]
    for _ in range(3):
        names = chance.sample(names, chance.randint(1, len(names)))
        names += chance.sample(["in", "into", "two", "three", "clash"], 2)
        manifest = bundles.manifest(*dict.fromkeys(names), index=True)
        reused, grown, fresh = (
            bundles.build(manifest, *options) for options in ((), ("--grow",), ("--fresh",))
        )
        assert contents(bundles, reused) == contents(bundles, fresh), names
        assert contents(bundles, grown) == contents(bundles, fresh), names


def _lines(file: Path) -> list[str]:
    return file.read_text().split() if file.exists() else []


def _wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.02)
