"""The questions that a planner answers, each with its types and its function.

Questions and answers are plain data, and the only data exchanged with a planner. A function may open
the captured files of its question and query mirrors; before it waits for a long time without computing,
it calls `waiting`. Raises DcdError, which `dcd.planner.border` transfers.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from dcd.checkpoints.interface import Known, Needs
from dcd.construction.constructors import runs_host_code
from dcd.manifest.canonical import restore
from dcd.manifest.diagnostics import Diagnostic, ManifestError, in_order, refuse
from dcd.manifest.doc import distro
from dcd.manifest.includes import CapturedFile
from dcd.manifest.inputs import InputsMissing
from dcd.manifest.lock import Lock
from dcd.manifest.migrate import Migrated, migrate
from dcd.manifest.mixture import Edit, mixed
from dcd.manifest.secrets import Borrower, require_use
from dcd.manifest.source import LIMITS
from dcd.manifest.withheld import withheld, withhold
from dcd.planner.rules import Rules
from dcd.planning import document
from dcd.planning import plan as planning
from dcd.planning.document import Match
from dcd.planning.drift import changed_since, differences, end_of_transfers
from dcd.planning.epoch import BuildTime
from dcd.planning.exported import exported
from dcd.planning.labels import placement, required
from dcd.planning.load import Loaded, load
from dcd.planning.load import Settings as ManifestSettings
from dcd.planning.preview import Intention, beyond
from dcd.planning.readiness import Made, examine
from dcd.planning.signing_keys import check_signing
from dcd.planning.validation import validate
from dcd.worker.kinds import chosen_kind
from statemachine.errors import DcdError, PermissionDenied
from statemachine.events import InputFile
from statemachine.plan import Plan, PlannedCheckpoint
from store.host.regular import read_regular
from store.host.secret_files import DIRECTORIES

Question = TypeVar("Question")
Answer = TypeVar("Answer")
Waiting = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Captured:
    """A file that the client has uploaded: its digest, its mode, and the path of the blob."""

    sha256: str
    mode: int
    path: Path


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest as a client sent it. The keys of `files` are absolute paths, with None for a file that the
    client does not have; `inherited` and `inherited_profiles` are of the manifest that it replaces;
    `source_date_epoch` is the requested time of the build, `known` the repositories of a locked one, `lock`
    its lock; from `pause_before` on no checkpoint runs yet; `host_code` means that its sender may run code on
    the host (None: not known, in a check without a daemon); `borrower` is the user of its secrets (None:
    root)."""

    text: str
    path: str
    rules: Rules
    files: Mapping[str, Captured | None] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    inherited: Mapping[str, str] = field(default_factory=dict)
    profiles: tuple[str, ...] = ()
    inherited_profiles: tuple[str, ...] = ()
    source_date_epoch: int | None = None
    known: Known | None = None
    lock: Lock | None = None
    pause_before: str | None = None
    host_code: bool | None = False
    borrower: Borrower | None = None


@dataclass(frozen=True, slots=True)
class OfBuild:
    """A checkpoint of a build: the stored manifest, and the checkpoint as planned."""

    manifest: str
    planned: PlannedCheckpoint
    modules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OfRest:
    """The next checkpoint of a build and those after it: the stored manifest, and the checkpoints as
    planned."""

    manifest: str
    planned: tuple[PlannedCheckpoint, ...]
    modules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OldManifest:
    """A manifest from before the redesign, and the text of its defaults file."""

    text: str
    path: str
    defaults: str | None


@dataclass(frozen=True, slots=True)
class InDocument:
    """A stored manifest, the DOC's persistent part saved with a layer, and a path string (None: all).
    Secrets are omitted unless `whole` is set."""

    manifest: str
    persistent: str | None
    path: str | None
    whole: bool


@dataclass(frozen=True, slots=True)
class WithSecrets:
    """A stored manifest with its parameters and its plan (None: not needed), and the time of its build (None:
    its export is not needed)."""

    manifest: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    plan: Plan | None = None
    epoch: int | None = None


