"""A client of QEMU's machine protocol (QMP) over a connected socket.

It handles the greeting and one command at a time, and skips events. The socket is one end of a pair whose
other end QEMU inherited, so there is no path to conflict, become too long, or be left behind. Source: QEMU's
docs/interop/qmp-spec.
"""

import json
import socket
from typing import Any

from statemachine.errors import CheckpointError

ANSWER_SECONDS = 60.0
"""Time limit for an answer: under emulation on a busy host QEMU can be slow."""


class Qmp:
    """A QMP session. Errors: `CheckpointError` when QEMU refuses, does not answer, or is gone."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(ANSWER_SECONDS)
        self._connection = connection
        self._lines = connection.makefile("rb")
        self._greeted = False

    def command(self, name: str, **arguments: object) -> Any:
        """Run a command and return its result."""
        if not self._greeted:
            self._receive()
            self._greeted = True
            self.command("qmp_capabilities")
        try:
            self._connection.sendall(
                json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n"
            )
        except OSError as error:
            raise CheckpointError("QEMU cannot be reached", f"{name}: {error}") from error
        while True:
            message = self._receive()
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise CheckpointError(f"QEMU refused {name}", str(message["error"].get("desc")))

    def _receive(self) -> dict[str, Any]:
        try:
            line = self._lines.readline()
        except OSError as error:
            raise CheckpointError("QEMU does not answer", str(error)) from error
        if not line:
            raise CheckpointError("QEMU has ended", "its control connection was closed")
        message: dict[str, Any] = json.loads(line)
        return message

    def close(self) -> None:
        """Close the session; QEMU continues to run."""
        self._lines.close()
        self._connection.close()
