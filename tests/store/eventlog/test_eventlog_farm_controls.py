"""Members that take builds from each other, and freeze and return at any time. The checks read the rows
themselves; the controls take the fence, and the order of positions, away, and the checks must notice."""

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import psycopg
import pytest

from statemachine.build import Lifecycle
from statemachine.errors import Refused
from statemachine.events import (
    Actor,
    BuildCompleted,
    BuildStarted,
    CheckpointCompleted,
    CheckpointInterrupted,
    CheckpointStarted,
    Payload,
)
from statemachine.machine import BuildMachine
from store.eventlog import Conflict, EventLog, Fenced
from store.eventlog.postgresql.connection import connect
from store.eventlog.postgresql.log import PostgresqlLog
from store.eventlog.postgresql.writer import prepare
from store.eventlog.writer import Append, Part
from tests.store.eventlog.conftest import Postgresql

pytestmark = pytest.mark.faults

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MEMBERS = ("here", "there")
SQL = files("store.eventlog.postgresql").joinpath("functions.sql").read_text()


def violations(farm: Postgresql) -> list[str]:
    """What is wrong in the log, by queries of its own."""
    found = []
    with psycopg.connect(farm.administrator) as connection:
        rows = connection.execute(
            "SELECT position, build, sequence, type, actor::json->>'user', data::json"
            " FROM dcd.events ORDER BY position"
        ).fetchall()
    if [row[0] for row in rows] != list(range(1, len(rows) + 1)):
        found.append("positions have gaps")
    sequences: dict[str, int] = {}
    owners: dict[str, str] = {}
    completed: set[tuple[str, str]] = set()
    for _, build, sequence, kind, who, data in rows:
        if sequence != sequences.get(build, 0) + 1:
            found.append(f"{build}: sequence {sequence}")
        sequences[build] = sequence
        if kind == "BuildPlaced":
            owners[build] = f"{data['host']} {data['epoch']}"
        elif kind.startswith("Checkpoint") and who != owners[build]:
            found.append(f"{build}: {kind} by {who}, but {owners[build]} owns it")
        if kind == "CheckpointCompleted":
            if (build, data["checkpoint"]) in completed:
                found.append(f"{build}: {data['checkpoint']} completed again")
            completed.add((build, data["checkpoint"]))
    return found


@contextmanager
def members_of(farm: Postgresql) -> Iterator[list[PostgresqlLog]]:
    logs = []
    try:
        for host in MEMBERS:
            directory = farm.directory / host
            directory.mkdir()
            logs.append(PostgresqlLog(farm.cluster.dsn(farm.name, f"dcd-{host}"), directory))
        yield logs
    finally:
        for log in logs:
            log.close()


class Owner:
    """A member that has taken a build, and records what it does even when it has slept meanwhile: it reads
    what the last event is, and keeps its epoch."""

    def __init__(self, log: EventLog, host: str, build: str) -> None:
        self.log, self.build = log, build
        self.epoch = log.take(build, host)
        self.actor = Actor(user=f"{host} {self.epoch}")

    def record(self, *payloads: Payload) -> None:
        while True:
            sequence = self.log.summary(self.build).sequence
            future = self.log.append(
                self.build, sequence, payloads, self.actor, NOW, epoch=self.epoch
            )
            try:
                future.result(timeout=30)
            except Conflict:
                continue
            return

    def drive(self, freeze: Callable[[], Any]) -> None:
        """Complete the build, unless another member takes it."""
        state = BuildMachine.rehydrate(self.log.read_build(self.build)).state
        if running := state.running:
            self.record(CheckpointInterrupted(running.name, running.attempts, "host-lost"))
        elif state.lifecycle is Lifecycle.QUEUED:  # others may have taken it without starting it
            self.record(BuildStarted())
        for record in state.checkpoints[state.completed :]:
            attempt = state.next_attempt(record.name)
            self.record(CheckpointStarted(record.name, attempt, record.key, "log"))
            freeze()
            self.record(CheckpointCompleted(record.name, attempt, record.key, 1.0))
        self.record(BuildCompleted())


