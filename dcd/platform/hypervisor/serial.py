"""A guest's serial console over a socket: read, logged as it is read, and typed on."""

import socket
from io import FileIO

from statemachine.errors import CheckpointError

WRITE_SECONDS = 60.0
"""How long a guest may take to read what is typed."""


LOG_BYTES = 256 * 1024 * 1024
"""How much of a console its log takes: a guest can print without end."""


class SerialConsole:
    """The owner's end of the connection. Belongs to the thread that opened the guest."""

    def __init__(self, connection: socket.socket, log: FileIO) -> None:
        self._connection = connection
        self._log = log
        self._room_bytes = LOG_BYTES

    def read(self, wait_seconds: float) -> bytes | None:
        """See `Guest.read_console`."""
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

    def write(self, text: bytes) -> None:
        """See `Guest.write_console`."""
        self._connection.settimeout(WRITE_SECONDS)
        try:
            self._connection.sendall(text)
        except TimeoutError:
            raise CheckpointError(
                "the guest does not read its serial console",
                f"it took less than {len(text)} bytes in {WRITE_SECONDS:g} s",
                "its console log says how far it came",
            ) from None
