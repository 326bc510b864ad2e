"""Who a request is from is looked up beside everybody's answers, anew for each request."""

import asyncio
import os
import pwd
import threading
from typing import Any

import pytest
from starlette.responses import Response

from dcd.api.access import Role
from dcd.api.identity import Identified
from dcd.configuration import Configuration
from statemachine.events import Actor

ADA = Actor(uid=70001, gid=70001, pid=1, user="70001")
ROOT = Actor(uid=0, gid=0, pid=2, user="0")
SETTINGS = Configuration(observe=("ada",), submit=(), operate=(), administer=())


class Directory:
    """A user database that knows ada, and answers when it is let."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.asked = 0
        self._known = pwd.getpwuid
        patch.setattr(pwd, "getpwuid", self._look_up)

    def _look_up(self, uid: int) -> Any:
        if uid != ADA.uid:
            return self._known(uid)
        self.asked += 1
        assert self.answers.wait(60)
        return pwd.struct_passwd(("ada", "x", uid, uid, "", "/", "/bin/sh"))


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Any:
    found = Directory(monkeypatch)
    yield found
    found.answers.set()


class Service:
    """The middleware before an application that notes whom it answers."""

    def __init__(self, seconds: float = 30.0) -> None:
        self.seen: list[tuple[Actor, frozenset[Role]]] = []
        self.settings = SETTINGS
        self.statuses: list[int] = []
        self._identified = Identified(
            self._application,
            settings=lambda: self.settings,
            seconds=seconds,
        )

    async def _application(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append((scope["dcd.actor"], scope["dcd.roles"]))
        await Response()(scope, receive, send)

    async def ask(self, peer: Actor) -> None:
        async def receive() -> Any:
            raise AssertionError("nothing is read")

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.statuses.append(message["status"])

        await self._identified({"type": "http", "headers": [], "dcd.actor": peer}, receive, send)


def test_a_peer_gets_its_name_and_its_roles(directory: Directory) -> None:
    service = Service()
    asyncio.run(service.ask(ADA))
    asyncio.run(service.ask(ROOT))
    (ada, held), (root, everything) = service.seen
    assert (ada.user, ada.uid, ada.pid, held) == ("ada", ADA.uid, ADA.pid, {Role.OBSERVE})
    assert (root.user, everything) == (pwd.getpwuid(0).pw_name, frozenset(Role))


def test_a_slow_user_database_holds_up_only_those_who_need_it(directory: Directory) -> None:
    service = Service()
    directory.answers.clear()

    async def asked() -> None:
        waiting = [asyncio.ensure_future(service.ask(ADA)) for _ in range(50)]
        while not directory.asked:
            await asyncio.sleep(0.01)
        await service.ask(ROOT)
        assert not any(one.done() for one in waiting)
        directory.answers.set()
        await asyncio.gather(*waiting)

    asyncio.run(asked())
    assert [actor.uid for actor, _ in service.seen] == [0] + [ADA.uid] * 50
    # Those who waited for the same answer shared it.
    assert directory.asked < 50


def test_rights_are_looked_up_for_each_request(directory: Directory) -> None:
    service = Service()
    asyncio.run(service.ask(ADA))
    service.settings = Configuration(observe=(), submit=(), operate=(), administer=())
    asyncio.run(service.ask(ADA))
    assert [held for _, held in service.seen] == [{Role.OBSERVE}, frozenset()]
    before = directory.asked
    asyncio.run(service.ask(ADA))
    assert directory.asked > before


def test_a_user_database_that_does_not_answer_is_an_answer_of_its_own(
    directory: Directory,
) -> None:
    service = Service(seconds=0.2)
    directory.answers.clear()
    asyncio.run(_until_refused(service, directory))
    assert service.statuses == [503]
    assert service.seen == []


async def _until_refused(service: Service, directory: Directory) -> None:
    await service.ask(ADA)
    directory.answers.set()  # the loop's end waits for its threads


def test_the_daemons_own_user_is_not_looked_up_for_roles(directory: Directory) -> None:
    own = Actor(uid=os.geteuid(), gid=0, pid=3, user="")
    service = Service()
    asyncio.run(service.ask(own))
    assert service.seen[0][1] == frozenset(Role)
