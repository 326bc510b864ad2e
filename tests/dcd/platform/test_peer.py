"""Peer credentials: the kernel's word for who connected."""

import ctypes
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dcd.platform.peer import peer_credentials, ucred_of
from statemachine.errors import PermissionDenied

CONNECT = """import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1].replace("@", chr(0), 1))
s.recv(1)
"""


def test_the_peer_is_the_connecting_process(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        listener.settimeout(30)
        client = subprocess.Popen([sys.executable, "-c", CONNECT, str(tmp_path / "s")])
        try:
            connection, _ = listener.accept()
            with connection:
                actor = peer_credentials(connection)
        finally:
            client.wait(30)
    assert (actor.pid, actor.uid, actor.gid) == (client.pid, os.getuid(), os.getgid())
    assert actor.user == str(os.getuid())


@pytest.mark.root
def test_the_peer_is_the_user_that_connected(tmp_path: Path) -> None:
    address = f"dcd-peer-{os.getpid()}-{tmp_path.name}"
    as_another = f"import os, socket; os.setgid(4712); os.setuid(4711)\n{CONNECT}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + address)
        listener.listen()
        listener.settimeout(30)
        client = subprocess.Popen([sys.executable, "-c", as_another, "@" + address])
        try:
            connection, _ = listener.accept()
            with connection:
                actor = peer_credentials(connection)
        finally:
            client.wait(30)
    assert (actor.uid, actor.gid, actor.user) == (4711, 4712, "4711")


def test_a_peer_that_the_kernel_does_not_name_is_refused() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()),
    ):
        connection, _ = server.accept()
        with connection, pytest.raises(PermissionDenied):
            peer_credentials(connection)


class StandInLibc:
    """illumos' C library, as far as getpeerucred(3C) and ucred_get(3C) go, called through real C
    function pointers."""

    def __init__(self, uid: int, result: int = 0) -> None:
        self.freed: list[int] = []
        int_of = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
        uint_of = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_void_p)

        def getpeerucred(_fd: int, out: object) -> int:
            ctypes.cast(out, ctypes.POINTER(ctypes.c_void_p))[0] = 0xABC0  # type: ignore[arg-type]
            return result

        self.getpeerucred = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p)(
            getpeerucred
        )
        self.ucred_getpid = int_of(lambda ucred: 17 if ucred == 0xABC0 else -1)
        self.ucred_geteuid = uint_of(lambda _: uid)
        self.ucred_getegid = uint_of(lambda _: 100)
        self.ucred_free = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self.freed.append)


def test_illumos_credentials_are_read_and_freed() -> None:
    ephemeral = 2**31 + 5  # ids above 2^31 are real there (ephemeral ids of idmap)
    libc = StandInLibc(uid=ephemeral)
    assert ucred_of(3, libc) == (17, ephemeral, 100)
    assert libc.freed == [0xABC0]


@pytest.mark.parametrize(("uid", "result"), [(0xFFFFFFFF, 0), (5, -1)])
def test_illumos_errors_are_errors(uid: int, result: int) -> None:
    with pytest.raises(OSError, match=r"unknown|failed"):
        ucred_of(3, StandInLibc(uid, result))
