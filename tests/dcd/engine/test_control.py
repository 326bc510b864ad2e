"""What people tell builds: retry, rm, checkpoints, resume with another manifest or other parameters."""

from pathlib import Path

import pytest

from store.eventlog import SqliteLog

pytestmark = pytest.mark.root


def kinds(daemon, build):
    return [event["type"] for event in daemon.events(build)]


def test_retry_lets_a_failed_build_go_on_and_refuses_others(daemon, write_manifest, tmp_path):
    flag = tmp_path / "flag"
    manifest = write_manifest(("one", f"test -e {flag}"), ("two", "true"))
    build = daemon.submit(manifest)
    daemon.wait(build, "failed")

    flag.touch()
    daemon.ctl("retry", build)
    daemon.wait(build, "completed")

    daemon.ctl("retry", build, status=6)
    paused = daemon.submit(write_manifest(("three", "true")), "--pause-before", "three")
    daemon.wait(paused, "paused")
    refused = daemon.run("retry", paused)
    assert refused.returncode == 6
    assert f"dcctl resume {paused}" in refused.stderr


def test_rm_drops_what_an_ended_build_left_and_may_be_sent_twice(daemon, write_manifest):
    build = daemon.submit(write_manifest(("one", "true")), "--pause-before", "one")
    daemon.wait(build, "paused")
    daemon.ctl("rm", build, status=6)
    daemon.ctl("resume", build)
    daemon.wait(build, "completed")
    (artifact, *_) = daemon.json("artifacts", build)
    logs = daemon.state_dir / "logs" / build
    assert logs.is_dir()

    daemon.ctl("rm", build)
    daemon.ctl("rm", build)

    assert not Path(artifact["path"]).exists()
    assert not logs.exists()
    assert daemon.json("list", "--all") == []
    assert kinds(daemon, build).count("BuildRemoved") == 1
    daemon.ctl("events", build, "--verify")


def test_checkpoints_are_resumable_up_to_the_first_that_has_not_completed(
    daemon, write_manifest, tmp_path
):
    manifest = write_manifest(("one", "true"), ("two", "true"), ("three", "true"), ("four", "true"))
    build = daemon.submit(manifest, "--pause-before", "three")
    daemon.wait(build, "paused")

    def resumable():
        return [item["name"] for item in daemon.json("checkpoints", build) if item["resumable"]]

    assert resumable() == ["one", "two", "three"]
    assert all(item["description"] for item in daemon.json("checkpoints", build))
    daemon.ctl("resume", build, "--from", "four", status=6)
    daemon.ctl("resume", build, "--from", "one")
    daemon.wait(build, "completed")
    assert resumable() == []


def parametrised(directory, extra="", second="true"):
    path = directory / "parameters.xml"
    path.write_text(
        '<dc><parameter name="word" default="none"/><parameter name="other" default="none"/>\n'
        f'{extra}<distro name="small"><execution>\n'
        '<checkpoint name="one" mod_path="dcd/checkpoints/custom_script"'
        ' checkpoint_class="CustomScript"><args>echo ${word} > {PKG_IMAGE_PATH}/word</args>\n'
        '</checkpoint><checkpoint name="two" mod_path="dcd/checkpoints/custom_script"'
        f' checkpoint_class="CustomScript"><args>echo ${{other}}; {second}</args></checkpoint>\n'
        "</execution></distro></dc>\n"
    )
    return path


def test_resume_with_a_manifest_keeps_the_parameters_that_are_not_set_again(daemon, tmp_path):
    build = daemon.submit(
        parametrised(tmp_path, second="false"), "--set", "word=kept", "--set", "other=before"
    )
    daemon.wait(build, "failed")

    edited = parametrised(tmp_path, second="false")
    answer = daemon.json("resume", build, "--manifest", edited, "--set", "other=after")

    assert answer["kept"] == ["one"]
    assert [(item["name"], item["reason"]) for item in answer["rerun"]] == [
        ("two", "argument command changed at line 4 (echo before; false -> echo after; false)")
    ]
    status = daemon.wait(build, "failed")
    assert status["parameters"] == {"word": "kept", "other": "after"}
    assert "after" in daemon.ctl("logs", build, "two")


def test_resume_with_a_manifest_that_drops_a_parameter_forgets_its_value(daemon, tmp_path):
    build = daemon.submit(parametrised(tmp_path, second="false"), "--set", "word=kept")
    daemon.wait(build, "failed")
    text = parametrised(tmp_path).read_text()
    edited = tmp_path / "edited.xml"
    edited.write_text(
        text.replace('<parameter name="word" default="none"/>', "").replace("${word}", "kept")
    )

    answer = daemon.json("resume", build, "--manifest", edited)

    assert answer["kept"] == ["one"]
    daemon.wait(build, "completed")


