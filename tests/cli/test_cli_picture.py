"""What a follower makes of a build's events; and how numbers and tables look."""

import pytest

from cli import text
from cli.picture import Picture
from statemachine import events as ev
from statemachine.plan import Plan, PlannedCheckpoint

NAMES = ("transfer", "image", "iso")


def plan(*names: str) -> Plan:
    return Plan(
        tuple(
            PlannedCheckpoint(name, "", "m", "C", "k", (), estimate_seconds=10.0) for name in names
        )
    )


@pytest.fixture
def tell(daemon):
    """A picture, and a function that tells it events in their form on the wire."""
    build = daemon.build(transfer=10.0, image=10.0, iso=10.0)
    picture = Picture(build.id)

    def tell(*payloads: ev.Payload) -> Picture:
        told = len(build.events) if payloads else 0
        build.tell(*payloads)
        for event in build.events[told:]:
            picture.event(event)
        return picture

    tell()
    return tell


def test_the_plan_comes_with_the_first_event(tell) -> None:
    picture = tell()
    assert (picture.name, picture.state, list(picture.estimates)) == ("live", "queued", list(NAMES))


def test_completed_and_reused_checkpoints_count(tell) -> None:
    picture = tell(
        ev.BuildStarted(),
        ev.CheckpointReused("transfer", "k", "b"),
        ev.CheckpointStarted("image", 1, "k", "/l"),
        ev.CheckpointCompleted("image", 1, "k", 3.0),
    )
    assert picture.done == ["transfer", "image"]
    assert picture.fraction == pytest.approx(2 / 3)
    assert picture.running is None


def test_an_interrupted_checkpoint_does_not_run_any_more(tell) -> None:
    started = ev.CheckpointStarted("transfer", 1, "k", "/l")
    assert tell(ev.BuildStarted(), started).running is not None
    assert tell(ev.CheckpointInterrupted("transfer", 1, "worker-died")).running is None


def test_a_build_whose_pause_is_withdrawn_is_running(tell) -> None:
    assert tell(ev.BuildStarted(), ev.PauseRequested()).state == "pausing"
    assert tell(ev.PauseWithdrawn()).state == "running"


def test_a_rewind_takes_results_back(tell) -> None:
    picture = tell(ev.BuildStarted(), *(ev.CheckpointReused(name, "k", "b") for name in NAMES[:2]))
    assert picture.done == ["transfer", "image"]
    assert tell(ev.BuildRewound("image")).done == ["transfer"]


def test_a_new_manifest_replaces_the_plan_and_keeps_its_beginning(tell) -> None:
    tell(ev.BuildStarted(), *(ev.CheckpointReused(name, "k", "b") for name in NAMES[:2]))
    picture = tell(ev.BuildPaused("x"), ev.BuildResumed(plan=plan("transfer", "other"), kept=1))
    assert (picture.done, list(picture.estimates)) == (["transfer"], ["transfer", "other"])
    assert picture.fraction == 0.5


def test_what_is_expected_is_what_was_left_when_the_build_went_on(tell) -> None:
    picture = tell(
        ev.BuildStarted(), ev.CheckpointReused("transfer", "k", "b"), ev.BuildPaused("x")
    )
    assert picture.expected_seconds == 30.0
    assert tell(ev.BuildResumed(), ev.BuildStarted()).expected_seconds == 20.0


@pytest.mark.parametrize(
    ("payload", "state"),
    [
        (ev.PauseRequested(), "pausing"),
        (ev.PauseRequested("iso"), "running"),
        (ev.BuildPaused("x"), "paused"),
        (ev.BuildFailed(None, ev.ErrorInfo("x")), "failed"),
        (ev.CancelRequested(), "cancelling"),
        (ev.BuildCancelled(), "cancelled"),
        (ev.BuildCompleted(), "completed"),
    ],
)
def test_the_state_follows_the_events(tell, payload, state) -> None:
    assert tell(ev.BuildStarted(), payload).state == state


def test_late_progress_and_unknown_events_change_nothing(tell) -> None:
    picture = tell(ev.BuildStarted())
    before = dict(vars(picture))
    late = {"checkpoint": "transfer", "fraction": 0.5, "message": "", "build_fraction": 0.9}
    assert picture.progress(late) is None
    assert (
        picture.event({"type": "OfALaterVersion", "time": "2025-01-01T12:00:00Z", "data": {}})
        is None
    )
    assert vars(picture) == before


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
