"""A guest with its serial console on a socket: what the guests of all hypervisors share."""

import socket
from io import FileIO
from pathlib import Path

from statemachine.errors import CheckpointError

WRITE_SECONDS = 60.0
"""Time limit for a guest to read the typed text."""


LOG_BYTES = 256 * 1024 * 1024
"""Size limit of a console log: a guest can print without end."""


class SerialGuest:
    """A running guest, as `dcd.platform.hypervisor.interface.Guest`, of a hypervisor that reports nothing
    but the console. Belongs to the thread that opened the guest."""

    def __init__(self, connection: socket.socket, log: FileIO) -> None:
        self._connection = connection
        self._log = log
        self._room_bytes = LOG_BYTES

    def read_console(self, wait_seconds: float) -> bytes | None:
        """See `Guest.read_console`. Logs what it reads."""
        self._connection.settimeout(wait_seconds)
        try:
            chunk = self._connection.recv(65536)
        except TimeoutError:
            return b""
        except ConnectionResetError:
            return None
        if self._room_bytes > 0:
            self._log.write(chunk[: self._room_bytes])
            self._room_bytes -= len(chunk)
            if self._room_bytes <= 0:
                self._log.write(b"\n[dcd: the rest is left out]\n")
        return chunk or None

    def write_console(self, text: bytes) -> None:
        """See `Guest.write_console`."""
        self._connection.settimeout(WRITE_SECONDS)
        try:
            self._connection.sendall(text)
        except TimeoutError:
            raise CheckpointError(
                "the guest does not read its serial console",
                f"it read less than {len(text)} bytes in {WRITE_SECONDS:g} s",
                "its console log shows how far it got",
            ) from None

    def firmware_says_unbootable(self) -> bool:
        """See `Guest.firmware_says_unbootable`."""
        return False

    def stopped_reason(self) -> str:
        """See `Guest.stopped_reason`."""
        return ""

    def screenshot(self, png: Path) -> None:
        """See `Guest.screenshot`."""
        raise CheckpointError("this hypervisor makes no pictures of its guests' screens")
