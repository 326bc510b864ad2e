"""A client of tgtd's control socket.

It uses the protocol of tgtadm(8), because tgtadm takes secrets on its command line, where every user of the
host can read them. A request is a fixed structure in the host's byte order, then `name=value` pairs; the
answer is an error number and a text. Tested with tgt 1.0.85; a tgtd with another structure refuses the first
request.
Source: tgt's usr/tgtadm.h.
"""

import os
import socket
import struct
from enum import IntEnum
from pathlib import Path

from statemachine.errors import CheckpointError

_REQUEST = struct.Struct("=ii64sIiQQIIIIII")
"""mode, operation, driver, total length, target, session, unit, connection, host, type, direction, pack,
force (struct tgtadm_req)."""
_ANSWER = struct.Struct("=II")
"""error, total length (struct tgtadm_rsp)."""
_DRIVER = b"iscsi"
ALL = -1
"""Number that means all targets."""

_NO_UNIT = (1 << 64) - 1
_ANSWER_SECONDS = 30.0

_ERRORS = {
    1: "an unknown error",
    2: "no memory",
    3: "no such driver",
    4: "no such target",
    5: "the target is active",
    6: "no such logical unit",
    17: "the file cannot be opened",
}
"""The possible ones of tgtd's own error numbers (enum tgtadm_errno)."""


class Mode(IntEnum):
    """The object of a request (enum tgtadm_mode)."""

    TARGET = 1
    UNIT = 2
    ACCOUNT = 7


class Operation(IntEnum):
    """The operation on it (enum tgtadm_op)."""

    MAKE = 0
    DELETE = 1
    SHOW = 2
    BIND = 3
    UNBIND = 4


class Control:
    """Requests to the tgtd whose control socket is `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def ask(
        self,
        mode: Mode,
        operation: Operation,
        *,
        target: int = 0,
        unit: int | None = None,
        force: bool = False,
        **parameters: str,
    ) -> str:
        """Send a request and return the text of its answer. Raises OSError when tgtd does not answer,
        `CheckpointError`, which never names a parameter's value, when it refuses."""
        pairs = ",".join(f"{key.replace('_', '-')}={value}" for key, value in parameters.items())
        text = os.fsencode(pairs) + b"\0" if pairs else b""
        request = _REQUEST.pack(
            *(mode, operation, _DRIVER, _REQUEST.size + len(text), target, 0),
            *(_NO_UNIT if unit is None else unit, 0, 0, 0, 0, 0, int(force)),
        )
        error, answer = self._exchange(request + text)
        if error:
            raise CheckpointError(
                f"tgtd refused to {operation.name.lower()} a {mode.name.lower()}",
                _ERRORS.get(error, f"its error {error}"),
            )
        return answer

    def _exchange(self, request: bytes) -> tuple[int, str]:
        # The path of a socket must be short; that of a workspace may be long.
        directory = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(_ANSWER_SECONDS)
                connection.connect(f"/proc/self/fd/{directory}/{self._path.name}")
                connection.sendall(request)
                with connection.makefile("rb") as answers:
                    head = answers.read(_ANSWER.size)
                    if len(head) < _ANSWER.size:
                        raise ConnectionError("tgtd ended in the middle of an answer")
                    error, length = _ANSWER.unpack(head)
                    return error, answers.read(length - _ANSWER.size).decode("utf-8", "replace")
        finally:
            os.close(directory)
