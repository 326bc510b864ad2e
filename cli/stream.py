"""Following a build's events and progress, across restarts of the daemon.

The stream is server-sent events (HTML standard, "Server-sent events"). When it ends before the build
stops, it is reopened after the last event seen (Last-Event-ID), so no event is lost or repeated. The
wait for a lost daemon is bounded, and the loss is reported once.
"""

import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from http.client import HTTPResponse
from typing import NamedTuple

from cli.client import Json, Unreachable, build_path, exchange, request
from cli.exit_codes import AT_REST

PATIENCE_SECONDS = 120.0
"""The time to wait for a lost daemon before following fails."""

SILENCE_SECONDS = 60.0
"""A stream without data for this long is dead: the daemon keeps idle streams alive with comments."""

SHORTEST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.1, 2.0


class Message(NamedTuple):
    """A message for a follower: an `event`, a `build` or `progress` of the API with its data, or, from
    this module, `away` when the daemon was lost and `back` when it answers again (without data)."""

    kind: str
    data: Json = None


def events(socket_path: str, build: str, after: int = 0) -> Iterator[Json]:
    """The events of a build so far, from position `after` on, oldest first."""
    path = build_path(build, "events")
    position: int | None = after
    while position is not None:
        page = request(socket_path, "GET", path, query={"after": position})
        yield from page["events"]
        position = page["next"]


def follow(
    socket_path: str, build: str, *, after: int = 0, patience_seconds: float = PATIENCE_SECONDS
) -> Iterator[Message]:
    """Messages of a build from event position `after` on, until it stops and all events are sent.

    `build` should be a full id: a prefix may become ambiguous before a reconnect.
    Raises ClientError, and Unreachable when the daemon stays away longer than `patience_seconds`.
    """
    position = after
    away_since: float | None = None
    wait_seconds = SHORTEST_WAIT_SECONDS
    while True:
        try:
            with _open(socket_path, build, position) as answer:
                if away_since is not None:
                    away_since = None
                    yield Message("back")
                for identity, message in _messages(answer):
                    position = identity or position
                    wait_seconds = SHORTEST_WAIT_SECONDS
                    yield message
            if _is_complete(socket_path, build, position):
                return
        except Unreachable:
            now = time.monotonic()
            if away_since is None:
                away_since = now
                yield Message("away")
            elif now - away_since > patience_seconds:
                raise
        time.sleep(wait_seconds)
        wait_seconds = min(wait_seconds * 2, LONGEST_WAIT_SECONDS)


def _open(socket_path: str, build: str, position: int) -> AbstractContextManager[HTTPResponse]:
    return exchange(
        socket_path,
        "GET",
        build_path(build, "events"),
        headers={"Accept": "text/event-stream", "Last-Event-ID": str(position)},
        timeout_seconds=SILENCE_SECONDS,
    )


def _messages(answer: HTTPResponse) -> Iterator[tuple[int, Message]]:
    """Messages of a stream with their position (0 for those without one)."""
    kind, identity = "", 0
    data: list[str] = []
    while raw := answer.readline():
        line = raw.decode().rstrip("\r\n")
        if not line:
            if data:
                yield identity, Message(kind, json.loads("\n".join(data)))
            kind, identity, data = "", 0, []
            continue
        field, _, value = line.partition(":")  # a comment line has an empty field
        value = value.removeprefix(" ")
        if field == "event":
            kind = value
        elif field == "id":
            identity = int(value)
        elif field == "data":
            data.append(value)


def _is_complete(socket_path: str, build: str, position: int) -> bool:
    """Whether the end of a stream was regular: the build has stopped and has no later event."""
    state = request(socket_path, "GET", build_path(build))["state"]
    query = {"after": position, "limit": 1}
    later = request(socket_path, "GET", build_path(build, "events"), query=query)["events"]
    return state in AT_REST and not later
