"""Any history of two members on one real database keeps the rules of a farm: takings, records of owners and
of those that were owners, commands, lost sessions and lost answers, in any order. DCD_SOAK=1 runs more."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from histories import run_histories
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from statemachine.build import Lifecycle
from statemachine.errors import Refused
from statemachine.events import (
    Actor,
    BuildCompleted,
    BuildStarted,
    CheckpointCompleted,
    CheckpointInterrupted,
    CheckpointStarted,
    PauseRequested,
    Payload,
)
from statemachine.machine import BuildMachine
from store.eventlog import Conflict, Fenced
from store.eventlog.postgresql.log import PostgresqlLog
from store.eventlog.postgresql.writer import PostgresqlWriter
from tests.farms import HOSTS, violations
from tests.store.eventlog.conftest import FUNCTIONS, NOW, Postgresql, _submission

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

BUILDS = ("b1", "b2", "b3")

hosts = st.sampled_from(HOSTS)
builds = st.sampled_from(BUILDS)
losses = st.sampled_from((None, None, "session", "question", "answer"))
"""What is lost of an append: the sessions of its member before it, the connection before it is sent, or its
answer."""


class Histories(RuleBasedStateMachine):
    farm: Postgresql

    @initialize()
    def begin(self) -> None:
        self.farm.forge(
            "TRUNCATE events, builds, layer_keys, placements; UPDATE head SET position = 0"
        )
        for host in HOSTS:
            directory = self.farm.directory / host
            directory.mkdir(exist_ok=True)
            (directory / "farm").unlink(missing_ok=True)
        self.logs = {host: self.opened(host) for host in HOSTS}
        self.acknowledged: dict[int, str] = {}
        self.tenures: dict[str, list[tuple[str, int]]] = {build: [] for build in BUILDS}
        for build in BUILDS:
            self.append("here", build, 0, None, _submission(build))

    def opened(self, host: str) -> PostgresqlLog:
        return PostgresqlLog(
            self.farm.cluster.dsn(self.farm.name, f"dcd-{host}"), self.farm.directory / host
        )

    def append(
        self,
        host: str,
        build: str,
        sequence: int,
        epoch: int | None,
        *payloads: Payload,
        lost: str | None = None,
    ) -> None:
        log = self.logs[host]
        actor = Actor() if epoch is None else Actor(user=f"{host} {epoch}")
        if lost == "session":
            self.farm.run(
                "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
                f" WHERE usename = 'dcd-{host}' AND datname = current_database()"
            )
        with losing(log, lost):
            future = log.append(build, sequence, payloads, actor, NOW, epoch=epoch)
            events = future.result(timeout=120)
        self.acknowledged |= {event.position: event.hash for event in events}

    def state(self, host: str, build: str) -> Any:
        return BuildMachine.rehydrate(self.logs[host].read_build(build)).state

    @rule(host=hosts, build=builds)
    def take(self, host: str, build: str) -> None:
        tenures = self.tenures[build]
        if self.state(host, build).ended:
            with pytest.raises(Refused):
                self.logs[host].take(build, host)
        else:
            tenures.append((host, self.logs[host].take(build, host)))
            assert tenures[-1][1] == len(tenures)

    @rule(build=builds, ago=st.sampled_from((0, 0, 0, 1, 2)), lost=losses)
    def record(self, build: str, ago: int, lost: str | None) -> None:
        """One that took the build, and perhaps lost it since, records the next fact of it."""
        tenures = self.tenures[build]
        if len(tenures) <= ago:
            return
        host, epoch = tenures[-1 - ago]
        state = self.state(host, build)
        if state.ended:
            return
        fact = next_fact(state, epoch)
        if ago:
            with pytest.raises(Fenced):
                self.append(host, build, state.sequence, epoch, fact, lost=lost)
        else:
            self.append(host, build, state.sequence, epoch, fact, lost=lost)

    @rule(host=hosts, build=builds, late=st.sampled_from((0, 0, 1)), lost=losses)
    def command(self, host: str, build: str, late: int, lost: str | None) -> None:
        """A person asks for a pause, perhaps after something else has happened that the member knew not."""
        state = self.state(host, build)
        if state.ended or state.completed > 1:
            return
        if late and state.sequence > 1:
            with pytest.raises(Conflict):
                self.append(host, build, state.sequence - 1, None, PauseRequested("c1"), lost=lost)
        else:
            self.append(host, build, state.sequence, None, PauseRequested("c2"), lost=lost)

    @rule(host=hosts)
    def restart(self, host: str) -> None:
        self.logs[host].close()
        self.logs[host] = self.opened(host)

    def teardown(self) -> None:
        try:
            if hasattr(self, "acknowledged"):
                self.check()
        finally:
            for log in getattr(self, "logs", {}).values():
                log.close()

    def check(self) -> None:
        assert violations(self.farm.administrator) == []
        with psycopg.connect(self.farm.administrator) as connection:
            rows = connection.execute("SELECT type, position, hash FROM dcd.events").fetchall()
        appended = {position: digest for kind, position, digest in rows if kind != "BuildPlaced"}
        assert appended == self.acknowledged, "each append happened once, or was refused"
        assert len(rows) - len(appended) == sum(map(len, self.tenures.values()))
        assert self.logs["there"].verify_all() == []


def next_fact(state: Any, epoch: int) -> Payload:
    """What the owner of a build records next."""
    if running := state.running:
        number = running.attempts
        if state.sequence % 3 == 0:
            return CheckpointInterrupted(running.name, number, "host-lost")
        return CheckpointCompleted(running.name, number, running.key, 1.0)
    if state.lifecycle is Lifecycle.QUEUED:
        return BuildStarted()
    for record in state.checkpoints[state.completed :]:
        return CheckpointStarted(record.name, state.next_attempt(record.name), record.key, "log")
    return BuildCompleted()


@contextmanager
def losing(log: PostgresqlLog, lost: str | None) -> Iterator[None]:
    """Lose the connection of one append of a log before it is sent, or its answer."""
    if lost not in ("question", "answer"):
        yield
        return
    really = PostgresqlWriter._sent
    once = iter((True,))

    def sent(self: PostgresqlWriter, prepared: Any) -> Any:
        if self is not log._writer or not next(once, False):
            return really(self, prepared)
        if lost == "answer":
            really(self, prepared)
        raise psycopg.OperationalError("the connection is lost")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PostgresqlWriter, "_sent", sent)
        yield


BOUNDED = settings(max_examples=5, stateful_step_count=25, derandomize=True)


def test_any_history_of_two_members_keeps_the_rules_of_a_farm(
    server: Any, new_farm: Any, tmp_path: Path
) -> None:
    class Here(Histories):
        farm = Postgresql(server, new_farm(), tmp_path)

    if os.environ.get("DCD_SOAK") == "1":
        run_histories(Here, BOUNDED, max_examples=300, derandomize=False)
    else:
        run_histories(Here, BOUNDED, phases=(Phase.generate,))


def test_control_without_the_fence_a_history_breaks_the_rules(
    server: Any, new_farm: Any, tmp_path: Path
) -> None:
    class Here(Histories):
        farm = Postgresql(server, new_farm(), tmp_path)

    text = FUNCTIONS
    fence = "IF owner.epoch IS DISTINCT FROM dcd_fenced.epoch OR NOT EXISTS ("
    assert fence in text
    Here.farm.run("SET search_path = dcd", text.replace(fence, "IF false AND EXISTS ("))
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        run_histories(Here, BOUNDED, max_examples=30, phases=(Phase.generate,))
