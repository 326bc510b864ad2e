"""Limits of a request: size and time of its body, time to read its response. Also counts responses."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from http import HTTPStatus

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dcd.api.problems import problem_response
from statemachine.errors import DcdError, UsageError

DRAINED_BYTES = 64 * 1024
"""An unwanted body up to this size is read to its end: the client can send it before it reads the
response, and keeps its connection."""


class BodyTooLarge(DcdError):
    """The request's body exceeds the limit."""

    problem = "usage"
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class RequestTimeout(DcdError):
    """The client did not send its request in time."""

    problem = "usage"
    status = HTTPStatus.REQUEST_TIMEOUT


_AMBIGUOUS = UsageError(
    "a request has either Content-Length or Transfer-Encoding",
    "with both, readers may disagree on where it ends",
    "send one of them",
)
"""Source: RFC 9112, 6.3."""


class Limits:
    """ASGI middleware: limits the body's size, and the time to send it and to read the response.

    A body has to arrive within `request_seconds`; a blob, which may be large, only must not stall that
    long. A client that reads nothing of its response for `send_seconds` is disconnected. A response
    sent before the rest of a large body arrives closes the connection, so that the rest is never read.
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
        names = {name for name, _ in scope["headers"]}
        if {b"content-length", b"transfer-encoding"} <= names:
            refusal = problem_response(_AMBIGUOUS)
            # The following bytes may be the rest of this body, so they are never read.
            refusal.headers["connection"] = "close"
            await refusal(scope, receive, send)
            return
        blob = scope["path"].startswith("/v1/blobs/")
        body = _Body(
            scope,
            receive,
            most_bytes=self.blob_bytes if blob else self.body_bytes,
            seconds=self.request_seconds,
            each_time=blob,
        )

        async def limited_send(message: Message) -> None:
            if message["type"] == "http.response.start" and body.is_too_much_to_drain:
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            try:
                await asyncio.wait_for(send(message), self.send_seconds)
            except TimeoutError:
                scope.get("dcd.abort", lambda: None)()
                raise ClientDisconnect from None

        # A client that disconnected, or was disconnected, gets no response.
        with contextlib.suppress(ClientDisconnect):
            await self.app(scope, body.receive, limited_send)


class _Body:
    """The body of a request as it arrives: at most `most_bytes`, within `seconds` in total, or, with
    `each_time`, without a longer pause."""

    def __init__(
        self, scope: Scope, receive: Receive, *, most_bytes: int, seconds: float, each_time: bool
    ) -> None:
        headers = dict(scope["headers"])
        self._announced_bytes = int(headers.get(b"content-length", b"0"))
        self._receive = receive
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._deadline = None if each_time else time.monotonic() + seconds
        self._received_bytes = 0
        self._endless = b"transfer-encoding" in headers
        self._ended = not (self._announced_bytes or self._endless)

    @property
    def is_too_much_to_drain(self) -> bool:
        """Whether the rest of the body is too large to read and discard."""
        large = self._endless or self._announced_bytes - self._received_bytes > DRAINED_BYTES
        return large and not self._ended

    async def receive(self) -> Message:
        """The next message. Raises BodyTooLarge, RequestTimeout."""
        if self._ended:  # only the disconnect can follow, after any time
            return await self._receive()
        if self._announced_bytes > self._most_bytes:
            raise self._too_large()
        left = self._deadline - time.monotonic() if self._deadline else self._seconds
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, left))
        except TimeoutError:
            raise RequestTimeout(
                "the request's body did not arrive in time", f"the limit is {self._seconds:g} s"
            ) from None
        self._received_bytes += len(message.get("body", b""))
        if self._received_bytes > self._most_bytes:
            raise self._too_large()
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._ended = True
        return message

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(
            "the request's body is too large", f"the limit is {self._most_bytes} bytes"
        )


class Counted:
    """ASGI middleware: calls `count` with the operation and the status of each response. The operation
    is `unknown` for a path that is not in the table; status 499 means that the client disconnected
    before its response began."""

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
