"""A build's state, and the pure fold of events into it.

`evolve` is the only way a `BuildState` comes to be: the same events give the same state, in the
engine, in the projection and after a restart. It records what happened and does not judge: what may
happen is the machine's affair (`statemachine.machine`). Completed checkpoints are always a prefix of
the plan; at most one attempt is open, and it belongs to the first checkpoint that is not completed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from statemachine.errors import DcdError, NotFound
from statemachine.events import (
    Actor,
    Artifact,
    ArtifactPublished,
    BuildCancelled,
    BuildCompleted,
    BuildFailed,
    BuildPaused,
    BuildRemoved,
    BuildResumed,
    BuildRewound,
    BuildStarted,
    BuildSubmitted,
    CancelRequested,
    CheckpointCompleted,
    CheckpointFailed,
    CheckpointInterrupted,
    CheckpointReused,
    CheckpointStarted,
    ErrorInfo,
    Event,
    InputFile,
    PauseRequested,
    Payload,
    ResourceClaimed,
)
from statemachine.keys import with_external, with_salt
from statemachine.plan import Plan

COUNTED_CAUSES = frozenset({"daemon-died", "machine-rebooted", "worker-died"})
"""Causes of interruption that count towards parking; a shutdown or a cancel says nothing about the
checkpoint."""


class Lifecycle(StrEnum):
    """The states of a build."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    FAILED = "failed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    COMPLETED = "completed"


ENDED = frozenset({Lifecycle.CANCELLED, Lifecycle.COMPLETED})
"""States that a build never leaves."""


class CheckpointState(StrEnum):
    """The states of one checkpoint of a build."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    REUSED = "reused"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Claim:
    """A resource that an open attempt may have made; as in ResourceClaimed."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """What became of one checkpoint of the plan.

    `attempts` counts all attempts of this build at the name, rewound ones too, so that a log file's
    name is never used twice. `interruptions` counts those in a row. `log` and `boot_id` are the last
    attempt's, `claims` those of the open one. `seconds`, `artifacts`, `size_bytes` and `reused_from`
    are the result's.
    """

    name: str
    key: str
    state: CheckpointState = CheckpointState.PENDING
    attempts: int = 0
    seconds: float | None = None
    reused_from: str | None = None
    error: ErrorInfo | None = None
    interruptions: int = 0
    artifacts: tuple[Artifact, ...] = ()
    left: tuple[str, ...] = ()
    size_bytes: int = 0
    log: str = ""
    boot_id: str = ""
    claims: tuple[Claim, ...] = ()

    @property
    def done(self) -> bool:
        """Whether its result counts."""
        return self.state in (CheckpointState.COMPLETED, CheckpointState.REUSED)


@dataclass(frozen=True, slots=True)
class BuildState:
    """All that is known of a build after its last event.

    `checkpoints` go with `plan.checkpoints` one to one; their keys are the plan's, with the state of
    the world as found when each started. `reason` says for people why the build is in its state, `cause`
    is that of the last BuildPaused. `pause_before` is a wish not yet reached; `rewound_to` is the
    checkpoint to which the build was rewound since it last stood still. `removed_at` and `removed_by` say
    when and by whom its artifacts and logs were removed. `published` artifacts have
    paths in the state directory. `submitted_position` is the log's position of
    the first event; `sequence`, `log_position` and `hash` are the last event's.
    """

    id: str
    name: str
    state: Lifecycle
    plan: Plan
    checkpoints: tuple[CheckpointRecord, ...]
    manifest: str
    manifest_path: str
    submitted_at: datetime
    updated_at: datetime
    actor: Actor
    inputs: tuple[InputFile, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    fresh: bool = False
    priority: int = 0
    idempotency_key: str | None = None
    request_sha256: str = ""
    pause_before: str | None = None
    rewound_to: str | None = None
    reason: str = ""
    cause: str = ""
    error: ErrorInfo | None = None
    published: tuple[Artifact, ...] = ()
    removed: bool = False
    removed_at: datetime | None = None
    removed_by: Actor | None = None
    attempts: Mapping[str, int] = field(default_factory=dict)
    submitted_position: int = 0
    sequence: int = 0
    log_position: int = 0
    hash: str = ""

    @property
    def submission_key(self) -> str | None:
        """What no other build has, if it was submitted with an idempotency key."""
        if self.idempotency_key is None or not self.request_sha256:
            return self.idempotency_key
        return submission_key(self.actor.uid, self.idempotency_key)

    @property
    def completed(self) -> int:
        """The position: how many checkpoints, from the first on, have a result that counts."""
        for index, record in enumerate(self.checkpoints):
            if not record.done:
                return index
        return len(self.checkpoints)

    @property
    def next(self) -> CheckpointRecord | None:
        """The first checkpoint that is not completed, or None when all are."""
        position = self.completed
        return self.checkpoints[position] if position < len(self.checkpoints) else None

    @property
    def running(self) -> CheckpointRecord | None:
        """The checkpoint with an open attempt, or None."""
        record = self.next
        return record if record and record.state is CheckpointState.RUNNING else None

    @property
    def parent_key(self) -> str | None:
        """Key of the layer on which the next checkpoint stands; None for the first."""
        position = self.completed
        return self.checkpoints[position - 1].key if position else None

    @property
    def declared(self) -> tuple[Artifact, ...]:
        """Artifacts of the completed checkpoints, paths relative to the workspace. Of two with one
        name the later one counts."""
        named = {
            artifact.name: artifact
            for record in self.checkpoints
            if record.done
            for artifact in record.artifacts
        }
        return tuple(named.values())

    @property
    def undelivered(self) -> tuple[str, ...]:
        """Files among the media that no completed checkpoint delivers, by their path in the workspace."""
        delivered = {artifact.path for artifact in self.declared}
        left = self.checkpoints[self.completed - 1].left if self.completed else ()
        return tuple(path for path in left if path not in delivered)

    @property
    def unpublished(self) -> tuple[Artifact, ...]:
        """Declared artifacts that are not published yet."""
        names = {artifact.name for artifact in self.published}
        return tuple(artifact for artifact in self.declared if artifact.name not in names)

    @property
    def ended(self) -> bool:
        """Whether no command can make it go on."""
        return self.state in ENDED

    def index(self, checkpoint: str) -> int:
        """The place of a checkpoint in the plan. Raises NotFound."""
        for index, record in enumerate(self.checkpoints):
            if record.name == checkpoint:
                return index
        raise NotFound(
            f"build {self.id} has no checkpoint {checkpoint}",
            f"its checkpoints are: {', '.join(record.name for record in self.checkpoints)}",
        )

    def next_attempt(self, checkpoint: str) -> int:
        """The number of the checkpoint's next attempt, from 1."""
        return self.attempts.get(checkpoint, 0) + 1


