"""Lists and layer keys: what they show, that they equal the fold, and that they can be made anew."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from statemachine.build import Lifecycle
from statemachine.commands import (
    Pause,
    Remove,
    RequestCancel,
    RequestPause,
    Resume,
    Start,
)
from statemachine.errors import NotFound, Refused, Removed
from statemachine.events import BuildCancelled, BuildFailed, BuildResumed, InputFile
from statemachine.plan import Locked
from statemachine.rebuild import Rebuild
from statemachine.results import ErrorInfo
from store.eventlog import EventLog
from tests.store.eventlog.conftest import Database

Submit = Callable[..., Any]
ACTIONS = {
    "run": lambda build: build.run(1),
    "pause": lambda build: build.do(RequestPause()),
    "pause later": lambda build: build.do(RequestPause("c2")),
    "paused": lambda build: build.do(Pause("because")),
    "fail": lambda build: build.do(BuildFailed(None, ErrorInfo("no"))),
    "resume": lambda build: build.do(Resume()),
    "rewind": lambda build: build.do(Resume(from_checkpoint="c0")),
    "cancel": lambda build: build.do(RequestCancel(), BuildCancelled()),
    "remove": lambda build: build.do(Remove()),
}
histories = st.lists(st.lists(st.sampled_from(sorted(ACTIONS)), max_size=8), min_size=1, max_size=3)


@given(histories=histories)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_after_any_history_the_projection_is_what_the_events_say(
    log: EventLog, submit: Submit, histories: list[list[str]]
) -> None:
    for actions in histories:
        build = submit(log, f"b{log.position}")
        for action in actions:
            try:
                ACTIONS[action](build)
            except (Refused, Removed):
                continue
        summary = log.summary(build.state.id)
        state = build.state
        assert (summary.state, summary.reason) == (state.lifecycle, state.reason)
        assert summary.completed_checkpoints == state.completed
        assert (summary.position, summary.sequence) == (state.log_position, state.sequence)
        assert (summary.removed, summary.pause_before) == (state.removed, state.pause_before)
    assert log.verify_projection() == []


def test_a_projection_that_differs_is_reported(database: Database, submit: Submit) -> None:
    with database.open() as log:
        build = submit(log, "b1").run(1)
        key = build.state.checkpoints[0].key
        database.forge("UPDATE builds SET state = 'completed'")
        database.forge("INSERT INTO layer_keys VALUES ('k', 'b1')")
        database.forge("DELETE FROM layer_keys WHERE key != 'k'")
        assert log.verify_projection() == [
            "build b1: its row differs from its events",
            *sorted(
                [f"build b1: layer key {key} is missing", "build b1: layer key k is extra"],
                key=lambda problem: problem.split()[4],
            ),
        ]


def test_builds_are_listed_newest_first_a_page_at_a_time(log: EventLog, submit: Submit) -> None:
    for number in range(5):
        submit(log, f"b{number}")
    first = log.list_builds(limit=2)
    assert [build.id for build in first] == ["b4", "b3"]
    rest = log.list_builds(limit=9, before=first[-1].submitted_position)
    assert [build.id for build in rest] == ["b2", "b1", "b0"]


def test_builds_are_listed_by_state(log: EventLog, submit: Submit) -> None:
    submit(log, "b1")
    submit(log, "b2").run(1)
    submit(log, "b3").complete()
    assert [b.id for b in log.list_builds(states=["queued", Lifecycle.COMPLETED])] == ["b3", "b1"]
    assert log.list_builds(states=[]) == []


def test_a_summary_shows_what_a_list_needs(log: EventLog, submit: Submit) -> None:
    build = submit(log, "b1", name="desktop", priority=5, pause_before="c2").run(2)
    build.do(Pause("because"))
    (summary,) = log.list_builds()
    assert (summary.name, summary.priority, summary.state) == ("desktop", 5, Lifecycle.PAUSED)
    assert (summary.completed_checkpoints, summary.total_checkpoints) == (2, 3)
    assert (summary.reason, summary.actor.user) == ("because", "ada")


def test_removed_builds_are_not_listed_but_can_be_looked_up(log: EventLog, submit: Submit) -> None:
    submit(log, "b1").complete().do(Remove())
    assert log.list_builds() == log.unfinished() == []
    assert log.summary("b1").removed
    assert log.resolve_prefix("b") == "b1"


def test_unfinished_builds_are_those_that_can_go_on_oldest_first(
    log: EventLog, submit: Submit
) -> None:
    submit(log, "completed").complete()
    submit(log, "cancelled").do(RequestCancel())
    submit(log, "failed").run(1).do(BuildFailed(None, ErrorInfo("no")))
    submit(log, "paused").do(RequestPause())
    submit(log, "running").run(1)
    submit(log, "queued")
    found = [build.id for build in log.unfinished()]
    assert found == ["failed", "paused", "running", "queued"]


def test_a_unique_prefix_names_a_build(log: EventLog, submit: Submit) -> None:
    for build in ("k2p7", "k2q1", "k2", "m"):
        submit(log, build)
    assert log.resolve_prefix("k2p") == "k2p7"
    assert log.resolve_prefix("k2") == "k2"
    assert log.resolve_prefix("m") == "m"
    with pytest.raises(NotFound, match="k names more than one build") as caught:
        log.resolve_prefix("k")
    assert caught.value.details == "k2, k2p7, k2q1"


@pytest.mark.parametrize("prefix", ["", "x", "k2p77", "%", "_", "k2p7'"])
def test_a_prefix_of_nothing_is_not_found(log: EventLog, submit: Submit, prefix: str) -> None:
    submit(log, "k2p7")
    with pytest.raises(NotFound):
        log.resolve_prefix(prefix)


def test_a_layer_key_is_known_from_the_start_of_its_attempt_until_its_build_is_removed(
    log: EventLog, submit: Submit
) -> None:
    one = submit(log, "b1").complete()
    keys = [record.key for record in one.state.checkpoints]
    assert log.known_keys(["other", *keys]) == set(keys)
    two = submit(log, "b2").run(1)
    one.do(Remove())
    assert log.known_keys(keys) == {keys[0]}
    two.do(RequestCancel(), BuildCancelled(), Remove())
    assert log.known_keys(keys) == set()


def test_a_question_for_many_keys_is_answered(log: EventLog, submit: Submit) -> None:
    build = submit(log, "b1").complete()
    keys = {record.key for record in build.state.checkpoints}
    assert log.known_keys([*(f"k{n}" for n in range(40_000)), *keys]) == keys


def test_inputs_stay_until_the_build_is_removed_or_cancelled(
    log: EventLog, submit: Submit, append: Callable[..., Any]
) -> None:
    a, b, c, d = (digit * 64 for digit in "abcd")
    done = submit(log, "b1", inputs=(InputFile("/a", a), InputFile("/b", b))).complete()
    compared = Rebuild("b0", "", "", "", manifests={"c0": c})
    rebuild = submit(log, "b2", inputs=(InputFile("/a", a),), rebuild=compared)
    failed = submit(log, "b3").do(Start(), BuildFailed(None, ErrorInfo("no"))).state
    append(log, "b3", failed.sequence, BuildResumed(inputs=(InputFile("/d", d),)))

    assert log.inputs() == {a, b, c, d}
    done.do(Remove())
    assert log.inputs() == {a, c, d}
    rebuild.do(RequestCancel())
    assert log.inputs() == {d}


def test_the_lists_that_a_build_is_locked_to_stay_until_it_ends(
    log: EventLog, submit: Submit
) -> None:
    """Also before its transfer, and when the build that captured them is removed."""
    submit(log, "b1")
    waiting = submit(log, "b2", locked=Locked(("e" * 64, "f" * 64)))
    assert log.resolved_lists() == {"e" * 64, "f" * 64}
    waiting.complete()
    assert log.resolved_lists() == set()


def test_lists_that_other_users_may_have_brought_can_be_left_out(
    log: EventLog, submit: Submit
) -> None:
    submit(log, "b1", locked=Locked(("d" * 64,), fetch=True))
    imported = submit(log, "b2", locked=Locked(("e" * 64,)))
    assert log.locked_builds_of_others({0, 1000}) == set()
    assert log.locked_builds_of_others({0, 1001}) == {"b2"}
    assert log.resolved_lists(without={"b2"}) == {"d" * 64}
    imported.complete().do(Remove())
    assert log.locked_builds_of_others({0}) == {"b2"}
