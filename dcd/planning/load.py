"""From the text of a client's manifest to a DOC.

`load` does the work on a manifest that needs no build, and finds all faults in one pass: secure parsing,
includes, parameters, grammar, cross checks, constructors and their arguments, and named files. It is pure and
opens nothing. It lists missing files, so that the client reads them with its own rights and sends them.

`Loaded.canonical` is the stored form of the manifest (`dcd.manifest.canonical`).
"""

import posixpath
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from dcd.construction.constructors import check_constructors
from dcd.construction.short_forms import write_out
from dcd.construction.usual_sbom import add_sbom
from dcd.manifest.canonical import canonical_text
from dcd.manifest.check import check_structure
from dcd.manifest.cross_checks import cross_check
from dcd.manifest.damage import Damage, damage
from dcd.manifest.data_object import Origin
from dcd.manifest.diagnostics import (
    Diagnostic,
    ManifestError,
    MissingInput,
    bounded,
    in_order,
    refusal,
)
from dcd.manifest.dialect import translate
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.includes import INCLUDE, CapturedFile, Directories, resolve_includes
from dcd.manifest.inputs import absent, captured, named_files
from dcd.manifest.parameters import substitute_parameters, without_repeats
from dcd.manifest.plugins import installed_registry
from dcd.manifest.profiles import PROFILE, select
from dcd.manifest.registry import Registry
from dcd.manifest.source import LIMITS, Limits, Source, read
from dcd.manifest.tokens import check_references
from statemachine.events import InputFile

ORIGINAL = "/usr/share/distro_const/"
"""The original's directory of files that its manifests include."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of manifests. `include_directories` allows includes in addition to the manifest's own
    directory; `mapped_directories` maps prefixes of paths to directories of the client's host;
    `allowed_modules` are modules of checkpoints in addition to those of the project and of plug-ins."""

    include_directories: tuple[str, ...] = ()
    mapped_directories: Mapping[str, str] = field(default_factory=lambda: {ORIGINAL: ORIGINAL})
    allowed_modules: tuple[str, ...] = ()
    registry: Registry = field(default_factory=installed_registry)
    limits: Limits = LIMITS


@dataclass(frozen=True, slots=True)
class Loaded:
    """A manifest without errors. It is incomplete while files are `missing`; without an include, `doc` and
    `canonical` are empty. `inputs` are the captured files, by written path."""

    doc: DataObjectCache
    canonical: str
    diagnostics: tuple[Diagnostic, ...]
    missing: tuple[MissingInput, ...]
    inputs: tuple[InputFile, ...] = ()
    choice: str = ""
    """The list of checkpoints that was chosen for a manifest without one, and why."""


Examine = Callable[[DataObjectCache, Damage], Iterable[Diagnostic]]
"""An examination of a DOC beyond its grammar; `Damage` describes the parts that the DOC lacks."""


def load(
    text: str,
    path: str,
    *,
    examine: Examine = lambda doc, damage: (),
    files: Mapping[str, CapturedFile | None] | None = None,
    parameters: Mapping[str, str] | None = None,
    inherited: Mapping[str, str] | None = None,
    profiles: Collection[str] = (),
    inherited_profiles: Collection[str] = (),
    settings: Settings | None = None,
) -> Loaded:
    """Load a manifest. `path` is its absolute path on the client's host; `files` are the sent files by
    absolute path, None for a file that the client does not have. `inherited` are the parameters of the
    replaced manifest, used for declared parameters that are not in `parameters`. `profiles` are selected;
    `inherited_profiles` are those of the replaced manifest, if the command selects none. `examine` gets the
    valid part of the manifest. Raises ManifestError with every diagnostic when there is an error."""
    given = files or {}
    settings = settings or Settings()
    place = posixpath.normpath(posixpath.join("/", path))
    directories = Directories(
        posixpath.dirname(place), settings.include_directories, settings.mapped_directories
    )
    source = read(text, place, settings.limits)
    if source.root.tag in INCLUDE:
        raise refusal(source.origin(source.root), "a manifest's root is <dc>")
    found, includes = resolve_includes(source, given, directories, settings.limits)
    missing = tuple(wanted for wanted in includes if wanted.path not in given)
    if missing:
        return Loaded(DataObjectCache(), "", in_order(found), missing)
    values = {**(inherited or {}), **(parameters or {})}
    found += bounded(select(source, profiles, inherited_profiles, values))
    declared = {element.get("name", "") for element in source.root.findall("parameter")}
    kept = {name: value for name, value in (inherited or {}).items() if name in declared}
    values = {**kept, **(parameters or {})}
    undefined = substitute_parameters(source, values, settings.limits)
    found += bounded(undefined)
    _count_checkpoints(source, settings.limits)
    found += bounded(translate(source))
    choice: list[str] = []
    found += bounded(write_out(source, settings.allowed_modules, choice))
    add_sbom(source)
    found += bounded(check_structure(source, settings.registry))
    found += bounded(cross_check(source))
    found += bounded(check_references(source))
    arguments: list[tuple[str, Origin | None]] = []
    found += bounded(check_constructors(source, arguments, settings.allowed_modules))
    found = without_repeats(found, undefined)
    harm = damage(source, found)
    doc = _import(source, settings.registry, whole=not harm)
    named = named_files(doc, arguments, directories)
    found += harm.own(absent(named, given))
    found += bounded(harm.own(examine(doc, harm)))
    unsent = tuple(wanted for wanted in named if wanted.path not in given)
    if any(each.severity == "error" for each in found):
        raise ManifestError(in_order(found), unsent)
    inputs = captured(named, given)
    return Loaded(doc, canonical_text(doc), in_order(found), unsent, inputs, "".join(choice))


def _count_checkpoints(source: Source, limits: Limits) -> None:
    """Raise ManifestError, at the first checkpoint beyond the limit."""
    checkpoints = list(source.root.iter("checkpoint"))
    if len(checkpoints) > limits.max_checkpoints:
        raise refusal(
            source.origin(checkpoints[limits.max_checkpoints]),
            f"the manifest has {len(checkpoints)} checkpoints; at most "
            f"{limits.max_checkpoints} are planned",
            "Each of them has a layer, attempts and logs.",
            "do more in one checkpoint, or have an administrator raise checkpoints_limit in the "
            "daemon's configuration",
        )


def _import(source: Source, registry: Registry, whole: bool) -> DataObjectCache:
    """The DOC of the tree, or (not `whole`) of its valid part."""
    for declaration in (*source.root.findall("parameter"), *source.root.findall(PROFILE)):
        source.root.remove(declaration)
    doc = DataObjectCache(registry)
    if whole:
        doc.volatile.insert_children(registry.read(source.root, source.origin))
    elif remains := registry.read_whole(source.root, source.origin):
        doc.volatile.insert_children(remains)
    return doc
