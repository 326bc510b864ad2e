"""Serving the application on a Unix socket, within limits.

Peer credentials are read when a connection is made and passed in the scope of each request. This module
limits connections per user, the size of the headers and the time to send them; `dcd.api.limits` and
`dcd.api.fairness` limit requests.
"""

import asyncio
import contextlib
import select
import socket
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any, ClassVar, cast

import h11
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from dcd.api.fairness import RETRY_AFTER_SECONDS, Connections
from dcd.api.problems import problem_json, status_of
from dcd.configuration import Configuration
from dcd.platform.peer import peer_credentials
from statemachine.errors import TooManyRequests
from statemachine.events import Actor
from store.host.listening import BACKLOG

HALF_CLOSED_SECONDS = 1.0
"""The interval for checking whether a client that has closed its sending side is still connected."""

API = "v1"
"""The version of the API. Every response has a header with it, and one with the daemon's version."""


class PeerProtocol(H11Protocol):
    """HTTP/1.1 by h11, with the peer's credentials and a function to disconnect it in each scope, and a
    limit on the time from a request's first byte (or the connection) to the end of its headers."""

    header_seconds: ClassVar[float]
    open: ClassVar[Connections]
    half_closed = False
    watching: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.actor = peer_credentials(cast(socket.socket, transport.get_extra_info("socket")))
        self.late = self.loop.call_later(self.header_seconds, transport.abort)
        try:
            self.open.opened(self.actor)
        except TooManyRequests as error:
            # Before anything is read: refusing a connection costs almost nothing.
            transport.write(_bare_answer(error))
            transport.close()
        application = self.app

        async def with_peer(scope: Scope, receive: Receive, send: Send) -> None:
            scope["dcd.actor"] = self.actor
            scope["dcd.abort"] = transport.abort
            await application(scope, receive, send)

        self.app = cast(Any, with_peer)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if not self._in_request() and self.late.cancelled():
            self.late = self.loop.call_later(self.header_seconds, self.transport.abort)
        super().data_received(data)
        if self._in_request():
            self.late.cancel()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Handle the end of the client's data. The client may still read: one that has only closed its
        sending side gets its response. Returns whether the connection stays open."""
        if not self._is_read_from():
            return False
        self.half_closed = True
        unanswered = self._in_request() and self.conn.our_state is h11.SEND_RESPONSE
        if (unanswered and self.cycle.more_body) or self.conn.trailing_data[0]:
            # An incomplete request: h11 reports it, and the response is 400.
            self.conn.receive_data(b"")
            self.handle_events()
        if not self._in_request():
            return False
        self._watch_for_close()
        return True

    def _watch_for_close(self) -> None:
        # After the end of the client's data there is no notification of a close.
        if self.transport.is_closing():
            return
        if not self._is_read_from():
            self.transport.abort()
            return
        self.watching = self.loop.call_later(HALF_CLOSED_SECONDS, self._watch_for_close)

    def _is_read_from(self) -> bool:
        """Whether the other end can still read a response."""
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), 0)
        return not any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.half_closed and not self._in_request():
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.watching is not None:
            self.watching.cancel()
        self.late.cancel()
        self.open.closed(self.actor)
        super().connection_lost(exc)

    def _in_request(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete


def _bare_answer(error: TooManyRequests) -> bytes:
    """A response to a request that was not read."""
    body = problem_json(error)
    head = (
        f"HTTP/1.1 {status_of(error)} Too Many Requests\r\nContent-Type: application/problem+json\r\n"
        f"Retry-After: {RETRY_AFTER_SECONDS}\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def actor_of(scope: Scope) -> Actor:
    """The sender of the request, from the kernel; without a socket (tests in process) the daemon."""
    return cast(Actor, scope.get("dcd.actor") or Actor())


def make_server(app: ASGIApp, settings: Configuration, ready: Callable[[], None]) -> "Server":
    """A uvicorn server for `app`; `ready` is called once it accepts connections."""
    protocol = type(
        "Protocol",
        (PeerProtocol,),
        {
            "header_seconds": settings.request_timeout_seconds,
            "open": Connections(settings.connections_per_user),
        },
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
        headers=[("DCD-Version", version("dcd")), ("DCD-API", API)],
        h11_max_incomplete_event_size=settings.header_limit_bytes,
        timeout_keep_alive=int(settings.idle_timeout_seconds),
        timeout_graceful_shutdown=2,
        backlog=BACKLOG,
    )
    return Server(config, ready)


class Server(uvicorn.Server):
    """Reports when it is ready; leaves signals to the daemon; can switch to another socket."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def listen(self, listener: socket.socket) -> None:
        """Accept connections from this socket instead of the previous ones. Open connections are
        kept."""
        loop = asyncio.get_running_loop()
        added = await loop.create_server(self._protocol, sock=listener, backlog=BACKLOG)
        for before in self.servers:
            before.close()
        self.servers = [added]

    def _protocol(self) -> asyncio.Protocol:
        make: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
