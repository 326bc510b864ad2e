"""The log of the running checkpoint while a build is followed."""

import json
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from cli import log_lines
from cli.draw import frame
from cli.log_lines import _Lines
from cli.picture import Picture
from statemachine import events as ev


@pytest.fixture
def build(daemon: Any) -> Any:
    """A build whose first checkpoint runs."""
    made = daemon.build(transfer=10.0, iso=10.0)
    made.tell(ev.BuildStarted(), ev.CheckpointStarted("transfer", 1, "k", "/l"))
    return made


def meanwhile(*steps: Callable[[], None]) -> None:
    """Do these in another thread, a moment after each other."""

    def run() -> None:
        for step in steps:
            time.sleep(0.15)
            step()

    threading.Thread(target=run, daemon=True).start()


def ended(build: Any) -> Callable[[], None]:
    return lambda: build.tell(
        ev.CheckpointCompleted("transfer", 1, "k", 2.0),
        ev.CheckpointReused("iso", "k", "b"),
        ev.BuildCompleted(2.0),
    )


def lines_of(text: str) -> list[str]:
    return [re.sub(r"^\S+ \S+ ", "", line) for line in text.splitlines()]


def test_lines_of_the_log_are_shown_as_they_are_written(dcctl: Any, build: Any) -> None:
    build.write("transfer", b"first\nhalf a ")
    meanwhile(lambda: build.write("transfer", b"line\nlast words\n"), ended(build))
    shown = lines_of(dcctl("follow", "k2").out)
    between = shown[2 : shown.index("transfer completed in 2.0 s") + 1]
    assert between == [
        "transfer started, about 10 s",
        "transfer | first",
        "transfer | half a line",
        "transfer | last words",
        "transfer completed in 2.0 s",
    ]


def test_quiet_hides_the_log(dcctl: Any, build: Any) -> None:
    build.write("transfer", b"first\n")
    meanwhile(ended(build))
    assert "first" not in dcctl("follow", "k2", "--quiet").out


def test_of_a_long_log_only_the_end_is_shown(dcctl: Any, build: Any) -> None:
    build.write("transfer", b"".join(b"line %d\n" % number for number in range(1_000_000)))
    meanwhile(ended(build))
    shown = [line for line in lines_of(dcctl("follow", "k2").out) if line.startswith("transfer |")]
    assert shown[-1] == "transfer | line 999999"
    assert 100 < len(shown) < 1000
    assert re.fullmatch(r"transfer \| line \d{6}", shown[0]), "the first line is a whole one"


def test_a_log_cannot_steer_the_output(dcctl: Any, build: Any) -> None:
    build.write("transfer", b"\x1b]0;title\x07 \xff \xe2\x80\xae rtl\r50%\r100%\n" + b"x" * 5000)
    meanwhile(ended(build))
    out = dcctl("follow", "k2").out
    assert not {char for char in out if not char.isprintable() and char != "\n"}
    shown = lines_of(out)
    assert r"transfer | \x1b]0;title\x07 \xff \u202e rtl" in shown
    assert "transfer | 100%" in shown
    assert "transfer | " + "x" * log_lines.LONGEST_CHARACTERS in shown


def test_characters_and_lines_are_put_together_from_pieces() -> None:
    lines = _Lines()
    said = [line for byte in "né\r\nb\rc".encode() for line in lines.feed(bytes([byte]))]
    assert [*said, lines.rest()] == ["né", "b", "c"]


def test_below_the_status_lines_is_as_much_of_the_log_as_fits(build: Any) -> None:
    picture = Picture(build.view)
    for event in build.events:
        picture.event(event)
    picture.tail.extend(f"line {number}\x1b[2J" for number in range(20))
    drawn = [text.plain for text in frame(picture, time.time(), 50, 9).renderables[1:]]  # type: ignore[union-attr]
    assert drawn == [f"  line {number}\\x1b[2J" for number in range(15, 20)]
    picture.tail.append("x" * 200)
    last = frame(picture, time.time(), 50, 9).renderables[-1]
    assert len(last.plain) == 50  # type: ignore[union-attr]


def test_a_log_that_was_shown_is_not_repeated_after_a_failure(dcctl: Any, build: Any) -> None:
    build.write("transfer", b"why it failed\n")
    error = ev.ErrorInfo("it broke")
    meanwhile(
        lambda: build.tell(
            ev.CheckpointFailed("transfer", 1, error, 1.0), ev.BuildFailed("transfer", error)
        )
    )
    out = dcctl("follow", "k2").out
    assert out.count("why it failed") == 1
    assert "Log: dcctl logs k2p7abcd transfer" in out
    assert dcctl("follow", "k2", "--quiet").out.count("why it failed") == 1


class TestConsoles:
    def test_a_console_is_printed_while_the_guest_boots(self, dcctl: Any, build: Any) -> None:
        build.files = {"boot-bios.log": b"login:", "boot-bios.png": b"\x89PNG"}
        assert dcctl("logs", "k2", "--console").out == "login:"
        assert dcctl("logs", "k2", "transfer", "--file", "boot-bios.png").code == 0

    def test_several_consoles_have_headings(self, dcctl: Any, build: Any) -> None:
        build.files = {"a.log": b"one\n", "b.log": b"two\n"}
        told = dcctl("logs", "k2", "transfer", "--console").out
        assert told == "==> a.log <==\none\n==> b.log <==\ntwo\n"
        outcome = dcctl("logs", "k2", "transfer", "--console", "--follow")
        assert outcome.code == 2
        assert "choose one with --file a.log" in outcome.err

    def test_a_checkpoint_without_guests_says_so(self, dcctl: Any, build: Any) -> None:
        outcome = dcctl("logs", "k2", "transfer", "--console")
        assert outcome.code == 7
        assert "attempt 1 of transfer has no serial console" in outcome.err
        assert "has not run iso" in dcctl("logs", "k2", "iso", "--console").err

    def test_scripts_get_the_list_of_files(self, dcctl: Any, build: Any) -> None:
        build.files = {"a.log": b"one\n", "a.png": b"two\n"}
        (console,) = json.loads(dcctl("logs", "k2", "--console", "--json").out)
        assert console["name"] == "a.log"
