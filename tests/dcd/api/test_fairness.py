"""Whose turn it is: what one client's requests can hold up, and what not."""

import asyncio

import pytest

from dcd.api.fairness import Connections, Fair, TooManyRequests, Turns
from statemachine.events import Actor

ROOT = Actor(0, 0, 100, "root")
ADA = Actor(1000, 1000, 200, "ada")


def process(of: Actor, pid: int) -> Actor:
    return Actor(of.uid, of.gid, pid, of.user)


async def hold(turns: Turns, actor: Actor, count: int) -> list[asyncio.Task]:
    """Take so many turns, and hold each until its task is cancelled."""

    async def one(taken: asyncio.Event) -> None:
        async with turns.turn(actor):
            taken.set()
            await asyncio.Event().wait()

    tasks = []
    for _ in range(count):
        taken = asyncio.Event()
        tasks.append(asyncio.create_task(one(taken)))
        await asyncio.wait_for(taken.wait(), 5)
    return tasks


async def can(turns: Turns, actor: Actor) -> bool:
    try:
        async with turns.turn(actor):
            return True
    except TooManyRequests:
        return False


def test_a_process_has_so_many_turns_and_others_have_theirs():
    async def scenario() -> None:
        turns = Turns(2, 0.01)
        held = await hold(turns, ROOT, 2)
        assert not await can(turns, ROOT)
        assert await can(turns, process(ROOT, 101))
        held[0].cancel()
        await asyncio.gather(held[0], return_exceptions=True)
        assert await can(turns, ROOT)

    asyncio.run(scenario())


def test_a_user_has_a_limit_over_all_processes_and_root_has_none():
    async def scenario() -> None:
        turns = Turns(2, 0.01)
        held = []
        for pid in range(4):
            held += await hold(turns, process(ADA, pid), 2)
            held += await hold(turns, process(ROOT, pid), 2)
        assert not await can(turns, process(ADA, 99))
        assert await can(turns, process(ROOT, 99))
        assert await can(turns, Actor(1001, 1001, 300, "grace"))

    asyncio.run(scenario())


def test_turns_come_in_the_order_of_the_requests():
    async def scenario() -> list[int]:
        turns = Turns(1, 5)
        (first,) = await hold(turns, ADA, 1)
        order = []

        async def wait(number: int) -> None:
            async with turns.turn(ADA):
                order.append(number)

        waiting = [asyncio.create_task(wait(number)) for number in range(5)]
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(*waiting)
        return order

    assert asyncio.run(scenario()) == [0, 1, 2, 3, 4]


def test_a_request_that_gave_up_waiting_leaves_no_trace():
    async def scenario() -> None:
        turns = Turns(1, 0.01)
        held = await hold(turns, ADA, 1)
        assert not await can(turns, ADA)
        held[0].cancel()
        await asyncio.gather(*held, return_exceptions=True)
        assert await can(turns, ADA)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("content_type", "turns_left"), [(b"text/event-stream", True), (b"application/json", False)]
)
def test_an_answer_without_an_end_gives_its_turn_back(content_type, turns_left):
    async def scenario() -> bool:
        turns = Turns(1, 0.01)
        begun = asyncio.Event()

        async def app(scope, receive, send):
            headers = [(b"content-type", content_type)]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            begun.set()
            await asyncio.Event().wait()

        async def send(message):
            pass

        fair = Fair(app, turns=turns)
        task = asyncio.create_task(fair({"type": "http", "dcd.actor": ADA}, None, send))
        await begun.wait()
        try:
            return await can(turns, ADA)
        finally:
            task.cancel()

    assert asyncio.run(scenario()) is turns_left


def test_a_request_that_waits_too_long_gets_retry_after():
    async def scenario() -> list:
        turns = Turns(1, 0.01)
        held = await hold(turns, ADA, 1)
        sent = []

        async def send(message):
            sent.append(message)

        fair = Fair(None, turns=turns)
        await fair({"type": "http", "dcd.actor": ADA}, None, send)
        held[0].cancel()
        return sent

    start, body = asyncio.run(scenario())
    assert start["status"] == 429
    assert dict(start["headers"])[b"retry-after"] == b"1"
    assert b"ada sends too many requests at once" in body["body"]


def test_connections_are_counted_by_user():
    connections = Connections(2)
    for _ in range(2):
        connections.opened(ADA)
    with pytest.raises(TooManyRequests, match="has too many connections"):
        connections.opened(process(ADA, 7))
    connections.opened(ROOT)
    for _ in range(2):
        connections.closed(ADA)
    connections.opened(ADA)
