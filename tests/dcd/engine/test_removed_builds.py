"""A removed build says that it was removed, when and by whom, whatever is asked of it."""

import pytest

from cli.exit_codes import ExitCode

pytestmark = pytest.mark.root


@pytest.fixture(params=["completed", "cancelled"])
def removed(request, daemon, write_manifest):
    """A build that has ended and was removed."""
    manifest = write_manifest(("one", "true"), ("two", "true"))
    build = daemon.submit(manifest, "--pause-before", "two")
    daemon.wait(build, "paused")
    daemon.ctl("resume" if request.param == "completed" else "cancel", build)
    daemon.wait(build, request.param)
    daemon.ctl("rm", build)
    return build


def test_its_status_says_so(daemon, removed):
    shown = daemon.ctl("status", removed)
    assert "removed by root at" in shown
    view = daemon.status(removed)
    assert view["removed_by"]["uid"] == 0
    assert view["removed_at"] == daemon.events(removed)[-1]["time"]


@pytest.mark.parametrize(
    "command",
    [
        ("logs",),
        ("logs", "one"),
        ("artifacts",),
        ("artifacts", "--verify"),
        ("pause",),
        ("resume",),
        ("retry",),
        ("cancel",),
        ("shell",),
    ],
    ids=" ".join,
)
def test_what_is_gone_or_cannot_be_done_is_answered_with_when_and_by_whom(daemon, removed, command):
    verb, *rest = command
    answer = daemon.run(verb, removed, *rest)
    assert answer.returncode == ExitCode.NOT_FOUND
    assert f"build {removed} was removed" in answer.stderr
    assert "by root at 2" in answer.stderr
    assert f"dcctl events {removed}" in answer.stderr


def test_its_events_and_another_removal_are_answered_as_before(daemon, removed):
    assert daemon.events(removed)[-1]["type"] == "BuildRemoved"
    daemon.ctl("events", removed, "--verify")
    daemon.ctl("rm", removed)
    daemon.kill()
    daemon.start()
    assert daemon.status(removed)["removed_by"]["user"] == "root"


def test_a_build_that_is_there_says_nothing_of_the_kind(daemon, write_manifest):
    build = daemon.submit(write_manifest(("one", "true")))
    daemon.wait(build, "completed")
    assert daemon.status(build)["removed_at"] is None
    assert "removed" not in daemon.ctl("status", build)
