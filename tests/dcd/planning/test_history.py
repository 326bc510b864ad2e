"""What earlier builds tell about a plan: how long its checkpoints take, and which build it is like."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from dcd.planning.history import expected, most_alike
from statemachine.build import BuildState, CheckpointRecord, CheckpointState, Lifecycle
from statemachine.events import Actor
from statemachine.keys import chain, with_salt
from statemachine.plan import Ingredient, Plan, PlannedCheckpoint

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def plan(*checkpoints: tuple[str, str], code: str = "1") -> Plan:
    """Checkpoints by name and class, estimated at a minute."""
    return chain(
        PlannedCheckpoint(name, "", "module", cls, "", (Ingredient("code", "", name + code),))
        for name, cls in checkpoints
    )


def build(number: int, of: Plan, *seconds: float | None, path: str = "/m.xml") -> BuildState:
    """A build whose checkpoints took so many seconds (None: reused)."""
    records = tuple(
        CheckpointRecord(
            planned.name,
            planned.key,
            CheckpointState.REUSED if took is None else CheckpointState.COMPLETED,
            seconds=took,
        )
        for planned, took in zip(of.checkpoints, seconds, strict=True)
    )
    state = Lifecycle.COMPLETED
    return BuildState(
        f"b{number}", "live", state, of, records, "<dc/>", path, NOW, NOW, Actor(),
    )  # fmt: skip


def estimates(of: Plan) -> list[float]:
    return [planned.estimate_seconds for planned in of.checkpoints]


TWO = plan(("fetch", "Transfer"), ("pack", "Compress"))


def test_without_a_history_the_estimates_are_the_checkpoints_own() -> None:
    assert estimates(expected(TWO, [], [])) == [60.0, 60.0]


def test_estimates_are_the_median_of_the_newest_durations() -> None:
    builds = [build(number, TWO, took, 5.0) for number, took in enumerate([10, 200, 30, 20, 25, 9])]
    assert estimates(expected(TWO, builds, [])) == [25.0, 5.0]


def test_what_was_reused_says_nothing_about_time() -> None:
    builds = [build(2, TWO, None, None), build(1, TWO, 100.0, 7.0)]
    assert estimates(expected(TWO, builds, [])) == [100.0, 7.0]


@pytest.mark.parametrize(
    ("earlier", "seconds"),
    [
        (("fetch", "Transfer"), 12.0),
        (("other", "Transfer"), 12.0),
        (("fetch", "Script"), 60.0),
    ],
    ids=["name and class", "class", "name alone"],
)
def test_durations_go_by_name_and_class(earlier: tuple[str, str], seconds: float) -> None:
    known = [build(1, plan(earlier), 12.0)]
    assert estimates(expected(plan(("fetch", "Transfer")), known, [])) == [seconds]


def test_durations_of_the_same_arguments_count_before_others() -> None:
    def script(argument: str, name: str = "post") -> Plan:
        (planned,) = plan((name, "Script")).checkpoints
        return Plan((replace(planned, args=(argument,)),))

    known = [
        build(4, script("long"), 500.0),
        build(3, script("short"), 5.0),
        build(2, script("short"), 7.0),
        build(1, script("other"), 70.0),
    ]
    assert estimates(expected(script("short"), known, [])) == [6.0]
    assert estimates(expected(script("short", "renamed"), known, [])) == [6.0]
    assert estimates(expected(script("new"), known, [])) == [38.5]
    assert estimates(expected(script("long"), known[1:], known[:1])) == [500.0]


def test_the_same_distribution_knows_better_than_others() -> None:
    ours, theirs = [build(1, TWO, 10.0, 20.0)], [build(2, TWO, 1.0, 2.0)]
    assert estimates(expected(TWO, ours, theirs)) == [10.0, 20.0]
    assert estimates(expected(TWO, [], theirs)) == [1.0, 2.0]


def test_an_estimate_is_no_ingredient() -> None:
    known = expected(TWO, [build(1, TWO, 10.0, 20.0)], [])
    assert [p.key for p in known.checkpoints] == [p.key for p in TWO.checkpoints]


def test_a_plan_is_compared_with_a_build_of_its_own_manifest() -> None:
    other = plan(("fetch", "Transfer"), ("pack", "Compress"), ("iso", "ISO"))
    builds = [build(2, other, 1.0, 1.0, 1.0, path="/other.xml"), build(1, TWO, 1.0, 1.0)]
    found = most_alike(TWO, "/m.xml", builds)
    assert found is not None
    assert found.id == "b1"


def test_of_one_manifest_the_build_with_most_in_common_counts_then_the_newest() -> None:
    edited = plan(("fetch", "Transfer"), ("pack", "Compress"), code="2")
    builds = [build(3, edited, 1.0, 1.0), build(2, TWO, 1.0, 1.0), build(1, TWO, 1.0, 1.0)]
    assert most_alike(TWO, "/m.xml", builds).id == "b2"
    assert most_alike(TWO, "/m.xml", []) is None


def test_what_a_fresh_build_declined_does_not_make_it_another() -> None:
    fresh = build(2, with_salt(TWO, 0, "s"), 1.0, 1.0)
    edited = build(3, plan(("fetch", "Transfer"), code="2"), 1.0)
    assert most_alike(TWO, "/m.xml", [edited, fresh]).id == "b2"


def test_an_unfinished_build_can_be_compared_with() -> None:
    pending = replace(build(1, TWO, 1.0, 1.0), lifecycle=Lifecycle.PAUSED)
    assert most_alike(TWO, "/m.xml", [pending]) is pending


@pytest.mark.root
def test_plan_and_submit_use_what_earlier_builds_took(daemon, write_manifest):
    manifest = write_manifest(("one", "sleep 2"), ("two", "sleep 0.3"))
    constant = daemon.json("plan", manifest)["checkpoints"][0]["estimate_seconds"]
    first = daemon.submit(manifest)
    daemon.wait(first, "completed")
    took = [checkpoint["seconds"] for checkpoint in daemon.status(first)["checkpoints"]]

    daemon.ctl("gc", "--max-bytes", "0")
    planned = daemon.json("plan", manifest)["checkpoints"]
    second = daemon.submit(manifest, "--fresh")

    assert constant == 60.0
    assert [checkpoint["estimate_seconds"] for checkpoint in planned] == took
    shown = daemon.status(second)["checkpoints"]
    assert [checkpoint["estimate_seconds"] for checkpoint in shown] == took
    daemon.wait(second, "completed")


@pytest.mark.root
def test_the_reason_is_about_the_build_that_had_the_result(daemon, write_manifest):
    """The newest build is of an edited manifest: it is not the one whose layer is missed."""
    manifest = write_manifest(("one", "true"), ("two", "true"))
    first = daemon.submit(manifest)
    daemon.wait(first, "completed")
    daemon.ctl("gc", "--max-bytes", "0")
    original = manifest.read_text()
    edited = write_manifest(("one", "true; true"), ("two", "true"))
    second = daemon.submit(edited)
    daemon.wait(second, "completed")
    manifest.write_text(original)

    reasons = [c["reason"] for c in daemon.json("plan", manifest)["checkpoints"]]

    assert reasons == [f"its layer was removed since build {first}"] * 2
