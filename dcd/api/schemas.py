"""Bodies of requests and responses, as plain frozen dataclasses.

msgspec decodes and validates requests into these, encodes responses from them, and derives their
JSON Schema for the OpenAPI document; so the document cannot drift from the code. Fields are only ever
added, never renamed or retyped, within `/v1`.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from dcd.construction.checkpoint_types import CheckpointType
from dcd.doctor import HostCheck
from dcd.engine.bisections import Change
from dcd.engine.manifests import Signature
from dcd.manifest.diagnostics import Diagnostic, MissingInput
from dcd.manifest.labels import HOST_LABEL
from dcd.manifest.lock import Lock
from dcd.manifest.times import EARLIEST, LATEST
from dcd.planning.document import Match
from dcd.planning.preview import Intention
from statemachine.events import Actor, Event, InputFile
from statemachine.outlook import Piece
from statemachine.plan import Json, Variance
from statemachine.rebuild import Rebuild
from statemachine.results import Artifact, ErrorInfo, Publication

Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
HostName = Annotated[str, Meta(min_length=1, max_length=128)]
CheckpointName = Annotated[str, Meta(min_length=1, max_length=128)]
ShortText = Annotated[str, Meta(max_length=4096)]


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of request bodies: an unknown field is an error."""


class ManifestText(Request, frozen=True):
    """A manifest as the client read it, and the absolute path it read it from."""

    path: ShortText
    text: Annotated[str, Meta(max_length=2_000_000)]


class UploadedFile(Request, frozen=True):
    """A file that the client has uploaded as a blob."""

    sha256: Sha256
    mode: Annotated[int, Meta(ge=0, le=0o7777)] = 0o644


Label = Annotated[str, Meta(pattern=f"^{HOST_LABEL.pattern}$", max_length=HOST_LABEL.longest)]
Files = Annotated[dict[str, UploadedFile | None], Meta(max_length=10_000)]
Parameters = Annotated[dict[str, str], Meta(max_length=1_000)]
Profiles = Annotated[tuple[Annotated[str, Meta(max_length=64)], ...], Meta(max_length=100)]


class ManifestRequest(Request, frozen=True):
    """Body of `validate` and `plan`: a manifest and its build options, as in a submit. The keys of
    `files` are absolute paths, with null for a file that the client does not have. `source_date_epoch`
    is the requested time of the build, in seconds since 1970; a time in the manifest overrides it.
    With `grow` a transfer may add packages to the result of an earlier build that has a part of them. With
    a `lock` the packages have to be those in it, and `offline` takes them from the package store alone.
    `require` are labels that the host has to have. It, `priority` and `idempotency_key` matter only to a
    submit."""

    manifest: ManifestText
    files: Files = {}
    parameters: Parameters = {}
    profiles: Profiles = ()
    source_date_epoch: Annotated[int, Meta(ge=EARLIEST, le=LATEST)] | None = None
    fresh: bool = False
    fresh_from: CheckpointName | None = None
    grow: bool = False
    pause_before: CheckpointName | None = None
    priority: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    idempotency_key: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    lock: Lock | None = None
    offline: bool = False
    require: Annotated[tuple[Label, ...], Meta(max_length=32)] = ()


class SubmitRequest(ManifestRequest, frozen=True):
    """Body of `POST /v1/builds`: as ManifestRequest. With `packages_of`, builds by id or prefix, the packages
    are those that these builds captured, and nothing is asked of repositories; `versions` chooses among those
    of several builds. `rebuild` is what the results of an export are to be compared with, `lists` are the
    digests of its lists of packages: these, all that they name, and the provenance were uploaded,
    and the provenance has to say the same as the submit. The daemon checks a `signature` of it."""

    packages_of: Annotated[tuple[str, ...], Meta(max_length=8)] = ()
    versions: Annotated[dict[str, str], Meta(max_length=100_000)] = {}
    lists: Annotated[tuple[Sha256, ...], Meta(max_length=64)] = ()
    rebuild: Rebuild | None = None
    signature: Signature | None = None


