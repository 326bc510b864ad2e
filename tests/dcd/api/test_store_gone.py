"""A state directory that is moved or removed while the daemon runs: health says so, requests say why."""

import hashlib
import http.client
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root


def ask(daemon: Any, method: str, path: str, body: bytes = b"") -> tuple[int, str]:
    connection = http.client.HTTPConnection("localhost", timeout=20)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.settimeout(20)
    connection.sock.connect(str(daemon.socket))
    connection.request(method, path, body)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def moved(state_dir: Path, aside: Path) -> None:
    state_dir.rename(aside)


def replaced(state_dir: Path, aside: Path) -> None:
    state_dir.rename(aside)
    shutil.copytree(aside, state_dir)


def without_blobs(state_dir: Path, aside: Path) -> None:
    (state_dir / "blobs").rename(aside)


def without_log(state_dir: Path, aside: Path) -> None:
    (state_dir / "events/events.db").rename(aside)


@pytest.mark.parametrize("take", [moved, replaced, without_blobs, without_log])
def test_health_and_doctor_say_that_a_part_of_the_store_is_gone(
    daemon: Any, tmp_path: Path, take: Any
) -> None:
    aside = tmp_path / "aside"
    assert ask(daemon, "GET", "/v1/health")[0] == 200
    take(daemon.state_dir, aside)
    try:
        status, text = ask(daemon, "GET", "/v1/health")
        assert status == 503
        assert str(daemon.state_dir) in text
        assert ask(daemon, "GET", "/v1/health/live")[0] == 200
    finally:
        put_back(daemon.state_dir, aside)
    assert ask(daemon, "GET", "/v1/health")[0] == 200


def put_back(state_dir: Path, aside: Path) -> None:
    """What was taken goes back to where it was."""
    if (aside / "events").exists():
        if state_dir.exists():
            shutil.rmtree(state_dir)
        aside.rename(state_dir)
    else:
        aside.rename(state_dir / ("blobs" if aside.is_dir() else "events/events.db"))


@pytest.mark.parametrize("take", [moved, without_blobs])
def test_an_upload_that_cannot_be_stored_is_answered_with_the_reason(
    daemon: Any, tmp_path: Path, take: Any
) -> None:
    content = b"x" * 100_000
    path = f"/v1/blobs/{hashlib.sha256(content).hexdigest()}"
    aside = tmp_path / "aside"
    take(daemon.state_dir, aside)
    try:
        status, text = ask(daemon, "PUT", path, content)
        assert status == 503
        assert "gone" in text
    finally:
        put_back(daemon.state_dir, aside)
    assert ask(daemon, "PUT", path, content)[0] == 201
