"""Following a build's events and progress, across restarts of the daemon.

The stream is server-sent events (HTML standard, "Server-sent events"). When it ends before the build
stands still, it is opened again after the last event seen (Last-Event-ID), so no event is lost or
told twice. How long a daemon may stay away is bounded; that it went away is told once.
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
"""How long a daemon may stay away before following ends with its error."""

SILENCE_SECONDS = 60.0
"""A stream that says nothing for so long is dead: the daemon keeps idle ones alive with comments."""

SHORTEST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.1, 2.0


class Message(NamedTuple):
    """What a follower hears: an `event` or `progress` of the API with its data, or, from here,
    `away` when the daemon was lost and `back` when it answers again (without data)."""

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
    """Messages of a build from event position `after` on, until it stands still and all is told.

    `build` should be a whole id: a prefix may name two builds by the time it is asked for again.
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
            if _all_told(socket_path, build, position):
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
        field, _, value = line.partition(":")  # of a comment line the field is empty
        value = value.removeprefix(" ")
        if field == "event":
            kind = value
        elif field == "id":
            identity = int(value)
        elif field == "data":
            data.append(value)


def _all_told(socket_path: str, build: str, position: int) -> bool:
    """Whether a stream that ended was right to: the build stands still and has no later event."""
    state = request(socket_path, "GET", build_path(build))["state"]
    query = {"after": position, "limit": 1}
    later = request(socket_path, "GET", build_path(build, "events"), query=query)["events"]
    return state in AT_REST and not later
