"""How far a build is: its checkpoints in short, the part that is done, the time so far and the time left.

The time so far counts while the build works, not while it waits in the queue, is paused or has failed. The
time left comes from the estimates in the plan and from the fraction that the running checkpoint reports.
Pure.
"""

from dataclasses import dataclass
from datetime import datetime

from statemachine.build import ENDED, BuildState, CheckpointRecord, CheckpointState, Lifecycle

LEAST_FRACTION = 0.05
"""A running checkpoint's rate counts from this fraction on; before, its estimate does."""

MOST_BY_TIME = 0.9
"""The largest part of a checkpoint that its time alone says is done."""

_NO_END = ENDED | {Lifecycle.FAILED, Lifecycle.CANCELLING}


@dataclass(frozen=True, slots=True)
class Piece:
    """A checkpoint in the strip of its build. `seconds` is the duration of its result, None without one or
    for a reused one."""

    name: str
    state: str
    estimate_seconds: float
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Outlook:
    """How far a build is. `fraction` is the done part, 0..1; `remaining_seconds` is None for a build that
    does not continue."""

    checkpoints: tuple[Piece, ...]
    fraction: float
    elapsed_seconds: float
    remaining_seconds: float | None


def outlook(state: BuildState, now: datetime, fraction: float | None = None) -> Outlook:
    """The outlook of a build at the time `now`, whose running checkpoint has reported `fraction`, 0..1 (None:
    none)."""
    estimates = [planned.estimate_seconds for planned in state.plan.checkpoints]
    pieces = tuple(
        Piece(record.name, record.state.value, estimate, record.seconds if record.done else None)
        for record, estimate in zip(state.checkpoints, estimates, strict=True)
    )
    done = state.completed
    part, left = 0.0, sum(estimates[done:])
    if record := state.running:
        part = _reached(record, estimates[done], now, fraction) * estimates[done]
        left = _left(record, estimates[done], now, fraction) + sum(estimates[done + 1 :])
    whole = sum(estimates)
    reached = (sum(estimates[:done]) + part) / whole if whole else float(done == len(estimates))
    return Outlook(
        checkpoints=pieces,
        fraction=min(reached, 1.0),
        elapsed_seconds=elapsed_seconds(state, now),
        remaining_seconds=None if state.lifecycle in _NO_END else left,
    )


def elapsed_seconds(state: BuildState, now: datetime) -> float:
    """The time for which a build has worked until `now`."""
    since = state.working_since
    return state.worked_seconds + (max(0.0, (now - since).total_seconds()) if since else 0.0)


def attempt_seconds(record: CheckpointRecord, now: datetime) -> float | None:
    """The time since the start of a running checkpoint, None for another."""
    if record.state is not CheckpointState.RUNNING or record.started_at is None:
        return None
    return max(0.0, (now - record.started_at).total_seconds())


def _reached(
    record: CheckpointRecord, estimate_seconds: float, now: datetime, fraction: float | None
) -> float:
    """The done part of a running checkpoint; by its time if it reports none."""
    if fraction is not None or not estimate_seconds:
        return fraction or 0.0
    return min((attempt_seconds(record, now) or 0.0) / estimate_seconds, MOST_BY_TIME)


def _left(
    record: CheckpointRecord, estimate_seconds: float, now: datetime, fraction: float | None
) -> float:
    elapsed = attempt_seconds(record, now) or 0.0
    if fraction is not None and fraction >= LEAST_FRACTION:
        return elapsed * (1.0 - fraction) / fraction
    return max(0.0, estimate_seconds - elapsed)
