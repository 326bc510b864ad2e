"""Builds whose layers are gone: a disk was lost, or another back end is used. They make them again."""

import shutil

import pytest

pytestmark = pytest.mark.root


def marked(counter, line="true"):
    """A shell line that leaves a mark each time it runs."""
    return f"echo run >> {counter}; {line}"


def runs(counter):
    return len(counter.read_text().splitlines())


def rewinds(daemon, build):
    return [event["data"] for event in daemon.events(build) if event["type"] == "BuildRewound"]


@pytest.fixture
def paused(daemon, write_manifest, tmp_path):
    """A build that stands before its third checkpoint, with the daemon stopped."""
    manifest = write_manifest(
        ("one", marked(tmp_path / "1", "echo kept > {PKG_IMAGE_PATH}/file")),
        ("two", marked(tmp_path / "2")),
        ("three", "grep -q kept {PKG_IMAGE_PATH}/file"),
    )
    build = daemon.submit(manifest, "--pause-before", "three")
    daemon.wait(build, "paused")
    daemon.stop()
    return build


def layer_of(daemon, build, checkpoint):
    """The layer's directory; the daemon must run."""
    (key,) = [
        c["key"] for c in daemon.json("status", build)["checkpoints"] if c["name"] == checkpoint
    ]
    (found,) = daemon.state_dir.glob(f"layers/*/{key}")
    return found


def test_only_what_stood_on_the_missing_layer_is_made_again(daemon, paused, tmp_path):
    daemon.start()
    shutil.rmtree(layer_of(daemon, paused, "two"))

    daemon.ctl("resume", paused)
    daemon.wait(paused, "completed")

    assert (runs(tmp_path / "1"), runs(tmp_path / "2")) == (1, 2)
    (rewound,) = rewinds(daemon, paused)
    assert rewound["checkpoint"] == "two"
    assert rewound["cause"] == "layer-missing"
    assert "missing" in rewound["reason"]
    daemon.ctl("events", paused, "--verify")


def test_a_build_without_any_of_its_layers_begins_again(daemon, paused, tmp_path):
    shutil.rmtree(daemon.state_dir / "layers")

    daemon.start()
    daemon.ctl("resume", paused)
    daemon.wait(paused, "completed")

    assert (runs(tmp_path / "1"), runs(tmp_path / "2")) == (2, 2)
    assert [rewound["checkpoint"] for rewound in rewinds(daemon, paused)] == ["one"]


def test_another_back_end_makes_the_layers_again(daemon, paused, tmp_path):
    used = next(
        path for path in (daemon.state_dir / "layers").iterdir() if any(path.iterdir())
    ).name
    daemon.settings["layer_backend"] = "copy" if used != "copy" else "overlay"

    daemon.start()
    daemon.ctl("resume", paused)
    daemon.wait(paused, "completed")

    assert runs(tmp_path / "1") == 2


def test_a_running_build_that_lost_a_layer_with_its_daemon_goes_back_to_it(
    daemon, write_manifest, tmp_path
):
    manifest = write_manifest(("one", marked(tmp_path / "1")), ("two", "sleep 2"))
    build = daemon.submit(manifest)
    daemon.wait_for_event(build, "CheckpointCompleted")
    layer = layer_of(daemon, build, "one")
    daemon.kill()
    shutil.rmtree(layer)

    daemon.start()
    daemon.wait(build, "completed")

    assert runs(tmp_path / "1") == 2


def test_what_stood_on_a_layer_that_was_made_again_is_not_reused(daemon, write_manifest, tmp_path):
    """The key of a layer does not name the content below it: two runs of one script differ."""
    word = tmp_path / "word"
    manifest = write_manifest(
        ("one", f"cat {word} > {{PKG_IMAGE_PATH}}/file"),
        ("two", marked(tmp_path / "2", "cp {PKG_IMAGE_PATH}/file {PKG_IMAGE_PATH}/copy")),
        ("three", "cmp {PKG_IMAGE_PATH}/file {PKG_IMAGE_PATH}/copy"),
    )
    word.write_text("first")
    first = daemon.submit(manifest)
    daemon.wait(first, "completed")
    word.write_text("second")
    shutil.rmtree(layer_of(daemon, first, "one"))

    planned = daemon.json("plan", manifest)["checkpoints"]
    second = daemon.submit(manifest)
    daemon.wait(second, "completed")

    assert [checkpoint["action"] for checkpoint in planned] == ["run"] * 3
    assert "made again" in planned[1]["reason"]
    assert runs(tmp_path / "2") == 2
    assert (layer_of(daemon, second, "two") / "tree/pkg_image/copy").read_text() == "second"
    third = daemon.submit(manifest)
    daemon.wait(third, "completed")
    assert runs(tmp_path / "2") == 2, "what was made again is reused"


def test_a_paused_build_goes_on_from_what_another_made_again(daemon, write_manifest, tmp_path):
    manifest = write_manifest(
        ("one", marked(tmp_path / "1")),
        ("two", marked(tmp_path / "2")),
        ("three", marked(tmp_path / "3")),
    )
    paused = daemon.submit(manifest, "--pause-before", "three")
    daemon.wait(paused, "paused")
    shutil.rmtree(layer_of(daemon, paused, "one"))
    other = daemon.submit(manifest)
    daemon.wait(other, "completed")

    daemon.ctl("resume", paused)
    daemon.wait(paused, "completed")

    assert (runs(tmp_path / "1"), runs(tmp_path / "2"), runs(tmp_path / "3")) == (2, 2, 1)


def test_gc_removes_stale_layers(daemon, write_manifest):
    manifest = write_manifest(("one", "true"), ("two", "true"))
    build = daemon.submit(manifest)
    daemon.wait(build, "completed")
    stale = layer_of(daemon, build, "two")
    shutil.rmtree(layer_of(daemon, build, "one"))

    collected = daemon.json("gc")

    assert [layer["checkpoint"] for layer in collected["layers"]] == ["two"]
    assert "rebuilt" in collected["layers"][0]["reason"]
    assert not stale.exists()
