"""The fold: the effect of each event on a build's state.

Only `evolve` creates a `BuildState`: the same events give the same state, in the engine, in the projection
and after a restart. The fold records and does not validate: the machine (`statemachine.machine`) decides
which events may happen. The table of `statemachine.lifecycle` has the destination of each event. Pure.
"""

from dataclasses import replace
from typing import Any

from statemachine import events
from statemachine.build import (
    WORKING,
    BuildState,
    CheckpointRecord,
    CheckpointState,
    Claim,
    Lifecycle,
)
from statemachine.errors import DcdError
from statemachine.keys import with_external, with_grown, with_salt, without_grown
from statemachine.lifecycle import destination
from statemachine.plan import Plan

COUNTED_CAUSES = frozenset({"daemon-died", "machine-rebooted", "worker-died", "host-lost"})
"""Causes of interruption that count towards parking; a shutdown or a cancel says nothing about the
checkpoint."""


def evolve(state: BuildState | None, event: events.Event) -> BuildState:
    """The state after `event`. Raises DcdError for an event that cannot follow."""
    try:
        return _evolved(state, event)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # Well-formed, but about something else than this build: a plan of other checkpoints, for instance.
        raise DcdError(
            f"event {event.sequence} of build {event.build} cannot follow",
            f"{event.type}: {type(error).__name__}: {error}",
            f"verify the log with `dcctl events {event.build} --verify`",
        ) from error


def _evolved(state: BuildState | None, event: events.Event) -> BuildState:
    sequence, build = (state.sequence, state.id) if state else (0, event.build)
    if event.sequence != sequence + 1 or event.build != build:
        raise DcdError(
            f"the events of build {build} are not contiguous",
            f"event {event.sequence} of build {event.build} follows event {sequence}",
            "verify the log with `dcctl events ID --verify`",
        )
    if state is None:
        if not isinstance(event.data, events.BuildSubmitted):
            raise DcdError(f"build {build} begins with {event.type}, not with BuildSubmitted")
        after = _submitted(event, event.data)
    else:
        after = _timed(state, advance(state, event.data), event)
    if isinstance(event.data, events.BuildRemoved):
        after = replace(after, removed_at=event.time, removed_by=event.actor)
    return replace(
        after,
        updated_at=event.time,
        sequence=event.sequence,
        log_position=event.position,
        hash=event.hash,
    )


def _timed(before: BuildState, after: BuildState, event: events.Event) -> BuildState:
    """The state after an event with the times that follow from it."""
    if isinstance(event.data, events.CheckpointStarted):
        after = _recorded(after, event.data.checkpoint, started_at=event.time)
    works, since = after.lifecycle in WORKING, before.working_since
    if works and since is None:
        return replace(after, working_since=event.time)
    if since is not None and not works:
        worked = max(0.0, (event.time - since).total_seconds())
        return replace(after, working_since=None, worked_seconds=before.worked_seconds + worked)
    return after


def advance(state: BuildState, payload: events.Payload) -> BuildState:
    """The state after `payload`, except for the event's place in the log. Raises NotFound for a
    checkpoint that is not in the plan, DcdError for an unknown payload."""
    after = _applied(state, payload)
    lifecycle = destination(state.lifecycle, payload)
    # Most events leave it: a copy of a state takes as long as the rest of its fold.
    return after if lifecycle is after.lifecycle else replace(after, lifecycle=lifecycle)


