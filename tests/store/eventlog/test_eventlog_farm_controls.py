"""Members that take builds from each other, and freeze and return at any time. The checks read the rows
themselves; the controls take the fence, and the order of positions, away, and the checks must notice."""

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from statemachine.build import Lifecycle
from statemachine.errors import DcdError, Refused, Unavailable
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
from store.eventlog.postgresql.members import add, heartbeat, lost
from store.eventlog.postgresql.writer import prepare
from store.eventlog.writer import Append, Part
from tests.farms import HOSTS, violations
from tests.postgresql import Cluster
from tests.store.eventlog.conftest import FUNCTIONS, NOW, Postgresql, until

pytestmark = pytest.mark.faults

FOUR = (*HOSTS, "third", "fourth")
GAP_SECONDS = 10.0
LOST_SECONDS = 60.0
PATIENCE_SECONDS = 300.0
"""Only a defect takes so long, however loaded the machine is."""

THEFTS = 12
"""So many times a thread takes a build of another one. Without a bound, threads that take the last build from
each other seldom let anybody complete a checkpoint of it."""


@contextmanager
def members_of(farm: Postgresql, *hosts: str) -> Iterator[list[PostgresqlLog]]:
    logs = []
    try:
        for host in hosts:
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

    def __init__(
        self, log: EventLog, host: str, build: str, acknowledged: dict[int, str] | None = None
    ) -> None:
        self.log, self.build = log, build
        self.acknowledged = {} if acknowledged is None else acknowledged
        self.epoch = log.take(build, host)
        self.actor = Actor(user=f"{host} {self.epoch}")

    def record(self, *payloads: Payload) -> None:
        while True:
            sequence = self.log.summary(self.build).sequence
            future = self.log.append(
                self.build, sequence, payloads, self.actor, NOW, epoch=self.epoch
            )
            try:
                events = future.result(timeout=PATIENCE_SECONDS)
            except Conflict:
                continue
            self.acknowledged |= {event.position: event.hash for event in events}
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


def contend(
    log: EventLog,
    host: str,
    own: Sequence[str],
    chance: random.Random,
    freezes_seconds: Sequence[float],
    acknowledged: dict[int, str] | None = None,
) -> list[DcdError]:
    """Drive builds, at first any, which takes them from other threads, and in the end only its `own`: so all
    end. Returns what was refused."""
    pause = threading.Event()
    refused: list[DcdError] = []
    thefts = 0
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            open_ = [summary.id for summary in log.unfinished()]
            if not (choice := [build for build in open_ if thefts < THEFTS or build in own]):
                return refused
            build = chance.choice(choice)
            thefts += build not in own
            owner = Owner(log, host, build, acknowledged)
            owner.drive(lambda: pause.wait(chance.choice(freezes_seconds)))
        except (Fenced, Conflict, Refused) as error:
            refused.append(error)
        except Unavailable:
            pause.wait(0.02)
    raise AssertionError(f"the builds {open_} do not end")


def test_builds_that_move_between_freezing_members_complete_each_checkpoint_once(
    farm: Postgresql, submission: Any
) -> None:
    names = [f"b{number}" for number in range(6)]
    with members_of(farm, *HOSTS) as logs:
        for name in names:
            logs[0].append(name, 0, [submission()], Actor(), NOW).result()
        with ThreadPoolExecutor(4) as threads:
            working = [
                threads.submit(
                    contend,
                    logs[seed % 2],
                    HOSTS[seed % 2],
                    names[seed::4],
                    random.Random(seed),
                    (0, 0, 0.005, 0.03),
                )
                for seed in range(4)
            ]
            refused = [error for future in working for error in future.result()]
        assert logs[0].unfinished() == []
        assert any(isinstance(error, Fenced) for error in refused)
        assert violations(farm.administrator) == []
        assert logs[1].verify_all() == []


def replaced(farm: Postgresql, *changes: tuple[str, str]) -> None:
    """Install the functions with a defect."""
    text = FUNCTIONS
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    with psycopg.connect(farm.administrator, options="-c search_path=dcd") as connection:
        connection.execute("CREATE SEQUENCE serial")
        connection.execute("GRANT ALL ON SEQUENCE serial TO PUBLIC")
        connection.execute(text)


def zombie(farm: Postgresql, submission: Any) -> None:
    """A member freezes in a checkpoint; another one takes the build and completes it; the first returns."""
    with members_of(farm, *HOSTS) as (here, there):
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
    assert violations(farm.administrator) == []


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
    assert violations(farm.administrator) == [
        "b1: CheckpointCompleted by here 1, but there 2 owns it",
        "b1: c0 completed again",
    ]


