"""Responses sent in chunks, so that a slow client uses the memory of one chunk."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import BinaryIO

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

PIECE_BYTES = 64 * 1024


class Streamed(StreamingResponse):
    """Sends the output of a generator, and always closes it: after a disconnect it would otherwise stay
    suspended, with its open file or listener."""

    def __init__(
        self,
        content: AsyncGenerator[bytes, None],
        media_type: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(content, media_type=media_type, headers=headers)
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._content.aclose()


def file_response(
    file: BinaryIO, size_bytes: int, media_type: str, headers: Mapping[str, str] | None = None
) -> Response:
    """A response with the next `size_bytes` of an open file, which is closed afterwards. The file may
    grow meanwhile, not shrink."""
    length = {"content-length": str(size_bytes)}
    return Streamed(_pieces(file, size_bytes), media_type, {**length, **(headers or {})})


async def _pieces(file: BinaryIO, left: int) -> AsyncGenerator[bytes, None]:
    with file:
        while piece := await asyncio.to_thread(file.read, min(left, PIECE_BYTES)):
            left -= len(piece)
            yield piece
