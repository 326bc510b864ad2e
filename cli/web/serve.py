"""Running the gateway until it is interrupted."""

import asyncio
import logging
import os
import secrets
import shutil
import socket
import tempfile
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from html import escape
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from cli.client import ClientError
from cli.web.app import make_app

ADDRESS = "127.0.0.1"
MOST_CONNECTIONS = 1000
HEAD_SECONDS = 10.0
"""The time for the head of a request, from its first byte or the beginning of the connection on. A program
that only holds connections does not keep the page away for longer."""
GRACE_SECONDS = 1


def serve(socket_path: str, port: int, announce: Callable[[str], None]) -> None:
    """Serve the page on `port` (0: a free one) of this host alone, to those who know the token; `announce`
    gets the address once it can be opened. Returns after SIGINT. Raises ClientError."""
    token = secrets.token_urlsafe(32)
    with _listening(port) as listener:
        url = f"http://{ADDRESS}:{listener.getsockname()[1]}/#token={token}"
        config = uvicorn.Config(
            make_app(socket_path, token),
            http=_Protocol,
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        logger = logging.getLogger("uvicorn.error")
        logger.addFilter(lambda record: not _is_shown_on_the_page(record))
        # Its warnings are about requests that are none, and about too many connections.
        logger.setLevel(logging.ERROR)
        with suppress(KeyboardInterrupt):
            _Server(config, lambda: announce(url)).run(sockets=[listener])


def _is_shown_on_the_page(record: logging.LogRecord) -> bool:
    """Whether a record is about a daemon that broke off a response, which the page itself shows."""
    error = record.exc_info[1] if record.exc_info else None
    while error is not None:
        if isinstance(error, ClientError):
            return True
        error = error.__cause__ or error.__context__
    return False


class _Protocol(H11Protocol):
    """HTTP/1.1, with a time limit for the head of each request."""

    late: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_a_head()

    def data_received(self, data: bytes) -> None:
        if not self._in_request() and self.late.cancelled():
            self._expect_a_head()
        super().data_received(data)
        if self._in_request():
            self.late.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self.late.cancel()
        super().connection_lost(exc)

    def _expect_a_head(self) -> None:
        self.late = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _in_request(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete


class _Server(uvicorn.Server):
    """Says when it can be used."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


@contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((ADDRESS, port))
        except OSError as error:
            raise ClientError(
                "unprepared",
                f"cannot use port {port} of {ADDRESS}",
                error.strerror or str(error),
                "choose another with --port, or leave it out: a free one is found",
            ) from None
        yield listener


@contextmanager
def opener() -> Iterator[Callable[[str], None]]:
    """A function that opens an address in the user's browser. The address goes through a file that only
    the user can read: every user can see the arguments of a browser's process."""
    directory = Path(tempfile.mkdtemp(prefix="dcctl-web-", dir=os.environ.get("XDG_RUNTIME_DIR")))

    def open_(url: str) -> None:
        page = directory / "open.html"
        page.touch(mode=0o600)
        page.write_text(
            f'<!doctype html><meta charset="utf-8"><title>dcd</title>'
            f'<meta http-equiv="refresh" content="0;url={escape(url)}">'
        )
        webbrowser.open(page.as_uri())

    try:
        yield open_
    finally:
        shutil.rmtree(directory, ignore_errors=True)