def test_resume_tells_what_is_kept_and_why_the_rest_runs(daemon, write_manifest):
    build = daemon.submit(
        write_manifest(("one", "true"), ("two", "true"), ("three", "false"), ("four", "true"))
    )
    daemon.wait(build, "failed")

    edited = write_manifest(
        ("one", "true"),
        ("two", "echo edited"),
        ("three", "true"),
        ("four", "true"),
        ("five", "true"),
    )
    answer = daemon.json("resume", build, "--manifest", edited)

    assert answer["kept"] == ["one"]
    assert {item["name"]: item["reason"] for item in answer["rerun"]} == {
        "two": "argument command changed at line 3 (true -> echo edited)",
        "three": "argument command changed at line 4 (false -> true)",
        "four": "an earlier checkpoint changed",
        "five": "it is new",
    }
    daemon.wait(build, "completed")


def test_plan_tells_by_the_newest_build_why_something_runs(daemon, write_manifest):
    manifest = write_manifest(("one", "true"), ("two", "true"), ("three", "true"))

    def reasons(path):
        return {
            c["name"]: (c["action"], c["reason"]) for c in daemon.json("plan", path)["checkpoints"]
        }

    assert reasons(manifest)["one"] == ("run", "no build made it yet")
    build = daemon.submit(manifest)
    daemon.wait(build, "completed")
    action, reason = reasons(manifest)["three"]
    assert action == "reuse"
    assert reason.endswith(f"from build {build}")

    edited = write_manifest(
        ("one", "true"), ("two", "echo edited"), ("three", "true"), ("four", "true")
    )
    found = reasons(edited)
    assert found["one"][0] == "reuse"
    assert found["two"] == ("run", "argument command changed at line 3 (true -> echo edited)")
    assert found["three"] == ("run", "an earlier checkpoint changed")
    assert found["four"] == ("run", "it is new")

    daemon.ctl("gc", "--max-bytes", "0")
    manifest = write_manifest(("one", "true"), ("two", "true"), ("three", "true"))
    assert reasons(manifest)["one"] == ("run", f"its layer was removed since build {build}")


@pytest.fixture
def waiting(daemon, write_manifest):
    """A build that makes a layer, for ever, and another that waits for that layer."""
    manifest = write_manifest(("one", "sleep 1000"))
    maker = daemon.submit(manifest)
    daemon.wait_for_event(maker, "CheckpointStarted")
    build = daemon.submit(manifest)
    daemon.wait_for_event(build, "BuildStarted")
    yield maker, build
    daemon.ctl("cancel", maker)
    daemon.wait(maker, "cancelled")


def test_a_build_that_waits_for_anothers_layer_is_cancelled_at_once(daemon, waiting):
    maker, build = waiting

    daemon.ctl("cancel", build)

    daemon.wait(build, "cancelled")
    assert daemon.json("status", maker)["state"] == "running"
    assert "CheckpointStarted" not in kinds(daemon, build)


def test_a_build_whose_pause_is_withdrawn_does_not_stop_there(daemon, write_manifest, tmp_path):
    released = tmp_path / "released"
    wait = f"until [ -e {released} ]; do sleep 0.05; done"
    manifest = write_manifest(("one", wait), ("two", "true"), ("three", "true"))
    build = daemon.submit(manifest, "--pause-before", "two")
    daemon.wait_for_event(build, "CheckpointStarted")
    daemon.ctl("pause", build, "--before", "three")
    assert daemon.json("pause", build, "--withdraw")["pause_before"] is None

    released.touch()
    daemon.wait(build, "completed")
    assert "BuildPaused" not in kinds(daemon, build)
    refused = daemon.run("pause", build, "--withdraw")
    assert refused.returncode == 6
    assert "cannot withdraw a pause" in refused.stderr


def test_a_build_that_waits_for_anothers_layer_is_paused_at_once_and_waits_again(daemon, waiting):
    maker, build = waiting

    daemon.ctl("pause", build)
    daemon.wait(build, "paused")
    daemon.ctl("resume", build)
    daemon.wait_for_event(build, "BuildResumed")
    daemon.ctl("cancel", maker)

    daemon.wait_for_event(build, "CheckpointStarted")
    daemon.ctl("cancel", build)
    daemon.wait(build, "cancelled")


def test_a_build_that_waits_for_anothers_layer_does_not_hold_up_the_stop(daemon, waiting):
    _, build = waiting

    assert daemon.stop() == 0

    with SqliteLog(daemon.state_dir / "events/events.db") as log:
        assert [event.type for event in log.read_build(build)] == ["BuildSubmitted", "BuildStarted"]
    daemon.start()
    daemon.ctl("cancel", build)
