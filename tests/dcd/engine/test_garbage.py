"""Garbage: what may go, in which order, and that nothing goes that somebody needs."""

import json
import os
import signal
import time
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcd.engine.garbage import layers_to_remove
from store.layers import Layer, LayerRecord


def layer(key: str, parent: str | None, size_bytes: int = 1, used_at: float = 0.0) -> Layer:
    return Layer(LayerRecord(key, parent, "b1", "c", 1, 1.0), Path(key), size_bytes, used_at)


@st.composite
def forests(draw: st.DrawFn) -> list[Layer]:
    """Layers, each on one that comes before it, or on nothing."""
    layers: list[Layer] = []
    for number in range(draw(st.integers(0, 12))):
        parent = draw(st.none() | st.sampled_from(layers)) if layers else None
        layers.append(
            layer(
                str(number),
                parent.record.key if parent else None,
                draw(st.integers(0, 9)),
                float(draw(st.integers(0, 5))),
            )
        )
    return layers


@given(forests(), st.data())
def test_what_is_removed_leaves_a_whole_store_within_the_limit(
    layers: list[Layer], data: st.DataObject
) -> None:
    keys = [found.record.key for found in layers]
    parents = {found.record.key: found.record.parent for found in layers}
    pinned = set(data.draw(st.lists(st.sampled_from(keys)))) if keys else set()
    for key in sorted(pinned):
        at = parents[key]
        while at is not None:
            pinned.add(at)
            at = parents[at]
    named = set(data.draw(st.lists(st.sampled_from(keys)))) if keys else set()
    limit = data.draw(st.none() | st.integers(0, 60))

    removed = [found.record.key for found, _ in layers_to_remove(layers, pinned, named, limit)]

    assert len(set(removed)) == len(removed)
    assert not pinned & set(removed)
    standing: dict[str | None, set[str]] = defaultdict(set)
    for key, parent in parents.items():
        standing[parent].add(key)
    for index, key in enumerate(removed):
        assert standing[key] <= set(removed[:index]), "something stands on it"
    left = [found for found in layers if found.record.key not in removed]
    free = [
        found
        for found in left
        if found.record.key not in pinned
        and not any(other.record.parent == found.record.key for other in left)
    ]
    assert all(found.record.key in named for found in free), "nobody names it, and it stays"
    if limit is not None and sum(found.size_bytes for found in left) > limit:
        assert free == [], "over the limit, and more could go"
    if limit is None:
        assert not named & set(removed)


def test_what_was_used_least_goes_first_and_no_more_than_needed() -> None:
    layers = [layer("a", None, 10, 3.0), layer("b", None, 10, 1.0), layer("c", None, 10, 2.0)]
    removed = layers_to_remove(layers, (), ("a", "b", "c"), 15)
    assert [(found.record.key, reason) for found, reason in removed] == [
        ("b", "least recently used"),
        ("c", "least recently used"),
    ]


BIG = "dd if=/dev/urandom of={PKG_IMAGE_PATH}/%s bs=1M count=2"


def layer_keys(daemon) -> set[str]:
    return {path.name for path in daemon.state_dir.glob("layers/*/*") if len(path.name) == 64}


def keys_of(daemon, build) -> list[str]:
    return [c["key"] for c in daemon.json("status", build)["checkpoints"]]


@pytest.mark.root
def test_layers_of_builds_that_have_not_ended_are_never_removed(daemon, write_manifest):
    paused = daemon.submit(
        write_manifest(("one", BIG % "a"), ("two", "true"), name="paused"), "--pause-before", "two"
    )
    failed = daemon.submit(write_manifest(("one", BIG % "b"), ("two", "false"), name="failed"))
    running = daemon.submit(
        write_manifest(("one", BIG % "c"), ("two", "sleep 1000"), name="running")
    )
    daemon.wait(paused, "paused")
    daemon.wait(failed, "failed")
    while daemon.json("status", running)["checkpoints"][1]["state"] != "running":
        time.sleep(0.05)
    completed = daemon.submit(write_manifest(("one", BIG % "d"), name="completed"))
    daemon.wait(completed, "completed")
    kept = {keys_of(daemon, build)[0] for build in (paused, failed, running)}

    would = daemon.json("gc", "--max-bytes", "0", "--dry-run")
    assert [gone["build"] for gone in would["layers"]] == [completed]
    assert len(layer_keys(daemon)) == 4, "a dry run removes nothing"
    did = daemon.json("gc", "--max-bytes", "0")

    assert did["layers"] == would["layers"]
    assert did["freed_bytes"] >= 2 * 1024**2
    assert layer_keys(daemon) == kept
    usage = daemon.json("df")
    assert usage["pinned_bytes"] == usage["layer_bytes"] > 6 * 1024**2
    daemon.ctl("cancel", running)
    daemon.ctl("cancel", failed)
    daemon.wait(running, "cancelled")
    daemon.ctl("resume", paused)
    daemon.wait(paused, "completed")


@pytest.mark.root
def test_a_removed_layer_is_made_again_and_artifacts_stay(daemon, write_manifest, tmp_path):
    counter = tmp_path / "n"
    manifest = write_manifest(("one", f"echo run >> {counter}"), ("two", "true"))
    first = daemon.submit(manifest)
    daemon.wait(first, "completed")

    daemon.ctl("gc", "--max-bytes", "0")
    assert layer_keys(daemon) == set()
    daemon.ctl("artifacts", first, "--verify")

    daemon.wait(daemon.submit(manifest), "completed")
    assert counter.read_text() == "run\nrun\n"
    daemon.ctl("rm", first)


