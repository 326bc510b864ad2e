"""What attempts need: asked once for a build, and again when what it follows from has changed."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from dcd.engine.needs import Needs
from dcd.planner.client import HERE
from dcd.planner.tasks import OfRest
from statemachine.build import BuildState
from statemachine.errors import InvalidManifest
from statemachine.events import Actor
from statemachine.lifecycle import Lifecycle
from statemachine.plan import Plan, PlannedCheckpoint

MANIFEST = '<dc><distro name="small"><execution/></distro></dc>'
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SCRIPT = ("dcd/checkpoints/custom_script", "CustomScript")


class Asking:
    """A planner of this process that notes what it is asked."""

    def __init__(self) -> None:
        self.questions: list[OfRest] = []

    async def ask(self, task: Any, question: Any, *_: Any) -> Any:
        """See `dcd.planner.client.Planning`."""
        self.questions.append(question)
        return await HERE.ask(task, question)


def script(name: str, command: str = "true", **more: Any) -> PlannedCheckpoint:
    module, cls = SCRIPT
    given = {"description": "", "key": "k" * 64, "ingredients": (), "args": (command,), **more}
    return PlannedCheckpoint(name=name, mod_path=module, checkpoint_class=cls, **given)


@pytest.fixture
def asking() -> Asking:
    return Asking()


@pytest.fixture
def needs(asking: Asking) -> Needs:
    return Needs(asking)


def of(needs: Needs, state: BuildState, index: int, modules: tuple[str, ...] = ()) -> Any:
    return asyncio.run(needs.of(state, index, modules))


def build(*checkpoints: PlannedCheckpoint, identity: str = "b", text: str = MANIFEST) -> BuildState:
    return BuildState(
        id=identity,
        name="small",
        lifecycle=Lifecycle.RUNNING,
        plan=Plan(checkpoints),
        checkpoints=(),
        manifest=text,
        manifest_path="",
        submitted_at=NOW,
        updated_at=NOW,
        actor=Actor(),
    )


def test_one_question_is_for_all_checkpoints_that_are_to_come(needs: Needs, asking: Asking) -> None:
    state = build(script("one"), script("two"), script("three"))
    answers = [of(needs, state, index) for index in (1, 2)]
    assert all(answer.needs.capabilities for answer in answers)
    (question,) = asking.questions
    assert [planned.name for planned in question.planned] == ["two", "three"]


def test_another_key_is_no_reason_to_ask_again(needs: Needs, asking: Asking) -> None:
    of(needs, build(script("one"), script("two")), 0)
    of(needs, build(script("one"), script("two", key="f" * 64)), 1)
    assert len(asking.questions) == 1


@pytest.mark.parametrize(
    ("later", "modules"),
    [
        (build(script("one"), script("two", "false")), ()),
        (build(script("one"), script("two", kwargs={"timeout_seconds": "5"})), ()),
        (build(script("one"), script("two"), text=MANIFEST.replace("small", "large")), ()),
        (build(script("one"), script("two")), ("acme.*",)),
        (build(script("one"), script("two"), identity="another"), ()),
    ],
    ids=["arguments", "keywords", "manifest", "modules", "build"],
)
def test_what_they_follow_from_has_changed(
    needs: Needs, asking: Asking, later: BuildState, modules: tuple[str, ...]
) -> None:
    of(needs, build(script("one"), script("two")), 0)
    of(needs, later, 1, modules)
    assert len(asking.questions) == 2


def test_a_later_checkpoint_that_cannot_be_made_fails_when_it_is_the_next(
    needs: Needs, asking: Asking
) -> None:
    broken = replace(script("two"), checkpoint_class="Missing")
    state = build(script("one"), broken, script("three"))
    assert of(needs, state, 0).needs.capabilities
    assert of(needs, state, 2).needs.capabilities
    with pytest.raises(InvalidManifest, match="Missing"):
        of(needs, state, 1)
    assert len(asking.questions) == 2


def test_a_build_that_does_not_run_any_more_is_forgotten(needs: Needs, asking: Asking) -> None:
    state = build(script("one"))
    of(needs, state, 0)
    needs.forget(state.id)
    of(needs, state, 0)
    assert len(asking.questions) == 2
