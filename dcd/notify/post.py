"""One HTTP request to a webhook, bounded in time and size.

The request is sent once and its status is all that counts: a redirect is not followed and the answer's body
is not read. Certificates and names of TLS are verified. No proxy of the environment is used. It runs in the
daemon's event loop and blocks nothing there.
"""

import asyncio
import ssl
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import h11

from statemachine.errors import DcdError

MOST_HEADER_BYTES = 16 * 1024
"""The size of the head of an answer."""

MOST_ANSWER_BYTES = 64 * 1024
"""The size of all that is read of an answer, interim responses (RFC 9110, 1xx) included."""

_PIECE_BYTES = 16 * 1024
_SHOWN = 100


class NotDelivered(DcdError):
    """The receiver did not confirm the delivery with a status from 200 to 299."""


def tls_context(url: str, ca: Path | None) -> ssl.SSLContext | None:
    """The context for a URL; None without TLS. Raises NotDelivered for certificates that cannot be read."""
    if urlsplit(url).scheme != "https":
        return None
    try:
        return ssl.create_default_context(cafile=None if ca is None else str(ca))
    except (OSError, ssl.SSLError) as error:
        raise NotDelivered(f"the certificates {ca} cannot be read", str(error)) from None


async def post(
    url: str,
    headers: Sequence[tuple[str, str]],
    content: bytes,
    context: ssl.SSLContext | None,
    seconds: float,
) -> int:
    """The status of the answer, from 200 to 299. Raises NotDelivered."""
    try:
        async with asyncio.timeout(seconds):
            response = await _exchange(url, headers, content, context)
    except TimeoutError:
        raise NotDelivered(f"no answer within {seconds:g} s") from None
    except ssl.SSLError as error:
        raise NotDelivered("TLS failed", error.reason or str(error)) from None
    except h11.RemoteProtocolError as error:
        raise NotDelivered("the answer is not HTTP", str(error)[:_SHOWN]) from None
    except (OSError, UnicodeError) as error:
        raise NotDelivered("no connection", str(error)[:_SHOWN]) from None
    if 300 <= response.status_code < 400:
        raise NotDelivered(f"answered {response.status_code}, a redirect, which is not followed")
    if not 200 <= response.status_code < 300:
        raise NotDelivered(f"answered {response.status_code}")
    return response.status_code


async def _exchange(
    url: str, headers: Sequence[tuple[str, str]], content: bytes, context: ssl.SSLContext | None
) -> h11.Response:
    parts = urlsplit(url)
    port = parts.port or (443 if context else 80)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    reader, writer = await asyncio.open_connection(
        parts.hostname, port, ssl=context, limit=_PIECE_BYTES
    )
    try:
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST_HEADER_BYTES)
        own = [
            ("host", parts.netloc),
            ("user-agent", f"dcd/{version('dcd')}"),
            ("connection", "close"),
            ("content-length", str(len(content))),
        ]
        request = h11.Request(method="POST", target=target, headers=[*own, *headers])
        for part in (request, h11.Data(data=content), h11.EndOfMessage()):
            writer.write(http.send(part) or b"")
        await writer.drain()
        left_bytes = MOST_ANSWER_BYTES
        while True:
            event = http.next_event()
            if isinstance(event, h11.Response):
                return event
            if event is h11.NEED_DATA:
                if left_bytes <= 0:
                    raise h11.RemoteProtocolError("the answer does not end")
                piece = await reader.read(_PIECE_BYTES)
                left_bytes -= len(piece)
                http.receive_data(piece)
            elif not isinstance(event, h11.InformationalResponse):
                raise h11.RemoteProtocolError("the connection was closed without an answer")
    finally:
        writer.transport.abort()