@pytest.mark.root
def test_the_configured_limit_holds_whenever_a_build_has_ended(cold_daemon, write_manifest):
    cold_daemon.settings["layers_max_bytes"] = 5 * 1024**2
    daemon = cold_daemon.start()
    builds = []
    for name in ("first", "second", "third"):
        builds.append(daemon.submit(write_manifest(("one", BIG % name), name=name)))
        daemon.wait(builds[-1], "completed")

    deadline = time.monotonic() + 30
    while len(layer_keys(daemon)) > 2 and time.monotonic() < deadline:
        time.sleep(0.05)

    assert layer_keys(daemon) == {keys_of(daemon, build)[0] for build in builds[1:]}
    assert "5.0 MiB (layers_max_bytes)" in daemon.ctl("df")
    daemon.stop()


@pytest.mark.root
def test_a_layer_that_is_used_again_outlives_one_that_is_not(daemon, write_manifest):
    builds = {}
    for name in ("old", "unused"):
        builds[name] = daemon.submit(write_manifest(("one", BIG % name), name=name))
        daemon.wait(builds[name], "completed")
    daemon.wait(daemon.submit(write_manifest(("one", BIG % "old"), name="old")), "completed")

    daemon.ctl("gc", "--max-bytes", "3M")

    assert layer_keys(daemon) == set(keys_of(daemon, builds["old"]))


@pytest.mark.root
def test_captured_inputs_go_when_only_removed_builds_name_them_and_they_are_not_new(
    daemon, tmp_path
):
    def submitted(text: str, *options: str) -> str:
        (tmp_path / "go.sh").write_text(text)
        path = tmp_path / "inputs.xml"
        path.write_text(
            '<dc><distro name="inputs"><execution><checkpoint name="one"'
            ' mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript"><kwargs>'
            '<arg name="script">go.sh</arg></kwargs></checkpoint></execution></distro></dc>'
        )
        return daemon.submit(path, *options)

    done = submitted("#!/bin/sh\ntrue\n")
    daemon.wait(done, "completed")
    paused = submitted("#!/bin/sh\nexit 0\n", "--pause-before", "one")
    daemon.wait(paused, "paused")
    blobs = sorted((daemon.state_dir / "blobs").iterdir())
    assert len(blobs) == 2
    for blob in blobs:
        os.utime(blob, (1, 1))
    assert daemon.json("gc")["blobs"] == [], "a rebuild of the completed build needs its input"

    daemon.ctl("rm", done)
    for blob in blobs:
        os.utime(blob)
    assert daemon.json("gc")["blobs"] == [], "they may be of a build that is just submitted"
    for blob in blobs:
        os.utime(blob, (1, 1))
    (gone,) = daemon.json("gc")["blobs"]

    assert not (daemon.state_dir / "blobs" / gone).exists()
    daemon.ctl("resume", paused)
    daemon.wait(paused, "completed")


@pytest.mark.root
def test_what_a_removal_left_when_the_daemon_died_is_removed(daemon, write_manifest):
    build = daemon.submit(write_manifest(("one", BIG % "a")))
    daemon.wait(build, "completed")
    daemon.ctl("rm", build)
    left = daemon.state_dir / "artifacts" / build
    left.mkdir()
    (left / "half.iso").write_text("half")

    answer = daemon.json("gc")

    assert answer["builds"] == [build]
    assert not left.exists()
    assert [gone["reason"] for gone in answer["layers"]] == ["no build names it"]


@pytest.mark.root
def test_a_half_removed_layer_is_finished_by_the_next_start(daemon, write_manifest):
    build = daemon.submit(write_manifest(("one", BIG % "a"), ("two", BIG % "b")))
    daemon.wait(build, "completed")
    (top,) = daemon.state_dir.glob(f"layers/*/{keys_of(daemon, build)[1]}")
    daemon.process.send_signal(signal.SIGKILL)
    daemon.process.wait()
    away = top.parent / ".work" / "removed-0123456789abcdef"
    away.mkdir()
    top.rename(away / "layer")  # what removal does first; the daemon died before it erased the rest

    daemon.start()

    assert not away.exists()
    assert layer_keys(daemon) == {keys_of(daemon, build)[0]}
    manifest = write_manifest(("one", BIG % "a"), ("two", BIG % "b"))
    status = daemon.wait(daemon.submit(manifest), "completed")
    assert [c["state"] for c in status["checkpoints"]] == ["reused", "completed"]


@pytest.mark.root
def test_df_counts_each_build_and_its_kinds(daemon, write_manifest):
    build = daemon.submit(write_manifest(("one", BIG % "a"), ("two", f"{BIG % 'b'}; false")))
    daemon.wait(build, "failed")

    (of_build,) = json.loads(daemon.ctl("df", "--json"))["builds"]

    assert (of_build["build"], of_build["state"], of_build["layers"]) == (build, "failed", 1)
    assert of_build["layer_bytes"] == of_build["pinned_bytes"] >= 2 * 1024**2
    assert of_build["workspace_bytes"] >= 2 * 1024**2
    assert of_build["log_bytes"] > 0
