"""Serving the application on a Unix socket, within limits.

The socket is bound here, not by uvicorn, which would make it world-writable: the file never exists
with more rights than configured. Peer credentials are read when a connection is made and travel with
each request in its scope. Limits hold for everybody: size of headers and body, time to send a request,
time without reading an answer.
"""

import asyncio
import contextlib
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, cast

import uvicorn
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from dcd.configuration import Configuration
from dcd.platform.peer import peer_credentials
from statemachine.errors import DcdError, Unavailable
from statemachine.events import Actor

BACKLOG = 512


class BodyTooLarge(DcdError):
    """The request's body is over the limit."""

    problem, status, exit_code = "usage", 413, 2


class RequestTimeout(DcdError):
    """The client did not send its request in time."""

    problem, status, exit_code = "usage", 408, 2


def bind(path: Path, mode: int, gid: int | None) -> socket.socket:
    """A listening Unix socket at `path`; one left behind by a dead daemon is replaced.

    Raises Unavailable when a living daemon answers there or the path is not a socket.
    """
    if not path.parent.exists():
        path.parent.mkdir(mode=0o750, parents=True)
        if gid is not None:  # else the group does not get as far as the socket
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
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
    raise Unavailable(
        f"a daemon is listening on {path} already", "", "stop it, or choose another --socket"
    )


class PeerProtocol(H11Protocol):
    """HTTP/1.1 by h11, with the peer's credentials and a way to cut it off in each scope, and a limit
    on the time from a request's first byte (or the connection) to the end of its headers."""

    header_seconds: ClassVar[float]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.actor = peer_credentials(cast(socket.socket, transport.get_extra_info("socket")))
        self.late = self.loop.call_later(self.header_seconds, transport.abort)
        application = self.app

        async def with_peer(scope: Scope, receive: Receive, send: Send) -> None:
            scope["dcd.actor"] = self.actor
            scope["dcd.abort"] = transport.abort
            await application(scope, receive, send)

        self.app = cast(Any, with_peer)

    def data_received(self, data: bytes) -> None:
        if not self._in_request() and self.late.cancelled():
            self.late = self.loop.call_later(self.header_seconds, self.transport.abort)
        super().data_received(data)
        if self._in_request():
            self.late.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self.late.cancel()
        super().connection_lost(exc)

    def _in_request(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete


class Counted:
    """ASGI middleware: `count` is told the operation and the status of each answer. What the table of
    operations does not have is `unknown`; 499 is a client that went away before its answer began."""

    def __init__(self, app: ASGIApp, *, count: Callable[[str, int], None]) -> None:
        self.app = app
        self.count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = 499

        async def noting_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noting_send)
        except Exception:
            status = 500
            raise
        finally:
            self.count(scope.get("dcd.operation", "unknown"), status)


class Limits:
    """ASGI middleware: bounds the body's size and the time to send it and to take the answer.

    A body has to arrive within `request_seconds`; a blob, which may be large, must only not stall that
    long. A client that takes nothing of its answer for `send_seconds` is cut off.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        body_bytes: int,
        blob_bytes: int,
        request_seconds: float,
        send_seconds: float,
    ) -> None:
        self.app = app
        self.body_bytes = body_bytes
        self.blob_bytes = blob_bytes
        self.request_seconds = request_seconds
        self.send_seconds = send_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def limited_send(message: Message) -> None:
            try:
                await asyncio.wait_for(send(message), self.send_seconds)
            except TimeoutError:
                scope.get("dcd.abort", lambda: None)()
                raise ClientDisconnect from None

        # Somebody who went away, or was sent away, gets no answer.
        with contextlib.suppress(ClientDisconnect):
            await self.app(scope, self._limited(scope, receive), limited_send)

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        blob = scope["path"].startswith("/v1/blobs/")
        limit = self.blob_bytes if blob else self.body_bytes
        deadline = time.monotonic() + self.request_seconds
        received = 0
        complete = False

        async def limited_receive() -> Message:
            nonlocal received, complete
            if complete:  # only the disconnect can still come; that may take for ever
                return await receive()
            seconds = self.request_seconds if blob else deadline - time.monotonic()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, seconds))
            except TimeoutError:
                raise RequestTimeout(
                    "the request's body did not arrive in time",
                    f"the limit is {self.request_seconds:g} s",
                ) from None
            received += len(message.get("body", b""))
            complete = message["type"] != "http.request" or not message.get("more_body", False)
            if received > limit:
                raise BodyTooLarge("the request's body is too large", f"the limit is {limit} bytes")
            return message

        return limited_receive


def actor_of(scope: Scope) -> Actor:
    """Who sent the request, as the kernel says; without a socket (tests in process) the daemon."""
    return cast(Actor, scope.get("dcd.actor") or Actor())


def make_server(app: ASGIApp, settings: Configuration, ready: Callable[[], None]) -> uvicorn.Server:
    """A uvicorn server for `app`; `ready` is called once it accepts connections."""
    protocol = type(
        "Protocol", (PeerProtocol,), {"header_seconds": settings.request_timeout_seconds}
    )
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=settings.header_limit_bytes,
        timeout_keep_alive=int(settings.idle_timeout_seconds),
        timeout_graceful_shutdown=2,
        backlog=BACKLOG,
    )
    return _Server(config, ready)


class _Server(uvicorn.Server):
    """Tells when it is ready; leaves signals to the daemon."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