class BisectRequest(Request, frozen=True):
    """Body of `bisect`, for the good build: the bad one, the checkpoint that tests them (None: the first that
    has failed), and the numbers of the changes to build with (None: none is built)."""

    bad: str
    test: CheckpointName | None = None
    take: Annotated[tuple[int, ...], Meta(max_length=100_000)] | None = None


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
    """Body of `resume`. The JSON name of `rewind_to` is `from`. Without `parameters` or `profiles` a new
    manifest has those of the build."""

    rewind_to: CheckpointName | None = None
    pause_before: CheckpointName | None = None
    manifest: ManifestText | None = None
    files: Files = {}
    parameters: Parameters | None = None
    profiles: Profiles | None = None


class MoveRequest(Request, frozen=True):
    """Body of `move`: the member of the farm that is to drive the build; None: any other than its own."""

    to: HostName | None = None


class ReproduceRequest(Request, frozen=True, rename={"first": "from"}):
    """Body of `reproduce`: the first checkpoint to repeat; None: all are repeated. The JSON name of `first`
    is `from`."""

    first: CheckpointName | None = None


class ShellRequest(Request, frozen=True):
    """Body of `shell`: the checkpoint after which to look; None: the state of the failed attempt, or
    after the last completed checkpoint."""

    at: CheckpointName | None = None


class CollectRequest(Request, frozen=True):
    """Body of `collect`. Removes layers, least recently used first, until they fit into `max_bytes`
    together; None: removes only unneeded data. `dry_run` reports without removing."""

    max_bytes: Annotated[int, Meta(ge=0, le=2**53 - 1)] | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class CheckpointView:
    """A checkpoint of a build in its present state. `elapsed_seconds`: since the start of a running one."""

    name: str
    description: str
    state: str
    attempts: int
    key: str
    seconds: float | None
    estimate_seconds: float
    reused_from: str | None
    error: ErrorInfo | None
    warnings: tuple[str, ...] = ()
    """What its result lacks or may be wrong with."""
    variances: tuple[Variance, ...] = ()
    """Why its result may differ each time; empty if it is reproducible."""
    base: str = ""
    """The key of the layer, shared by builds with the same base, on which the last attempt made it."""
    grown_from: str = ""
    """The key of the result of an earlier build to which it adds; a build with one is grown."""
    taken_from: str = ""
    """The key of the result on another layer that was taken over."""
    elapsed_seconds: float | None = None
    publications: tuple[Publication, ...] = ()
    """The files that it has published outside this server."""
    place: str = ""
    """Where its author wrote it: `FILE:LINE`; empty if that is not known."""


@dataclass(frozen=True, slots=True)
class BuildSummary:
    """A build in a list. `fraction` is the done part, 0..1, `elapsed_seconds` the time for which it has
    worked, `remaining_seconds` the expected rest; null for a build that does not continue."""

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
    checkpoints: tuple[Piece, ...] = ()
    fraction: float = 0.0
    elapsed_seconds: float = 0.0
    remaining_seconds: float | None = None
    superseded_by: str | None = None
    """In a list: the newest completed build of the same distribution, if it was submitted later."""


@dataclass(frozen=True, slots=True)
class BuildView:
    """A build with all its details. `source_date_epoch` is its time, in seconds since 1970, `time_origin`
    where that comes from: `manifest`, `request`, `repositories` (their newest date) or `none` (a fixed
    time); empty for builds of version 0.1.0. `undelivered` lists the files among the media that no
    checkpoint delivers, by their path in the workspace. `fraction` and the seconds as in BuildSummary."""

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
    time_origin: str
    manifest_path: str
    """The path from which the client read the effective manifest."""
    inputs: tuple[InputFile, ...]
    """The captured files: path resolved from the manifest, digest and mode."""
    undelivered: tuple[str, ...] = ()
    removed_at: datetime | None = None
    """When the artifacts and logs were removed (`rm`), and by whom."""
    removed_by: Actor | None = None
    reproduces: str = ""
    """The build that this one repeats, in varied surroundings; empty for others."""
    profiles: tuple[str, ...] = ()
    """The selected profiles."""
    fraction: float = 0.0
    elapsed_seconds: float = 0.0
    remaining_seconds: float | None = None
    group: str = ""
    """The group of builds that was submitted together; empty for others."""
    cell: dict[str, str] = field(default_factory=dict)
    """What distinguishes the build in its group, by parameter, or `profile`."""
    requires: tuple[str, ...] = ()
    """The labels that it requires of a host, sorted, without those of secrets."""
    host: str = ""
    """The member of the farm that drives it, or drove it last; empty on a single machine."""


