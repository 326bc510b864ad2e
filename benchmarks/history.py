"""Event logs with a long history, made through the log's own door: every event is coded, chained,
folded and projected as always, only many to a transaction."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from statemachine.events import (
    Actor,
    BuildCompleted,
    BuildPaused,
    BuildResumed,
    BuildStarted,
    BuildSubmitted,
    CheckpointCompleted,
    CheckpointStarted,
    Event,
    PauseRequested,
    Payload,
)
from statemachine.keys import chain
from statemachine.plan import Ingredient, Plan, PlannedCheckpoint
from store.eventlog import SqliteLog

AHEAD = 256
"""So many appends wait for the disk together."""

_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
_ACTOR = Actor(0, 0, 1, "root")


def write_history(path: Path, builds: int, history: Callable[[int], Sequence[Payload]]) -> int:
    """Append `history(number)` for each of so many new builds. Returns the number of events."""
    count = 0
    pending: list[Future[list[Event]]] = []
    with SqliteLog(path) as log:
        for number in range(builds):
            payloads = history(number)
            count += len(payloads)
            pending.append(log.append(f"build-{number:06}", 0, payloads, _ACTOR, _BEGAN))
            if len(pending) == AHEAD:
                pending.pop(0).result()
        for future in pending:
            future.result()
    return count


def completed(number: int, checkpoints: int) -> list[Payload]:
    """The events of a build that has completed: two a checkpoint, and three."""
    submitted = _submitted(number, checkpoints)
    done = _done(submitted.plan.checkpoints)
    return [submitted, BuildStarted(), *done, BuildCompleted(float(checkpoints))]


def halfway(number: int, checkpoints: int) -> list[Payload]:
    """The events of a build that was paused in its middle, and now waits for a place again."""
    submitted = _submitted(number, checkpoints)
    done = _done(submitted.plan.checkpoints[: checkpoints // 2])
    paused = BuildPaused("somebody asked for it")
    return [submitted, BuildStarted(), *done, PauseRequested(), paused, BuildResumed()]


def interrupted(number: int, checkpoints: int) -> list[Payload]:
    """The events of a build whose first checkpoint ran when the daemon died."""
    submitted = _submitted(number, checkpoints)
    first = submitted.plan.checkpoints[0]
    return [submitted, BuildStarted(), CheckpointStarted(first.name, 1, first.key, "log")]


def _done(planned: Iterable[PlannedCheckpoint]) -> list[Payload]:
    return [
        payload
        for one in planned
        for payload in (
            CheckpointStarted(one.name, 1, one.key, "log"),
            CheckpointCompleted(one.name, 1, one.key, 1.0),
        )
    ]


def _submitted(number: int, checkpoints: int) -> BuildSubmitted:
    steps = "".join(
        f'<checkpoint name="step-{step}" mod_path="dcd/checkpoints/custom_script"'
        ' checkpoint_class="CustomScript"><args>sleep 60</args></checkpoint>'
        for step in range(checkpoints)
    )
    return BuildSubmitted(
        name=f"image-{number}",
        manifest=f'<dc><distro name="image-{number}"><execution>{steps}</execution></distro></dc>',
        manifest_path="/image.xml",
        plan=_plan(number, checkpoints),
    )


def _plan(number: int, checkpoints: int) -> Plan:
    salt = sha256(str(number).encode()).hexdigest()
    return chain(
        PlannedCheckpoint(
            name=f"step-{step}",
            description="",
            mod_path="dcd/checkpoints/custom_script",
            checkpoint_class="CustomScript",
            key="",
            ingredients=(Ingredient("salt", "", salt), Ingredient("argument", "command", salt)),
            args=("sleep 60",),
            estimate_seconds=60.0,
        )
        for step in range(checkpoints)
    )
