"""The screen of a guest can be seen while it boots: its picture is renewed, and never half written."""

import threading
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints import boots
from dcd.checkpoints.boots import Watched, take_picture
from statemachine.errors import CheckpointError


class Screen:
    """A guest whose screen shows a number that grows."""

    def __init__(self, picture: Path) -> None:
        self.shown = 0
        self.picture = picture
        self.ended = False

    def screenshot(self, png: Path) -> None:
        if self.ended:
            raise CheckpointError("the guest has ended")
        assert png.parent == self.picture.parent
        assert png != self.picture, "a reader would see a part"
        self.shown += 1
        png.write_text(str(self.shown))


def test_the_picture_of_a_guest_is_renewed_while_it_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(boots.time, "monotonic", lambda: clock[0])
    picture = tmp_path / "boot-bios.png"
    guest: Any = Screen(picture)
    stop = threading.Event()
    watched = Watched(guest, picture, stop)

    assert not watched.stopped()
    assert not picture.exists(), "nothing is on the screen yet"
    for number in (1, 2):
        clock[0] += boots.PICTURE_SECONDS
        assert not watched.stopped()
        assert not watched.stopped()
        assert picture.read_text() == str(number)
    stop.set()
    assert watched.stopped()


def test_a_guest_that_has_ended_keeps_its_last_picture(tmp_path: Path) -> None:
    picture = tmp_path / "boot-bios.png"
    guest: Any = Screen(picture)
    take_picture(guest, picture)
    guest.ended = True
    take_picture(guest, picture)
    assert picture.read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["boot-bios.png"]
