"""Fairness between clients: a busy client does not block the others.

The daemon handles a few requests per client process at a time; the others wait for their turn at no
cost, and get 429 with Retry-After when it does not come in time. A user other than root also has a
limit for all processes together. An endless response, such as an event stream, releases its turn when
it begins. Connections are counted by user. Used from the event loop's thread only.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, MutableMapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from weakref import WeakValueDictionary

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dcd.api.problems import problem_response
from statemachine.errors import TooManyRequests
from statemachine.events import Actor

PROCESSES = 4
"""The number of processes of one user that can use all their turns at once."""

RETRY_AFTER_SECONDS = 1

_ENDLESS = (b"text/event-stream", b"application/x-ndjson")
_RELEASED = "dcd.endless"


def release_turn(scope: MutableMapping[str, Any]) -> None:
    """Have the request's turn released when its response begins: it may be endless."""
    scope[_RELEASED] = True


class Turns:
    """The turns of all clients: `at_once` requests of each client process."""

    def __init__(self, at_once: int, wait_seconds: float) -> None:
        self._at_once = at_once
        self._wait_seconds = wait_seconds
        self._semaphores: WeakValueDictionary[object, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, actor: Actor) -> AsyncIterator[None]:
        """Wait for a turn and hold it in the context. Raises TooManyRequests on a timeout."""
        limits = [self._semaphore((actor.uid, actor.pid), self._at_once)]
        if actor.uid != 0:
            limits.append(self._semaphore(actor.uid, self._at_once * PROCESSES))
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(self._wait_seconds):
                    for limit in limits:
                        await held.enter_async_context(limit)
            except TimeoutError:
                raise TooManyRequests(
                    f"{actor.user} sends too many requests at once",
                    f"{self._at_once} requests of a process are handled at once; this one waited "
                    f"{self._wait_seconds:g} s for its turn",
                    f"send fewer requests at once; try again in {RETRY_AFTER_SECONDS} s",
                ) from None
            yield

    def _semaphore(self, whose: object, at_once: int) -> asyncio.Semaphore:
        return self._semaphores.setdefault(whose, asyncio.Semaphore(at_once))


class Connections:
    """The number of connections of each user; at most `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: Counter[int | None] = Counter()

    def opened(self, actor: Actor) -> None:
        """Count a connection; the caller has to call `closed` for it in any case. Raises
        TooManyRequests when the limit is exceeded."""
        self._open[actor.uid] += 1
        if self._open[actor.uid] > self._most:
            raise TooManyRequests(
                f"the user with uid {actor.uid} has too many connections to the daemon",
                f"the limit is {self._most} per user (connections_per_user)",
                f"close some; try again in {RETRY_AFTER_SECONDS} s",
            )

    def closed(self, actor: Actor) -> None:
        """Stop counting a closed connection."""
        self._open[actor.uid] -= 1
        if not self._open[actor.uid]:
            del self._open[actor.uid]


class Fair:
    """ASGI middleware: handles a request when its client has a turn."""

    def __init__(self, app: ASGIApp, *, turns: Turns) -> None:
        self.app = app
        self.turns = turns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        actor = scope.get("dcd.actor")
        if actor is None:  # in process: there is no peer
            await self.app(scope, receive, send)
            return
        async with AsyncExitStack() as turn:

            async def releasing_send(message: Message) -> None:
                endless = scope.get(_RELEASED, False) or _is_endless(message)
                if message["type"] == "http.response.start" and endless:
                    await turn.aclose()
                await send(message)

            try:
                await turn.enter_async_context(self.turns.turn(actor))
            except TooManyRequests as error:
                response = problem_response(error)
                response.headers["retry-after"] = str(RETRY_AFTER_SECONDS)
                await response(scope, receive, send)
            else:
                await self.app(scope, receive, releasing_send)


def _is_endless(message: Message) -> bool:
    return any(
        name == b"content-type" and value.startswith(_ENDLESS)
        for name, value in message.get("headers", ())
    )
