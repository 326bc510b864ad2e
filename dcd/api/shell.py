"""The handler for shells: a response that lasts as long as the shell.

The first line describes the location and contents of the workspace; no more data follows. When the
connection closes, because the client ended or was killed, the shell is closed and its workspace
removed.
"""

import json
from dataclasses import replace

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dcd.api import schemas
from dcd.api.access import Action
from dcd.api.handling import Api
from dcd.api.operations import body_of
from dcd.api.server import actor_of
from dcd.engine.shells import Shells
from dcd.worker.messages import encode
from dcd.worker.request import ShellRequest
from statemachine.errors import PermissionDenied


async def shell(api: Api, request: Request) -> Response:
    api.require(request, Action.ADMINISTER)
    actor = actor_of(request.scope)
    if actor.uid not in (None, 0):
        raise PermissionDenied(
            "a shell in a build runs as root, so only root may open one",
            f"{actor.user} may administer the daemon, but is not root",
            "run it with sudo",
        )
    body = await body_of(request, schemas.ShellRequest)
    state = await api.kept(request)
    opened, place = await api.engine.shells.open(state, body.at)
    view = schemas.ShellView(
        state.id,
        place,
        str(opened.workspace.root),
        opened.marker,
        json.loads(encode(replace(opened, marker=""))),  # passed on a command line
    )
    return _WhileConnected(api.engine.shells, opened, view)


class _WhileConnected(Response):
    """Sends one line, and closes the shell when the client disconnects."""

    media_type = "application/x-ndjson"

    def __init__(self, shells: Shells, opened: ShellRequest, view: schemas.ShellView) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._shells = shells
        self._opened = opened
        self._line = msgspec.json.encode(view) + b"\n"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": self._line, "more_body": True})
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            await self._shells.close(self._opened)
