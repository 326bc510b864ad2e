"""Stop, replace, start: builds in every state go on under the next version, and the one before refuses the
log that the next one has written."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.faults]

NEXT = Path(__file__).with_name("next_version.py")


@pytest.fixture
def replace_dcd(cold_daemon, tmp_path):
    """Makes the daemon's next start one of the next version (or of this one again)."""
    directory = tmp_path / "next"
    directory.mkdir()
    this = cold_daemon.launch

    def launch_next(command, **options):
        arguments = command[command.index("dcd.main") + 1 :]
        return subprocess.Popen([sys.executable, NEXT, directory, *arguments], **options)

    def replace(by_next: bool) -> None:
        cold_daemon.launch = launch_next if by_next else this

    return replace


def kinds(daemon, build):
    return Counter(event["type"] for event in daemon.events(build))


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_builds_in_every_state_go_on_under_the_next_version(
    cold_daemon, replace_dcd, write_manifest, tmp_path, end
):
    flag = tmp_path / "flag"
    cold_daemon.settings["max_running_builds"] = 1
    daemon = cold_daemon.start()
    waiting = f"until test -e {flag}; do sleep 0.05; done"
    completed = daemon.submit(write_manifest(("one", "true"), name="completed"))
    daemon.wait(completed, "completed")
    paused = daemon.submit(
        write_manifest(("one", "echo p"), ("two", "true"), name="paused"), "--pause-before", "two"
    )
    daemon.wait(paused, "paused")
    failed = daemon.submit(write_manifest(("one", f"test -e {flag}"), name="failed"))
    daemon.wait(failed, "failed")
    running = daemon.submit(
        write_manifest(("one", "echo r"), ("two", waiting), ("three", "true"), name="running")
    )
    daemon.wait_for_event(running, "CheckpointCompleted")
    daemon.wait_for_event(running, "CheckpointStarted")
    while daemon.json("status", running)["checkpoints"][1]["state"] != "running":
        pass
    queued = daemon.submit(write_manifest(("one", "echo q"), name="queued"))
    assert daemon.json("status", queued)["state"] == "queued"

    getattr(daemon, end)()
    replace_dcd(by_next=True)
    daemon.start()
    flag.touch()

    assert daemon.wait(running, "completed")["parameters"] == {"upcast": "yes"}
    daemon.wait(queued, "completed")
    assert daemon.json("status", paused)["state"] == "paused"
    daemon.ctl("resume", paused)
    daemon.ctl("retry", failed)
    for build in (paused, failed):
        daemon.wait(build, "completed")
    new = daemon.submit(write_manifest(("one", "echo n"), name="new"))
    assert daemon.wait(new, "completed")["parameters"] == {}
    for build in (completed, paused, failed, running, queued, new):
        daemon.ctl("events", build, "--verify")
    assert kinds(daemon, running)["CheckpointCompleted"] == 3
    assert kinds(daemon, running)["CheckpointInterrupted"] == 1
    assert kinds(daemon, paused)["CheckpointCompleted"] == 2
    assert daemon.stop() == 0
    assert daemon.leaks() == []


def test_a_log_of_the_next_version_is_refused_and_left_as_it_is(
    cold_daemon, replace_dcd, write_manifest
):
    replace_dcd(by_next=True)
    daemon = cold_daemon.start()
    build = daemon.submit(write_manifest(("one", "true")), "--pause-before", "one")
    daemon.wait(build, "paused")
    daemon.stop()
    replace_dcd(by_next=False)

    daemon.spawn()

    assert daemon.process.wait(60) == 9
    told = daemon.log.read_text()
    assert (
        f"the event log {daemon.state_dir / 'events/events.db'} was written by a newer dcd" in told
    )
    assert "run the newer version, or restore a backup made before the upgrade" in told
    replace_dcd(by_next=True)
    daemon.start()
    daemon.ctl("resume", build)
    daemon.wait(build, "completed")
    daemon.ctl("events", build, "--verify")


def test_dcctl_says_that_the_daemon_is_of_another_version(cold_daemon, replace_dcd):
    replace_dcd(by_next=True)
    daemon = cold_daemon.start()

    assert "dcd 99.0, API v1" in daemon.ctl("version")
    assert "have different versions" in daemon.ctl("version")
    # What both know works all the same.
    assert daemon.json("list") == []
