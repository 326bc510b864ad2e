"""The questions that a planner answers, each with its types and the function that answers it.

Questions and answers are plain data: the planner gets nothing but them, and the daemon believes nothing else.
A function may open the captured files of its question, and ask mirrors; before it does what takes long
without computing, it calls `waiting`. Raises DcdError; `dcd.planner.border` carries it over.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from dcd.checkpoints.interface import Needs
from dcd.construction.constructors import runs_host_code
from dcd.manifest.canonical import restore
from dcd.manifest.diagnostics import Diagnostic, ManifestError, in_order
from dcd.manifest.doc import distro
from dcd.manifest.includes import CapturedFile
from dcd.manifest.inputs import InputsMissing
from dcd.manifest.migrate import Migrated, migrate
from dcd.manifest.secrets import Borrower
from dcd.manifest.source import LIMITS
from dcd.manifest.withheld import withheld, withhold
from dcd.planning import document
from dcd.planning import plan as planning
from dcd.planning.document import Match
from dcd.planning.load import Loaded, load
from dcd.planning.load import Settings as ManifestSettings
from dcd.planning.preview import Intention, beyond
from dcd.planning.readiness import Made, examine
from dcd.planning.validation import validate
from statemachine.events import InputFile
from statemachine.plan import Plan, PlannedCheckpoint
from store.host.regular import read_regular

Question = TypeVar("Question")
Answer = TypeVar("Answer")
Waiting = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Captured:
    """A file that the client has uploaded: its digest, its mode, and where the blob is."""

    sha256: str
    mode: int
    path: Path


@dataclass(frozen=True, slots=True)
class Rules:
    """What the settings say about manifests; see `dcd.configuration`."""

    include_directories: tuple[str, ...] = ()
    include_map: Mapping[str, str] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    elements: int = LIMITS.max_elements
    checkpoints: int = LIMITS.max_checkpoints


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest as a client sent it. `files` are by absolute path, None for one that the client has not;
    `inherited` are the parameters of the manifest that it replaces; `source_date_epoch` is the build's time
    that is asked for; from `pause_before` on no checkpoint runs yet; `host_code` says that its sender may run
    code on the host, `borrower` who uses its secrets (None: root)."""

    text: str
    path: str
    rules: Rules
    files: Mapping[str, Captured | None] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    inherited: Mapping[str, str] = field(default_factory=dict)
    source_date_epoch: int | None = None
    pause_before: str | None = None
    host_code: bool = False
    borrower: Borrower | None = None


@dataclass(frozen=True, slots=True)
class OfBuild:
    """A checkpoint of a build: the stored manifest, and the checkpoint as planned."""

    manifest: str
    planned: PlannedCheckpoint
    modules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OldManifest:
    """A manifest from before the redesign, and the text of its defaults file."""

    text: str
    path: str
    defaults: str | None


@dataclass(frozen=True, slots=True)
class InDocument:
    """A stored manifest, the persistent part that was saved with a layer, and a path string (None: all).
    Secrets are left out unless it is `whole`."""

    manifest: str
    persistent: str | None
    path: str | None
    whole: bool


@dataclass(frozen=True, slots=True)
class WithSecrets:
    """A stored manifest, and the parameters and the plan (None: neither matters) that went with it."""

    manifest: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    plan: Plan | None = None


@dataclass(frozen=True, slots=True)
class WithoutSecrets:
    """The same without the manifest's secrets, and whether there were any."""

    manifest: str
    parameters: dict[str, str]
    plan: Plan | None
    had_any: bool


@dataclass(frozen=True, slots=True)
class Checked:
    """A manifest without errors, and the warnings about it."""

    diagnostics: tuple[Diagnostic, ...]


@dataclass(frozen=True, slots=True)
class Planned:
    """A manifest that can be built: the distribution's name, the canonical manifest, its captured files."""

    name: str
    canonical: str
    inputs: tuple[InputFile, ...]
    plan: Plan
    has_time: bool
    """The manifest says the build's time itself."""


@dataclass(frozen=True, slots=True)
class Previewed:
    """The plan up to the first checkpoint that cannot run here, and what is to be said of the others."""

    name: str
    plan: Plan
    rest: tuple[Intention, ...]


@dataclass(frozen=True, slots=True)
class NeedsOfAttempt:
    """What an attempt needs of the host, the manifest's proxy, and whether it runs code for which the right
    `host_code` was needed."""

    needs: Needs
    http_proxy: str | None
    host_code: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """The external state of a checkpoint, name to sha256."""

    state: dict[str, str]


@dataclass(frozen=True, slots=True)
class Matches:
    """What a path string names."""

    matches: tuple[Match, ...]


