"""From `mod_path` and `checkpoint_class` to a checkpoint.

A manifest may name modules below `dcd.checkpoints`, those of installed plug-ins (entry-point group
`dcd.checkpoints`), and those that the daemon's configuration lists. Of a module it may name concrete
`Checkpoint` classes and functions annotated to return a checkpoint, if the module itself defines them. Names
of the original resolve through `original_names`. Only allowed modules are imported, since that runs their
code.
"""

import ast
import functools
import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from dcd.checkpoints.interface import Checkpoint, CheckpointFactory
from dcd.construction.arguments import ARGS, BadArguments, Problem, Texts, match_arguments
from dcd.construction.original_names import COUNTERPARTS, ORIGINAL, original_module
from dcd.manifest.data_object import Element, Origin
from dcd.manifest.diagnostics import (
    Diagnostic,
    ManifestError,
    did_you_mean,
    error,
    hint,
    listed,
    refusal,
)
from dcd.manifest.plugins import plugin_entries
from dcd.manifest.source import Source, repeated

OWN = "dcd.checkpoints"
GROUP = "dcd.checkpoints"

PARSING = threading.Lock()
"""Python 3.11 sometimes fails when two threads make syntax trees at once (cpython issue 106905)."""

PLUGIN_REMEDY = (
    "write it as a plug-in (docs/how-to/write-a-checkpoint.md) and name that in mod_path; the checkpoints "
    "before it can be built: dcctl submit --pause-before CHECKPOINT"
)


_MISSPELT = 0.9
"""How alike a misspelt name of the original is to the right one; the original's names are all similar."""


class Unresolved(Exception):
    """A constructor that cannot be resolved. `attribute` is the name at fault; `known` is true for a
    constructor of the original that dcd does not have."""

    def __init__(
        self, attribute: str, message: str, why: str = "", suggestion: str = "", known: bool = False
    ) -> None:
        super().__init__(message)
        self.attribute = attribute
        self.message = message
        self.why = why
        self.suggestion = suggestion
        self.known = known


def plugin_modules() -> tuple[str, ...]:
    """The modules that installed plug-ins name in the entry-point group `dcd.checkpoints`."""
    return tuple(sorted({entry.module for entry in plugin_entries(GROUP)}))


def resolve(
    mod_path: str, checkpoint_class: str, allowed: Collection[str] = ()
) -> CheckpointFactory:
    """The class or function that the manifest names. `allowed` are further modules; `package.*`
    allows all below a package. Raises Unresolved."""
    written = (_module(mod_path), checkpoint_class)
    module_name, name = COUNTERPARTS.get(written, written)
    if written not in COUNTERPARTS and module_name.startswith(ORIGINAL):
        raise _without_counterpart(module_name, mod_path, checkpoint_class)
    _permit(module_name, mod_path, allowed)
    module = import_module(module_name, mod_path, checkpoint_class)
    found = getattr(module, name, None)
    if name.startswith("_") or not _is_factory(found, module):
        offered = sorted(factories(module))
        meant = did_you_mean(name, offered)
        raise Unresolved(
            "checkpoint_class",
            f"{mod_path} has no checkpoint {checkpoint_class!r}{hint(meant)}",
            f"It has {listed(offered, 'and') or 'none'}.",
            _class_or_module(meant, name, offered),
        )
    return cast(CheckpointFactory, found)


def _without_counterpart(module_name: str, mod_path: str, name: str) -> Unresolved:
    """The error for a name of the original that is wrong, or that has no counterpart here."""
    classes = sorted(known for module, known in COUNTERPARTS if module == module_name)
    if close := get_close_matches(name, classes, 1, _MISSPELT):
        return Unresolved(
            "checkpoint_class",
            f"{mod_path} has no checkpoint {name!r}{hint(close[0])}",
            f"It has {listed(classes, 'and')}.",
            f'checkpoint_class="{close[0]}"',
        )
    modules = {module.replace(".", "/") for module, _ in COUNTERPARTS}
    if not classes and (close := get_close_matches(mod_path, modules, 1, _MISSPELT)):
        return Unresolved(
            "mod_path",
            f"dcd has no module {mod_path!r}{hint(close[0])}",
            "",
            f'mod_path="{close[0]}"',
        )
    return Unresolved(
        "mod_path",
        f"dcd has no checkpoint {name} of {mod_path}",
        "It is a name of the original, for which dcd has no implementation.",
        PLUGIN_REMEDY,
        known=True,
    )


