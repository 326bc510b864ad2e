"""Messages between two processes of the project over a Unix stream socket.

A message is its length (four bytes, big-endian) and JSON; descriptors may come with it. A conversation is one
request and its replies; a reply is a `result` or an `error`, which the receiver raises again as the most
specific class that it knows. Only the standard library, for the launcher. Source: unix(7), SCM_RIGHTS.
"""

import json
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from statemachine import errors
from statemachine.errors import DcdError, Unavailable
from store.host.durable import DiskFull
from store.host.plain import as_plain

HEAD = struct.Struct("!I")
MOST_BYTES = 64 * 1024 * 1024
"""The maximum length of a message; manifests are limited to less."""

_MOST_DESCRIPTORS = 4

_ERRORS: dict[str, type[DcdError]] = {
    found.__name__: found
    for found in (
        DcdError, DiskFull, errors.UsageError, errors.PermissionDenied, errors.NotFound, errors.Refused,
        errors.InvalidManifest, errors.Unprepared, errors.Unavailable,
    )
}  # fmt: skip


class Ended(Exception):
    """The other side has closed the conversation."""


def send(connection: socket.socket, message: Any, descriptors: Sequence[int] = ()) -> None:
    """Send a message, with descriptors that stay open here. Raises OSError."""
    body = json.dumps(as_plain(message)).encode()
    head = HEAD.pack(len(body))
    sent = socket.send_fds(connection, [head], descriptors) if descriptors else 0
    connection.sendall(head[sent:] + body)


def receive(connection: socket.socket) -> tuple[Any, list[int]]:
    """The next message and its descriptors, which belong to the caller. Raises Ended, OSError, and ValueError
    for what is not a message; then no descriptor is left open."""
    head, descriptors, _, _ = socket.recv_fds(connection, HEAD.size, _MOST_DESCRIPTORS)
    try:
        head += _exactly(connection, HEAD.size - len(head))
        (length,) = HEAD.unpack(head)
        if length > MOST_BYTES:
            raise ValueError(f"a message of {length} bytes; the limit is {MOST_BYTES}")
        return json.loads(_exactly(connection, length)), descriptors
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise


def result_of(reply: Any) -> Any:
    """The result of a reply. Raises the reply's error: a DcdError or OSError."""
    if (error := reply.get("error")) is not None:
        raise _decoded(error)
    return reply["result"]


def encoded(error: DcdError | OSError) -> dict[str, Any]:
    """An error as JSON values."""
    if isinstance(error, OSError):
        return {"errno": error.errno, "strerror": error.strerror, "filename": _text(error.filename)}
    cause = error.cause if isinstance(error, DiskFull) else None
    return {
        "classes": list(_names(type(error))),
        "texts": [error.brief, error.details, error.resolution],
        "cause": [cause.errno, cause.strerror] if cause else [],
    }


def _decoded(error: dict[str, Any]) -> DcdError | OSError:
    if "errno" in error:
        return OSError(error["errno"], error["strerror"], error["filename"])
    kind = next((_ERRORS[name] for name in error["classes"] if name in _ERRORS), DcdError)
    found = kind.__new__(kind)
    DcdError.__init__(found, *error["texts"])
    if isinstance(found, DiskFull):
        found.cause = OSError(*error["cause"])
    return found


def _names(kind: type[DcdError]) -> Iterator[str]:
    return (cls.__name__ for cls in kind.__mro__ if issubclass(cls, DcdError))


def _text(name: object) -> str | None:
    return None if name is None else os.fsdecode(name) if isinstance(name, bytes) else str(name)


def _exactly(connection: socket.socket, count: int) -> bytes:
    content = bytearray()
    while len(content) < count:
        piece = connection.recv(min(count - len(content), 1 << 20))
        if not piece:
            raise Ended
        content += piece
    return bytes(content)


class Gone(Unavailable):
    """The other side of a conversation has ended without a reply, and this process is about to end too."""


def gone(what: str) -> Gone:
    """The error for a conversation that ended without a reply."""
    return Gone(
        f"{what} has ended without an answer", "the daemon ends with it", "see the daemon's log"
    )
