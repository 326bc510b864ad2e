"""The output of an attempt: its log as a stream, and the files that it leaves, while it runs and later."""

import asyncio
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from dcd.api import attempts
from dcd.api.attempts import following
from dcd.engine.outputs import _files
from statemachine.commands import FailCheckpoint, Start
from statemachine.errors import NotFound
from statemachine.events import CheckpointStarted
from statemachine.results import ErrorInfo
from tests.conftest import open_way

BROKEN = FailCheckpoint("one", ErrorInfo("it broke"), seconds=2.0)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "SHORTEST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(attempts, "LONGEST_PAUSE_SECONDS", 0.001)


class Running:
    """A build with an attempt at its checkpoint `one`, by the events alone."""

    def __init__(self, app: Any, request: Callable[..., httpx.Response], submission: Any) -> None:
        self.builds, self.request = app.state.builds, request
        self.id: str = request("POST", "/v1/builds", json=submission).json()["id"]
        key = self.view()["checkpoints"][0]["key"]
        log = app.state.logs
        log.prepare()
        self.files: Path = log.begin(self.id, "one", 1)
        self.log: Path = log.path(self.id, "one", 1)
        self.happen(Start())
        self.happen(CheckpointStarted("one", 1, key, log.recorded(self.log), "boot"))

    def view(self) -> Any:
        return self.request("GET", f"/v1/builds/{self.id}").json()

    def happen(self, fact: Any) -> None:
        asyncio.run(self.builds.command(self.id, fact))

    def get(self, path: str) -> httpx.Response:
        return self.request("GET", f"/v1/builds/{self.id}/logs/one/1{path}")


@pytest.fixture
def running(app: Any, request_: Callable[..., httpx.Response], submission: Any) -> Running:
    return Running(app, request_, submission)


def test_a_followed_log_is_sent_as_it_grows_until_its_attempt_ends(tmp_path: Path) -> None:
    log = tmp_path / "log"
    written = iter([b"", b"first\n", b"second\n", b"last words\n"])
    running = iter([True, True, True, False])

    def opened() -> Any:
        if not log.exists():
            raise NotFound("no log yet")
        return log.open("rb")

    async def runs() -> bool:
        if more := next(written):
            with log.open("ab") as file:
                file.write(more)
        return next(running)

    async def all_of_it() -> bytes:
        never = asyncio.Event().wait
        return b"".join([piece async for piece in following(opened, 2, runs, never)])

    assert asyncio.run(all_of_it()) == b"rst\nsecond\nlast words\n"


def test_the_log_of_a_running_attempt_ends_with_it(running: Running) -> None:
    running.log.write_bytes(b"0123456789")
    checks = 0
    state = running.builds.state

    async def ending(build: str) -> Any:
        nonlocal checks
        checks += 1
        if checks == 5:
            await running.builds.command(build, BROKEN)
        return await state(build)

    running.builds.state = ending

    answer = running.get("?offset=4&follow=true")

    assert answer.content == b"456789"
    assert "content-length" not in answer.headers
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_following_an_attempt_that_has_ended_gives_all_of_its_log(running: Running) -> None:
    running.log.write_bytes(b"x" * (attempts.MAX_LOG_BYTES + 1))
    running.happen(BROKEN)
    assert len(running.get("?follow=true").content) == attempts.MAX_LOG_BYTES + 1
    assert len(running.get("").content) == attempts.MAX_LOG_BYTES


def test_files_of_an_attempt_are_listed_and_read_while_it_runs(running: Running) -> None:
    (running.files / "boot-bios.log").write_bytes(b"login:")
    (running.files / "boot-bios.png").write_bytes(b"\x89PNG")

    found = running.get("/files").json()

    assert found["running"] is True
    assert [(each["name"], each["size_bytes"], each["media_type"]) for each in found["files"]] == [
        ("boot-bios.log", 6, "text/plain; charset=utf-8"),
        ("boot-bios.png", 4, "image/png"),
    ]
    assert running.get("/files/boot-bios.log?offset=3").content == b"in:"
    picture = running.get("/files/boot-bios.png")
    assert picture.content == b"\x89PNG"
    assert picture.headers["content-type"] == "image/png"
    assert picture.headers["x-content-type-options"] == "nosniff"
    running.happen(BROKEN)
    assert running.get("/files").json()["running"] is False
    assert running.get("/files/boot-bios.log").content == b"login:"


def test_only_regular_files_of_an_attempt_are_shown(running: Running, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the daemon")
    (running.files / "link.log").symlink_to(secret)
    (running.files / "directory").mkdir()
    (running.files / ".hidden").write_text("half a picture")
    os.mkfifo(running.files / "pipe.log")

    assert running.get("/files").json()["files"] == []
    for name in ("link.log", "pipe.log", "directory", ".hidden", "..", "%2e%2e%2f1.log", "none"):
        assert running.get(f"/files/{name}").status_code == 404, name


@pytest.mark.root
def test_files_that_the_daemon_may_not_read_are_not_listed(tmp_path: Path) -> None:
    open_way(tmp_path)
    tmp_path.chmod(0o755)
    for name, mode in (("all.log", 0o644), ("root.log", 0o600)):
        (tmp_path / name).write_text(name)
        (tmp_path / name).chmod(mode)
    (tmp_path / "closed").mkdir(mode=0o700)
    with multiprocessing.get_context("fork").Pool(1, os.setuid, (65534,)) as nobody:
        assert nobody.apply(names_of, (tmp_path,)) == ["all.log"]
        assert nobody.apply(names_of, (tmp_path / "closed",)) == []


def names_of(directory: Path) -> list[str]:
    return [file.name for file in _files(directory)]


def test_an_attempt_that_never_was_is_not_found(running: Running) -> None:
    for path in ("two/1", "one/2", "one/2/files", "one/0/files", "two/1/files", "one/x/files/y"):
        answer = running.request("GET", f"/v1/builds/{running.id}/logs/{path}")
        assert answer.status_code == 404, path


def test_a_list_of_builds_says_how_far_each_is(running: Running) -> None:
    (listed,) = running.request("GET", "/v1/builds").json()["builds"]
    (piece,) = listed["checkpoints"]
    assert (piece["name"], piece["state"], piece["seconds"]) == ("one", "running", None)
    assert 0.0 < listed["fraction"] < 0.5
    assert 0.0 <= listed["elapsed_seconds"] < 60.0
    assert 0.0 < listed["remaining_seconds"] <= piece["estimate_seconds"]
    shown = running.view()
    assert 0.0 < shown["checkpoints"][0]["elapsed_seconds"] <= shown["elapsed_seconds"]
    running.happen(BROKEN)
    (listed,) = running.request("GET", "/v1/builds").json()["builds"]
    assert listed["checkpoints"][0]["state"] == "failed"


def test_a_cancelled_build_keeps_its_strip(running: Running) -> None:
    other = running.request("GET", "/v1/builds").json()["builds"][0]["id"]
    running.happen(BROKEN)
    running.request("POST", f"/v1/builds/{other}/cancel")
    (listed,) = running.request("GET", "/v1/builds").json()["builds"]
    assert listed["state"] == "cancelled"
    assert [each["state"] for each in listed["checkpoints"]] == ["failed"]
    assert listed["remaining_seconds"] is None
