"""The events of all builds in one list and one stream, and the user behind the socket."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from dcd.api.access import Role
from dcd.api.stream import follow_all
from dcd.engine.broadcast import Broadcast, Progress
from store.eventlog.queries import Queries

PROGRESS = Progress("one", 1, 0.5, "half", 1.0, 2.0, 0.5)


@pytest.fixture
def two_builds(request_, submission) -> list[str]:
    return [request_("POST", "/v1/builds", json=submission).json()["id"] for _ in range(2)]


def test_events_of_all_builds_are_in_the_order_of_the_log(request_, two_builds):
    request_("POST", f"/v1/builds/{two_builds[0]}/cancel")

    found = request_("GET", "/v1/events").json()["events"]

    assert [event["position"] for event in found] == list(range(1, len(found) + 1))
    assert [event["build"] for event in found[:2]] == two_builds
    of_one = request_("GET", f"/v1/builds/{two_builds[0]}/events").json()["events"]
    assert [event for event in found if event["build"] == two_builds[0]] == of_one


def test_a_page_of_all_events_says_where_the_next_one_begins(request_, two_builds):
    first = request_("GET", "/v1/events?limit=1").json()
    second = request_("GET", f"/v1/events?after={first['next']}&limit=2").json()
    assert [each["build"] for each in (*first["events"], *second["events"])] == two_builds
    assert second["next"] is None


def test_a_page_with_fewer_events_than_asked_for_need_not_be_the_last(
    request_, two_builds, monkeypatch
):
    """As the log of a farm gives large ones."""
    whole = Queries._page
    monkeypatch.setattr(Queries, "_page", lambda *given: whole(*given)[:1])
    page = request_("GET", "/v1/events").json()
    found = page["events"]
    while page["next"]:
        page = request_("GET", f"/v1/events?after={page['next']}").json()
        found += page["events"]
    assert [each["build"] for each in found] == two_builds


def test_events_after_the_position_of_a_list_are_those_that_it_does_not_show(
    request_, submission, two_builds
):
    listed = request_("GET", "/v1/builds").json()
    later = request_("POST", "/v1/builds", json=submission).json()["id"]

    found = request_("GET", f"/v1/events?after={listed['position']}").json()["events"]

    assert {event["build"] for event in found} == {later}


def test_the_daemon_says_which_user_asks_and_with_which_roles(request_):
    found = request_("GET", "/v1/whoami").json()
    assert found["roles"] == [role.value for role in Role]
    assert found["user"] == "dcd"


def message(text: bytes) -> tuple[str, Any]:
    fields = dict(line.split(": ", 1) for line in text.decode().splitlines() if line)
    return fields["event"], json.loads(fields["data"])


async def taken(stream: AsyncGenerator[bytes, None], count: int) -> list[tuple[str, Any]]:
    found = []
    async with asyncio.timeout(10):
        while len(found) < count:
            text = await anext(stream)
            if not text.startswith(b":"):
                found.append(message(text))
    return found


class Told:
    """A log whose events arrive while a follower reads."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.broadcast = Broadcast()

    def tell(self, make: Callable[..., Any], *builds: str) -> None:
        for build in builds:
            self.events.append(make(len(self.events) + 1, build))
            self.broadcast.changed(build)

    async def read(self, after: int, limit: int) -> list[Any]:
        return [event for event in self.events if event.position > after][:limit]

    async def summary(self, build: str) -> Any:
        return {"id": build}


def event(position: int, build: str) -> Any:
    from datetime import UTC, datetime

    from statemachine.events import Actor, BuildStarted, Event

    time = datetime(2026, 1, 1, tzinfo=UTC)
    return Event(position, build, 1, "BuildStarted", 1, time, Actor(), BuildStarted(), "h")


def test_the_stream_has_events_of_every_build_their_summaries_and_progress():
    told = Told()
    told.tell(event, "aa", "bb", "aa")

    async def story() -> None:
        stream = follow_all(told.read, told.summary, told.broadcast, 1)
        try:
            first = await taken(stream, 4)
            told.broadcast.report("bb", PROGRESS)
            told.tell(event, "cc")
            second = await taken(stream, 3)
        finally:
            await stream.aclose()
        assert [kind for kind, _ in first] == ["build", "build", "event", "event"]
        assert [data["position"] for kind, data in first if kind == "event"] == [2, 3]
        assert [data["id"] for kind, data in first if kind == "build"] == ["bb", "aa"]
        assert [kind for kind, _ in second] == ["build", "event", "progress"]
        assert second[2][1]["build"] == "bb"
        assert second[2][1]["fraction"] == 0.5

    asyncio.run(story())
    assert told.broadcast.followers == 0, "the end of a stream removes its listener"
