"""Requests to the daemon's socket from an event loop: a connection each, responses as streams.

Like `cli.client`, which blocks. A daemon that does not answer, or breaks off, raises ClientError.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import h11

from cli.client import CHUNK_BYTES, ClientError, Unreachable, no_connection

CONNECT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    """The beginning of a response. Its body is read inside the context of `exchange`."""

    status: int
    headers: Mapping[str, str]
    _connection: h11.Connection
    _reader: asyncio.StreamReader
    _socket_path: str

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The chunks of the body as they arrive. Raises Unreachable when it breaks off."""
        while True:
            match await _next(self._connection, self._reader, self._socket_path):
                case h11.Data(data=data):
                    yield bytes(data)
                case h11.EndOfMessage():
                    return

    async def whole(self) -> bytes:
        """The body."""
        return b"".join([piece async for piece in self.pieces()])


@asynccontextmanager
async def exchange(
    socket_path: str,
    method: str,
    target: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
) -> AsyncIterator[Answer]:
    """Send one request; yields its response, whatever its status. `target` is a path with its query, encoded.
    Raises ClientError."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_unix_connection(socket_path)
    except OSError as error:  # a TimeoutError is one too
        raise no_connection(socket_path, error) from None
    try:
        connection = h11.Connection(h11.CLIENT)
        sent = {"Host": "localhost", "Connection": "close", **(headers or {})}
        if body:
            sent["Content-Length"] = str(len(body))
        request = h11.Request(method=method, target=target, headers=list(sent.items()))
        parts = (connection.send(part) for part in (request, h11.Data(body), h11.EndOfMessage()))
        # A daemon that refuses a request does not read the rest of it, and says why.
        with suppress(BrokenPipeError, ConnectionResetError):
            writer.write(b"".join(part or b"" for part in parts))
            await writer.drain()
        begin = await _next(connection, reader, socket_path)
        while isinstance(begin, h11.InformationalResponse):
            begin = await _next(connection, reader, socket_path)
        assert isinstance(begin, h11.Response)
        found = {name.decode(): value.decode("latin-1") for name, value in begin.headers}
        yield Answer(begin.status_code, found, connection, reader, socket_path)
    finally:
        writer.close()


async def _next(
    connection: h11.Connection, reader: asyncio.StreamReader, socket_path: str
) -> h11.Event:
    try:
        while (event := connection.next_event()) is h11.NEED_DATA:
            connection.receive_data(await reader.read(CHUNK_BYTES))
    except (OSError, h11.RemoteProtocolError) as error:
        raise _lost(socket_path, str(error)) from None
    if isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
        raise _lost(socket_path, "the connection ended")
    assert isinstance(event, h11.Event)
    return event


def _lost(socket_path: str, why: str) -> ClientError:
    return Unreachable("unavailable", f"lost the daemon on {socket_path}", why)