def submission_key(uid: int | None, idempotency_key: str) -> str:
    """An idempotency key among those of all users."""
    return f"{uid}:{idempotency_key}"


def evolve(state: BuildState | None, event: Event) -> BuildState:
    """The state after `event`. Raises DcdError for an event that cannot follow."""
    sequence, build = (state.sequence, state.id) if state else (0, event.build)
    if event.sequence != sequence + 1 or event.build != build:
        raise DcdError(
            f"the events of build {build} are not contiguous",
            f"event {event.sequence} of build {event.build} follows event {sequence}",
            "verify the log with `dcctl events ID --verify`",
        )
    if state is None:
        if not isinstance(event.data, BuildSubmitted):
            raise DcdError(f"build {build} begins with {event.type}, not with BuildSubmitted")
        after = _submitted(event, event.data)
    else:
        after = advance(state, event.data)
    if isinstance(event.data, BuildRemoved):
        after = replace(after, removed_at=event.time, removed_by=event.actor)
    return replace(
        after,
        updated_at=event.time,
        sequence=event.sequence,
        log_position=event.position,
        hash=event.hash,
    )


def advance(state: BuildState, payload: Payload) -> BuildState:
    """What `payload` makes of the state, apart from the event's place in the log. Raises NotFound for
    a checkpoint that is not in the plan, DcdError for an unknown payload."""
    match payload:
        case BuildStarted():
            return replace(state, state=Lifecycle.RUNNING, reason="")
        case CheckpointStarted():
            found = _with_external(state, payload.checkpoint, payload.external)
            return replace(
                _recorded(
                    found,
                    payload.checkpoint,
                    state=CheckpointState.RUNNING,
                    attempts=payload.attempt,
                    log=payload.log,
                    boot_id=payload.boot_id,
                    error=None,
                ),
                attempts={**state.attempts, payload.checkpoint: payload.attempt},
            )
        case ResourceClaimed():
            record = state.checkpoints[state.index(payload.checkpoint)]
            claim = Claim(payload.kind, payload.name)
            return _recorded(state, payload.checkpoint, claims=(*record.claims, claim))
        case CheckpointReused():
            return _recorded(
                _with_external(state, payload.checkpoint, payload.external),
                payload.checkpoint,
                state=CheckpointState.REUSED,
                reused_from=payload.reused_from,
                artifacts=payload.artifacts,
                left=payload.left,
                error=None,
                interruptions=0,
            )
        case CheckpointCompleted():
            return _recorded(
                state,
                payload.checkpoint,
                state=CheckpointState.COMPLETED,
                claims=(),
                seconds=payload.seconds,
                artifacts=payload.artifacts,
                left=payload.left,
                size_bytes=payload.size_bytes,
                interruptions=0,
            )
        case CheckpointFailed():
            return _recorded(
                state,
                payload.checkpoint,
                state=CheckpointState.FAILED,
                claims=(),
                seconds=payload.seconds,
                error=payload.error,
                interruptions=0,
            )
        case CheckpointInterrupted():
            record = state.checkpoints[state.index(payload.checkpoint)]
            return _recorded(
                state,
                payload.checkpoint,
                state=CheckpointState.INTERRUPTED,
                claims=(),
                interruptions=record.interruptions + (payload.cause in COUNTED_CAUSES),
            )
        case PauseRequested(before=None):
            return replace(state, state=Lifecycle.PAUSING, reason="a pause was requested")
        case PauseRequested():
            return replace(state, pause_before=payload.before)
        case BuildPaused():
            reached = state.next is not None and state.next.name == state.pause_before
            return replace(
                state,
                state=Lifecycle.PAUSED,
                reason=payload.reason,
                cause=payload.cause,
                pause_before=None if reached else state.pause_before,
                rewound_to=None,
            )
        case BuildResumed() if state.state is Lifecycle.PAUSING:
            return replace(
                state, state=Lifecycle.RUNNING, reason="", pause_before=payload.pause_before
            )
        case BuildResumed():
            return _declining(_resumed(state, payload), payload.declines)
        case BuildRewound():
            first = state.index(payload.checkpoint)
            plan = state.plan
            if payload.cause == "requested":
                # Who rewinds wants it to run again, not to find what it made.
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
        case CancelRequested():
            return replace(state, state=Lifecycle.CANCELLING, reason="a cancel was requested")
        case BuildCancelled():
            return replace(state, state=Lifecycle.CANCELLED, reason="", pause_before=None)
        case ArtifactPublished():
            others = (a for a in state.published if a.name != payload.artifact.name)
            return replace(state, published=(*others, payload.artifact))
        case BuildCompleted():
            return replace(state, state=Lifecycle.COMPLETED, reason="", pause_before=None)
        case BuildFailed():
            if payload.checkpoint is not None:
                # It is the checkpoint's failure also when no attempt could begin.
                state = _recorded(
                    state, payload.checkpoint, state=CheckpointState.FAILED, error=payload.error
                )
            return replace(
                state,
                state=Lifecycle.FAILED,
                reason=payload.error.brief,
                error=payload.error,
                rewound_to=None,
            )
        case BuildRemoved():
            return replace(state, removed=True, published=())
    raise DcdError(f"build {state.id}: {type(payload).__name__} cannot follow")