@dataclass(frozen=True, slots=True)
class OfEpoch:
    """A stored manifest, and the time of its build."""

    manifest: str
    epoch: int


@dataclass(frozen=True, slots=True)
class WithoutSecrets:
    """The same without the manifest's secrets, and whether it had any; `exported` is the sha256 of the
    manifest in an export ("": it cannot be exported)."""

    manifest: str
    parameters: dict[str, str]
    plan: Plan | None
    had_any: bool
    exported: str = ""


@dataclass(frozen=True, slots=True)
class Between:
    """Two stored manifests, and the changes of the first towards the second to take, by number."""

    first: str
    second: str
    take: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Mixed:
    """The manifest between two others, and all changes from the first to the second."""

    text: str
    edits: tuple[Edit, ...]


@dataclass(frozen=True, slots=True)
class Planned:
    """A manifest that can be built: the distribution's name, the canonical manifest, its captured files,
    all labels that it requires of the host, and those that its placement asks for."""

    name: str
    canonical: str
    inputs: tuple[InputFile, ...]
    plan: Plan
    time: BuildTime
    requires: tuple[str, ...]
    placement: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Previewed:
    """The plan up to the first checkpoint that cannot run here, and the state of the others."""

    name: str
    plan: Plan
    time: BuildTime
    rest: tuple[Intention, ...]
    choice: str = ""
    """The list of checkpoints that was chosen for a manifest without one, and why."""
    canonical: str = ""
    """The canonical manifest."""


@dataclass(frozen=True, slots=True)
class NeedsOfAttempt:
    """What an attempt needs of the host, the manifest's proxy, and whether it runs code for which the right
    `host_code` was needed."""

    needs: Needs
    http_proxy: str | None
    host_code: bool = False


@dataclass(frozen=True, slots=True)
class Locking:
    """What a lock says of a checkpoint before its packages: a line for each thing that the manifest asks for,
    and the architecture ("": that of an earlier transfer)."""

    asks: tuple[str, ...]
    architecture: str


@dataclass(frozen=True, slots=True)
class Task(Generic[Question, Answer]):
    """One kind of question."""

    name: str
    question: type[Question]
    answer: type[Answer]
    work: Callable[[Question, Waiting], Answer]


def _check(manifest: Manifest, waiting: Waiting) -> tuple[Diagnostic, ...]:
    return _loaded(manifest, waiting)[0].diagnostics


def _plan(manifest: Manifest, waiting: Waiting) -> Planned:
    loaded, made = _loaded(manifest, waiting)
    plan, time = planning.make_plan(
        loaded,
        made,
        manifest.rules.modules,
        manifest.source_date_epoch,
        manifest.pause_before,
        worker=chosen_kind(manifest.rules.worker)[0],
        known=manifest.known,
        host_code=bool(manifest.host_code),
        elsewhere=manifest.rules.elsewhere,
        waiting=waiting,
    )
    _require_unchanged(manifest, loaded, made, plan)
    name, labels = distro(loaded.doc).name, (required(plan, loaded.doc), placement(loaded.doc))
    return Planned(name, loaded.canonical, loaded.inputs, plan, time, *labels)


def _preview(manifest: Manifest, waiting: Waiting) -> Previewed:
    loaded, made = _loaded(manifest, waiting)
    plan, time, rest = planning.plan_ahead(
        loaded,
        made,
        manifest.rules.modules,
        manifest.source_date_epoch,
        known=manifest.known,
        worker=chosen_kind(manifest.rules.worker)[0],
        host_code=bool(manifest.host_code),
        elsewhere=manifest.rules.elsewhere,
        waiting=waiting,
    )
    _require_unchanged(manifest, loaded, made, plan)
    name = distro(loaded.doc).name
    return Previewed(name, plan, time, beyond(rest), loaded.choice, loaded.canonical)


def _require_unchanged(
    manifest: Manifest, loaded: Loaded, made: Sequence[Made], plan: Plan
) -> None:
    """Raise ManifestError when repositories of a locked build have changed, unless it does without them."""
    if manifest.lock is not None and manifest.known is None:
        inputs = {each.path: each.sha256 for each in loaded.inputs}
        refuse(changed_since(loaded.doc, made, manifest.lock, plan, inputs))


