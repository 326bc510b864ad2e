"""A build's state, folded from its events, as data.

Only `statemachine.fold` creates it. Completed checkpoints are always a prefix of the plan; at most one
attempt is open, and it belongs to the first checkpoint that is not completed. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from itertools import takewhile
from operator import attrgetter

from statemachine.errors import NotFound
from statemachine.events import Actor, InputFile
from statemachine.keys import epoch_of
from statemachine.plan import Locked, Plan
from statemachine.rebuild import Rebuild
from statemachine.results import Artifact, ErrorInfo, Publication
from statemachine.variation import Variation


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

WORKING = frozenset({Lifecycle.RUNNING, Lifecycle.PAUSING, Lifecycle.CANCELLING})
"""States in which a build works."""

RUNNABLE = WORKING | {Lifecycle.QUEUED}
"""States in which somebody is to drive a build."""


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
    """A resource that an open attempt may have created; the fields are those of ResourceClaimed."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """The progress and the result of one checkpoint of the plan.

    `attempts` counts all attempts of this build at the checkpoint, including rewound ones, so that no log
    file name is used twice. `interruptions` counts consecutive interruptions. `log`, `boot_id`, `base`,
    `host` (as in CheckpointStarted) and `started_at` belong to the last attempt, `claims` to the open one.
    `seconds`, `artifacts`, `warnings`, `size_bytes`, `reused_from`, `taken_from`, `resolved` and
    `publications` (as in the events) belong to the result. `damaged` tells people about layers that the build
    could not use.
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
    warnings: tuple[str, ...] = ()
    resolved: str = ""
    publications: tuple[Publication, ...] = ()
    size_bytes: int = 0
    log: str = ""
    boot_id: str = ""
    host: str = ""
    claims: tuple[Claim, ...] = ()
    base: str = ""
    damaged: tuple[str, ...] = ()
    taken_from: str = ""
    started_at: datetime | None = None

    @property
    def done(self) -> bool:
        """Whether the checkpoint has a valid result."""
        return self.state in (CheckpointState.COMPLETED, CheckpointState.REUSED)


@dataclass(frozen=True, slots=True)
class BuildState:
    """A build after its last event.

    `checkpoints` correspond one to one to `plan.checkpoints`; their keys are the plan's, with the
    external state found when each checkpoint started. `reason` explains the state to people; `cause` is
    the cause of the last BuildPaused. `pause_before` is a pause requested and not yet reached;
    `rewound_to` is the checkpoint to which the build was rewound since it last paused or failed.
    `removed_at` and `removed_by` say when and by whom its artifacts and logs were removed. `published`
    artifacts have paths in the state directory. `submitted_position` is the log position of the first
    event; `sequence`, `log_position` and `hash` belong to the last event. `time_origin` is where the
    build's time comes from (`dcd.planning.epoch`; "" for builds of version 0.1.0).
    `reproduces`, `variation`, `locked`, `profiles`, `group`, `cell`, `require` and `requires` as in
    BuildSubmitted. The build has worked for `worked_seconds` until it last stopped, and works again since
    `working_since`. `host` and `epoch` are those of the last BuildPlaced; "" and 0 on a single machine.
    `moves_to` is that of a MoveRequested that is not fulfilled; None without one.
    """

    id: str
    name: str
    lifecycle: Lifecycle
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
    time_origin: str = ""
    reproduces: str = ""
    variation: Variation | None = None
    locked: Locked | None = None
    rebuild: Rebuild | None = None
    profiles: tuple[str, ...] = ()
    group: str = ""
    cell: tuple[tuple[str, str], ...] = ()
    require: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    removed: bool = False
    removed_at: datetime | None = None
    removed_by: Actor | None = None
    attempts: Mapping[str, int] = field(default_factory=dict)
    worked_seconds: float = 0.0
    working_since: datetime | None = None
    host: str = ""
    epoch: int = 0
    moves_to: str | None = None
    submitted_position: int = 0
    sequence: int = 0
    log_position: int = 0
    hash: str = ""

    @property
    def source_date_epoch(self) -> int:
        """The build's time, in seconds since 1970. For builds of version 0.1.0 that of the submit."""
        found = epoch_of(self.plan)
        return int(self.submitted_at.timestamp()) if found is None else found

    @property
    def submission_key(self) -> str | None:
        """The submission's unique key; None without an idempotency key."""
        if self.idempotency_key is None or not self.request_sha256:
            return self.idempotency_key
        return submission_key(self.actor.uid, self.idempotency_key)

    @property
    def completed(self) -> int:
        """The position: the number of leading checkpoints with a valid result."""
        return sum(1 for _ in takewhile(attrgetter("done"), self.checkpoints))

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
        """Key of the layer on which the next checkpoint builds; None for the first."""
        position = self.completed
        return self.checkpoints[position - 1].key if position else None

    @property
    def declared(self) -> tuple[Artifact, ...]:
        """Artifacts of the completed checkpoints, with paths relative to the workspace. Of two artifacts
        with the same name the later one counts."""
        named = {
            artifact.name: artifact
            for record in self.checkpoints
            if record.done
            for artifact in record.artifacts
        }
        return tuple(named.values())

    @property
    def resolved(self) -> tuple[str, ...]:
        """The lists of packages of the completed checkpoints, in order, by their digests: together, all that
        was put into the image."""
        return tuple(
            dict.fromkeys(each.resolved for each in self.checkpoints if each.done and each.resolved)
        )

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
        """Whether the build has reached a final state."""
        return self.lifecycle in ENDED

    def index(self, checkpoint: str) -> int:
        """The index of a checkpoint in the plan. Raises NotFound."""
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
    """An idempotency key made unique across users."""
    return f"{uid}:{idempotency_key}"