def _submitted(event: Event, data: BuildSubmitted) -> BuildState:
    return BuildState(
        id=event.build,
        name=data.name,
        state=Lifecycle.QUEUED,
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
        pause_before=data.pause_before,
    )


def _resumed(state: BuildState, data: BuildResumed) -> BuildState:
    kept = state.completed
    resumed = replace(
        state,
        state=Lifecycle.QUEUED,
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
        published=(),
    )


def _declining(state: BuildState, checkpoint: str | None) -> BuildState:
    """The build with keys from `checkpoint` on that no layer has; all of these are still to come."""
    if checkpoint is None:
        return state
    plan = with_salt(state.plan, state.index(checkpoint), f"{state.id}:{state.sequence}")
    records = tuple(
        replace(record, key=planned.key)
        for record, planned in zip(state.checkpoints, plan.checkpoints, strict=True)
    )
    return replace(state, plan=plan, checkpoints=records, rewound_to=checkpoint)


def _pending(record: CheckpointRecord) -> CheckpointRecord:
    """The record without its result; only the number of attempts stays."""
    return CheckpointRecord(record.name, record.key, attempts=record.attempts)


def _recorded(build: BuildState, checkpoint: str, /, **changes: Any) -> BuildState:
    index = build.index(checkpoint)
    record = replace(build.checkpoints[index], **changes)
    return replace(
        build, checkpoints=(*build.checkpoints[:index], record, *build.checkpoints[index + 1 :])
    )


def _with_external(state: BuildState, checkpoint: str, external: Mapping[str, str]) -> BuildState:
    """The plan as the world was found. No external state recorded means: as planned."""
    if not external:
        return state
    index = state.index(checkpoint)
    plan = with_external(state.plan, index, external)
    if plan is state.plan:
        return state
    records = tuple(
        replace(record, key=planned.key)
        for record, planned in zip(state.checkpoints, plan.checkpoints, strict=True)
    )
    return replace(state, plan=plan, checkpoints=records)
