"""What happens to builds: they run, fail, are resumed, reused, paused and cancelled."""

import json
import os
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

ABOUT = {"SHA256SUMS", "SHA256SUMS.evidence", "small.provenance.json"}
"""What every build of `small` delivers about its products."""


def counted(counter: Path, line: str = "true") -> str:
    """A shell line that leaves a mark each time it runs."""
    return f"echo run >> {counter}; {line}"


def until(gate: Path) -> str:
    """A shell line that ends when the file is there."""
    return f"until test -e {gate}; do sleep 0.1; done"


def runs(counter: Path) -> int:
    """How often a counted line has run."""
    return len(counter.read_text().splitlines()) if counter.exists() else 0


def states(status: dict) -> list[str]:
    """The states of a build's checkpoints."""
    return [checkpoint["state"] for checkpoint in status["checkpoints"]]


def test_build_runs_its_checkpoints_in_order_each_on_the_layer_before(daemon, write_manifest):
    manifest = write_manifest(
        ("one", "echo first > {PKG_IMAGE_PATH}/file"),
        ("two", "grep -q first {PKG_IMAGE_PATH}/file && echo second >> {PKG_IMAGE_PATH}/file"),
        ("three", 'test "$(cat {PKG_IMAGE_PATH}/file | tr "\\n" " ")" = "first second "'),
    )

    build = daemon.submit(manifest)
    status = daemon.wait(build, "completed")

    assert states(status) == ["completed"] * 3
    kinds = [event["type"] for event in daemon.events(build)]
    assert kinds[:4] == [
        "BuildSubmitted",
        "BuildStarted",
        "CheckpointStarted",
        "CheckpointCompleted",
    ]
    assert kinds[-1] == "BuildCompleted"
    assert [event["sequence"] for event in daemon.events(build)] == list(range(1, len(kinds) + 1))


def test_a_file_that_a_command_makes_is_delivered_if_it_says_so(daemon, tmp_path):
    manifest = tmp_path / "m.xml"
    manifest.write_text(
        '<dc><distro name="small"><execution>'
        '<checkpoint name="pack" mod_path="dcd/checkpoints/custom_script"'
        ' checkpoint_class="CustomScript">'
        "<args>mkdir {MEDIA_DIR}/out; echo a &gt; {MEDIA_DIR}/root.tar;"
        " echo b &gt; {MEDIA_DIR}/out/b.cpio; chmod 4777 {MEDIA_DIR}/root.tar;"
        " echo c &gt; {MEDIA_DIR}/notes</args>"
        '<kwargs><arglist name="deliver"><argitem>{MEDIA_DIR}/root.tar</argitem>'
        "<argitem>out/b.cpio</argitem></arglist></kwargs></checkpoint>"
        '<checkpoint name="after" mod_path="dcd/checkpoints/custom_script"'
        ' checkpoint_class="CustomScript"><args>true</args></checkpoint>'
        "</execution></distro></dc>"
    )
    for _ in range(2):  # The second build reuses the layers.
        build = daemon.submit(manifest)
        status = daemon.wait(build, "completed")
        delivered = {artifact["name"]: artifact for artifact in status["artifacts"]}
        assert set(delivered) == {"root.tar", "b.cpio", "small.xml", *ABOUT}
        assert delivered["root.tar"]["format"] == "tar"
        path = Path(delivered["root.tar"]["path"])
        assert (path.read_text(), path.stat().st_mode & 0o7777) == ("a\n", 0o640)
        daemon.ctl("artifacts", build, "--verify")
        assert status["undelivered"] == ["media/notes"]
        for command in ("status", "follow"):
            assert "not delivered: media/notes" in daemon.ctl(command, build)
    log = daemon.ctl("logs", build := daemon.json("list")[-1]["id"], "pack")
    assert "not delivered so far: media/notes" in log, build


