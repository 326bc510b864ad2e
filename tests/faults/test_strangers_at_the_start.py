"""Another user of the machine, who wants the daemon not to start."""

import os
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.root, pytest.mark.faults]

STRANGER: dict[str, Any] = {"user": 54321, "group": 54321, "extra_groups": []}


READ = 'for file; do cat "$file" && echo "read $file"; flock -n "$file" echo "locked $file"; done'


def as_stranger(script: str, *arguments: str) -> str:
    """What a script of another user prints."""
    command = ["sh", "-c", script, "sh", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **STRANGER).stdout


def open_way_to(path: Path) -> None:
    """Let everybody pass to a directory, so that its own mode alone decides."""
    for directory in path.parents:
        directory.chmod(directory.stat().st_mode | stat.S_IXOTH)


def test_nobody_else_reads_the_mark_or_holds_the_lock(daemon: Any) -> None:
    open_way_to(daemon.state_dir)
    readable = daemon.state_dir.parent / "readable"
    readable.touch(0o644)
    assert as_stranger(READ, str(readable)) == f"read {readable}\nlocked {readable}\n"
    for state_mode in (None, 0o711):  # 0711: what version 0.1.0 left to everybody
        if state_mode:
            daemon.state_dir.chmod(state_mode)
        files = [str(daemon.state_dir / name) for name in ("id", "lock", "events.db")]
        assert as_stranger(READ, *files) == ""


def test_a_mark_that_everybody_could_read_is_replaced(daemon: Any) -> None:
    daemon.stop()
    mark = daemon.state_dir / "id"
    mark.write_text("0123456789abcdef")
    mark.chmod(0o644)

    daemon.start()

    assert stat.S_IMODE(mark.stat().st_mode) == 0o600
    renewed = mark.read_text()
    assert renewed != "0123456789abcdef"
    daemon.stop()
    daemon.start()
    assert mark.read_text() == renewed


def test_marked_processes_of_another_user_do_not_hold_up_a_start(daemon: Any) -> None:
    daemon.kill()
    mark = (daemon.state_dir / "id").read_text()
    environment = {"PATH": "/usr/bin:/bin", "DCD_ATTEMPT": f"{mark}:build:one:1"}
    loop = ["sh", "-c", "while :; do sleep 0.01; done"]
    stranger = subprocess.Popen(loop, env=environment, start_new_session=True, **STRANGER)
    try:
        daemon.start()
        assert stranger.poll() is None
    finally:
        os.killpg(stranger.pid, 9)
        stranger.wait()


def test_a_socket_whose_owner_takes_no_connection_is_told_at_once(daemon: Any) -> None:
    """A listener with a full backlog keeps whoever connects waiting for ever."""
    daemon.stop()
    with socket.socket(socket.AF_UNIX) as squatter:
        squatter.bind(str(daemon.socket))
        squatter.listen(0)
        os.chown(daemon.socket, STRANGER["user"], -1)
        waiting = []
        for _ in range(4):
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            try:
                client.connect(str(daemon.socket))
            except BlockingIOError:
                client.close()
                break
            waiting.append(client)
        daemon.spawn()
        assert daemon.process.wait(30) != 0
        for client in waiting:
            client.close()
    assert "a process of another user listens on" in daemon.log.read_text()
    assert daemon.socket.exists()
    daemon.socket.unlink()