def _transfers(manifest: Manifest, waiting: Waiting) -> str:
    loaded, made = _loaded(manifest, waiting)
    return end_of_transfers(loaded.doc, made)


def _lockables(of: OfRest, waiting: Waiting) -> tuple[Locking | None, ...]:
    doc = restore(of.manifest)
    found = [planning.constructed(each, of.modules).lockable(doc) for each in of.planned]
    return tuple(
        None
        if each is None
        else Locking(tuple(ask.text for ask in each.asks), each.architecture.text)
        for each in found
    )


def _needs(of: OfRest, waiting: Waiting) -> tuple[NeedsOfAttempt | None, ...]:
    doc = restore(of.manifest)
    http_proxy = distro(doc).http_proxy

    def found(planned: PlannedCheckpoint) -> NeedsOfAttempt:
        instance = planning.constructed(planned, of.modules)
        on_host = runs_host_code(planned.mod_path, planned.checkpoint_class, instance)
        return NeedsOfAttempt(instance.needs(doc), http_proxy, on_host)

    def found_later(planned: PlannedCheckpoint) -> NeedsOfAttempt | None:
        try:
            return found(planned)
        except Exception:  # noqa: BLE001 - reported if it becomes the next
            return None

    first, *later = of.planned
    return found(first), *map(found_later, later)


def _external(of: OfBuild, waiting: Waiting) -> dict[str, str]:
    waiting()
    return planning.external_state(of.manifest, of.planned, of.modules)


def _migrate(old: OldManifest, waiting: Waiting) -> Migrated:
    return migrate(old.text, old.path, old.defaults)


def _withhold(given: WithSecrets, waiting: Waiting) -> WithoutSecrets:
    without = withheld(given.manifest)
    plan = None if given.plan is None else without.plan(given.plan)
    return WithoutSecrets(
        without.text,
        without.values(given.parameters),
        plan,
        bool(without.secrets) or without.everything,
        "" if given.epoch is None else _exported_sha256(given.manifest, given.epoch),
    )


def _exported_sha256(manifest: str, epoch: int) -> str:
    try:
        return hashlib.sha256(exported(manifest, epoch).encode()).hexdigest()
    except DcdError:
        return ""


def _export(given: OfEpoch, waiting: Waiting) -> str:
    return exported(given.manifest, given.epoch)


def _find(wanted: InDocument, waiting: Waiting) -> tuple[Match, ...]:
    doc = restore(wanted.manifest, wanted.persistent)
    if not wanted.whole:
        withhold(doc)
    return document.matches(doc, wanted.path)


def _mix(between: Between, waiting: Waiting) -> Mixed:
    return Mixed(*mixed(between.first, between.second, between.take))


CHECK = Task("check", Manifest, tuple[Diagnostic, ...], _check)
"""Check a manifest, including the checks of its checkpoints, for its warnings. Needs no network."""

PLAN = Task("plan", Manifest, Planned, _plan)
"""Plan a manifest. Raises Unprepared when checkpoints cannot run here, PermissionDenied when it runs
code on the host without its sender's right to do so."""

PREVIEW = Task("preview", Manifest, Previewed, _preview)
"""Like `PLAN`, up to the first checkpoint that cannot run here."""

NEEDS = Task("needs", OfRest, tuple[NeedsOfAttempt | None, ...], _needs)
"""Find the needs of an attempt at each checkpoint; None for a later one that cannot be constructed."""

EXTERNAL = Task("external", OfBuild, dict[str, str], _external)
"""Find the present external state that a checkpoint's key covers: name to sha256."""

MIGRATE = Task("migrate", OldManifest, Migrated, _migrate)
"""Convert a manifest from before the redesign."""

FIND = Task("find", InDocument, tuple[Match, ...], _find)
"""Find the matches of a path string in the DOC of a build."""

WITHHOLD = Task("withhold", WithSecrets, WithoutSecrets, _withhold)
"""Remove the secrets of a manifest from it, its parameters and its plan."""


