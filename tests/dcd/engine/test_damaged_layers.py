"""Builds that meet layers whose files were changed behind the back of dcd."""

import pytest

from tests.dcd.engine.test_lost_layers import layer_of, marked, runs

pytestmark = pytest.mark.root


@pytest.fixture
def manifest(write_manifest, tmp_path):
    """A manifest of three checkpoints, which leave marks beside it."""
    return write_manifest(
        ("one", marked(tmp_path / "1", "echo good > {PKG_IMAGE_PATH}/file")),
        ("two", marked(tmp_path / "2", "echo more > {PKG_IMAGE_PATH}/more")),
        ("three", marked(tmp_path / "3", "grep -q good {PKG_IMAGE_PATH}/file")),
    )


def damaged(daemon, build):
    return [event["data"] for event in daemon.events(build) if event["type"] == "LayerDamaged"]


def counts(tmp_path):
    return [runs(tmp_path / name) for name in "123"]


def test_a_changed_file_is_noticed_before_the_layer_is_reused(daemon, manifest, tmp_path):
    first = daemon.submit(manifest)
    daemon.wait(first, "completed")
    contents = [
        e["data"]["content"] for e in daemon.events(first) if e["type"] == "CheckpointCompleted"
    ]
    assert [len(each) for each in contents] == [64, 64, 64]
    (layer_of(daemon, first, "two") / "tree/pkg_image/more").write_text("evil")

    second = daemon.submit(manifest)
    daemon.wait(second, "completed")

    assert counts(tmp_path) == [1, 2, 2]
    (event,) = damaged(daemon, second)
    assert (event["checkpoint"], event["made_by"]) == ("two", first)
    assert "pkg_image/more: mtime, size, sha256" in event["damage"]
    shown = daemon.ctl("status", second)
    assert f"of build {first} is damaged and not used: pkg_image/more" in shown
    again = [
        e["data"]["content"] for e in daemon.events(second) if e["type"] == "CheckpointCompleted"
    ]
    assert again == contents[1:]


def test_a_layer_below_a_paused_build_is_checked_before_it_goes_on(daemon, manifest, tmp_path):
    build = daemon.submit(manifest, "--pause-before", "three")
    daemon.wait(build, "paused")
    (layer_of(daemon, build, "one") / "tree/pkg_image/file").write_text("bad")

    daemon.ctl("resume", build)
    daemon.wait(build, "completed")

    assert counts(tmp_path) == [2, 2, 1]
    (event,) = damaged(daemon, build)
    assert (event["checkpoint"], event["made_by"]) == ("one", build)
    (rewound,) = [e["data"] for e in daemon.events(build) if e["type"] == "BuildRewound"]
    assert rewound["reason"] == "the layer of one is damaged, so it is rebuilt"
    daemon.ctl("events", build, "--verify")
