"""From the text of a manifest, as a client sent it, to a DOC.

`load` does everything that can be done with a manifest before a build exists, and finds everything that is
wrong in one pass: secure parsing, includes, parameters, grammar, cross checks, constructors and their
arguments, and the files it names. It is pure: it opens nothing. What it needs and was not given it lists, so
that the client reads it with its own rights and sends it.

`Loaded.canonical` is the manifest as it is stored (`dcd.manifest.canonical`).
"""

import posixpath
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from dcd.construction.constructors import check_constructors
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
    error,
    in_order,
)
from dcd.manifest.dialect import translate
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.includes import (
    INCLUDE,
    CapturedFile,
    Directories,
    resolve_includes,
)
from dcd.manifest.inputs import absent, captured, named_files
from dcd.manifest.parameters import substitute_parameters, without_repeats
from dcd.manifest.plugins import installed_registry
from dcd.manifest.registry import Registry
from dcd.manifest.source import LIMITS, Limits, Source, read
from dcd.manifest.tokens import check_references
from statemachine.events import InputFile

ORIGINAL = "/usr/share/distro_const/"
"""Where the original kept the files that its manifests include."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the daemon's configuration says about manifests.

    `include_directories` may be included from beside the manifest's own; `mapped_directories` maps
    prefixes of paths to directories where the client finds them; `allowed_modules` may be named by
    checkpoints beside the project's and plug-ins'.
    """

    include_directories: tuple[str, ...] = ()
    mapped_directories: Mapping[str, str] = field(default_factory=lambda: {ORIGINAL: ORIGINAL})
    allowed_modules: tuple[str, ...] = ()
    registry: Registry = field(default_factory=installed_registry)
    limits: Limits = LIMITS


@dataclass(frozen=True, slots=True)
class Loaded:
    """A manifest without errors. While `missing` is not empty, it is not complete: with an include
    missing, `doc` and `canonical` are empty. `inputs` are the captured files, by written path."""

    doc: DataObjectCache
    canonical: str
    diagnostics: tuple[Diagnostic, ...]
    missing: tuple[MissingInput, ...]
    inputs: tuple[InputFile, ...] = ()


Examine = Callable[[DataObjectCache, Damage], Iterable[Diagnostic]]
"""What is examined in a DOC beyond its grammar; `Damage` says what of the manifest is not in it."""


def load(
    text: str,
    path: str,
    *,
    examine: Examine = lambda doc, damage: (),
    files: Mapping[str, CapturedFile | None] | None = None,
    parameters: Mapping[str, str] | None = None,
    inherited: Mapping[str, str] | None = None,
    settings: Settings | None = None,
) -> Loaded:
    """Load a manifest. `path` is the absolute path that the client read it from; `files` has what the
    client has sent by absolute path, None for a file that it says it has not. `inherited` are the
    parameters of the manifest that this one replaces: they hold where it declares them and `parameters`
    says nothing else. `examine` is called with what of the manifest is whole, whatever is wrong with the
    rest. Raises ManifestError with every diagnostic when there is an error."""
    given = files or {}
    settings = settings or Settings()
    place = posixpath.normpath(posixpath.join("/", path))
    directories = Directories(
        posixpath.dirname(place), settings.include_directories, settings.mapped_directories
    )
    source = read(text, place, settings.limits)
    if source.root.tag in INCLUDE:
        raise ManifestError([error(source.origin(source.root), "a manifest's root is <dc>")])
    found, includes = resolve_includes(source, given, directories, settings.limits)
    missing = tuple(wanted for wanted in includes if wanted.path not in given)
    if missing:
        return Loaded(DataObjectCache(), "", in_order(found), missing)
    declared = {element.get("name", "") for element in source.root.findall("parameter")}
    kept = {name: value for name, value in (inherited or {}).items() if name in declared}
    values = {**kept, **(parameters or {})}
    undefined = substitute_parameters(source, values, settings.limits)
    found += bounded(undefined)
    _count_checkpoints(source, settings.limits)
    found += bounded(translate(source))
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
    return Loaded(
        doc,
        canonical_text(doc),
        in_order(found),
        unsent,
        captured(named, given),
    )


def _count_checkpoints(source: Source, limits: Limits) -> None:
    """Raise ManifestError, at the first checkpoint that is one too many."""
    checkpoints = list(source.root.iter("checkpoint"))
    if len(checkpoints) <= limits.max_checkpoints:
        return
    raise ManifestError(
        [
            error(
                source.origin(checkpoints[limits.max_checkpoints]),
                f"the manifest has {len(checkpoints)} checkpoints; at most "
                f"{limits.max_checkpoints} are planned",
                "Each of them is a layer, an attempt and a log of its own.",
                "do more in one checkpoint, or have an administrator raise checkpoints_limit in the "
                "daemon's configuration",
            )
        ]
    )


def _import(source: Source, registry: Registry, whole: bool) -> DataObjectCache:
    """The DOC of the tree, or (not `whole`) of as much of it as can be read."""
    for declaration in source.root.findall("parameter"):
        source.root.remove(declaration)
    doc = DataObjectCache(registry)
    if whole:
        doc.volatile.insert_children(registry.read(source.root, source.origin))
    elif remains := registry.read_whole(source.root, source.origin):
        doc.volatile.insert_children(remains)
    return doc
