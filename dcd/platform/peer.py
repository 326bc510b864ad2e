"""The peer of a Unix socket, as the kernel recorded it when it connected.

Linux: SO_PEERCRED (unix(7)). illumos: getpeerucred(3C) and the accessors of ucred_get(3C), through ctypes,
because Python has no interface to them. A platform without either is an error, never an anonymous peer.
"""

import ctypes
import pwd
import socket
import struct
import sys
from typing import Any

from statemachine.errors import PermissionDenied
from statemachine.events import Actor

_UCRED = struct.Struct("=iII")
"""struct ucred of unix(7): pid_t, uid_t, gid_t."""

_NOBODY = 0xFFFFFFFF
"""(uid_t)-1: the kernel's value for a socket without a peer, and the accessors' for an error."""


def peer_credentials(connection: socket.socket) -> Actor:
    """The process at the other end of `connection`, an accepted Unix stream socket. Its `user` is the number;
    `user_name` looks up the name in the user database, which may be slow.

    Raises PermissionDenied when the kernel does not know the peer.
    """
    try:
        pid, uid, gid = _ask(connection)
    except OSError as error:
        raise PermissionDenied(
            "the peer's credentials are unknown", str(error), "connect over the Unix socket"
        ) from None
    return Actor(uid=uid, gid=gid, pid=pid, user=str(uid))


def user_name(uid: int) -> str:
    """The login name of `uid`, or the number if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _ask(connection: socket.socket) -> tuple[int, int, int]:
    if hasattr(socket, "SO_PEERCRED"):
        answer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid, uid, gid = _UCRED.unpack(answer)
        if uid == _NOBODY:
            raise OSError("the socket has no peer on this host")
        return pid, uid, gid
    if sys.platform == "sunos5":
        return ucred_of(connection.fileno(), ctypes.CDLL("libc.so.1", use_errno=True))
    raise OSError(f"dcd cannot ask for peer credentials on {sys.platform}")


def ucred_of(descriptor: int, libc: Any) -> tuple[int, int, int]:
    """pid, effective uid and effective gid of the peer, from illumos' C library `libc`."""
    libc.getpeerucred.argtypes = [ctypes.c_int, ctypes.POINTER(ctypes.c_void_p)]
    libc.getpeerucred.restype = ctypes.c_int
    libc.ucred_free.argtypes = [ctypes.c_void_p]
    libc.ucred_free.restype = None
    accessors = (libc.ucred_getpid, libc.ucred_geteuid, libc.ucred_getegid)
    for accessor, kind in zip(accessors, (ctypes.c_int, ctypes.c_uint, ctypes.c_uint), strict=True):
        accessor.argtypes, accessor.restype = [ctypes.c_void_p], kind
    ucred = ctypes.c_void_p()  # NULL: the library allocates
    if libc.getpeerucred(descriptor, ctypes.byref(ucred)) != 0:
        raise OSError(ctypes.get_errno(), "getpeerucred failed")
    try:
        pid, uid, gid = (accessor(ucred) for accessor in accessors)
    finally:
        libc.ucred_free(ucred)
    if _NOBODY in (uid, gid):
        raise OSError("the peer's user is unknown")
    return pid, uid, gid
