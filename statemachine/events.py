"""Events: the facts of a build, in the past tense.

A payload is a frozen dataclass of JSON values; its class name is the event's type and `VERSION` is the
version of its schema. Stored payloads never change: a new version of a schema comes with an upcaster
(`statemachine.upcasters`) from the previous version. Time, ids, actor and environment enter only
here, as data, so that replay always gives the same machine. Pure: no I/O, no clock.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

from statemachine.plan import Locked, Plan
from statemachine.rebuild import Rebuild
from statemachine.results import Artifact, ErrorInfo, Publication
from statemachine.variation import Variation


@dataclass(frozen=True, slots=True)
class Payload:
    """Base of all event payloads."""

    VERSION: ClassVar[int] = 1


@dataclass(frozen=True, slots=True)
class InputFile:
    """A captured input file: the path resolved from the manifest, the blob's digest and the mode."""

    path: str
    sha256: str
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class BuildSubmitted(Payload):
    """A client submitted a manifest; it was parsed, checked and planned. The build is queued.

    `idempotency_key` is unique per submitting user; `request_sha256` is the digest of the whole request
    ("" in events of version 0.1.0, whose keys were unique across all users). The build's time is in the plan
    (`statemachine.keys.epoch_of`); `time_origin` says where it comes from (`dcd.planning.epoch`).
    `reproduces` is the build that this one repeats ("": none), in surroundings with this `variation`.
    `locked` is what it uses in place of its repositories.
    `rebuild` is what the results are to be compared with: such a build has no network. `profiles` are the
    selected ones, in order. `group` is the group of builds that was submitted together ("": none),
    `cell` what distinguishes this one in it, by axis, without secrets. `requires` are all labels that it
    requires of a host (`dcd.platform.host_labels`), `require` those of them that its submitter asked for."""

    name: str
    manifest: str
    manifest_path: str
    plan: Plan
    inputs: tuple[InputFile, ...] = ()
    parameters: dict[str, str] = field(default_factory=dict)
    pause_before: str | None = None
    fresh: bool = False
    priority: int = 0
    idempotency_key: str | None = None
    request_sha256: str = ""
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


@dataclass(frozen=True, slots=True)
class BuildPlaced(Payload):
    """The member `host` of a farm took the build, and drives it from here on. `epoch` counts from 1 and grows
    with each taking; facts of an earlier epoch are refused. On a single machine there is no such event."""

    host: str
    epoch: int


@dataclass(frozen=True, slots=True)
class MoveRequested(Payload):
    """A move was requested: the build leaves its member of the farm, after its running checkpoint, for the
    member `to` ("": any other one). The next BuildPlaced fulfils it."""

    to: str = ""


@dataclass(frozen=True, slots=True)
class BuildStarted(Payload):
    """The scheduler gave the build a slot, for the first time or after a resume. `builder` is the URI that
    names the build server, `version` that of dcd, `backend` the back end of layers; "" in events of version
    0.1.0."""

    builder: str = ""
    version: str = ""
    backend: str = ""


@dataclass(frozen=True, slots=True)
class CheckpointStarted(Payload):
    """An attempt at a checkpoint is about to run. `external` is the present external state that the key
    covers (repositories and tools of the host: name to identifying text); where it differs from the plan,
    the keys from this checkpoint on are chained again. `boot_id` of the host identifies a reboot. `base` is
    the key of the first of the attempt's two layers, which exists or is made first; `grown` is the key of the
    layer of an earlier build that the attempt adds to instead, which is part of the key. `host` is the member
    of the farm on which it runs; "" on a single machine."""

    checkpoint: str
    attempt: int
    key: str
    log: str
    boot_id: str = ""
    external: dict[str, str] = field(default_factory=dict)
    base: str = ""
    grown: str = ""
    host: str = ""


@dataclass(frozen=True, slots=True)
class ResourceClaimed(Payload):
    """The attempt is about to create a resource outside its worker's namespaces, such as an iSCSI target of
    the kernel. `kind` selects how to release it, `name` identifies it. It is released before the event
    that ends the attempt, so recovery has to release the claims of attempts without such an event."""

    checkpoint: str
    attempt: int
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class CheckpointReused(Payload):
    """A layer with the checkpoint's key existed; nothing ran. `reused_from` is the build that
    created it (the build itself after a rewind). `left`, `warnings`, `resolved` and `content` as in
    CheckpointCompleted, `grown` as in CheckpointStarted. With `taken_from` there was no such layer: the
    result with that key, of the same checkpoint on another layer, was taken over, since nothing differs that
    the checkpoint reads (`statemachine.plan.Inputs`)."""

    checkpoint: str
    key: str
    reused_from: str
    artifacts: tuple[Artifact, ...] = ()
    external: dict[str, str] = field(default_factory=dict)
    left: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    resolved: str = ""
    grown: str = ""
    content: str = ""
    taken_from: str = ""


