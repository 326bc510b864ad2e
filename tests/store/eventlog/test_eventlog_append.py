"""Appending: all or nothing, in order, one fsync for many, acknowledged only when on disk."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from statemachine.errors import DcdError, NotFound, Unavailable, UsageError
from statemachine.events import (
    Actor,
    BuildCancelled,
    BuildRewound,
    BuildStarted,
    CancelRequested,
    Event,
    PauseRequested,
    Payload,
)
from store.eventlog import Conflict, DuplicateSubmission, EventLog
from tests.store.eventlog.conftest import Database

Append = Callable[..., list[Event]]
NOW = datetime(2026, 1, 1, 12, 30, 0, 5, tzinfo=UTC)
ACTOR = Actor(1000, 1000, 4711, "ada")
"""Whoever `append` appends for."""


def queue(log: EventLog, build: str, expected: int, *payloads: Payload) -> "Future[list[Event]]":
    return log.append(build, expected, payloads, Actor(), NOW)


class Held:
    """A log whose writer is held in the middle of telling a commit, so that appends pile up."""

    def __init__(self, database: Database) -> None:
        self.commits: list[int] = []
        self.holding, self.release = threading.Event(), threading.Event()
        self.release.set()
        self.log = database.open(self.told)

    def told(self, position: int, seconds: float | None) -> None:
        if seconds is None:
            return  # a connection beside the writer's has seen the commit
        self.commits.append(position)
        self.holding.set()
        assert self.release.wait(timeout=30)

    def hold(self) -> None:
        """Make one commit and stay there."""
        self.holding.clear()
        self.release.clear()
        queue(self.log, "holds", 0, self.submitted)
        assert self.holding.wait(timeout=30)


@pytest.fixture
def held(database: Database, submission: Callable[..., Any]) -> Any:
    held = Held(database)
    held.submitted = submission()  # type: ignore[attr-defined]
    yield held
    held.release.set()
    held.log.close()


def test_what_is_appended_is_read_back_as_it_was(
    log: EventLog, submission: Callable[..., Any], append: Append
) -> None:
    submitted = submission(pause_before="c1", parameters={"hostname": "böx"}, priority=-3)
    appended = append(log, "b1", 0, submitted) + append(log, "b1", 1, BuildStarted())
    assert log.read_build("b1") == appended
    assert [(event.position, event.sequence) for event in appended] == [(1, 1), (2, 2)]
    assert appended[0].data == submitted
    assert appended[0].actor.user == "ada"
    assert log.position == 2


def test_what_is_appended_is_there_after_a_restart(
    database: Database, submission: Callable[..., Any], append: Append
) -> None:
    with database.open() as log:
        appended = append(log, "b1", 0, submission())
    with database.open() as log:
        assert log.read_build("b1") == appended
        assert append(log, "b1", 1, BuildStarted())[0].position == 2


def test_times_are_kept_to_the_microsecond_in_utc(
    log: EventLog, submission: Callable[..., Any]
) -> None:
    queue(log, "b1", 0, submission()).result()
    assert log.read_build("b1")[0].time == NOW


def test_an_append_after_another_one_is_a_conflict_and_leaves_nothing(
    log: EventLog, submission: Callable[..., Any], append: Append
) -> None:
    append(log, "b1", 0, submission())
    with pytest.raises(Conflict, match="b1 has changed in the meantime"):
        append(log, "b1", 0, submission())
    with pytest.raises(Conflict):
        append(log, "b1", 7, BuildStarted())
    assert len(log.read_build("b1")) == log.position == 1


def test_payloads_are_appended_together_or_not_at_all(
    log: EventLog, submission: Callable[..., Any], append: Append
) -> None:
    append(log, "b1", 0, submission())
    append(log, "b1", 1, CancelRequested(), BuildCancelled())
    with pytest.raises(NotFound):
        append(log, "b1", 3, BuildStarted(), BuildRewound("nope"))
    assert [event.sequence for event in log.read_build("b1")] == [1, 2, 3]


def test_a_build_begins_with_its_submission(log: EventLog, append: Append) -> None:
    with pytest.raises(DcdError, match="begins with BuildStarted"):
        append(log, "b1", 0, BuildStarted())
    assert log.position == 0


def test_no_payloads_are_no_events(
    log: EventLog, submission: Callable[..., Any], append: Append
) -> None:
    append(log, "b1", 0, submission())
    assert append(log, "b1", 1) == []
    assert append(log, "none", 0) == []


def test_text_that_cannot_be_stored_is_refused_and_hurts_nobody_else(
    log: EventLog, submission: Callable[..., Any], append: Append
) -> None:
    append(log, "b1", 0, submission())
    with pytest.raises(UsageError, match="not Unicode"):
        append(log, "b1", 1, PauseRequested("\udc80"))
    append(log, "b1", 1, BuildStarted())
    assert log.trouble is None


def test_a_defect_in_one_append_comes_out_of_it_and_the_log_goes_on(held: Any) -> None:
    held.hold()
    good = [queue(held.log, f"b{n}", 0, held.submitted) for n in range(3)]
    bad = queue(held.log, "bad", 0, replace(held.submitted, priority=2**70))
    later = queue(held.log, "later", 0, held.submitted)
    held.release.set()
    assert [len(future.result()) for future in (*good, later)] == [1, 1, 1, 1]
    with pytest.raises((OverflowError, DcdError)):
        bad.result()
    assert held.log.trouble is None
    with pytest.raises(NotFound):
        held.log.read_build("bad")


def test_appends_that_wait_share_a_commit(held: Any) -> None:
    held.hold()
    futures = [queue(held.log, f"b{n}", 0, held.submitted) for n in range(20)]
    held.release.set()
    assert [future.result()[0].position for future in futures] == list(range(2, 22))
    held.log.close()
    assert held.commits == [1, 21]


def test_one_bad_append_does_not_fail_the_others_of_its_commit(held: Any) -> None:
    held.hold()
    good = queue(held.log, "b1", 0, held.submitted)
    moved_on = queue(held.log, "b1", 0, held.submitted)
    unfoldable = queue(held.log, "b1", 1, BuildRewound("nope"))
    also_good = queue(held.log, "b1", 1, BuildStarted())
    held.release.set()
    assert isinstance(moved_on.exception(), Conflict)
    assert isinstance(unfoldable.exception(), NotFound)
    assert (good.result()[0].sequence, also_good.result()[0].sequence) == (1, 2)
    assert held.log.verify("b1") == []


def test_an_append_that_is_cancelled_while_it_waits_leaves_nothing(
    held: Any, database: Database
) -> None:
    held.hold()
    future = queue(held.log, "b1", 0, held.submitted)
    assert future.cancel()
    held.release.set()
    held.log.close()
    with database.open() as log, pytest.raises(NotFound):
        log.read_build("b1")


def test_closing_writes_what_is_queued_and_takes_no_more(held: Any) -> None:
    held.hold()
    future = queue(held.log, "b1", 0, held.submitted)
    held.release.set()
    held.log.close()
    held.log.close()
    assert future.result()[0].build == "b1"
    with pytest.raises(Unavailable, match="closed"):
        queue(held.log, "b2", 0, held.submitted).result()


def test_a_listener_without_a_loop_does_not_stop_the_writer(
    database: Database, submission: Callable[..., Any], append: Append
) -> None:
    def closed(position: int, seconds: float | None) -> None:
        raise RuntimeError("Event loop is closed")

    with database.open(closed) as log:
        append(log, "b1", 0, submission())
        append(log, "b1", 1, BuildStarted())


def test_many_threads_append_without_gaps(
    log: EventLog, submission: Callable[..., Any], append: Append
) -> None:
    def one_build(number: int) -> None:
        build = f"b{number}"
        append(log, build, 0, submission())
        for sequence in range(1, 20):
            append(log, build, sequence, PauseRequested("c1"))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(one_build, range(8)))
    assert [event.position for event in log.read()] == list(range(1, 161))
    for number in range(8):
        assert [e.sequence for e in log.read_build(f"b{number}")] == list(range(1, 21))
        assert log.verify(f"b{number}") == []


def test_of_many_who_append_the_same_sequence_one_wins(
    log: EventLog, submission: Callable[..., Any], append: Append
) -> None:
    append(log, "b1", 0, submission())
    futures = [queue(log, "b1", 1, PauseRequested(f"c{n % 3}")) for n in range(10)]
    failures = [future.exception() for future in futures]
    assert sum(failure is None for failure in failures) == 1
    assert sum(isinstance(failure, Conflict) for failure in failures) == 9


def test_an_idempotency_key_is_used_once(
    log: EventLog, submission: Callable[..., Any], append: Append
) -> None:
    append(log, "b1", 0, submission(idempotency_key="k"))
    with pytest.raises(DuplicateSubmission) as caught:
        append(log, "b2", 0, submission(idempotency_key="k"))
    assert caught.value.build == "b1"
    assert log.by_idempotency_key(ACTOR.uid, "k") == "b1"
    assert log.by_idempotency_key(ACTOR.uid, "other") is None


def test_an_idempotency_key_belongs_to_its_user(
    database: Database, submission: Callable[..., Any]
) -> None:
    with database.open() as log:
        for uid in (1000, 1001, 0):
            payloads = [submission(idempotency_key="k", request_sha256="aa")]
            actor = replace(ACTOR, uid=uid)
            log.append(f"b{uid}", 0, payloads, actor, NOW).result(30)
            with pytest.raises(DuplicateSubmission):
                log.append(f"again{uid}", 0, payloads, actor, NOW).result(30)
        assert log.verify_projection() == []
    with database.open() as log:
        found = {uid: log.by_idempotency_key(uid, "k") for uid in (1000, 1001, 0, 2)}
    assert found == {1000: "b1000", 1001: "b1001", 0: "b0", 2: None}


def test_a_key_of_version_0_1_0_is_its_users_and_no_hindrance_to_others(
    log: EventLog, submission: Callable[..., Any], append: Append
) -> None:
    append(log, "old", 0, submission(idempotency_key="k"))
    payloads = [submission(idempotency_key="k", request_sha256="aa")]
    assert log.by_idempotency_key(ACTOR.uid, "k") == "old"
    assert log.by_idempotency_key(1001, "k") is None
    log.append("new", 0, payloads, replace(ACTOR, uid=1001), NOW).result(30)
    assert log.by_idempotency_key(1001, "k") == "new"


def test_an_idempotency_key_is_used_once_within_a_commit_too(
    held: Any, submission: Callable[..., Any]
) -> None:
    held.hold()
    futures = [queue(held.log, f"b{n}", 0, submission(idempotency_key="k")) for n in range(3)]
    held.release.set()
    assert futures[0].exception() is None
    for future in futures[1:]:
        error = future.exception()
        assert isinstance(error, DuplicateSubmission) and error.build == "b0"


def test_a_follower_reads_on_from_where_it_was(
    log: EventLog, submission: Callable[..., Any], append: Append
) -> None:
    for build in ("b1", "b2"):
        append(log, build, 0, submission())
        append(log, build, 1, BuildStarted())
    assert [event.position for event in log.read(after=1, limit=2)] == [2, 3]
    assert [event.position for event in log.read(build="b2")] == [3, 4]
    assert [event.position for event in log.read(build="b2", after=3)] == [4]
    assert log.read(after=4) == []


def test_builds_appended_together_are_all_there_or_none(
    database: Database, submission: Callable[..., Any]
) -> None:
    with database.open() as log:
        taken = submission(idempotency_key="k", request_sha256="1")
        log.append("old", 0, [taken], ACTOR, NOW).result()
        refused = {"g-a": [submission()], "g-b": [taken]}
        with pytest.raises(DuplicateSubmission):
            log.append_together(refused, ACTOR, NOW).result()
        with pytest.raises(NotFound):
            log.group("g")
        cells = {"g-b": {"suite": "b"}, "g-a": {"suite": "a"}}
        first = {
            each: [submission(group="g", cell=tuple(cell.items()))] for each, cell in cells.items()
        }
        log.append_together(first, ACTOR, NOW).result()
        with pytest.raises(Conflict):
            log.append_together({"g-c": [submission()], "g-a": [submission()]}, ACTOR, NOW).result()
    with database.open() as log:
        group, members = log.group("g")
        assert (group, [(each.id, cell) for each, cell in members]) == ("g", [*cells.items()])
        assert log.verify_all() == []
        for unknown in ("g-", "x", ""):
            with pytest.raises(NotFound):
                log.group(unknown)
