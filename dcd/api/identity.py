"""The sender of a request and its roles, looked up in threads before the request is handled.

The kernel identifies a peer by numbers. Its name, its groups and the groups in the configuration come
from the user database, which may be a slow or unreachable directory service. Roles are looked up for
every request; concurrent requests of a user share one look-up. Names are only for people and are cached
for a while. Used from the event loop's thread only.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from starlette.types import ASGIApp, Receive, Scope, Send

from dcd.api.access import Role, roles
from dcd.api.problems import problem_response
from dcd.configuration import Configuration
from dcd.engine.borrowers import has_every_role
from dcd.platform.peer import user_name
from statemachine.errors import Unavailable
from statemachine.events import Actor

THREADS = 8
"""The number of concurrent look-ups."""

NAME_SECONDS = 60.0

Found = tuple[Actor, frozenset[Role]]


class Identified:
    """ASGI middleware: puts the peer with its name and its roles into the scope, unless the user database
    does not answer within `seconds`."""

    def __init__(
        self, app: ASGIApp, *, settings: Callable[[], Configuration], seconds: float
    ) -> None:
        self.app = app
        self._settings = settings
        self._seconds = seconds
        self._threads = ThreadPoolExecutor(THREADS, "user-database")
        self._names: dict[int, tuple[str, float]] = {}
        self._asked: dict[Actor, asyncio.Future[Found]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        peer: Actor | None = scope.get("dcd.actor")
        if peer is not None and peer.uid is not None:
            try:
                async with asyncio.timeout(self._seconds):
                    named, held = await self._found(peer)
            except TimeoutError:
                silent = Unavailable(
                    "the user database does not answer",
                    f"the roles of uid {peer.uid} could not be looked up within {self._seconds:g} s",
                    "try again; check whether `getent group` works on the daemon's host",
                )
                await problem_response(silent)(scope, receive, send)
                return
            scope["dcd.actor"], scope["dcd.roles"] = named, held
        await self.app(scope, receive, send)

    async def _found(self, peer: Actor) -> Found:
        assert peer.uid is not None
        name, until = self._names.get(peer.uid, ("", 0.0))
        if has_every_role(peer) and time.monotonic() < until:
            return replace(peer, user=name), frozenset(Role)
        # The pid does not matter for the user.
        user = replace(peer, pid=None)
        if user not in self._asked:
            loop = asyncio.get_running_loop()
            asked = loop.run_in_executor(self._threads, _look_up, self._settings(), user)
            self._asked[user] = asked
            asked.add_done_callback(lambda _: self._asked.pop(user, None))
        named, held = await asyncio.shield(self._asked[user])
        self._names[peer.uid] = (named.user, time.monotonic() + NAME_SECONDS)
        return replace(named, pid=peer.pid), held


def _look_up(configuration: Configuration, user: Actor) -> Found:
    assert user.uid is not None
    named = replace(user, user=user_name(user.uid))
    return named, roles(configuration, named)