@dataclass(frozen=True, slots=True)
class CheckpointCompleted(Payload):
    """The attempt succeeded and its layer is committed. `left` lists the files among the media, by path in
    the workspace, that it neither delivered nor recorded for later checkpoints; `warnings` say, for people,
    what its result lacks or may be wrong with. `resolved` is the sha256 of the list of the packages that it
    put into the image (`store.resolved`), in the package store; "" without a list. `content`
    is the SHA-256 of the layer's content manifest, "" in events of earlier versions. `publications` are the
    files that it has published. `base_content` is as `content` of the layer of key `base`, on which the
    result was made ("" for a result on that of the checkpoint before)."""

    checkpoint: str
    attempt: int
    key: str
    seconds: float
    artifacts: tuple[Artifact, ...] = ()
    size_bytes: int = 0
    left: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    resolved: str = ""
    content: str = ""
    publications: tuple[Publication, ...] = ()
    base: str = ""
    base_content: str = ""


@dataclass(frozen=True, slots=True)
class LayerDamaged(Payload):
    """The layer of key `key`, which the build was about to use for `checkpoint`, is not what its content
    manifest says; nothing uses it again. `made_by` is the build that made it, `damage` names the first
    differences, for people."""

    checkpoint: str
    key: str
    made_by: str
    damage: str


@dataclass(frozen=True, slots=True)
class CheckpointFailed(Payload):
    """The checkpoint reported an error. Its attempt is discarded; every earlier layer is kept."""

    checkpoint: str
    attempt: int
    error: ErrorInfo
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class CheckpointInterrupted(Payload):
    """The attempt ended without a verdict. `cause` is one of `daemon-died`, `machine-rebooted`,
    `worker-died`, `host-lost` (another member of the farm took the build), `no-space`, `shutdown`,
    `cancelled`, `host-changed` (a tool of the host that its key covers was replaced meanwhile); the first
    four count towards parking the build."""

    checkpoint: str
    attempt: int
    cause: str
    details: str = ""


@dataclass(frozen=True, slots=True)
class PauseRequested(Payload):
    """A pause was requested before checkpoint `before`; when None, as soon as the running one ends."""

    before: str | None = None


@dataclass(frozen=True, slots=True)
class PauseWithdrawn(Payload):
    """A requested pause was withdrawn before the build reached it."""


@dataclass(frozen=True, slots=True)
class BuildPaused(Payload):
    """The build is paused between two checkpoints. `reason` is for people; `cause` is one of
    `requested`, `interrupted` (parked), `no-space`."""

    reason: str
    cause: str = "requested"


@dataclass(frozen=True, slots=True)
class BuildResumed(Payload):
    """A paused or failed build is queued again; a build that was pausing continues. With `plan`, the manifest
    was replaced, and the first `kept` checkpoints keep their results. From `declines` on, the next
    checkpoint, no result of other builds is reused. `requires` as in BuildSubmitted, of the new plan."""

    pause_before: str | None = None
    manifest: str | None = None
    manifest_path: str | None = None
    plan: Plan | None = None
    inputs: tuple[InputFile, ...] = ()
    parameters: dict[str, str] = field(default_factory=dict)
    kept: int | None = None
    declines: str | None = None
    time_origin: str = ""
    profiles: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BuildRewound(Payload):
    """The results from checkpoint `checkpoint` on are no longer valid; it runs again. `cause` is one of
    `requested` (existing results are declined) and `layer-missing` (lost); `reason` is for people."""

    checkpoint: str
    reason: str = ""
    cause: str = "requested"


@dataclass(frozen=True, slots=True)
class CancelRequested(Payload):
    """A cancel was requested; a running attempt is being stopped."""


@dataclass(frozen=True, slots=True)
class BuildCancelled(Payload):
    """The build is cancelled; no attempt runs."""


@dataclass(frozen=True, slots=True)
class ArtifactPublished(Payload):
    """An artifact is in the artifact directory, complete and synced. With the delivered manifest, `exported`
    is the sha256 of the manifest as an export has it ("": there can be no export)."""

    artifact: Artifact
    exported: str = ""


@dataclass(frozen=True, slots=True)
class BuildCompleted(Payload):
    """All checkpoints have completed and all artifacts are published."""

    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class BuildFailed(Payload):
    """A checkpoint failed; the build stopped and can be resumed."""

    checkpoint: str | None
    error: ErrorInfo


@dataclass(frozen=True, slots=True)
class BuildRemoved(Payload):
    """The build's artifacts and logs are removed; its events are kept."""


@dataclass(frozen=True, slots=True)
class Actor:
    """The originator of an event: peer credentials of the socket, or the daemon itself (uid None)."""

    uid: int | None = None
    gid: int | None = None
    pid: int | None = None
    user: str = "dcd"


@dataclass(frozen=True, slots=True)
class Event:
    """A payload with its place in the log.

    `position` orders all events of the log, `sequence` those of one build (from 1, no gaps);
    `time` is aware UTC; `hash` is sha256 (hex) over the build's previous hash and this event.
    """

    position: int
    build: str
    sequence: int
    type: str
    version: int
    time: datetime
    actor: Actor
    data: Payload
    hash: str
