"""What a follower makes of a build's views and events; and how numbers and tables look."""

from typing import Any

import pytest

from cli import text
from cli.picture import Line, Picture
from cli.text import timestamp
from statemachine import events as ev


@pytest.fixture
def build(daemon):
    return daemon.build(transfer=10.0, image=10.0, iso=10.0)


@pytest.fixture
def tell(build):
    """A picture, and a function that tells it events as the stream does: the view, then the events."""
    picture = Picture(build.view)

    def tell(*payloads: ev.Payload) -> Line | None:
        told = len(build.events)
        build.tell(*payloads)
        lines = [picture.event(event) for event in build.events[told:]]
        return lines[-1]

    tell.picture = picture
    return tell


def test_completed_and_reused_checkpoints_count(tell) -> None:
    tell(
        ev.BuildStarted(),
        ev.CheckpointReused("transfer", "k", "b"),
        ev.CheckpointStarted("image", 1, "k", "/l"),
        ev.CheckpointCompleted("image", 1, "k", 3.0),
    )
    assert tell.picture.done == ["transfer", "image"]
    assert tell.picture.fraction == pytest.approx(2 / 3)
    assert tell.picture.running is None


def test_an_interrupted_checkpoint_does_not_run_any_more(tell) -> None:
    tell(ev.BuildStarted(), ev.CheckpointStarted("transfer", 1, "k", "/l"))
    assert tell.picture.running == "transfer"
    tell(ev.CheckpointInterrupted("transfer", 1, "worker-died"))
    assert tell.picture.running is None


def test_a_new_view_replaces_the_plan(tell, build) -> None:
    other = {**build.view["checkpoints"][0], "name": "other", "estimate_seconds": 30.0}
    done = {**build.view["checkpoints"][0], "state": "completed"}
    tell.picture.view = {**build.view, "checkpoints": [done, other]}
    assert (tell.picture.done, list(tell.picture.estimates)) == (
        ["transfer"],
        ["transfer", "other"],
    )
    assert tell.picture.fraction == 0.25


def test_the_expected_time_is_what_has_passed_and_what_is_left(tell, build) -> None:
    assert tell.picture.expected_seconds(0.0) is None
    tell(ev.BuildStarted(), ev.CheckpointReused("transfer", "k", "b"))
    begin = tell.picture.started
    assert tell.picture.expected_seconds(begin + 3.0) == 23.0
    tell(ev.CheckpointStarted("image", 1, "k", "/l"))
    running = tell.picture.attempt_started
    assert running == timestamp(build.events[-1]["time"])
    assert tell.picture.expected_seconds(running + 4.0) == running - begin + 20.0
    assert tell.picture.expected_seconds(running + 14.0) == running - begin + 24.0


@pytest.mark.parametrize(
    ("payload", "line"),
    [
        (ev.PauseRequested(), ("note", "live", "pausing after the running checkpoint")),
        (ev.PauseRequested("iso"), ("note", "live", "will pause before iso")),
        (ev.PauseWithdrawn(), ("note", "live", "the requested pause is withdrawn")),
        (ev.MoveRequested(), ("note", "live", "moves to another member")),
        (ev.MoveRequested("b"), ("note", "live", "moves to b")),
        (ev.BuildPaused("x"), None),
        (ev.BuildResumed(), ("note", "live", "resumed")),
        (ev.BuildResumed(manifest_path="/m.xml"), ("note", "live", "resumed with /m.xml")),
        (ev.BuildRewound("image"), ("note", "live", "rewound; continues with image")),
        (ev.BuildFailed(None, ev.ErrorInfo("x")), None),
        (ev.CancelRequested(), ("note", "live", "cancelling")),
        (ev.BuildCancelled(), None),
        (ev.BuildCompleted(7.2), ("completed", "live", "7.2 s")),
        (ev.CheckpointReused("iso", "k", "b"), ("reused", "iso", "b")),
    ],
)
def test_an_event_has_its_line(tell, payload, line) -> None:
    found: Any = tell(ev.BuildStarted(), payload)
    assert (found if found is None else found[:3]) == line


def test_progress_is_that_of_the_running_checkpoint(tell) -> None:
    tell(ev.BuildStarted(), ev.CheckpointStarted("transfer", 1, "k", "/l"))
    data = {"checkpoint": "transfer", "fraction": 0.5, "message": "", "build_fraction": 0.2}
    assert tell.picture.report(data)[:3] == ("progress", "transfer", "50%")
    assert (tell.picture.progress, tell.picture.fraction) == (data, 0.2)
    tell(ev.CheckpointCompleted("transfer", 1, "k", 3.0))
    assert (tell.picture.progress, tell.picture.fraction) == ({}, pytest.approx(1 / 3))


def test_late_progress_and_unknown_events_change_nothing(tell) -> None:
    tell(ev.BuildStarted())
    before = dict(vars(tell.picture))
    late = {"checkpoint": "transfer", "fraction": 0.5, "message": "", "build_fraction": 0.9}
    assert tell.picture.report(late) is None
    unknown = {"type": "OfALaterVersion", "time": "2025-01-01T12:00:00Z", "data": {}}
    assert tell.picture.event(unknown) is None
    assert vars(tell.picture) == before


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, ""), (0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1m 00s"), (125, "2m 05s"),
     (3599.7, "1h 00m"), (3725, "1h 02m")],
)  # fmt: skip
def test_durations(seconds, shown) -> None:
    assert text.duration(seconds) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(-1.0, "0:00"), (41.9, "0:41"), (125, "2:05"), (3720, "1:02:00")]
)
def test_running_clocks(seconds, shown) -> None:
    assert text.clock(seconds) == shown


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (110_000_000, "104.9 MiB"),
        (5 * 2**40, "5.0 TiB"),
    ],
)
def test_sizes(size_bytes, shown) -> None:
    assert text.size(size_bytes) == shown


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert text.printable("a\x1b[31m\x07b\u202e\n\tc é") == "a\\x1b[31m\\x07b\\u202e\n\tc é"


def test_long_cells_wrap_below_themselves_on_a_narrow_terminal(monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    rows = [("iso", "run", "the argument compression_level changed at line 41")]
    text.print_table(("NAME", "ACTION", "REASON"), rows, wrapped=True)
    assert len(capsys.readouterr().out.splitlines()) == 2  # a pipe gets whole lines
    monkeypatch.setattr(text, "is_terminal", lambda stream: True)
    monkeypatch.setenv("NO_COLOR", "1")
    text.print_table(("NAME", "ACTION", "REASON"), rows, wrapped=True)
    assert capsys.readouterr().out.splitlines() == [
        "NAME  ACTION  REASON",
        "iso   run     the argument",
        "              compression_level changed",
        "              at line 41",
    ]


def test_columns_that_do_not_fit_go_on_a_line_below(monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(text, "is_terminal", lambda stream: True)
    header = ("BUILD", "NAME", "STATE", "DONE", "SUBMITTED", "REASON")
    reason = "boot-setup: grub-mkrescue exited with status 1"
    row = ("k2p7w3mxqa", "debian-live", "failed", "3/7", "2026-11-24 20:38:22", reason)
    text.print_table(header, [row], right=(3,), wrapped=True)
    assert capsys.readouterr().out.splitlines() == [
        "BUILD       NAME         STATE   DONE",
        "  SUBMITTED            REASON",
        "k2p7w3mxqa  debian-live  failed   3/7",
        "  2026-11-24 20:38:22  boot-setup: grub-mkrescue",
        "                       exited with status 1",
    ]
