"""The files of the page, read once: a page that is open while dcd is upgraded stays of one version."""

import mimetypes
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

TYPES = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".html": "text/html",
    ".svg": "image/svg+xml",
}
"""The table of the host may have others."""


async def index(request: Request) -> Response:
    return _file("index.html")


async def static(request: Request) -> Response:
    return _file(request.path_params["path"])


def _file(path: str) -> Response:
    try:
        content = contents()[path]
    except KeyError:
        raise HTTPException(404) from None
    kind = TYPES.get(path[path.rfind(".") :]) or mimetypes.guess_type(path)[0]
    return Response(content, media_type=kind or "text/plain")


@cache
def contents() -> dict[str, bytes]:
    """The bytes of each file, by its path."""
    return dict(_below(files("cli.web") / "static", ""))


def _below(directory: Traversable, prefix: str) -> list[tuple[str, bytes]]:
    found = []
    for each in directory.iterdir():
        path = prefix + each.name
        found += _below(each, f"{path}/") if each.is_dir() else [(path, each.read_bytes())]
    return found