def missed(farm: Postgresql, submission: Any, seconds: float) -> list[int]:
    """The positions that a follower never sees, while two members append at the same time: it looks when the
    second is acknowledged, or so many seconds have passed, and the first is not yet committed."""
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
            slow.execute("SELECT dcd_append_all(%s)", [psycopg.types.json.Json([[sent]])])
            quick = there.append("quick", 0, [submission()], Actor(), NOW)
            wait([quick], seconds)
            seen = [event.position for event in log.read(after=0)]
        quick.result(timeout=120)
        seen += [event.position for event in log.read(after=max(seen, default=0))]
        return sorted({event.position for event in log.read(after=0)} - set(seen))


def test_a_follower_misses_nothing(farm: Postgresql, submission: Any) -> None:
    assert missed(farm, submission, seconds=0.3) == []
    assert violations(farm.administrator) == []


def test_control_with_positions_of_a_sequence_a_follower_misses_events(
    farm: Postgresql, submission: Any
) -> None:
    replaced(
        farm,
        ("  PERFORM FROM head FOR UPDATE;\n", ""),
        (
            "SELECT coalesce(max(e.position), 0) + 1 INTO first_position FROM events e;",
            "first_position := nextval('serial');",
        ),
        ("  UPDATE head SET position = (SELECT coalesce(max(e.position), 0) FROM events e);\n", ""),
    )
    with psycopg.connect(farm.administrator) as connection:
        connection.execute("ALTER TABLE dcd.events DISABLE TRIGGER ALL")
    assert missed(farm, submission, seconds=PATIENCE_SECONDS) == [1]


def reaped(farm: Postgresql, submission: Any) -> list[str]:
    """What is refused to a living member after an outage of the database, during which nobody could send
    heartbeats: others take the builds of those that they may call lost."""
    with members_of(farm, *HOSTS) as (here, there), connect(there._dsn) as reaper:
        here.append("b1", 0, [submission()], Actor(), NOW).result()
        owner = Owner(here, "here", "b1")
        owner.record(BuildStarted())
        for host in HOSTS:
            with connect(farm.cluster.dsn(farm.name, f"dcd-{host}")) as member:
                heartbeat(member, GAP_SECONDS, [], "1.0")
        with psycopg.connect(farm.administrator) as outage:
            outage.execute("UPDATE dcd.members SET seen_at = seen_at - interval '10 min'")
        heartbeat(reaper, GAP_SECONDS, [], "1.0")  # the quickest, when the database is back
        for host in lost(reaper, LOST_SECONDS):
            assert host == "here"
            Owner(there, "there", "b1")
        try:
            owner.record(CheckpointStarted("c0", 1, "k", "log"))
        except Fenced as error:
            return [error.details]
        return []


def test_after_an_outage_nobody_takes_the_builds_of_the_living(
    farm: Postgresql, submission: Any
) -> None:
    assert reaped(farm, submission) == []
    assert violations(farm.administrator) == []


def test_control_a_naive_reaper_takes_the_builds_of_the_living(
    farm: Postgresql, submission: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    naive = "SELECT host FROM members WHERE seen_at < now() - make_interval(secs => %(seconds)s)"
    monkeypatch.setattr("store.eventlog.postgresql.members._LOST", naive)
    assert reaped(farm, submission) == ["there holds it in epoch 2"]


@pytest.fixture
def crashing(initialised: Cluster, tmp_path: Path) -> Iterator[Postgresql]:
    """A farm of four members on a server of its own."""
    cluster = Cluster(initialised).start()
    try:
        farm = Postgresql(cluster, "farm", tmp_path)
        for host in FOUR[len(HOSTS) :]:
            add(farm.administrator, host, ["amd64"])
        yield farm
    finally:
        cluster.remove()


def test_a_crash_of_the_database_under_members_that_take_builds_breaks_nothing(
    crashing: Postgresql, submission: Any
) -> None:
    """Killed twice while four members drive builds, and take them from each other."""
    names = [f"b{number}" for number in range(8)]
    acknowledged: dict[int, str] = {}
    with members_of(crashing, *FOUR) as logs:
        for name in names:
            logs[0].append(name, 0, [submission(checkpoints=6)], Actor(), NOW).result()
        with ThreadPoolExecutor(8) as threads:
            working = [
                threads.submit(
                    contend,
                    logs[seed % 4],
                    FOUR[seed % 4],
                    [name],
                    random.Random(seed),
                    (0, 0.005, 0.02),
                    acknowledged,
                )
                for seed, name in enumerate(names)
            ]
            for facts in (30, 60):  # of more than 100
                until(lambda facts=facts: len(acknowledged) >= facts, PATIENCE_SECONDS)
                crashing.cluster.stop(signal.SIGQUIT)
                crashing.cluster.start()
            for future in working:
                future.result()
    assert violations(crashing.administrator) == []
    with connect(crashing.administrator) as connection:
        written = dict(connection.execute("SELECT position, hash FROM events").fetchall())
    assert len(acknowledged) > 100
    assert {position: written.get(position) for position in acknowledged} == acknowledged
    with crashing.open() as log:
        assert log.verify_all() == []