@dataclass(frozen=True, slots=True)
class ResumedView:
    """The build, and for a new manifest the kept checkpoints and the rerun ones with reasons."""

    build: BuildView
    kept: tuple[str, ...] = ()
    rerun: tuple["Rerun", ...] = ()


@dataclass(frozen=True, slots=True)
class Rerun:
    """A checkpoint that runs, for the first time or again, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class BuildList:
    """A page of builds; `next` is the `before` of the next page. `position` is that of an event: a reader
    of all events after it misses nothing that the page does not show."""

    builds: tuple[BuildSummary, ...]
    next: int | None
    position: int


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
    """A workspace that exists as long as the connection: its build, its contents, its root once
    entered, and `request` for `python -m dcd.worker.shell`, with the `marker` for its environment."""

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
    """Result of verifying a build's hash chain and comparing the projection with the fold."""

    build: str
    events: int
    ok: bool
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DocView:
    """The requested parts of a build's DOC after checkpoint `at` (null: before the first)."""

    build: str
    at: str | None
    matches: tuple[Match, ...]


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """The diagnostics of a manifest; `ok` when there are no errors (warnings may remain). With errors,
    `missing` lists the files that the manifest names and the client has not sent, as in a problem
    `inputs-missing`: only the client knows whether they can be read."""

    ok: bool
    diagnostics: tuple[Diagnostic, ...]
    missing: tuple[MissingInput, ...] = ()


@dataclass(frozen=True, slots=True)
class MigratedView:
    """The converted manifest, and the parts of the old one that could not be converted."""

    manifest: str
    left: tuple[Diagnostic, ...]


@dataclass(frozen=True, slots=True)
class PlanView:
    """The preview of a submit of the manifest. `source_date_epoch` and `time_origin` as in BuildView; they
    do not count where a key is unknown. `choice` says which list of checkpoints was chosen for a manifest
    without `<execution>`, and why."""

    name: str
    checkpoints: tuple[Intention, ...]
    source_date_epoch: int
    time_origin: str
    choice: str = ""


@dataclass(frozen=True, slots=True)
class HostChecks:
    """The state of the host."""

    checks: tuple[HostCheck, ...]


@dataclass(frozen=True, slots=True)
class CheckpointTypes:
    """The checkpoints that a manifest may use; `problems` lists modules that cannot be imported."""

    types: tuple[CheckpointType, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VersionView:
    """The version and process of the daemon."""

    version: str
    api: str
    pid: int
    state_dir: str
    started_at: datetime


@dataclass(frozen=True, slots=True)
class PeerView:
    """The user behind the socket, as the daemon knows it, with all its roles. `uid` and `gid` are null for
    the daemon itself."""

    user: str
    uid: int | None
    gid: int | None
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WaitingValue:
    """A value in the source of the settings that takes effect with a restart."""

    value: Json
    origin: str


@dataclass(frozen=True, slots=True)
class SettingView:
    """A setting: the effective value, its origin (`default`, `FILE:LINE`, `$VARIABLE`, `--OPTION` or an
    SMF property), and whether a reload can change it."""

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
    """The response while the daemon can serve. `status` is `ok`, or `warning` with `problems`."""

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


@dataclass(frozen=True, slots=True)
class BisectionView:
    """Two builds, the checkpoint that tests them, the changes from the good one to the bad one, and the build
    with the changes that were asked for."""

    good: str
    bad: str
    test: str
    changes: tuple[Change, ...]
    build: BuildView | None = None