EXPORT = Task("export", OfEpoch, str, _export)
"""Make a manifest fit for an export. Raises Refused."""

MIX = Task("mix", Between, Mixed, _mix)
"""Make a manifest between two others."""


def require_showable(question: object, paths: Iterable[Path]) -> None:
    """On the daemon's side: raise PermissionDenied for paths of the host, of which a planner says that the
    question is about them, that are secrets and not for the user of the question. All others are shown if
    everybody can read them."""
    secrets = [str(path) for path in paths if any(map(path.is_relative_to, DIRECTORIES))]
    if isinstance(question, Manifest):
        require_use(question.borrower, secrets)
    elif isinstance(question, OfBuild | OfRest):
        # The user of each secret of a plan was checked when it was made.
        planned = (question.planned,) if isinstance(question, OfBuild) else question.planned
        known = {name for each in planned for name in each.secrets}
        secrets = [name for name in secrets if name not in known]
    if secrets and not isinstance(question, Manifest):
        raise PermissionDenied(f"no question is about the secret {secrets[0]}")


def captured_files(question: object) -> list[Path]:
    """The blobs that a planner of the question reads."""
    files = question.files.values() if isinstance(question, Manifest) else ()
    return [file.path for file in files if file is not None]


TRANSFERS = Task("transfers", Manifest, str, _transfers)
"""Find the checkpoint after the last transfer that can be locked ("": none is after it). Raises ManifestError
when one cannot be, or there is none."""

LOCKABLES = Task("lockables", OfRest, tuple[Locking | None, ...], _lockables)
"""Find what a lock says of each checkpoint of a build; None for one without packages to lock."""

TASKS: Mapping[str, Task[object, object]] = {
    task.name: task  # type: ignore[misc]
    for task in (
        *(CHECK, PLAN, PREVIEW, NEEDS, EXTERNAL, MIGRATE, FIND, WITHHOLD, EXPORT, MIX),
        *(TRANSFERS, LOCKABLES),
    )
}


def _loaded(manifest: Manifest, waiting: Waiting) -> tuple[Loaded, list[Made]]:
    """The complete manifest with its files validated, and its constructed checkpoints. Raises
    ManifestError, InputsMissing."""
    rules = manifest.rules
    made: list[Made] = []
    loaded = load(
        manifest.text,
        manifest.path,
        examine=partial(
            examine,
            allowed=rules.modules,
            pause_before=manifest.pause_before,
            made=made,
            elsewhere=rules.elsewhere,
        ),
        files={path: None if f is None else _file(f) for path, f in manifest.files.items()},
        parameters=manifest.parameters,
        inherited=manifest.inherited,
        profiles=manifest.profiles,
        inherited_profiles=manifest.inherited_profiles,
        settings=ManifestSettings(
            include_directories=rules.include_directories,
            mapped_directories={**ManifestSettings().mapped_directories, **rules.include_map},
            allowed_modules=rules.modules,
            limits=replace(LIMITS, max_elements=rules.elements, max_checkpoints=rules.checkpoints),
        ),
    )
    if loaded.missing:
        raise InputsMissing(loaded.missing)
    blobs = {file.sha256: file.path for file in manifest.files.values() if file is not None}
    found = validate(loaded, blobs.__getitem__, manifest.host_code, waiting)
    if manifest.host_code is not None:  # Otherwise this host need not be the daemon's.
        found += check_signing(loaded, blobs.__getitem__)
    if manifest.lock is not None:
        given = {**manifest.inherited, **manifest.parameters}
        profiles = manifest.profiles or manifest.inherited_profiles
        found += differences(loaded.doc, made, manifest.lock, given, profiles)
    diagnostics = in_order([*loaded.diagnostics, *found])
    if any(each.severity == "error" for each in found):
        raise ManifestError(diagnostics)
    return replace(loaded, diagnostics=diagnostics), made


def _file(captured: Captured) -> CapturedFile:
    # A larger include is refused anyway.
    most = LIMITS.max_expanded_bytes
    return CapturedFile(captured.sha256, captured.mode, partial(read_regular, captured.path, most))