def _module(mod_path: str) -> str:
    """The module that a `mod_path` names, under its newest name in the original."""
    return original_module(mod_path.replace("/", ".").removesuffix(".py"))


def _class_or_module(meant: str | None, wanted: str, offered: Sequence[str]) -> str:
    """The attribute that is probably wrong, corrected: the class, or the module that has the class."""
    if meant is None and (elsewhere := _module_of(wanted)):
        return f'mod_path="{elsewhere}"'
    return f'checkpoint_class="{meant or offered[0]}"' if offered else ""


def construct(
    mod_path: str,
    checkpoint_class: str,
    name: str,
    args: Sequence[str] = (),
    kwargs: Mapping[str, Texts] | None = None,
    allowed: Collection[str] = (),
    whole: bool = True,
) -> Checkpoint:
    """The checkpoint, from the texts of the manifest. Without `whole`, wrong arguments are left out if the
    others are enough. Raises ManifestError."""
    try:
        factory = resolve(mod_path, checkpoint_class, allowed)
        try:
            bound = match_arguments(factory, args, kwargs or {})
        except BadArguments as failure:
            if whole or failure.bound is None:
                raise
            bound = failure.bound
    except Unresolved as failure:
        message = f"{name}: {failure.message}"
        raise refusal(None, message, failure.why, failure.suggestion) from None
    except BadArguments as failure:
        raise ManifestError(
            error(None, f"{name}: {problem.message}", problem.why, problem.suggestion)
            for problem in failure.problems
        ) from None
    values = dict(bound.values)
    first = [values.pop(bound.positional)] if bound.positional is not None else []
    checkpoint = factory(name, *first, **values)
    if not isinstance(checkpoint, Checkpoint):
        raise refusal(None, f"{name}: {checkpoint_class} of {mod_path} makes no checkpoint")
    return checkpoint


def runs_host_code(mod_path: str, checkpoint_class: str, instance: Checkpoint | None) -> bool:
    """Whether a checkpoint (`instance` is None if it cannot be constructed) runs code on the host that is
    not the project's: a script of the manifest, or a module from elsewhere."""
    written = (_module(mod_path), checkpoint_class)
    if not COUNTERPARTS.get(written, written)[0].startswith(f"{OWN}."):
        return True
    return instance is not None and instance.runs_host_code


def check_constructors(
    source: Source, inputs: list[tuple[str, Origin | None]], allowed: Collection[str] = ()
) -> Iterator[Diagnostic]:
    """Yield the faults of the constructors and arguments of all checkpoints in the tree. Arguments that
    name files to be captured are appended to `inputs`."""
    for element in source.root.iter("checkpoint"):
        yield from _given_twice(element, source)
        mod_path, checkpoint_class = element.get("mod_path"), element.get("checkpoint_class")
        if not mod_path or not checkpoint_class:
            continue  # a fault of the grammar, reported there
        try:
            factory = resolve(mod_path.strip(), checkpoint_class.strip(), allowed)
            bound = match_arguments(factory, *texts_of(element))
        except Unresolved as failure:
            if failure.known:
                continue  # `dcd.planning.readiness` reports it: a pause may be before it
            where = source.origin(element, failure.attribute)
            yield error(where, failure.message, failure.why, failure.suggestion)
        except BadArguments as failure:
            for problem in failure.problems:
                yield _located(problem, element, source)
        else:
            for name, text in bound.inputs.items():
                argument = ARGS if name == bound.positional else name
                inputs.append((text, source.origin(_place(element, argument))))


def _given_twice(checkpoint: Element, source: Source) -> Iterator[Diagnostic]:
    """An error for each repeated argument: only one of its values would count."""
    named = ((each.get("name") or None, each) for each in checkpoint.iterfind("kwargs/*"))
    for argument, first in repeated(named):
        yield error(
            source.origin(argument),
            f"checkpoint {checkpoint.get('name', '')!r} has the argument {argument.get('name')!r} twice",
            f"The first is at {source.origin(first)}.",
            "keep one of them; several values go into one <arglist>",
        )