@dataclass(frozen=True, slots=True)
class Task(Generic[Question, Answer]):
    """One kind of question."""

    name: str
    question: type[Question]
    answer: type[Answer]
    work: Callable[[Question, Waiting], Answer]


def _check(manifest: Manifest, waiting: Waiting) -> Checked:
    return Checked(_loaded(manifest, waiting)[0].diagnostics)


def _plan(manifest: Manifest, waiting: Waiting) -> Planned:
    loaded, made = _loaded(manifest, waiting)
    described = distro(loaded.doc)
    plan = planning.make_plan(
        loaded,
        made,
        manifest.rules.modules,
        manifest.source_date_epoch,
        manifest.pause_before,
        host_code=manifest.host_code,
        borrower=manifest.borrower,
        waiting=waiting,
    )
    has_time = described.source_date_epoch is not None
    return Planned(described.name, loaded.canonical, loaded.inputs, plan, has_time)


def _preview(manifest: Manifest, waiting: Waiting) -> Previewed:
    loaded, made = _loaded(manifest, waiting)
    plan, rest = planning.plan_ahead(
        loaded,
        made,
        manifest.rules.modules,
        manifest.source_date_epoch,
        host_code=manifest.host_code,
        borrower=manifest.borrower,
        waiting=waiting,
    )
    return Previewed(distro(loaded.doc).name, plan, beyond(rest))


def _needs(of: OfBuild, waiting: Waiting) -> NeedsOfAttempt:
    doc = restore(of.manifest)
    instance = planning.constructed(of.planned, of.modules)
    on_host = runs_host_code(of.planned.mod_path, of.planned.checkpoint_class, instance)
    return NeedsOfAttempt(instance.needs(doc), distro(doc).http_proxy, on_host)


def _external(of: OfBuild, waiting: Waiting) -> Found:
    waiting()
    return Found(planning.external_state(of.manifest, of.planned, of.modules))


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
    )


def _find(wanted: InDocument, waiting: Waiting) -> Matches:
    doc = restore(wanted.manifest, wanted.persistent)
    if not wanted.whole:
        withhold(doc)
    return Matches(document.matches(doc, wanted.path))


CHECK = Task("check", Manifest, Checked, _check)
"""What is wrong with a manifest, and what its checkpoints find wrong. Asks nobody else."""

PLAN = Task("plan", Manifest, Planned, _plan)
"""The plan of a manifest. Raises Unprepared when checkpoints cannot run here, PermissionDenied when it runs
code on the host and its sender may not."""

PREVIEW = Task("preview", Manifest, Previewed, _preview)
"""As `PLAN`, up to the first checkpoint that cannot run here."""

NEEDS = Task("needs", OfBuild, NeedsOfAttempt, _needs)
"""What an attempt at a checkpoint needs."""

EXTERNAL = Task("external", OfBuild, Found, _external)
"""The state of the world that a checkpoint's key covers, as it is now."""

MIGRATE = Task("migrate", OldManifest, Migrated, _migrate)
"""A manifest from before the redesign, converted."""

FIND = Task("find", InDocument, Matches, _find)
"""What a path string names in the DOC of a build."""

WITHHOLD = Task("withhold", WithSecrets, WithoutSecrets, _withhold)
"""A manifest, parameters and a plan without the secrets of the manifest."""

TASKS: Mapping[str, Task[object, object]] = {
    task.name: task  # type: ignore[misc]
    for task in (CHECK, PLAN, PREVIEW, NEEDS, EXTERNAL, MIGRATE, FIND, WITHHOLD)
}


def _loaded(manifest: Manifest, waiting: Waiting) -> tuple[Loaded, list[Made]]:
    """The manifest, complete, its files validated as it says, and its checkpoints, constructed. Raises
    ManifestError, InputsMissing."""
    rules = manifest.rules
    made: list[Made] = []
    loaded = load(
        manifest.text,
        manifest.path,
        examine=partial(
            examine, allowed=rules.modules, pause_before=manifest.pause_before, made=made
        ),
        files={path: None if f is None else _file(f) for path, f in manifest.files.items()},
        parameters=manifest.parameters,
        inherited=manifest.inherited,
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
    diagnostics = in_order([*loaded.diagnostics, *found])
    if any(each.severity == "error" for each in found):
        raise ManifestError(diagnostics)
    return replace(loaded, diagnostics=diagnostics), made


def _file(captured: Captured) -> CapturedFile:
    # An include of more than this is refused anyway.
    most = LIMITS.max_expanded_bytes
    return CapturedFile(captured.sha256, captured.mode, partial(read_regular, captured.path, most))
