"""Rewinding, and resuming with another manifest, as commands."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from statemachine.build import Lifecycle
from statemachine.commands import (
    Pause,
    Replacement,
    RequestPause,
    Resume,
)
from statemachine.errors import Refused
from statemachine.events import ArtifactPublished, BuildRewound
from statemachine.machine import BuildMachine
from statemachine.plan import Plan
from statemachine.results import Artifact, ErrorInfo

Begin = Callable[..., Any]
MakePlan = Callable[..., Plan]
ERROR = ErrorInfo("mirror answers 503")


def states(build: Any) -> list[str]:
    return [str(record.state) for record in build.state.checkpoints]


def pause(build: Any) -> None:
    build.do(RequestPause())
    if build.state.lifecycle is not Lifecycle.PAUSED:
        build.do(Pause("paused as requested"))


# Submitting


def test_rewinding_drops_the_results_from_there_on(begin: Begin) -> None:
    build = begin().run_to(3)
    pause(build)
    assert build.do(Resume(from_checkpoint="b")) == ["BuildRewound", "BuildResumed"]
    assert states(build) == ["completed", "pending", "pending"]
    assert (build.position, build.state.rewound_to) == ("a", "b")


def test_a_missing_layer_rewinds_a_running_build_under_the_same_keys(begin: Begin) -> None:
    """Nobody declined it: whoever has made it again meanwhile is welcome."""
    build = begin().run_to(2)
    before = [record.key for record in build.state.checkpoints]
    assert build.do(BuildRewound("b", "its layer is missing", "layer-missing")) == ["BuildRewound"]
    assert states(build) == ["completed", "pending", "pending"]
    assert [record.key for record in build.state.checkpoints] == before
    assert (build.state.lifecycle, build.position) == (Lifecycle.RUNNING, "a")
    build.run_to(3)


def test_a_missing_layer_rewinds_nothing_that_is_open_or_to_come(begin: Begin) -> None:
    build = begin().run_to(1)
    with pytest.raises(Refused):
        build.do(BuildRewound("b", "its layer is missing", "layer-missing"))
    build.start_next()
    with pytest.raises(Refused) as caught:
        build.do(BuildRewound("a", "its layer is missing", "layer-missing"))
    assert caught.value.details == "attempt 1 at b is open"


def test_what_is_rewound_runs_again_under_another_key(begin: Begin) -> None:
    """It must not find the layer that it made before."""
    build = begin().run_to(3)
    before = [record.key for record in build.state.checkpoints]
    pause(build)
    build.do(Resume(from_checkpoint="b"))
    after = [record.key for record in build.state.checkpoints]
    assert after[0] == before[0]
    assert not set(after[1:]) & set(before)
    build.run_to(3)
    pause(build)
    build.do(Resume(from_checkpoint="b"))
    assert not {record.key for record in build.state.checkpoints[1:]} & {*before, *after}


def test_rewinding_to_where_the_build_stands_rewinds_nothing(begin: Begin) -> None:
    build = begin().run_to(1)
    pause(build)
    assert build.do(Resume(from_checkpoint="b")) == ["BuildResumed"]


def test_what_has_not_been_reached_cannot_be_rewound_to(begin: Begin) -> None:
    build = begin().run_to(1)
    pause(build)
    with pytest.raises(Refused) as caught:
        build.do(Resume(from_checkpoint="c"))
    assert caught.value.details == "c has not completed yet"


def test_the_numbers_of_attempts_are_never_used_twice(begin: Begin, make_plan: MakePlan) -> None:
    """Logs are named by them."""
    build = begin().run_to(2)
    pause(build)
    build.do(Resume(from_checkpoint="a"))
    build.run_to(1)
    assert build.state.checkpoints[0].attempts == 2
    pause(build)
    without_a = Replacement("<b/>", "/m", make_plan("b"))
    build.do(Resume(replacement=without_a))
    pause(build)
    build.do(Resume(replacement=Replacement("<a/>", "/m", make_plan("a", a="9"))))
    build.run_to(1)
    assert build.state.checkpoints[0].attempts == 3


def test_published_artifacts_do_not_outlive_a_rewind(begin: Begin) -> None:
    build = begin().run_to(3)
    build.do(ArtifactPublished(Artifact("x", "/x", "text", 1, "0")))
    pause(build)
    build.do(Resume(from_checkpoint="c"))
    assert build.state.published == ()


# A new manifest


def test_a_new_manifest_keeps_the_longest_unchanged_prefix(
    begin: Begin, make_plan: MakePlan
) -> None:
    build = begin().run_to(3)
    pause(build)
    new = Replacement("<new/>", "/new.xml", make_plan("a", "b", "c", "d", b="2"))
    assert build.do(Resume(replacement=new)) == ["BuildResumed"]
    assert states(build) == ["completed", "pending", "pending", "pending"]
    assert (build.state.manifest, build.state.manifest_path) == ("<new/>", "/new.xml")
    assert build.position == "a"
    assert BuildMachine.rehydrate(build.events).state == build.state


def test_a_new_manifest_keeps_no_more_than_has_completed(begin: Begin, make_plan: MakePlan) -> None:
    build = begin().run_to(1)
    pause(build)
    build.do(Resume(replacement=Replacement("<new/>", "/m", make_plan("a", "b", "c", c="2"))))
    assert states(build) == ["completed", "pending", "pending"]


def test_a_new_manifest_that_changes_the_beginning_keeps_nothing(
    begin: Begin, make_plan: MakePlan
) -> None:
    build = begin().run_to(2)
    pause(build)
    build.do(Resume(replacement=Replacement("<new/>", "/m", make_plan("x", "b", x="2"))))
    assert states(build) == ["pending", "pending"]
    assert build.position is None


def test_a_new_manifest_together_with_a_rewind(begin: Begin, make_plan: MakePlan) -> None:
    build = begin().run_to(3)
    pause(build)
    new = Replacement("<new/>", "/m", make_plan("a", "b", "c", "d"))
    assert build.do(Resume(from_checkpoint="b", replacement=new)) == [
        "BuildRewound",
        "BuildResumed",
    ]
    assert states(build) == ["completed", "pending", "pending", "pending"]


def test_a_new_manifest_twice_is_one(begin: Begin, make_plan: MakePlan) -> None:
    build = begin().run_to(1)
    pause(build)
    new = Replacement("<new/>", "/m", make_plan("a", "b", b="2"), parameters={"x": "1"})
    build.do(Resume(replacement=new))
    assert build.do(Resume(replacement=new)) == []
    with pytest.raises(Refused):
        build.do(Resume(replacement=replace(new, parameters={"x": "2"})))


def test_a_wish_to_pause_before_what_the_new_manifest_lacks_is_dropped(
    begin: Begin, make_plan: MakePlan
) -> None:
    build = begin(pause_before="c").run_to(1)
    pause(build)
    build.do(Resume(replacement=Replacement("<new/>", "/m", make_plan("a", "b"))))
    assert build.state.pause_before is None


# Interruptions


# Naming the checkpoint that is next


def test_what_is_named_to_run_next_is_declined_from_other_builds(begin: Begin) -> None:
    """Whoever names a checkpoint wants it to run, whatever other builds have made."""
    build = begin().run_to(1)
    pause(build)
    before = [record.key for record in build.state.checkpoints]
    build.do(Resume(from_checkpoint="b"))
    after = [record.key for record in build.state.checkpoints]
    assert after[0] == before[0]
    assert not set(after[1:]) & set(before)
    assert build.do(Resume(from_checkpoint="b")) == [], "sent twice"
    build.run_to(3)


def test_a_plain_resume_declines_nothing(begin: Begin) -> None:
    build = begin().run_to(1)
    pause(build)
    before = [record.key for record in build.state.checkpoints]
    build.do(Resume())
    assert [record.key for record in build.state.checkpoints] == before


def test_what_is_declined_stays_declined_with_another_manifest(
    begin: Begin, make_plan: MakePlan
) -> None:
    build = begin().run_to(1)
    pause(build)
    new = Replacement("<c/>", "/m", make_plan("a", "b", "c", "d"))
    build.do(Resume(from_checkpoint="b", replacement=new))
    unsalted = {planned.key for planned in make_plan("a", "b", "c", "d").checkpoints[1:]}
    assert not unsalted & {record.key for record in build.state.checkpoints}
    assert build.state.completed == 1
    build.run_to(4)


# Taking a pause back


def test_resume_takes_a_pause_back_while_the_checkpoint_runs_on(begin: Begin) -> None:
    build = begin().run_to(1)
    name = build.start_next()
    build.do(RequestPause())
    assert build.do(Resume()) == ["BuildResumed"]
    assert build.state.lifecycle is Lifecycle.RUNNING
    assert build.state.running is not None
    assert build.state.running.name == name
    assert build.do(Resume()) == [], "sent twice"
    build.complete(1.0)
    build.run_to(3)


def test_a_withdrawn_pause_is_not_carried_out(begin: Begin) -> None:
    """The engine may have been about to."""
    build = begin().run_to(1)
    build.do(RequestPause())
    build.do(Resume())
    with pytest.raises(Refused, match="was withdrawn"):
        build.do(Pause("paused as requested", wanted=True))
    build.run_to(3)


def test_a_pause_is_withdrawn_for_a_later_one(begin: Begin) -> None:
    build = begin().run_to(1)
    build.start_next()
    build.do(RequestPause())
    build.do(Resume(pause_before="c"))
    assert (build.state.lifecycle, build.state.pause_before) == (Lifecycle.RUNNING, "c")


@pytest.mark.parametrize("wish", ["from", "manifest"])
def test_a_running_checkpoint_is_not_changed_by_withdrawing_a_pause(
    begin: Begin, make_plan: MakePlan, wish: str
) -> None:
    build = begin().run_to(1)
    build.start_next()
    build.do(RequestPause())
    new = Replacement("<c/>", "/m", make_plan("a", "c"))
    command = Resume(from_checkpoint="a") if wish == "from" else Resume(replacement=new)
    with pytest.raises(Refused, match="it is pausing") as caught:
        build.do(command)
    assert "withdraws the pause" in caught.value.resolution
    assert build.state.lifecycle is Lifecycle.PAUSING
