"""`dcctl top`: what the screen shows at any size, what keys do, and the list without a terminal."""

import copy
import json
from typing import Any

import pytest

from cli.top import Top, draw


@pytest.fixture
def top(daemon: Any) -> Top:
    """A screen of three builds, of which the last runs."""
    summaries = []
    for number in range(3):
        build = daemon.build(f"b{number}", transfer=10.0, iso=10.0)
        build.view |= {"state": "running", "fraction": 0.5, "elapsed_seconds": 61.0}
        build.view |= {"remaining_seconds": 60.0, "name": f"live{number}"}
        build.view["checkpoints"][0] |= {"state": "completed", "attempts": 1, "seconds": 60.0}
        build.view |= {"completed_checkpoints": 1, "total_checkpoints": 2}
        build.logs["transfer", 1] = b"one\ntwo \x1b[2J\n"
        summaries.append(build.view)

    def listed(_: Any) -> Any:
        return 200, {"builds": copy.deepcopy(summaries[::-1]), "next": None}

    daemon.answers["GET", "/v1/builds"] = listed
    made = Top(daemon.socket)
    made.ask()
    return made


def screen(top: Top, columns: int = 80, lines: int = 24, **options: Any) -> list[str]:
    return [line.plain.rstrip() for line in draw(top, columns, lines, **options)]


def test_builds_are_above_and_the_log_of_the_chosen_one_below(top: Top) -> None:
    shown = screen(top)
    assert shown[1].startswith("> b2         running    █·")
    assert "50% 1:01 / ~2:01  live2 root" in shown[1]
    assert shown[4] == " b2 log of transfer, attempt 1"
    assert shown[5:7] == ["one", "two \\x1b[2J"]
    assert shown[-1].startswith("j/k choose")


@pytest.mark.parametrize("size", [(50, 24), (120, 50), (20, 5), (80, 3)])
def test_it_fits_a_terminal_of_any_size(top: Top, size: tuple[int, int]) -> None:
    top.tail.extend("x" * 300 + "\t" for _ in range(100))
    for key in ("", "\r", "l", "l"):
        top.press(key)
        shown = draw(top, *size)
        assert len(shown) == size[1]
        assert all(line.cell_len <= size[0] for line in shown)
    assert any("> b2" in line.plain for line in draw(top, *size)) or top.large or size[1] < 4


def test_without_unicode_it_is_ascii(top: Top) -> None:
    assert all(line.isascii() for line in screen(top, 40, unicode=False))


def test_keys_choose_builds_and_command_them(top: Top, daemon: Any) -> None:
    assert top.press("j")
    assert top.chosen == "b1"
    top.press("k")
    top.press("k")
    assert top.chosen == "b2"
    for key, name in (("p", "pause"), ("r", "resume")):
        daemon.answers["POST", f"/v1/builds/b2/{name}"] = 200, {}
        top.press(key)
        assert daemon.requests[-1].path != f"/v1/builds/b2/{name}", "it asks for the news then"
        assert f"dcctl {name} b2: done" in screen(top)[-1]
    top.press("p")
    daemon.answers["POST", "/v1/builds/b2/pause"] = (
        409,
        {"type": "urn:dcd:problem:refused", "title": "it has ended", "status": 409},
    )
    top.press("p")
    assert screen(top)[-1] == "it has ended"
    assert not top.press("q")


def test_a_cancel_is_asked_for(top: Top, daemon: Any) -> None:
    daemon.answers["POST", "/v1/builds/b2/cancel"] = 200, {}
    top.press("c")
    assert screen(top)[-1] == "cancel b2? y/n"
    top.press("n")
    top.press("y")
    assert not [each for each in daemon.requests if each.method == "POST"]
    top.press("c")
    top.press("y")
    assert [each.path for each in daemon.requests if each.method == "POST"] == [
        "/v1/builds/b2/cancel"
    ]


def test_it_waits_for_a_daemon_that_is_away(top: Top, daemon: Any) -> None:
    daemon.kill()
    top.ask()
    assert "does not answer" in screen(top)[-1]
    assert len(top.builds) == 3
    daemon.start()
    top.ask()
    assert screen(top)[-1].startswith("j/k choose")


def test_without_a_terminal_it_is_the_list(dcctl: Any, top: Top) -> None:
    assert dcctl("top").out == dcctl("list").out
    assert [build["id"] for build in json.loads(dcctl("top", "--json").out)] == ["b2", "b1", "b0"]
