"""What a request has to show before anything answers it, and the headers of every response.

Every local user can connect to a port, and a page of any site can send requests to it. So each request
has to name this host (against DNS rebinding), to come from the page itself or from no page, and, where
it reads or changes anything, to have the token. There is no cookie: those of 127.0.0.1 are sent to all
ports, of all users. Sources: the Fetch standard (Origin), Fetch Metadata Request Headers (W3C), Content
Security Policy Level 3 (W3C).
"""

import hmac
import json
import re
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cli.client import ClientError

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'"
)

HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}

HERE = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.ASCII | re.IGNORECASE)
"""The names of this host. The port may be another one: that of `ssh -L` on the user's own machine."""

STATUS = {
    "usage": 400,
    "permission": 403,
    "not-found": 404,
    "removed": 410,
    "too-many-requests": 429,
    "unavailable": 503,
}
"""The status of a problem that the gateway itself reports, by the kind of the error."""


class Guard:
    """ASGI middleware. `is_open` says which paths need no token: the files of the page, which are the same
    everywhere, and links that are secrets themselves."""

    def __init__(self, app: ASGIApp, *, token: str, is_open: Callable[[str], bool]) -> None:
        self.app = app
        self._expected = f"Bearer {token}".encode()
        self._is_open = is_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self.app)(scope, receive, guarded_send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers, path = Headers(scope=scope), scope["path"]
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not HERE.fullmatch(hosts[0]):
            return _refused(
                421, "this address is not served here", "open the page as http://127.0.0.1:PORT"
            )
        if any(origin != f"http://{hosts[0]}" for origin in headers.getlist("origin")):
            return _refused(403, "a page of another site may not use this one")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            opened = headers.get("sec-fetch-dest") == "document" and scope["method"] == "GET"
            if not (path == "/" and opened):  # following a link to the page is no use of it
                return _refused(403, "a page of another site may not use this one")
        if self._is_open(path):
            return None
        if not hmac.compare_digest(headers.get("authorization", "").encode(), self._expected):
            answer = _refused(
                401,
                "the token is missing, or that of another dcctl web",
                "open the address that your `dcctl web` printed; start it again for a new one",
            )
            answer.headers["www-authenticate"] = "Bearer"
            return answer
        return None


def _refused(status: int, title: str, resolution: str = "") -> Response:
    return problem_response(ClientError("refused", title, "", resolution), status)


def problem_response(error: ClientError, status: int | None = None) -> Response:
    """An error as problem details (RFC 9457), as the daemon's API has them."""
    status = status or STATUS.get(error.kind, 500)
    return Response(problem(error, status), status, media_type="application/problem+json")


def problem(error: ClientError, status: int) -> bytes:
    """The JSON of an error."""
    fields = {
        "type": f"urn:dcd:problem:{error.kind}",
        "title": error.brief,
        "status": status,
        "detail": error.details,
        "resolution": error.resolution,
    }
    return json.dumps(fields).encode()
