"""Bodies of requests and responses, as plain frozen dataclasses.

msgspec decodes and validates requests into these, encodes responses from them, and derives their
JSON Schema for the OpenAPI document; so the document cannot drift from the code. Fields are only ever
added, never renamed or retyped, within `/v1`.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from dcd.construction.checkpoint_types import CheckpointType
from dcd.doctor import HostCheck
from dcd.engine.records import LogFile
from dcd.manifest.diagnostics import Diagnostic, MissingInput
from dcd.manifest.times import EARLIEST, LATEST
from dcd.planning.document import Match
from dcd.planning.preview import Intention
from statemachine.events import Actor, Artifact, ErrorInfo, Event, InputFile
from statemachine.plan import Json

Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
CheckpointName = Annotated[str, Meta(min_length=1, max_length=128)]
ShortText = Annotated[str, Meta(max_length=4096)]


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what clients send: a field that is not known is an error, not ignored."""


class ManifestText(Request, frozen=True):
    """A manifest as the client read it, and the absolute path it read it from."""

    path: ShortText
    text: Annotated[str, Meta(max_length=2_000_000)]


class UploadedFile(Request, frozen=True):
    """A file that the client has uploaded as a blob."""

    sha256: Sha256
    mode: Annotated[int, Meta(ge=0, le=0o7777)] = 0o644


Files = Annotated[dict[str, UploadedFile | None], Meta(max_length=10_000)]
Parameters = Annotated[dict[str, str], Meta(max_length=1_000)]


class ManifestRequest(Request, frozen=True):
    """Body of `validate` and `plan`: a manifest and how it would be built, as a submit's body. `files` are by
    absolute path, null for one that the client does not have. `source_date_epoch` is the build's time that
    is asked for, in seconds since 1970; the manifest's own outranks it. `priority` and `idempotency_key`
    matter to a submit only."""

    manifest: ManifestText
    files: Files = {}
    parameters: Parameters = {}
    source_date_epoch: Annotated[int, Meta(ge=EARLIEST, le=LATEST)] | None = None
    fresh: bool = False
    fresh_from: CheckpointName | None = None
    pause_before: CheckpointName | None = None
    priority: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    idempotency_key: Annotated[str, Meta(min_length=1, max_length=200)] | None = None


class SubmitRequest(ManifestRequest, frozen=True):
    """Body of `POST /v1/builds`: the same."""


class MigrateRequest(Request, frozen=True):
    """Body of `migrate`: a manifest from before the redesign, and its defaults file."""

    manifest: ManifestText
    defaults: ManifestText | None = None


class PauseRequest(Request, frozen=True):
    """Body of `pause`: before which checkpoint; None: after the running one. `withdraw`: a pause that was
    requested, and that the build has not reached, is withdrawn."""

    before: CheckpointName | None = None
    withdraw: bool = False


class ResumeRequest(Request, frozen=True, rename={"rewind_to": "from"}):
    """Body of `resume`. `rewind_to` goes by the name `from` on the wire."""

    rewind_to: CheckpointName | None = None
    pause_before: CheckpointName | None = None
    manifest: ManifestText | None = None
    files: Files = {}
    parameters: Parameters | None = None


class ShellRequest(Request, frozen=True):
    """Body of `shell`: after which checkpoint; None: as the failed attempt left it, or the last completed."""

    at: CheckpointName | None = None


class CollectRequest(Request, frozen=True):
    """Body of `collect`. Layers over `max_bytes` together are removed, least recently used first; None:
    only what nobody needs. `dry_run` only says what would be removed."""

    max_bytes: Annotated[int, Meta(ge=0, le=2**53 - 1)] | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class CheckpointView:
    """A checkpoint of a build as it stands."""

    name: str
    description: str
    state: str
    attempts: int
    key: str
    seconds: float | None
    estimate_seconds: float
    reused_from: str | None
    error: ErrorInfo | None


@dataclass(frozen=True, slots=True)
class BuildSummary:
    """A build in a list."""

    id: str
    name: str
    state: str
    reason: str
    submitted_at: datetime
    updated_at: datetime
    actor: Actor
    priority: int
    completed_checkpoints: int
    total_checkpoints: int


@dataclass(frozen=True, slots=True)
class BuildView:
    """A build with all that is known of it now. `source_date_epoch` is its time, in seconds since 1970;
    `undelivered` are files that checkpoints left among the media and none delivers, by their path in the
    workspace."""

    id: str
    name: str
    state: str
    reason: str
    submitted_at: datetime
    updated_at: datetime
    actor: Actor
    priority: int
    pause_before: str | None
    parameters: dict[str, str]
    checkpoints: tuple[CheckpointView, ...]
    artifacts: tuple[Artifact, ...]
    error: ErrorInfo | None
    source_date_epoch: int
    manifest_path: str
    """Where the client read the manifest in force."""
    inputs: tuple[InputFile, ...]
    """The captured files: path as the manifest resolves it, digest and mode."""
    undelivered: tuple[str, ...] = ()
    removed_at: datetime | None = None
    """When the artifacts and logs were removed (`rm`), and by whom."""
    removed_by: Actor | None = None