def test_the_delivered_manifest_has_no_secrets(daemon, write_manifest):
    manifest = write_manifest(("one", "true"))
    secret = "known-to-the-submitter"
    configuration = (
        f'<configuration name="one"><user name="u"><password>{secret}</password></user>'
        "</configuration></distro>"
    )
    manifest.write_text(manifest.read_text().replace("</distro>", configuration))
    build = daemon.submit(manifest)
    daemon.wait(build, "completed")

    delivered = [Path(artifact["path"]) for artifact in daemon.json("artifacts", build)]

    assert [path.name for path in delivered if secret in path.read_text()] == []
    (copy,) = [path for path in delivered if path.suffix == ".xml"]
    assert copy.read_text().startswith("<!-- This copy of the manifest omits passwords")
    assert {path.stat().st_mode & 0o7777 for path in delivered} == {0o640}
    daemon.ctl("artifacts", build, "--verify")
    assert secret in daemon.ctl("events", build, "--json"), "root may look"


def test_completed_build_delivers_manifest_and_digests_that_verify(daemon, write_manifest):
    build = daemon.submit(write_manifest(("one", "true")))
    daemon.wait(build, "completed")

    artifacts = {artifact["name"]: artifact for artifact in daemon.json("artifacts", build)}

    assert set(artifacts) == {"small.xml", *ABOUT}
    sums = Path(artifacts["SHA256SUMS"]["path"]).read_text()
    assert sums == f"{artifacts['small.xml']['sha256']}  small.xml\n"
    daemon.ctl("artifacts", build, "--verify")
    Path(artifacts["small.xml"]["path"]).write_text("something else")
    daemon.ctl("artifacts", build, "--verify", status=1)


def test_unchanged_manifest_reuses_every_layer(daemon, write_manifest, tmp_path):
    manifest = write_manifest(("one", counted(tmp_path / "n")), ("two", "true"))
    first = daemon.submit(manifest)
    daemon.wait(first, "completed")

    second = daemon.submit(manifest)
    status = daemon.wait(second, "completed")

    assert states(status) == ["reused", "reused"]
    assert {checkpoint["reused_from"] for checkpoint in status["checkpoints"]} == {first}
    assert runs(tmp_path / "n") == 1


def test_fresh_build_reuses_nothing(daemon, write_manifest, tmp_path):
    manifest = write_manifest(("one", counted(tmp_path / "n")))
    daemon.wait(daemon.submit(manifest), "completed")

    status = daemon.wait(daemon.submit(manifest, "--fresh"), "completed")

    assert states(status) == ["completed"]
    assert runs(tmp_path / "n") == 2


def test_changed_last_checkpoint_runs_alone(daemon, write_manifest, tmp_path):
    one = ("one", counted(tmp_path / "n"))
    daemon.wait(daemon.submit(write_manifest(one, ("two", "true"))), "completed")

    build = daemon.submit(write_manifest(one, ("two", "echo changed")))

    assert states(daemon.wait(build, "completed")) == ["reused", "completed"]
    assert runs(tmp_path / "n") == 1


def test_two_builds_that_need_the_same_layer_at_once_make_it_once(daemon, write_manifest, tmp_path):
    manifest = write_manifest(("one", counted(tmp_path / "n", "sleep 1")))

    builds = [daemon.submit(manifest) for _ in range(2)]

    found = sorted(states(daemon.wait(build, "completed"))[0] for build in builds)
    assert found == ["completed", "reused"]
    assert runs(tmp_path / "n") == 1


def test_failed_build_says_why_and_resume_runs_only_what_failed(daemon, write_manifest, tmp_path):
    flag = tmp_path / "flag"
    manifest = write_manifest(
        ("one", counted(tmp_path / "n")), ("two", f"echo looking for a flag; test -e {flag}")
    )

    build = daemon.submit(manifest)
    status = daemon.wait(build, "failed")

    assert states(status) == ["completed", "failed"]
    assert status["checkpoints"][1]["error"]["brief"]
    assert "looking for a flag" in daemon.ctl("logs", build, "two")
    daemon.ctl("follow", build, status=3)

    flag.touch()
    daemon.ctl("resume", build)
    assert states(daemon.wait(build, "completed")) == ["completed", "completed"]
    assert runs(tmp_path / "n") == 1


