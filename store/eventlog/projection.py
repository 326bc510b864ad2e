"""Projections: the list of builds and the keys of their layers, derived from events.

A row of `builds` is a function of the folded `BuildState`, so the projection cannot differ from the
fold unless the file is damaged, which `verify` detects. `layer_keys` has every key of an attempt, its base
or a reused result, of builds that are not removed: a layer whose key is missing there belongs to no build.
Callers hold the transaction.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

import sqlalchemy as sa

from statemachine.build import BuildState, Lifecycle
from statemachine.codec import (
    decode,
    decode_actor,
    decode_time,
    encode_actor,
    encode_time,
)
from statemachine.errors import DcdError
from statemachine.events import (
    Actor,
    CheckpointCompleted,
    CheckpointReused,
    CheckpointStarted,
    Event,
)
from statemachine.fold import evolve
from store.eventlog.tables import builds, events, layer_keys


@dataclass(frozen=True, slots=True)
class BuildSummary:
    """A build in a list. `submitted_position` orders builds and is the cursor of lists; `position` and
    `sequence` belong to the last event."""

    id: str
    name: str
    state: Lifecycle
    reason: str
    submitted_at: datetime
    updated_at: datetime
    actor: Actor
    priority: int
    pause_before: str | None
    idempotency_key: str | None
    completed_checkpoints: int
    total_checkpoints: int
    removed: bool
    submitted_position: int
    position: int
    sequence: int


def event_of(row: Any) -> Event:
    """The event of a row of `events`. Raises DcdError when it cannot be read."""
    try:
        return Event(
            position=row.position,
            build=row.build,
            sequence=row.sequence,
            type=row.type,
            version=row.version,
            time=decode_time(row.time),
            actor=decode_actor(row.actor),
            data=decode(row.type, row.version, row.data),
            hash=row.hash,
        )
    except DcdError:
        raise
    except (
        Exception
    ) as error:  # whatever somebody wrote there, such as JSON that is nested too deep
        raise DcdError(
            f"event {row.sequence} of build {row.build} is malformed",
            f"{type(error).__name__}: {error}",
            f"verify it with `dcctl events {row.build} --verify`",
        ) from error


def summary_of(row: Any) -> BuildSummary:
    """The summary of a row of `builds`."""
    decoded = {
        "state": Lifecycle(row.state),
        "submitted_at": decode_time(row.submitted_at),
        "updated_at": decode_time(row.updated_at),
        "actor": decode_actor(row.actor),
        "removed": bool(row.removed),
    }
    return BuildSummary(**{**row._mapping, **decoded})


def fold(connection: sa.Connection, build: str) -> BuildState | None:
    """The state of a build, folded from its events; None when the build does not exist."""
    state: BuildState | None = None
    query = sa.select(events).where(events.c.build == build).order_by(events.c.sequence)
    for row in connection.execute(query):
        state = evolve(state, event_of(row))
    return state


def verify(
    connection: sa.Connection, stored: Callable[[dict[str, Any]], dict[str, Any]] = dict
) -> list[str]:
    """The differences between the projections and the events; empty when they agree. Reads every
    event. `stored` is what the database makes of a row."""
    problems = []
    rows = {row.id: tuple(row) for row in connection.execute(sa.select(builds))}
    keys = {tuple(row) for row in connection.execute(sa.select(layer_keys))}
    expected_keys = set()
    for state, history in _folded(connection):
        expected = tuple(stored(row_of(state))[column.name] for column in builds.c)
        if rows.pop(state.id, None) != expected:
            problems.append(f"build {state.id}: its row differs from its events")
        if not state.removed:
            expected_keys |= {(entry["key"], entry["build"]) for entry in keys_of(history)}
    problems += [f"build {build}: it has a row but no events" for build in rows]
    problems += [
        f"build {build}: layer key {key} is {'missing' if (key, build) in expected_keys else 'extra'}"
        for key, build in sorted(keys ^ expected_keys)
    ]
    return problems


def _folded(connection: sa.Connection) -> Iterator[tuple[BuildState, list[Event]]]:
    """The state and the events of every build."""
    rows = connection.execute(
        sa.select(events).order_by(events.c.build, events.c.sequence)
    ).yield_per(1000)
    for _, group in groupby(rows, key=lambda row: row.build):
        history = [event_of(row) for row in group]
        state = None
        for event in history:
            state = evolve(state, event)
        assert state is not None
        yield state, history


def keys_of(appended: Iterable[Event]) -> list[dict[str, str]]:
    """The rows of `layer_keys` of some events."""
    found = []
    for event in appended:
        if isinstance(event.data, CheckpointStarted | CheckpointReused | CheckpointCompleted):
            found.append({"key": event.data.key, "build": event.build})
        if isinstance(event.data, CheckpointStarted) and event.data.base:
            found.append({"key": event.data.base, "build": event.build})
    return found


def row_of(state: BuildState) -> dict[str, Any]:
    """The row of a build in `builds`."""
    return {
        "id": state.id,
        "name": state.name,
        "state": str(state.lifecycle),
        "reason": state.reason,
        "submitted_at": encode_time(state.submitted_at),
        "updated_at": encode_time(state.updated_at),
        "actor": encode_actor(state.actor),
        "priority": state.priority,
        "pause_before": state.pause_before,
        "idempotency_key": state.submission_key,
        "completed_checkpoints": state.completed,
        "total_checkpoints": len(state.checkpoints),
        "removed": int(state.removed),
        "submitted_position": state.submitted_position,
        "position": state.log_position,
        "sequence": state.sequence,
    }