@dataclass(frozen=True, slots=True)
class ResumedView:
    """The build, and for a new manifest which checkpoints are kept and which run again, and why."""

    build: BuildView
    kept: tuple[str, ...] = ()
    rerun: tuple["Rerun", ...] = ()


@dataclass(frozen=True, slots=True)
class Rerun:
    """A checkpoint that runs (again), and the reason."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class BuildList:
    """A page of builds; `next` is the `before` of the next page."""

    builds: tuple[BuildSummary, ...]
    next: int | None


@dataclass(frozen=True, slots=True)
class ResumableCheckpoint:
    """A checkpoint, and whether the build can be resumed from it."""

    name: str
    description: str
    state: str
    resumable: bool


@dataclass(frozen=True, slots=True)
class CheckpointList:
    """The checkpoints of a build, in order."""

    checkpoints: tuple[ResumableCheckpoint, ...]


@dataclass(frozen=True, slots=True)
class ShellView:
    """A workspace that is there as long as the connection is: whose, what it holds, where it appears
    once entered, and `request` for `python -m dcd.worker.shell`, with the `marker` for its environment."""

    build: str
    place: str
    root: str
    marker: str
    request: Json


@dataclass(frozen=True, slots=True)
class EventList:
    """A page of events; `next` is the `after` of the next page."""

    events: tuple[Event, ...]
    next: int | None


@dataclass(frozen=True, slots=True)
class Verification:
    """Outcome of recomputing a build's hash chain and comparing the projection with the fold."""

    build: str
    events: int
    ok: bool
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LogList:
    """The logs of a build, oldest first."""

    logs: tuple[LogFile, ...]


@dataclass(frozen=True, slots=True)
class ArtifactList:
    """The published artifacts of a build."""

    artifacts: tuple[Artifact, ...]


@dataclass(frozen=True, slots=True)
class ArtifactCheck:
    """One artifact, read and digested again. `problem` is empty when it is as published."""

    name: str
    path: str
    ok: bool
    problem: str


@dataclass(frozen=True, slots=True)
class ArtifactChecks:
    """All artifacts of a build, read and digested again."""

    artifacts: tuple[ArtifactCheck, ...]
    ok: bool


@dataclass(frozen=True, slots=True)
class DocView:
    """What was asked for of a build's DOC after checkpoint `at` (null: before the first)."""

    build: str
    at: str | None
    matches: tuple[Match, ...]


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """What is wrong with a manifest; `ok` when there are no errors (warnings may remain). With errors,
    `missing` are the files that it names and that were not sent, as a problem `inputs-missing` has them:
    whether they can be read, only the client can say."""

    ok: bool
    diagnostics: tuple[Diagnostic, ...]
    missing: tuple[MissingInput, ...] = ()


@dataclass(frozen=True, slots=True)
class MigratedView:
    """The manifest in the present vocabulary, and what of the old one could not be carried over."""

    manifest: str
    left: tuple[Diagnostic, ...]


@dataclass(frozen=True, slots=True)
class PlanView:
    """What would happen if the manifest were submitted now."""

    name: str
    checkpoints: tuple[Intention, ...]


@dataclass(frozen=True, slots=True)
class HostChecks:
    """The state of the host."""

    checks: tuple[HostCheck, ...]


@dataclass(frozen=True, slots=True)
class CheckpointTypes:
    """What a manifest's checkpoints may name; `problems` are modules that cannot be imported."""

    types: tuple[CheckpointType, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VersionView:
    """Which daemon this is."""

    version: str
    api: str
    pid: int
    state_dir: str
    started_at: datetime


@dataclass(frozen=True, slots=True)
class WaitingValue:
    """A value that is in the settings' source, and takes effect with a restart."""

    value: Json
    origin: str


@dataclass(frozen=True, slots=True)
class SettingView:
    """A setting: the value in force, where it comes from (`default`, `FILE:LINE`, `$VARIABLE`,
    `--OPTION` or an SMF property), and whether a reload can change it."""

    name: str
    value: Json
    origin: str
    unit: str
    reloads: bool
    waiting: WaitingValue | None


@dataclass(frozen=True, slots=True)
class ConfigurationView:
    """All settings of the daemon."""

    settings: tuple[SettingView, ...]


class Health(msgspec.Struct, frozen=True, omit_defaults=True):
    """Answered while the daemon can serve. `status` is `ok`, or `warning`: `problems` say what is wrong."""

    status: str
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """An error, RFC 9457."""

    type: str
    title: str
    status: int
    detail: str = ""
    resolution: str = ""
    diagnostics: tuple[Diagnostic, ...] | None = None
    missing: Json | None = None
