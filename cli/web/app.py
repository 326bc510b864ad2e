"""The gateway's application: the files of the page, and a part of the daemon's API under the same paths.

What the page does not offer is not passed on: a shell, new or changed manifests, the settings, the backup.
"""

import json
import re
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from cli.client import ClientError
from cli.version import own_version
from cli.web import page
from cli.web.downloads import Downloads
from cli.web.guard import Guard, problem_response
from cli.web.hub import Hub
from cli.web.upstream import exchange

PASSED_ON = (
    ("GET", re.compile(r"/v1/(version|whoami|health|doctor|df|config|hosts|events|builds)")),
    ("GET", re.compile(r"/v1/builds/(?!.*/export).+")),
    ("POST", re.compile(r"/v1/builds/[^/]+/(pause|resume|retry|cancel)")),
    ("DELETE", re.compile(r"/v1/builds/[^/]+")),
)
"""The operations that the page may use."""

REQUEST_HEADERS = ("accept", "content-type", "range", "last-event-id")
RESPONSE_HEADERS = (
    *("content-type", "content-length", "content-range", "content-disposition"),
    *("accept-ranges", "etag", "retry-after"),
)
MOST_BODY_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Gateway:
    """What the handlers share."""

    socket_path: str
    hub: Hub
    downloads: Downloads = field(default_factory=Downloads)

    async def pass_on(self, request: Request) -> Response:
        """The daemon's response to a request of the page."""
        path, method = request.url.path, "GET" if request.method == "HEAD" else request.method
        segments = path.split("/")
        if not any(method == each and rule.fullmatch(path) for each, rule in PASSED_ON) or (
            "." in segments or ".." in segments
        ):
            return problem_response(
                ClientError("not-found", f"the page has no operation {request.method} {path}")
            )
        if path == "/v1/events" and "text/event-stream" in request.headers.get("accept", ""):
            return _Streamed(self.hub.follow(_after(request)), media_type="text/event-stream")
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > MOST_BODY_BYTES:
                raise ClientError("usage", "the request's body is too large")
        headers = {
            name: request.headers[name] for name in REQUEST_HEADERS if name in request.headers
        }
        return await self.forward(request.method, _target(request), headers, bytes(body))

    async def offer_download(self, request: Request) -> Response:
        """A link that downloads an artifact once; an error while there is still a page to show it."""
        try:
            body = await request.json()
            build, name = str(body["build"]), str(body["artifact"])
        except (ValueError, KeyError, TypeError):
            raise ClientError("usage", "a download needs a build and an artifact") from None
        target = f"/v1/builds/{quote(build, safe='')}/artifacts/{quote(name, safe='')}"
        async with exchange(
            self.socket_path, "GET", target, headers={"Range": "bytes=0-0"}
        ) as answer:
            if answer.status >= 400 and answer.status != 416:  # an empty file has no first byte
                return Response(
                    await answer.whole(), answer.status, media_type="application/problem+json"
                )
        link = f"/web/downloads/{self.downloads.offer(target)}"
        return Response(json.dumps({"url": link}), 201, media_type="application/json")

    async def download(self, request: Request) -> Response:
        """The artifact of a link, for the first who asks."""
        if request.method == "HEAD":  # to look is not to use it
            raise HTTPException(405, headers={"allow": "GET"})
        target = self.downloads.take(request.path_params["name"])
        if target is None:
            return problem_response(
                ClientError(
                    "removed",
                    "this link has been used, or is older than a minute",
                    resolution="press Download on the page again, or use dcctl download",
                )
            )
        return await self.forward("GET", target, {})

    async def forward(
        self, method: str, target: str, headers: dict[str, str], body: bytes = b""
    ) -> Response:
        """The daemon's response, its body as it arrives. Raises ClientError."""
        stack = AsyncExitStack()
        try:
            answer = await stack.enter_async_context(
                exchange(self.socket_path, method, target, headers=headers, body=body)
            )
        except BaseException:
            await stack.aclose()
            raise
        known = {name: answer.headers[name] for name in RESPONSE_HEADERS if name in answer.headers}
        return _Streamed(_content(stack, answer.pieces()), answer.status, known)


async def _content(
    stack: AsyncExitStack, pieces: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    async with stack:
        async for piece in pieces:
            yield piece


class _Streamed(StreamingResponse):
    """Closes its generator in any case, so that no connection to the daemon stays open. A response that the
    daemon breaks off ends the connection, so that the page notices."""

    def __init__(
        self,
        content: AsyncGenerator[bytes, None],
        status_code: int = 200,
        headers: dict[str, str] | None = None,
        media_type: str | None = None,
    ) -> None:
        super().__init__(content, status_code, headers, media_type)
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._content.aclose()


def make_app(socket_path: str, token: str) -> Starlette:
    """The ASGI application for one daemon and one token."""
    gateway = Gateway(socket_path, Hub(socket_path))
    page.contents()
    return Starlette(
        routes=[
            Route("/", page.index),
            Route("/static/{path:path}", page.static),
            Route("/web/about", _about),
            Route("/web/downloads", gateway.offer_download, methods=["POST"]),
            Route("/web/downloads/{name}", gateway.download),
            Route("/v1/{rest:path}", gateway.pass_on, methods=["GET", "POST", "DELETE"]),
        ],
        middleware=[Middleware(Guard, token=token, is_open=_is_open)],
        exception_handlers={ClientError: _on_error, HTTPException: _on_http_exception},
    )


def _is_open(path: str) -> bool:
    return path == "/" or path.startswith(("/static/", "/web/downloads/"))


async def _about(request: Request) -> Response:
    return Response(json.dumps({"version": own_version()}), media_type="application/json")


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ClientError)
    return problem_response(error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    unknown = ClientError("usage", f"nothing is at {request.method} {request.url.path}")
    return problem_response(unknown, error.status_code)


def _target(request: Request) -> str:
    """The path and query as they came, encoded."""
    query = request.scope["query_string"]
    path: bytes = request.scope["raw_path"]
    return (path + (b"?" + query if query else b"")).decode("ascii")


def _after(request: Request) -> int:
    text = request.headers.get("last-event-id") or request.query_params.get("after", "0")
    if not re.fullmatch(r"[0-9]{1,16}", text, re.ASCII):
        raise ClientError("usage", "a position is an integer", f"got {text[:100]!r}")
    return int(text)