def test_builds_that_move_between_freezing_members_complete_each_checkpoint_once(
    farm: Postgresql, submission: Any
) -> None:
    names = [f"b{number}" for number in range(6)]
    moved = []

    def work(log: EventLog, host: str, seed: int) -> None:
        chance = random.Random(seed)
        pause = threading.Event()
        for _ in range(400):
            open_ = [summary.id for summary in log.unfinished()]
            if not open_:
                return
            try:
                owner = Owner(log, host, chance.choice(open_))
                owner.drive(lambda: pause.wait(chance.choice([0, 0, 0.005, 0.03])))
            except (Fenced, Conflict, Refused) as error:
                moved.append(error)
        raise AssertionError("the builds do not end")

    with members_of(farm) as logs:
        for name in names:
            logs[0].append(name, 0, [submission()], Actor(), NOW).result()
        with ThreadPoolExecutor(4) as threads:
            working = [
                threads.submit(work, logs[seed % 2], MEMBERS[seed % 2], seed) for seed in range(4)
            ]
            for future in working:
                future.result()
        assert logs[0].unfinished() == []
        assert any(isinstance(error, Fenced) for error in moved)
        assert violations(farm) == []
        assert logs[1].verify_all() == []


def replaced(farm: Postgresql, *changes: tuple[str, str]) -> None:
    """Install the functions with a defect."""
    text = SQL
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    with psycopg.connect(farm.administrator, options="-c search_path=dcd") as connection:
        connection.execute("CREATE SEQUENCE serial")
        connection.execute("GRANT ALL ON SEQUENCE serial TO PUBLIC")
        connection.execute(text)


def zombie(farm: Postgresql, submission: Any) -> None:
    """A member freezes in a checkpoint; another one takes the build and completes it; the first returns."""
    with members_of(farm) as (here, there):
        here.append("b1", 0, [submission()], Actor(), NOW).result()
        first = Owner(here, "here", "b1")
        key = "0" * 64
        first.record(BuildStarted(), CheckpointStarted("c0", 1, key, "log"))
        second = Owner(there, "there", "b1")
        second.record(
            CheckpointInterrupted("c0", 1, "host-lost"), CheckpointStarted("c0", 2, key, "log")
        )
        second.record(CheckpointCompleted("c0", 2, key, 1.0))
        first.record(CheckpointCompleted("c0", 1, key, 1.0))


def test_a_member_that_returns_is_fenced(farm: Postgresql, submission: Any) -> None:
    with pytest.raises(Fenced):
        zombie(farm, submission)
    assert violations(farm) == []


def test_control_without_the_fence_a_checkpoint_completes_twice(
    farm: Postgresql, submission: Any
) -> None:
    replaced(
        farm,
        (
            "IF owner.epoch IS DISTINCT FROM dcd_fenced.epoch OR NOT EXISTS (",
            "IF false AND EXISTS (",
        ),
    )
    zombie(farm, submission)
    assert violations(farm) == [
        "b1: CheckpointCompleted by here 1, but there 2 owns it",
        "b1: c0 completed again",
    ]


def missed(farm: Postgresql, submission: Any) -> list[int]:
    """The positions that a follower never sees, while two members append at the same time."""
    other = farm.directory / "other"
    other.mkdir()
    with (
        farm.open() as log,
        PostgresqlLog(farm.cluster.dsn(farm.name, "dcd-there"), other) as there,
        connect(farm.dsn) as slow,
    ):
        request = Append((), Actor(), NOW)
        sent = prepare(request, Part("slow", 0, (submission(),)), None).sent
        with slow.transaction():
            text = [psycopg.types.json.Json(sent[name]) for name in ("events", "row", "keys")]
            slow.execute("SELECT dcd_append('slow', NULL, 0, %s, %s, %s)", text)
            quick = there.append("quick", 0, [submission()], Actor(), NOW)
            threading.Event().wait(0.3)
            seen = [event.position for event in log.read(after=0)]
        quick.result(timeout=30)
        seen += [event.position for event in log.read(after=max(seen, default=0))]
        return sorted({event.position for event in log.read(after=0)} - set(seen))


def test_a_follower_misses_nothing(farm: Postgresql, submission: Any) -> None:
    assert missed(farm, submission) == []
    assert violations(farm) == []


def test_control_with_positions_of_a_sequence_a_follower_misses_events(
    farm: Postgresql, submission: Any
) -> None:
    replaced(
        farm,
        ("  PERFORM FROM head FOR UPDATE;\n", ""),
        (
            "SELECT position + 1 INTO first_position FROM head;",
            "first_position := nextval('serial');",
        ),
        ("    UPDATE head SET position = next_position;\n", ""),
    )
    with psycopg.connect(farm.administrator) as connection:
        connection.execute("ALTER TABLE dcd.events DISABLE TRIGGER ALL")
    assert missed(farm, submission) == [1]