def test_resume_with_an_edited_manifest_keeps_the_unchanged_prefix(
    daemon, write_manifest, tmp_path
):
    one = ("one", counted(tmp_path / "n"))
    build = daemon.submit(write_manifest(one, ("two", "false"), ("three", "true")))
    daemon.wait(build, "failed")

    edited = write_manifest(one, ("two", "true"), ("three", "true"))
    answer = daemon.json("resume", build, "--manifest", edited)

    assert answer["kept"] == ["one"]
    assert [rerun["name"] for rerun in answer["rerun"]] == ["two", "three"]
    assert "argument" in answer["rerun"][0]["reason"]
    assert states(daemon.wait(build, "completed")) == ["completed"] * 3
    assert runs(tmp_path / "n") == 1


def test_resume_from_an_earlier_checkpoint_runs_from_there(daemon, write_manifest, tmp_path):
    manifest = write_manifest(("one", counted(tmp_path / "1")), ("two", "true"), ("three", "true"))
    build = daemon.submit(manifest, "--pause-before", "three")
    daemon.wait(build, "paused")

    daemon.ctl("resume", build, "--from", "two")

    status = daemon.wait(build, "completed")
    assert runs(tmp_path / "1") == 1
    assert "BuildRewound" in [event["type"] for event in daemon.events(build)]
    assert status["state"] == "completed"


def test_pause_before_stands_still_there_until_resumed(daemon, write_manifest, tmp_path):
    manifest = write_manifest(("one", "true"), ("two", counted(tmp_path / "n")))

    build = daemon.submit(manifest, "--pause-before", "two")
    status = daemon.wait(build, "paused")

    assert "two" in status["reason"]
    assert runs(tmp_path / "n") == 0
    daemon.ctl("follow", build, status=4)
    daemon.ctl("resume", build)
    daemon.wait(build, "completed")


def test_pause_lets_the_running_checkpoint_end(daemon, write_manifest, tmp_path):
    manifest = write_manifest(("one", until(tmp_path / "gate")), ("two", "true"))
    build = daemon.submit(manifest)
    daemon.wait_for_event(build, "CheckpointStarted")

    daemon.ctl("pause", build)
    daemon.ctl("pause", build)
    (tmp_path / "gate").touch()

    assert states(daemon.wait(build, "paused")) == ["completed", "pending"]


def test_cancel_stops_the_attempt_and_all_that_it_started(daemon, write_manifest, tmp_path):
    build = daemon.submit(write_manifest(("one", "setsid sleep 1000 & sleep 1000")))
    daemon.wait_for_event(build, "CheckpointStarted")

    daemon.ctl("cancel", build)

    status = daemon.wait(build, "cancelled")
    assert states(status) == ["interrupted"]
    assert daemon.leaks() == []
    daemon.ctl("follow", build, status=5)
    daemon.ctl("resume", build, status=6)
    daemon.ctl("cancel", build)


def test_idempotency_key_submits_once(daemon, write_manifest):
    manifest = write_manifest(("one", "true"))

    first = daemon.submit(manifest, "--idempotency-key", "nightly-7")
    second = daemon.submit(manifest, "--idempotency-key", "nightly-7")

    assert first == second
    assert len(daemon.json("list", "--all")) == 1


def test_higher_priority_goes_first(cold_daemon, write_manifest, tmp_path):
    cold_daemon.settings["max_running_builds"] = 1
    cold_daemon.start()
    order = tmp_path / "order"
    blocker = cold_daemon.submit(write_manifest(("one", until(tmp_path / "gate")), name="blocker"))
    cold_daemon.wait_for_event(blocker, "CheckpointStarted")
    builds = [
        cold_daemon.submit(
            write_manifest(("one", f"echo {name} >> {order}"), name=name), "--priority", priority
        )
        for name, priority in (("late", "0"), ("early", "5"))
    ]
    (tmp_path / "gate").touch()

    for build in builds:
        cold_daemon.wait(build, "completed")

    assert order.read_text().split() == ["early", "late"]


