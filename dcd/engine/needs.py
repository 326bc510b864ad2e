"""What the attempts of running builds need of the host.

A planner finds it, in a process of its own for each question. So it is asked once for all checkpoints of a
build that are to come, and again when the manifest, a checkpoint's arguments or the allowed modules have
changed. Nothing of it outlives the daemon or the run of a build.
"""

from dataclasses import dataclass

from dcd.planner import tasks
from dcd.planner.client import Planning
from dcd.planner.tasks import NeedsOfAttempt, OfRest
from statemachine.build import BuildState
from statemachine.plan import PlannedCheckpoint


@dataclass(frozen=True, slots=True)
class _Answers:
    """The answers to a question."""

    question: OfRest
    needs: tuple[NeedsOfAttempt | None, ...]

    def of(self, wanted: OfRest) -> NeedsOfAttempt | None:
        """What the first checkpoint of another question needs, if that is answered here."""
        if (wanted.manifest, wanted.modules) != (self.question.manifest, self.question.modules):
            return None
        made = _made(wanted.planned[0])
        pairs = zip(self.question.planned, self.needs, strict=True)
        return next((needs for planned, needs in pairs if _made(planned) == made), None)


class Needs:
    """The needs of all running builds."""

    def __init__(self, planner: Planning) -> None:
        self._planner = planner
        self._answers: dict[str, _Answers] = {}

    async def of(self, state: BuildState, index: int, modules: tuple[str, ...]) -> NeedsOfAttempt:
        """What an attempt at the checkpoint `index` needs. Raises the errors of `tasks.NEEDS`."""
        question = OfRest(state.manifest, state.plan.checkpoints[index:], modules)
        known = self._answers.get(state.id)
        if known is not None and (found := known.of(question)) is not None:
            return found
        answers = _Answers(question, await self._planner.ask(tasks.NEEDS, question))
        self._answers[state.id] = answers
        first = answers.needs[0]
        assert first is not None
        return first

    def forget(self, build: str) -> None:
        """Forget the needs of a build that does not run any more."""
        self._answers.pop(build, None)


def _made(planned: PlannedCheckpoint) -> object:
    """What its needs follow from, beside the manifest."""
    return (
        planned.name,
        planned.mod_path,
        planned.checkpoint_class,
        planned.args,
        planned.kwargs,
    )
