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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import uvicorn
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
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
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
    """HTTP/1.1 by h11, with the peer's credentials in each scope and a limit on unread answers."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.actor = peer_credentials(cast(socket.socket, transport.get_extra_info("socket")))
        application = self.app

        async def with_actor(scope: Scope, receive: Receive, send: Send) -> None:
            scope["dcd.actor"] = self.actor
            await application(scope, receive, send)

        self.app = cast(Any, with_actor)


class Limits:
    """ASGI middleware: bounds the body's size and the time to send it and to take the answer."""

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
        limit = self.blob_bytes if scope["path"].startswith("/v1/blobs/") else self.body_bytes
        received = 0
        complete = False

        async def limited_receive() -> Message:
            nonlocal received, complete
            if complete:  # only the disconnect can still come; that may take for ever
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self.request_seconds)
            except TimeoutError:
                raise RequestTimeout(
                    "the request's body did not arrive in time",
                    f"nothing for {self.request_seconds:g} s",
                ) from None
            received += len(message.get("body", b""))
            complete = message["type"] != "http.request" or not message.get("more_body", False)
            if received > limit:
                raise BodyTooLarge("the request's body is too large", f"the limit is {limit} bytes")
            return message

        async def limited_send(message: Message) -> None:
            await asyncio.wait_for(send(message), self.send_seconds)

        await self.app(scope, limited_receive, limited_send)


def actor_of(scope: Scope) -> Actor:
    """Who sent the request, as the kernel says; without a socket (tests in process) the daemon."""
    return cast(Actor, scope.get("dcd.actor") or Actor())


def make_server(app: ASGIApp, settings: Configuration, ready: Callable[[], None]) -> uvicorn.Server:
    """A uvicorn server for `app`; `ready` is called once it accepts connections."""
    config = uvicorn.Config(
        app,
        http=PeerProtocol,
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