def _applied(state: BuildState, payload: events.Payload) -> BuildState:
    """The state after `payload`, except for the lifecycle."""
    match payload:
        case events.BuildPlaced():
            reason = state.reason if state.moves_to is None else ""
            placed = replace(state, host=payload.host, epoch=payload.epoch)
            return replace(placed, moves_to=None, reason=reason)
        case events.MoveRequested():
            goal = payload.to or "another member"
            return replace(state, moves_to=payload.to, reason=f"a move to {goal} was requested")
        case events.BuildStarted():
            return replace(state, reason="")
        case events.CheckpointStarted():
            found = _as_found(state, payload)
            return replace(
                _recorded(
                    found,
                    payload.checkpoint,
                    state=CheckpointState.RUNNING,
                    attempts=payload.attempt,
                    log=payload.log,
                    boot_id=payload.boot_id,
                    base=payload.base,
                    host=payload.host,
                    error=None,
                ),
                attempts={**state.attempts, payload.checkpoint: payload.attempt},
            )
        case events.ResourceClaimed():
            record = state.checkpoints[state.index(payload.checkpoint)]
            claim = Claim(payload.kind, payload.name)
            return _recorded(state, payload.checkpoint, claims=(*record.claims, claim))
        case events.CheckpointReused():
            return _recorded(
                _as_found(state, payload),
                payload.checkpoint,
                state=CheckpointState.REUSED,
                reused_from=payload.reused_from,
                taken_from=payload.taken_from,
                artifacts=payload.artifacts,
                left=payload.left,
                warnings=payload.warnings,
                resolved=payload.resolved,
                error=None,
                interruptions=0,
            )
        case events.CheckpointCompleted():
            return _recorded(
                state,
                payload.checkpoint,
                state=CheckpointState.COMPLETED,
                claims=(),
                seconds=payload.seconds,
                artifacts=payload.artifacts,
                left=payload.left,
                warnings=payload.warnings,
                resolved=payload.resolved,
                publications=payload.publications,
                size_bytes=payload.size_bytes,
                interruptions=0,
            )
        case events.LayerDamaged():
            damaged = f"layer {payload.key[:12]} of build {payload.made_by} is damaged and not used"
            earlier = state.checkpoints[state.index(payload.checkpoint)].damaged
            told = (*earlier, f"{damaged}: {payload.damage}")
            return _recorded(state, payload.checkpoint, damaged=told)
        case events.CheckpointFailed():
            return _recorded(
                state,
                payload.checkpoint,
                state=CheckpointState.FAILED,
                claims=(),
                seconds=payload.seconds,
                error=payload.error,
                interruptions=0,
            )
        case events.CheckpointInterrupted():
            record = state.checkpoints[state.index(payload.checkpoint)]
            return _recorded(
                state,
                payload.checkpoint,
                state=CheckpointState.INTERRUPTED,
                claims=(),
                interruptions=record.interruptions + (payload.cause in COUNTED_CAUSES),
            )
        case events.PauseRequested(before=None):
            return replace(state, reason="a pause was requested")
        case events.PauseRequested():
            return replace(state, pause_before=payload.before)
        case events.PauseWithdrawn():
            reason = "" if state.lifecycle is Lifecycle.PAUSING else state.reason
            return replace(state, reason=reason, pause_before=None)
        case events.BuildPaused():
            reached = state.next is not None and state.next.name == state.pause_before
            return replace(
                state,
                reason=payload.reason,
                cause=payload.cause,
                pause_before=None if reached else state.pause_before,
                rewound_to=None,
            )
        case events.BuildResumed() if state.lifecycle is Lifecycle.PAUSING:
            return replace(state, reason="", pause_before=payload.pause_before)
        case events.BuildResumed():
            return _with_fresh_keys(_resumed(state, payload), payload.declines)
        case events.BuildRewound():
            first = state.index(payload.checkpoint)
            # Whether it grows again is decided when it starts again.
            plan = without_grown(state.plan, first)
            if payload.cause == "requested":
                # After a requested rewind the checkpoint must run again, not reuse its own result.
                plan = with_salt(plan, first, f"{state.id}:{state.sequence}")
            return replace(
                state,
                plan=plan,
                checkpoints=state.checkpoints[:first]
                + tuple(
                    replace(_pending(record), key=planned.key)
                    for record, planned in zip(
                        state.checkpoints[first:], plan.checkpoints[first:], strict=True
                    )
                ),
                rewound_to=payload.checkpoint,
                published=(),
            )
        case events.CancelRequested():
            return replace(state, reason="a cancel was requested")
        case events.ArtifactPublished():
            others = (a for a in state.published if a.name != payload.artifact.name)
            return replace(state, published=(*others, payload.artifact))
        case events.BuildCancelled() | events.BuildCompleted():
            return replace(state, reason="", pause_before=None)
        case events.BuildFailed():
            if payload.checkpoint is not None:
                # The checkpoint has failed even if no attempt could begin.
                state = _recorded(
                    state, payload.checkpoint, state=CheckpointState.FAILED, error=payload.error
                )
            return replace(
                state,
                reason=payload.error.brief,
                error=payload.error,
                rewound_to=None,
            )
        case events.BuildRemoved():
            return replace(state, removed=True, published=())
    raise DcdError(f"build {state.id}: {type(payload).__name__} cannot follow")