def test_inputs_are_captured_at_submit(daemon, tmp_path):
    script = tmp_path / "script.sh"
    script.write_text("#!/bin/sh\necho from the script\n")
    manifest = tmp_path / "inputs.xml"
    manifest.write_text(
        '<dc><distro name="inputs"><execution>'
        '<checkpoint name="wait" mod_path="dcd/checkpoints/custom_script"'
        ' checkpoint_class="CustomScript"><args>true</args></checkpoint>'
        '<checkpoint name="script" mod_path="dcd/checkpoints/custom_script"'
        ' checkpoint_class="CustomScript"><kwargs><arg name="script">script.sh</arg></kwargs>'
        "</checkpoint></execution></distro></dc>"
    )
    build = daemon.submit(manifest, "--pause-before", "script")
    daemon.wait(build, "paused")

    script.unlink()
    manifest.unlink()
    daemon.ctl("resume", build)

    daemon.wait(build, "completed")
    assert "from the script" in daemon.ctl("logs", build, "script")


def test_stop_lets_checkpoints_end_within_the_grace_and_goes_on_after(
    cold_daemon, write_manifest, tmp_path
):
    cold_daemon.settings["stop_grace_seconds"] = 20
    daemon = cold_daemon.start()
    manifest = write_manifest(
        ("one", counted(tmp_path / "1", "sleep 1")), ("two", counted(tmp_path / "2"))
    )
    build = daemon.submit(manifest)
    daemon.wait_for_event(build, "CheckpointStarted")

    assert daemon.stop() == 0

    assert (runs(tmp_path / "1"), runs(tmp_path / "2")) == (1, 0)
    daemon.start()
    assert states(daemon.wait(build, "completed")) == ["completed", "completed"]
    assert runs(tmp_path / "1") == 1


def test_stop_interrupts_what_takes_longer_than_the_grace(daemon, write_manifest):
    build = daemon.submit(write_manifest(("one", "sleep 2")))
    daemon.wait_for_event(build, "CheckpointStarted")

    assert daemon.stop() == 0
    assert daemon.leaks() == []

    daemon.start()
    assert states(daemon.wait(build, "completed")) == ["completed"]
    (interrupted,) = [e for e in daemon.events(build) if e["type"] == "CheckpointInterrupted"]
    assert interrupted["data"]["cause"] == "shutdown"


def test_every_event_names_who_caused_it(daemon, write_manifest):
    build = daemon.submit(write_manifest(("one", "true")))
    daemon.wait(build, "completed")

    submitted, started, *_ = daemon.events(build)

    assert submitted["actor"]["uid"] == os.getuid()
    assert started["actor"]["uid"] is None


def test_events_follow_continues_where_it_was(daemon, write_manifest):
    build = daemon.submit(write_manifest(("one", "sleep 1")))
    first = daemon.events(build)[0]

    lines = daemon.ctl(
        "events", build, "--json", "--follow", "--after", str(first["position"])
    ).splitlines()

    positions = [json.loads(line)["position"] for line in lines]
    assert positions == [event["position"] for event in daemon.events(build)][1:]
    daemon.ctl("events", build, "--verify")


def test_graph_marks_the_present_state(daemon, write_manifest):
    build = daemon.submit(write_manifest(("one", "true"), ("two", "true")), "--pause-before", "two")
    daemon.wait(build, "paused")

    assert "present" in daemon.ctl("graph", build)
    assert daemon.ctl("graph", build, "--format", "dot").startswith("digraph")


def test_low_space_pauses_before_a_checkpoint_and_goes_on_by_itself(cold_daemon, write_manifest):
    cold_daemon.settings["min_free_bytes"] = 0
    daemon = cold_daemon.start()
    build = daemon.submit(write_manifest(("one", "sleep 2"), ("two", "true")))
    daemon.wait_for_event(build, "CheckpointStarted")
    daemon.settings["min_free_bytes"] = 2**60
    config = daemon.state_dir.parent / "dcd.toml"
    config.write_text(f"min_free_bytes = {2**60}\n")
    daemon.process.send_signal(1)

    status = daemon.wait(build, "paused")
    assert "GiB" in status["reason"]

    config.write_text("min_free_bytes = 0\n")
    daemon.process.send_signal(1)
    daemon.wait(build, "completed")
