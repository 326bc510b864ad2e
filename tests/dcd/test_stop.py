"""The end of the daemon: within its time, whatever blocks, and the socket until then."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cli import client

pytestmark = pytest.mark.root

BLOCKED = """
import sys, threading
import dcd.engine.engine, dcd.engine.runner
from dcd.launcher.client import Launcher

def blocked(*_):
    open({mark!r}, "w").close()
    threading.Event().wait()

{plant}
from dcd.main import main
sys.argv[0] = "dcd"
sys.exit(main())
"""


def with_blocked(daemon: Any, plant: str) -> Path:
    """Have the daemon's code changed before it starts: what calls `blocked` waits for ever in its thread,
    and so makes the file that is returned."""
    place = daemon.state_dir.parent / "marks"
    place.mkdir()
    place.chmod(0o777)  # for the daemon's user
    mark = place / "blocked"
    code = BLOCKED.format(mark=str(mark), plant=plant)

    def launch(command: list[str], **options: Any) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "-c", code, *command[3:]], **options)

    daemon.launch = launch
    daemon.settings |= {"stop_grace_seconds": 0.2, "cancel_grace_seconds": 0.2}
    return mark


def until(happened: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_a_stop_waits_for_no_blocked_thread(cold_daemon: Any) -> None:
    mark = with_blocked(cold_daemon, "dcd.engine.engine.measure = blocked")
    daemon = cold_daemon.start()

    def ask() -> None:
        with suppress(client.ClientError):
            client.request(str(daemon.socket), "GET", "/v1/df")

    threading.Thread(target=ask, daemon=True).start()
    until(mark.exists)
    assert daemon.stop() == 0
    assert b'"event": "stopped"' in daemon.log.read_bytes()
    assert not daemon.socket.exists()


def test_a_stop_waits_for_no_attempt_that_cannot_be_ended(
    cold_daemon: Any, write_manifest: Any
) -> None:
    mark = with_blocked(cold_daemon, "Launcher.commit = blocked")
    daemon = cold_daemon.start()
    build = daemon.submit(write_manifest(("one", "true")))
    until(mark.exists)
    assert daemon.stop() == 0
    assert "do not end" in daemon.log.read_text()

    # The next start settles it.
    daemon.launch = subprocess.Popen
    daemon.start()
    assert daemon.wait(build, "completed")["state"] == "completed"
    assert daemon.stop() == 0


def test_a_socket_whose_file_was_removed_is_bound_again(daemon: Any) -> None:
    before = daemon.socket.stat()
    daemon.socket.unlink()
    until(daemon.socket.exists)
    assert (daemon.socket.stat().st_mode, daemon.socket.stat().st_gid) == (
        before.st_mode,
        before.st_gid,
    )
    assert daemon.json("list") == []
    assert "it is bound again" in daemon.log.read_text()


def test_a_reload_looks_for_the_socket_at_once_also_in_a_directory_that_was_removed(
    cold_daemon: Any, tmp_path: Path
) -> None:
    cold_daemon.socket = tmp_path / "run" / "dcd.sock"
    daemon = cold_daemon.start()
    shutil.rmtree(tmp_path / "run")
    daemon.process.send_signal(signal.SIGHUP)
    until(daemon.socket.exists)
    assert daemon.json("list") == []
    daemon.socket.unlink()
    until(daemon.socket.exists)
    assert daemon.json("list") == []
    assert daemon.stop() == 0


def test_connections_outlive_the_file_of_the_socket(daemon: Any, write_manifest: Any) -> None:
    build = daemon.submit(write_manifest(("one", "sleep 3")))
    command = [sys.executable, "-m", "cli.main", "follow", build]
    environment = {**os.environ, "DCD_SOCKET": str(daemon.socket)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as following:
        assert following.stdout is not None
        assert b"small queued" in following.stdout.readline()
        daemon.socket.unlink()
        assert following.wait(60) == 0
    assert daemon.wait(build)["state"] == "completed"


def test_what_took_the_place_of_the_socket_is_left_alone(daemon: Any) -> None:
    daemon.socket.unlink()
    daemon.socket.write_text("somebody else's")
    until(lambda: "cannot be created again" in daemon.log.read_text())
    assert daemon.socket.read_text() == "somebody else's"
    assert daemon.stop() == 0
    assert daemon.socket.read_text() == "somebody else's"
