"""The daemon's own socket: bound, monitored, and bound again when its file was removed.

This module binds the socket, not uvicorn, which would make it world-writable: the file never has more
permissions than configured. The file or its directory may be removed while the daemon runs, which makes
the daemon unreachable without a notification, so the daemon checks for it. Used from the event loop's
thread.
"""

import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from statemachine.errors import Unavailable

BACKLOG = 512


@dataclass(frozen=True, slots=True)
class Place:
    """The place where the daemon listens: path, permissions, and group (None: the daemon's own)."""

    path: Path
    mode: int
    gid: int | None


class Listener:
    """A listening socket bound at a place. Raises Unavailable when another daemon answers there or the
    path is not a socket."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.socket = _bound(place.path, place.mode, place.gid)
        self._file = _identity(place.path)

    def is_reachable(self) -> bool:
        """Whether the file at the path belongs to this socket."""
        return self._file is not None and _identity(self.place.path) == self._file

    def remove(self) -> None:
        """Remove the file, unless it belongs to another socket now."""
        if self.is_reachable():
            self.place.path.unlink(missing_ok=True)


def _bound(path: Path, mode: int, gid: int | None) -> socket.socket:
    """A listening Unix socket at `path`, replacing one left by a dead daemon."""
    if not path.parent.exists():
        path.parent.mkdir(mode=0o750, parents=True)
        if gid is not None:  # otherwise the group has no access to the socket's directory
            os.chown(path.parent, -1, gid)
    if path.is_symlink() or path.exists():
        _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(0o777 & ~mode)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise Unavailable(
            f"cannot listen on {path}", str(error), "choose a shorter or writable --socket path"
        ) from None
    finally:
        os.umask(previous)
    if gid is not None:
        os.chown(path, -1, gid)
    listener.listen(BACKLOG)
    return listener


def _remove_stale(path: Path) -> None:
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise Unavailable(
            f"{path} exists and is not a socket", "", "remove it or choose another path"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # The other process may never accept the connection.
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass
    owner = path.lstat().st_uid
    if owner != os.geteuid():
        raise Unavailable(
            f"a process of another user listens on {path}",
            f"the socket belongs to user {owner}",
            "choose a --socket in a directory in which only the daemon's user may write",
        )
    raise Unavailable(
        f"a daemon is listening on {path} already", "", "stop it, or choose another --socket"
    )


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of the file, or None."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
