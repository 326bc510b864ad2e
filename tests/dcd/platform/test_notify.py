"""The service manager's protocol, against a real datagram socket and real inherited descriptors."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcd.platform import notify


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        server.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        yield server


def test_the_manager_hears_each_state(manager: socket.socket) -> None:
    assert notify.ready("serving 0 builds")
    assert manager.recv(1000) == b"READY=1\nSTATUS=serving 0 builds"
    assert notify.status("1 build running")
    assert manager.recv(1000) == b"STATUS=1 build running"
    assert notify.reloading()
    assert manager.recv(1000).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    assert notify.alive()
    assert manager.recv(1000) == b"WATCHDOG=1"
    assert notify.extend_timeout(1.5)
    assert manager.recv(1000) == b"EXTEND_TIMEOUT_USEC=1500000"
    assert notify.stopping("1 checkpoint to end")
    assert manager.recv(1000) == b"STOPPING=1\nSTATUS=1 checkpoint to end"


def test_abstract_addresses_work(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"dcd-notify-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind("\0" + name)
        server.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        assert notify.alive()
        assert server.recv(1000) == b"WATCHDOG=1"


def test_without_a_manager_nothing_happens_and_nothing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify.ready("x")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert not notify.ready("x")


@pytest.mark.parametrize(
    ("limit", "process", "expected"),
    [
        ("30000000", None, 15.0),
        ("30000000", "own", 15.0),
        ("30000000", "1", None),
        ("0", None, None),
        ("x", None, None),
        (None, None, None),
    ],
)
def test_the_watchdog_is_fed_at_half_its_limit(
    monkeypatch: pytest.MonkeyPatch, limit: str | None, process: str | None, expected: float | None
) -> None:
    for name, value in (("WATCHDOG_USEC", limit), ("WATCHDOG_PID", process)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, str(os.getpid()) if value == "own" else value)
    assert notify.watchdog_seconds() == expected


TAKE = """
import os
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="dcd")
from dcd.platform.notify import inherited_sockets
(listener,) = inherited_sockets()
assert not [name for name in os.environ if name.startswith("LISTEN_")]
assert not listener.get_inheritable()
assert inherited_sockets() == []
connection, _ = listener.accept()
connection.sendall(b"served")
"""


def test_a_socket_that_the_manager_opened_is_served(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        at_three = "import os, sys; os.dup2(int(sys.argv[1]), 3); " + (
            "os.execv(sys.executable, [sys.executable, '-c', sys.argv[2]])"
        )
        server = subprocess.Popen(
            [sys.executable, "-c", at_three, str(listener.fileno()), TAKE],
            pass_fds=[listener.fileno()],
            cwd=Path(__file__).parents[3],
        )
        try:
            client.settimeout(30)
            client.connect(str(tmp_path / "s"))
            assert client.recv(100) == b"served"
        finally:
            server.wait(30)
    assert server.returncode == 0


def test_sockets_meant_for_another_process_are_left_alone() -> None:
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "1"}
    assert notify.inherited_sockets(environment) == []
    assert environment == {}