def texts_of(checkpoint: Element) -> tuple[list[str], dict[str, Texts]]:
    """The texts of a checkpoint element's arguments: positional, and by keyword."""
    args = [(found.text or "").strip() for found in checkpoint.findall("args")]
    kwargs: dict[str, Texts] = {}
    for found in checkpoint.iterfind("kwargs/*"):
        items = [(item.text or "").strip() for item in found.findall("argitem")]
        kwargs[found.get("name", "")] = (
            items if found.tag == "arglist" else (found.text or "").strip()
        )
    return args, kwargs


def factories(module: ModuleType) -> dict[str, CheckpointFactory]:
    """The checkpoint classes and functions that a module defines, by name."""
    return {
        name: found
        for name, found in vars(module).items()
        if not name.startswith("_") and _is_factory(found, module)
    }


def code_digest(factory: CheckpointFactory) -> str:
    """sha256 (hex) of the code that makes a checkpoint's result: its module, and the modules of the
    same package that it imports, directly or indirectly. The interface and other packages are left
    out: a change there that changes results raises the class's VERSION."""
    digest = hashlib.sha256()
    for name, content in sorted(_sources(factory.__module__).items()):
        digest.update(f"{name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def learn_imports() -> None:
    """Read which modules the project's checkpoints import, for `code_digest`: a process forked from this one
    does not parse them again while they are unchanged."""
    for module in own_modules():
        _sources(module)


def _permit(module_name: str, mod_path: str, allowed: Collection[str]) -> None:
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise Unresolved(
            "mod_path",
            f"mod_path={mod_path!r} does not name a module",
            "A module is named by its package and itself, with slashes or dots between them.",
            'mod_path="dcd/checkpoints/custom_script"',
        )
    if _matches(module_name, (f"{OWN}.*", *allowed)) or module_name in plugin_modules():
        return
    modules = {module.replace(".", "/") for module in _checkpoint_modules()}
    meant = did_you_mean(
        mod_path, modules | {module.replace(".", "/") for module, _ in COUNTERPARTS}
    )
    raise Unresolved(
        "mod_path",
        f"module {mod_path!r} may not be used{hint(meant)}",
        "Checkpoints come from the project, from installed plug-ins, and from the modules that the "
        "daemon's configuration lists.",
        f'mod_path="{meant}"' if meant else "have the module added to the configuration",
    )


def _matches(module_name: str, patterns: Collection[str]) -> bool:
    return any(
        module_name == pattern
        or (pattern.endswith(".*") and f"{module_name}.".startswith(pattern[:-1]))
        for pattern in patterns
    )


_WITHOUT_CHECKPOINTS = ("interface", "sbom_ips", "sbom_licences", "sbom_writer")
"""The last is a program of its own, with two parts; they need packages that not every installation has."""


@functools.lru_cache(maxsize=1)
def own_modules() -> tuple[str, ...]:
    """The project's modules of checkpoints."""
    package = importlib.import_module(OWN)
    return tuple(
        found.name
        for found in pkgutil.walk_packages(package.__path__, f"{OWN}.")
        if not found.ispkg and found.name.removeprefix(f"{OWN}.") not in _WITHOUT_CHECKPOINTS
    )


def _is_absent(module_name: str) -> bool:
    try:
        return importlib.util.find_spec(module_name) is None
    except ModuleNotFoundError:
        return True
    except Exception:  # noqa: BLE001 - its package exists and fails; importing it shows how
        return False


def import_module(module_name: str, mod_path: str, wanted: str = "") -> ModuleType:
    """An allowed module; `mod_path` is its name for messages, `wanted` the class that is needed of it.
    Raises Unresolved when it does not exist or its code fails."""
    if _is_absent(module_name):
        meant = _module_like(module_name, wanted)
        raise Unresolved(
            "mod_path",
            f"there is no module {mod_path!r}{hint(meant)}",
            "",
            f'mod_path="{meant}"' if meant else "dcctl checkpoint-types lists all",
        )
    try:
        return importlib.import_module(module_name)
    except Exception as failure:  # noqa: BLE001 - foreign code may raise anything
        what = f"{type(failure).__name__}: {failure}"
        raise Unresolved("mod_path", f"module {mod_path!r} cannot be imported: {what}") from None


def _module_like(module_name: str, wanted: str) -> str | None:
    """The `mod_path` that was probably meant: that of the wanted class, or one of a similar name."""
    if found := _module_of(wanted):
        return found
    # All names share the package's, which is left out of the comparison.
    named = {name.removeprefix(f"{OWN}."): name for name in _checkpoint_modules()}
    meant = did_you_mean(module_name.removeprefix(f"{OWN}."), named)
    return named[meant].replace(".", "/") if meant else None


def _module_of(wanted: str) -> str | None:
    """The `mod_path` of the project's checkpoint of that class, ignoring case."""
    for name, classes in _checkpoint_modules().items():
        if wanted.lower() in map(str.lower, classes):
            return name.replace(".", "/")
    return None


@functools.cache
def _checkpoint_modules() -> dict[str, frozenset[str]]:
    """The project's modules of checkpoints, each with the names of its checkpoints."""
    modules = map(importlib.import_module, own_modules())
    named = {module.__name__: frozenset(factories(module)) for module in modules}
    return {name: classes for name, classes in named.items() if classes}


def checkpoint_modules(allowed: Collection[str] = ()) -> dict[str, frozenset[str]]:
    """The modules of checkpoints that a manifest may name, each with the names of its checkpoints: the
    project's, those of plug-ins, and those of `allowed` that are whole names. One that cannot be imported is
    left out."""
    found = dict(_checkpoint_modules())
    for name in (*plugin_modules(), *(each for each in allowed if not each.endswith(".*"))):
        try:
            found.setdefault(name, frozenset(factories(import_module(name, name))))
        except Unresolved:
            continue
    return found


def _is_factory(found: Any, module: ModuleType) -> bool:
    if inspect.isclass(found):
        return (
            issubclass(found, Checkpoint)
            and not inspect.isabstract(found)
            and found.__module__ == module.__name__
        )
    if inspect.isfunction(found) and found.__module__ == module.__name__:
        made = inspect.signature(found, eval_str=True).return_annotation
        return inspect.isclass(made) and issubclass(made, Checkpoint)
    return False


def _located(problem: Problem, element: Element, source: Source) -> Diagnostic:
    """The problem as an error at its argument."""
    message = f"checkpoint {element.get('name', '')!r}: {problem.message}"
    place = _place(element, problem.argument)
    items = place.findall("argitem")
    if problem.item is not None and problem.item < len(items):
        place = items[problem.item]
    return error(source.origin(place), message, problem.why, problem.suggestion)


def _place(checkpoint: Element, argument: str | None) -> Element:
    """The element of an argument (`ARGS`: the positional one), else the checkpoint's."""
    found = checkpoint.findall("args") if argument == ARGS else []
    found += [arg for arg in checkpoint.iterfind("kwargs/*") if arg.get("name") == argument]
    return found[0] if found else checkpoint


def _sources(module_name: str) -> dict[str, bytes]:
    """The source of a module and of those of its package that it imports, by name."""
    package = module_name.rpartition(".")[0]
    found: dict[str, bytes] = {}
    pending = [module_name]
    while pending:
        name = pending.pop()
        spec = importlib.util.find_spec(name)
        if name in found or spec is None or spec.origin is None:
            continue
        found[name] = Path(spec.origin).read_bytes()
        pending += [
            imported
            for imported in _imports(found[name], name)
            if imported.startswith(f"{package}.")
            and imported != f"{OWN}.interface"
            and not _is_absent(imported)
        ]
    return found


@functools.lru_cache(maxsize=256)
def _imports(content: bytes, module_name: str) -> frozenset[str]:
    """Every name that the source could mean by its import statements."""
    package = module_name.rpartition(".")[0]
    found: set[str] = set()
    with PARSING:
        tree = ast.parse(content)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return frozenset(found)
