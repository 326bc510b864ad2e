"""A farm in one thread, with nothing left to chance: members that live on one simulated clock.

Real are the members: `dcd.farm`, the engine with its runner, layers (copy back end) and artifacts, the log
and its writer, and Procrastinate's worker. Simulated is what is between and around them: the database
(`simulated_database`, `simulated_queue`), the network, clocks, and the workers of attempts. Each member has
an event loop of its own, so it can be frozen or killed as a process can. Whatever it hands to a thread is a
*job*; jobs of all members run one at a time, in an order drawn from the seed.
"""

import heapq
import random
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import cache
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import procrastinate
import pytest
import simulated_registry
import structlog
from simulated_database import Database, role_in
from simulated_log import SimulatedLog, patched
from simulated_member import Member
from simulated_parts import (
    EXPECTED_ERRORS,
    PLENTY,
    Attempt,
    DiskUsage,
    Jobs,
)
from simulated_registry import Shelf

from dcd.engine import attempt, engine, runner
from dcd.engine import builds as engine_builds
from dcd.farm import member as farm_member
from dcd.farm import queue as farm_queue
from dcd.manifest import plugins
from dcd.planning import ingredients, labels
from dcd.planning import plan as planning
from dcd.platform import foreign
from dcd.platform.host_labels import of_code, of_tool
from statemachine.errors import Unavailable
from store.host.tools import TOOLS

NO_GARBAGE = "garbage could not be collected"
"""Expected while the database is away."""

CODE = of_code("0" * 12)


class Farm:
    """See the module. A context manager. `hosts` are the members and their labels; with `shares` they share
    layers through a registry."""

    def __init__(
        self,
        directory: Path,
        seed: int,
        hosts: Mapping[str, Sequence[str]],
        lost_seconds: float = 30.0,
        *,
        shares: bool = False,
    ) -> None:
        self.directory = directory
        self.chance = random.Random(seed)
        self.lost_seconds = lost_seconds
        self.heard_seconds = 0.05
        """The longest time until others hear of a commit."""
        self.seconds = 0.0
        self.database = Database(lambda: self.seconds)
        self.registry = Shelf(lambda: not self.current.line.cut)
        self.shares = shares
        self.tools = sorted(map(of_tool, TOOLS))
        self.awake: dict[Member, None] = {}
        self.jobs: list[tuple[Member, Future[Any], Callable[[], Any]]] = []
        self.problems: list[object] = []
        self.began: Callable[[Member, Attempt], None] = lambda member, attempt: None
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._ids = count(1)
        own = (*foreign.native(), "tool:*")
        self.members = {host: Member(self, host, (*labels, *own)) for host, labels in hosts.items()}
        self.database.listeners.append(self._tell)

    def __enter__(self) -> "Farm":
        self._patched = pytest.MonkeyPatch()
        patch = self._patched.setattr
        patched(self._patched, self.database, self._member_of)
        patch(farm_member, "PostgresqlLog", SimulatedLog)
        patch(farm_queue, "application", lambda dsn: self._application(self._member_of(dsn)))
        patch(
            attempt,
            "run_attempt",
            lambda *given, **named: self.current.run_attempt(*given, **named),
        )
        for module in (attempt, runner):
            patch(module, "boot_id", lambda: self.current.boot)
        patch(shutil, "disk_usage", lambda _: DiskUsage(PLENTY, 0, PLENTY))
        for module in (engine_builds, farm_queue):
            patch(module, "ThreadPoolExecutor", lambda *_: Jobs(self.current.job))
        patch(engine_builds, "new_id", self._new_id)
        patch(planning, "new_salt", self._new_id)
        # Slow and constant.
        for module in (labels, engine, farm_member):
            patch(module, "code_label", lambda: CODE)
        patch(plugins, "entry_points", lambda group: ())
        patch(ingredients, "code_digest", cache(ingredients.code_digest))
        clock = SimpleNamespace(monotonic=lambda: self.seconds)
        simulated_registry.patched(patch, self.registry, lambda *_: Jobs(self.current.job), clock)
        structlog.configure(processors=[self._note])
        for member in self.members.values():
            member.start()
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members.values():
            if not member.dead:
                member.kill()
        structlog.reset_defaults()
        self._patched.undo()

    def _member_of(self, dsn: str) -> Member:
        return self.members[role_in(dsn).removeprefix("dcd-")]

    def _application(self, member: Member) -> procrastinate.App:
        return procrastinate.App(connector=member.connector())

    def _new_id(self) -> str:
        return f"build{next(self._ids)}"

    def _tell(self) -> None:
        for member in self.members.values():
            member.news()

    # Time

    def at(self, when: float, do: Callable[[], None]) -> None:
        """Call `do` at a time."""
        heapq.heappush(self._timers, (when, next(self._numbers), do))

    def run(self, seconds: float = 0.0, jobs: float = float("inf")) -> None:
        """Run the farm for `seconds`, or until `jobs` jobs are done."""
        until = self.seconds + seconds
        while True:
            while self.awake:
                member = next(iter(self.awake))
                del self.awake[member]
                member.turn()
            if self.jobs:
                if jobs < 1:
                    break
                jobs -= 1
                self._do_job()
            elif self._timers and self._timers[0][0] <= until:
                when, _, do = heapq.heappop(self._timers)
                self.seconds = max(self.seconds, when)
                do()
            else:
                self.seconds = until
                break
        for problem in self.problems:
            raise problem if isinstance(problem, Exception) else AssertionError(problem)

    def _do_job(self) -> None:
        chosen = self.chance.randrange(len(self.jobs))
        self.jobs[chosen], self.jobs[-1] = self.jobs[-1], self.jobs[chosen]
        member, *job = self.jobs.pop()
        member.do(*job)

    # The database

    def crash(self, under_way: int = 0) -> None:
        """Stop the database. `under_way` pending jobs reach it; their answers are lost."""
        for _ in range(under_way):
            if self.jobs:
                self.chance.choice(self.jobs)[0].lose_answers(1)
        self.database.down = True
        for member in self.members.values():
            member.lose_connections()

    def recover(self) -> None:
        """The database is up again."""
        self.database.down = False
        self.database.started_at = self.seconds
        for member in self.members.values():
            member.reconnect()

    @property
    def attempts(self) -> list[tuple[Member, Attempt]]:
        """The attempts whose workers run, and where."""
        return [
            (member, attempt) for member in self.members.values() for attempt in member.attempts
        ]

    def _note(self, _: object, method: str, entry: dict[str, Any]) -> Any:
        event, why = entry["event"], sys.exc_info()[1]
        away = event in EXPECTED_ERRORS or (event == NO_GARBAGE and isinstance(why, Unavailable))
        if method in ("error", "exception", "critical") and not (away or self.current.dead):
            self.problems.append(f"{self.current.host}: {entry}: {sys.exc_info()[1]!r}")
        raise structlog.DropEvent
