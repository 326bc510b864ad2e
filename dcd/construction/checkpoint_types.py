"""Every checkpoint that a manifest may name, described: for people, the API and the reference.

Covers the project's modules, those of installed plug-ins and those that the daemon's configuration lists.
The descriptions derive from the code: the annotated fields and the strings below them, the docstring,
`DESCRIPTION` and `TOOLS`. A module that cannot be imported is reported, and the others are described.
Importing the modules runs their code; nothing else is touched.
"""

import ast
import functools
import inspect
import pkgutil
import textwrap
from collections import ChainMap
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType
from typing import cast, get_type_hints

from dcd.checkpoints.interface import Checkpoint, CheckpointFactory
from dcd.construction.arguments import parameters_of, type_of
from dcd.construction.constructors import (
    PARSING,
    Unresolved,
    factories,
    import_module,
    own_modules,
    plugin_modules,
)
from dcd.construction.original_names import COUNTERPARTS
from dcd.manifest.values import choices, expected, is_list, written


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of a checkpoint. `type` describes its values ("true or false"); `default` is written
    as in a manifest, None when there is none. `listing`: an `arglist` gives its values. The name `*`
    means arguments of any other name. `meaning` is its purpose; empty where a plug-in gives none."""

    name: str
    type: str
    required: bool
    default: str | None
    choices: tuple[str, ...]
    listing: bool
    meaning: str = ""


@dataclass(frozen=True, slots=True)
class CheckpointType:
    """A checkpoint class or factory function. `originals` are its names, `mod_path:class`, in manifests
    of the original."""

    mod_path: str
    checkpoint_class: str
    description: str
    documentation: str
    arguments: tuple[Argument, ...]
    tools: tuple[str, ...]
    originals: tuple[str, ...]


def registered(allowed: Collection[str] = ()) -> tuple[list[CheckpointType], list[str]]:
    """All checkpoint types in the order of their names, and a line for each module that cannot be
    imported. `allowed` are the configured modules, as for `dcd.construction.constructors.resolve`."""
    problems: list[str] = []
    found: list[CheckpointType] = []
    names = {*own_modules(), *plugin_modules()}
    for pattern in allowed:
        names.update(_matching(pattern, problems))
    for name in sorted(names):
        if module := _used(name, problems):
            found += [described(factory) for factory in factories(module).values()]
    return sorted(found, key=lambda each: (each.mod_path, each.checkpoint_class)), problems


def described(factory: CheckpointFactory) -> CheckpointType:
    """The description of a checkpoint class or factory function."""
    made = factory if inspect.isclass(factory) else get_type_hints(factory)["return"]
    cls = cast(type[Checkpoint], made)
    place = (factory.__module__, factory.__qualname__)
    meanings = meanings_of(factory) if inspect.isclass(factory) else {}
    return CheckpointType(
        mod_path=factory.__module__.replace(".", "/"),
        checkpoint_class=factory.__qualname__,
        description=cls.DESCRIPTION,
        documentation=inspect.cleandoc(factory.__doc__ or cls.__doc__ or ""),
        arguments=tuple(_argument(each, meanings) for each in parameters_of(factory)),
        tools=cls.TOOLS,
        originals=tuple(
            f"{module.replace('.', '/')}:{name}"
            for (module, name), counterpart in COUNTERPARTS.items()
            if counterpart == place
        ),
    )


def unavailable_originals(types: Collection[CheckpointType]) -> list[str]:
    """The names of the original, `mod_path:class`, that none of the types has."""
    known = {name for each in types for name in each.originals}
    names = (f"{module.replace('.', '/')}:{name}" for module, name in COUNTERPARTS)
    return [name for name in names if name not in known]


def meanings_of(cls: type) -> dict[str, str]:
    """The string below each field of a class, inherited ones included, on one line. Empty when there is no
    source."""
    return dict(ChainMap(*map(_own_meanings, cls.__mro__)))


@functools.cache
def _own_meanings(cls: type) -> dict[str, str]:
    """The strings below the fields that the class itself declares. The search for a source takes long."""
    try:
        with PARSING:
            tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError, SyntaxError):
        return {}
    found: dict[str, str] = {}
    for statements in pairwise(cast(ast.ClassDef, tree.body[0]).body):
        match statements:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = " ".join(text.split())
    return found


def _argument(parameter: inspect.Parameter, meanings: Mapping[str, str]) -> Argument:
    wanted = type_of(parameter)
    open_ended = parameter.kind is parameter.VAR_KEYWORD
    required = parameter.default is parameter.empty and not open_ended
    return Argument(
        name="*" if open_ended else parameter.name,
        type=expected(wanted),
        required=required,
        default=None if required or open_ended else _default(parameter.default),
        choices=choices(wanted),
        listing=is_list(wanted),
        meaning=meanings.get(parameter.name, ""),
    )


def _default(value: object) -> str | None:
    if isinstance(value, list | tuple):
        return " ".join(map(written, value)) or None
    return None if value is None else written(value)


def _used(name: str, problems: list[str]) -> ModuleType | None:
    try:
        return import_module(name, name)
    except Unresolved as failure:
        problems.append(failure.message)
        return None


def _matching(pattern: str, problems: list[str]) -> Iterator[str]:
    """The modules that an entry of the configuration allows."""
    if not pattern.endswith(".*"):
        yield pattern
        return
    name = pattern.removesuffix(".*")
    yield name
    package = _used(name, problems)
    for found in pkgutil.walk_packages(
        getattr(package, "__path__", []), f"{name}.", lambda _: None
    ):
        yield found.name
