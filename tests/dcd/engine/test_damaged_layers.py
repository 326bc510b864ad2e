"""Builds that meet layers whose files were changed behind the back of dcd."""

import json
import os
import time

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


def dcctl(daemon, *words):
    """The exit code and the JSON that dcctl prints."""
    done = daemon.run("--json", *words)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.fixture
def built(daemon, manifest):
    """A completed build."""
    build = daemon.submit(manifest)
    daemon.wait(build, "completed")
    return build


def test_all_layers_or_those_of_a_build_are_verified(daemon, built, write_manifest):
    other = daemon.submit(write_manifest(("alone", "true"), name="other"))
    daemon.wait(other, "completed")

    code, all_of_them = dcctl(daemon, "verify", "--layers")
    assert (code, len(all_of_them["layers"]), all_of_them["ok"]) == (0, 4, True)
    code, of_build = dcctl(daemon, "verify", "--layers", built)
    assert (code, len(of_build["layers"])) == (0, 3)
    assert {each["state"] for each in of_build["layers"]} == {"unchanged"}

    (layer_of(daemon, built, "one") / "tree/pkg_image/file").write_text("evil")
    code, found = dcctl(daemon, "verify", "--layers", built)
    assert (code, found["ok"]) == (30, False)
    states = {each["checkpoint"]: each["state"] for each in found["layers"]}
    assert states["one"] == "damaged"
    # Whichever of them came first.
    assert {states["two"], states["three"]} <= {"unchanged", "stale"}
    done = daemon.run("verify", "--layers")
    assert done.returncode == 30
    assert "pkg_image/file: mtime, size, sha256" in done.stdout
    assert "not used: a layer below it is damaged" in done.stdout
    assert dcctl(daemon, "verify", "--layers", other)[0] == 0


def test_a_digest_that_the_event_log_does_not_have_is_damage(daemon, built):
    (record,) = layer_of(daemon, built, "two").glob("layer.json")
    daemon.stop()
    text = record.read_text()
    start = text.index('"content":"') + len('"content":"')
    record.write_text(f"{text[:start]}{'0' * 64}{text[start + 64 :]}")
    daemon.start()

    _, found = dcctl(daemon, "verify", "--layers", built)
    (two,) = [each for each in found["layers"] if each["checkpoint"] == "two"]
    assert two["damage"] == "layer.json: content is not as in the event log"


def test_verify_needs_files_or_layers(daemon):
    daemon.start() if daemon.process is None else None
    assert daemon.run("verify").returncode == 2
    assert daemon.run("verify", "file", "--layers", "x").returncode == 2
    assert daemon.run("verify", "--layers", "nonesuch").returncode == 7


def flip_a_bit(file):
    """Change the content of a file and no time."""
    status = file.stat()
    with file.open("r+b") as opened:
        opened.write(b"g\x00od")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_layers_are_read_in_the_background_and_a_restart_goes_on(cold_daemon, manifest):
    daemon = cold_daemon.start()
    build = daemon.submit(manifest)
    daemon.wait(build, "completed")
    one, two = layer_of(daemon, build, "one"), layer_of(daemon, build, "two")
    assert not (one / "checked").exists()
    daemon.stop()

    daemon.settings["scrub_days"] = 2 / 86400
    daemon.start()
    until((two / "checked").exists)
    read_at = (one / "checked").read_text()
    until(lambda: (one / "checked").read_text() != read_at)
    daemon.stop()
    read_at = (one / "checked").read_text()
    daemon.start()
    until(lambda: (one / "checked").read_text() != read_at)
    flip_a_bit(one / "tree/pkg_image/file")
    until((one / "damaged").exists)

    assert '"event": "a layer is damaged"' in daemon.log.read_text()
    (content,) = [c for c in daemon.json("doctor")["checks"] if c["name"] == "layer content"]
    assert content["status"] == "warning"
    assert content["value"].startswith("1 damaged, ")
    assert "dcd_layers_damaged 1.0" in daemon.ctl("metrics")
