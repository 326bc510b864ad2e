"""The daemon's side of systemd: readiness, status, watchdog and inherited sockets.

Without systemd every function does nothing. A failed notification must not fail the daemon, so `notify`
returns whether it was sent instead of raising. Source: sd_notify(3), sd_watchdog_enabled(3),
sd_listen_fds(3).
"""

import os
import socket
import time
from collections.abc import MutableMapping

FIRST_INHERITED = 3
"""SD_LISTEN_FDS_START."""


def notify(*assignments: str) -> bool:
    """Send assignments such as `READY=1` to the service manager. Returns whether they were sent."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as client:
            client.setblocking(False)
            client.sendto("\n".join(assignments).encode(), address)
    except OSError:
        return False
    return True


def ready(status: str) -> bool:
    """The daemon answers on its socket (after its start or a reload)."""
    return notify("READY=1", f"STATUS={status}")


def status(text: str) -> bool:
    """Set the line about the daemon's activity in `systemctl status`."""
    return notify(f"STATUS={text}")


def reloading() -> bool:
    """The daemon reads its settings again; `ready` ends it."""
    return notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping(status: str) -> bool:
    """The daemon is stopping."""
    return notify("STOPPING=1", f"STATUS={status}")


def extend_timeout(seconds: float) -> bool:
    """Ask the service manager to wait for a start or stop at least this long from now."""
    return notify(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")


def alive() -> bool:
    """Feed the watchdog."""
    return notify("WATCHDOG=1")


def watchdog_seconds() -> float | None:
    """The interval for calls of `alive` (half the limit, as sd_watchdog_enabled(3) advises), or None."""
    limit = os.environ.get("WATCHDOG_USEC", "")
    process = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not limit.isdigit() or int(limit) == 0 or process != str(os.getpid()):
        return None
    return int(limit) / 2_000_000


def inherited_sockets(
    environment: MutableMapping[str, str] = os.environ,
) -> list[socket.socket]:
    """The listening sockets that the service manager opened for this process.

    Call once: the variables are removed, so that no child uses them, and the descriptors do not survive an
    exec.
    """
    process = environment.pop("LISTEN_PID", "")
    count = environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if process != str(os.getpid()) or not count.isdigit():
        return []
    sockets = []
    for descriptor in range(FIRST_INHERITED, FIRST_INHERITED + int(count)):
        os.set_inheritable(descriptor, False)
        sockets.append(socket.socket(fileno=descriptor))
    return sockets