def _submitted(event: events.Event, data: events.BuildSubmitted) -> BuildState:
    return BuildState(
        id=event.build,
        name=data.name,
        lifecycle=Lifecycle.QUEUED,
        plan=data.plan,
        checkpoints=tuple(CheckpointRecord(c.name, c.key) for c in data.plan.checkpoints),
        manifest=data.manifest,
        manifest_path=data.manifest_path,
        submitted_at=event.time,
        submitted_position=event.position,
        updated_at=event.time,
        actor=event.actor,
        inputs=data.inputs,
        parameters=data.parameters,
        fresh=data.fresh,
        priority=data.priority,
        idempotency_key=data.idempotency_key,
        request_sha256=data.request_sha256,
        time_origin=data.time_origin,
        reproduces=data.reproduces,
        variation=data.variation,
        locked=data.locked,
        pause_before=data.pause_before,
        rebuild=data.rebuild,
        profiles=data.profiles,
        group=data.group,
        cell=data.cell,
        require=data.require,
        requires=data.requires,
    )


def _resumed(state: BuildState, data: events.BuildResumed) -> BuildState:
    kept = state.completed
    resumed = replace(
        state,
        reason="",
        cause="",
        error=None,
        pause_before=data.pause_before,
        checkpoints=state.checkpoints[:kept] + tuple(map(_pending, state.checkpoints[kept:])),
    )
    if data.plan is None:
        return resumed
    kept = data.kept or 0
    planned = data.plan.checkpoints
    return replace(
        resumed,
        plan=data.plan,
        checkpoints=(
            *(
                replace(record, name=c.name, key=c.key)
                for record, c in zip(state.checkpoints[:kept], planned, strict=False)
            ),
            *(
                CheckpointRecord(c.name, c.key, attempts=state.attempts.get(c.name, 0))
                for c in planned[kept:]
            ),
        ),
        manifest=state.manifest if data.manifest is None else data.manifest,
        manifest_path=state.manifest_path if data.manifest_path is None else data.manifest_path,
        inputs=data.inputs,
        parameters=data.parameters,
        profiles=data.profiles,
        published=(),
        time_origin=data.time_origin or state.time_origin,
        requires=data.requires,
    )


def _with_fresh_keys(state: BuildState, checkpoint: str | None) -> BuildState:
    """The build with new keys from `checkpoint` on, which no layer has; none of these has completed."""
    if checkpoint is None:
        return state
    plan = with_salt(state.plan, state.index(checkpoint), f"{state.id}:{state.sequence}")
    return replace(_with_plan(state, plan), rewound_to=checkpoint)


def _pending(record: CheckpointRecord) -> CheckpointRecord:
    """The record without its result; the number of attempts and what was damaged are kept."""
    return CheckpointRecord(
        record.name, record.key, attempts=record.attempts, damaged=record.damaged
    )


def _recorded(build: BuildState, checkpoint: str, /, **changes: Any) -> BuildState:
    index = build.index(checkpoint)
    record = replace(build.checkpoints[index], **changes)
    return replace(
        build, checkpoints=(*build.checkpoints[:index], record, *build.checkpoints[index + 1 :])
    )


def _as_found(
    state: BuildState, payload: events.CheckpointStarted | events.CheckpointReused
) -> BuildState:
    """The build with the external state found at the start (an empty one means as planned), and the earlier
    result to which the checkpoint adds, if any."""
    index, plan = state.index(payload.checkpoint), state.plan
    if payload.external:
        plan = with_external(plan, index, payload.external)
    plan = with_grown(plan, index, payload.grown)
    return state if plan is state.plan else _with_plan(state, plan)


def _with_plan(state: BuildState, plan: Plan) -> BuildState:
    """The build with the keys of a plan that otherwise equals its own."""
    records = tuple(
        replace(record, key=planned.key)
        for record, planned in zip(state.checkpoints, plan.checkpoints, strict=True)
    )
    return replace(state, plan=plan, checkpoints=records)
