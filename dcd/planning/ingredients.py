"""The parts of a manifest that determine a checkpoint's result, as named digests for its key.

They are: the resolved class and its VERSION, the digest of its code, each converted argument, the software
and configurations of its name, the values of references in these and of its READS paths, and the captured
files that these name. Digests are of canonical forms: formatting, comments, the order of attributes, lines,
and explicit defaults make no difference. Neither does the checkpoint's name, so `name` of its software and
configurations is left out. Pure, except that the code's digest reads the project's source.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any

from lxml import etree

from dcd.checkpoints.interface import Checkpoint, CheckpointFactory
from dcd.construction.arguments import as_json, match_arguments
from dcd.construction.constructors import code_digest
from dcd.manifest.data_object import DataObject, fields_of
from dcd.manifest.doc import DataObjectCache, configurations_for, software_for
from dcd.manifest.inputs import files_of
from dcd.manifest.objects import (
    Arg,
    ArgList,
    Args,
    CheckpointSpec,
    Configuration,
    Software,
)
from dcd.manifest.paths import PathError, find_path, references, substitute
from dcd.manifest.registry import write
from dcd.manifest.schema import can_match
from dcd.manifest.values import written
from statemachine.errors import NotFound
from statemachine.events import InputFile
from statemachine.keys import digest
from statemachine.plan import Ingredient


def ingredients(
    doc: DataObjectCache,
    spec: CheckpointSpec,
    factory: CheckpointFactory,
    instance: Checkpoint,
    inputs: Sequence[InputFile],
) -> tuple[Ingredient, ...]:
    """The ingredients of one checkpoint except `external`. `factory` is its resolved constructor, `instance`
    the constructed checkpoint, `inputs` all captured files of the build."""
    line = _line(spec)
    cls = type(instance)
    found = [
        Ingredient("class", "", digest(f"{factory.__module__}:{factory.__qualname__}"), line),
        Ingredient("version", "", digest(cls.VERSION), line),
        Ingredient("code", "", code_digest(cls), line),
    ]
    if factory is not cls:
        found.append(Ingredient("code", "factory", code_digest(factory), line))
    used: dict[str, int] = {}
    for ingredient, path in _arguments(spec, factory):
        found.append(ingredient)
        used.setdefault(path, ingredient.line)
    for name, node in software_and_configurations(doc, spec.name):
        found.append(Ingredient("manifest", name, _node_digest(node), _line(node)))
        used = {**_files(node), **used}
    found += _references(doc, spec.name)
    for label, match in _read(doc, cls.READS):
        if isinstance(match, DataObject):
            used = {**_files(match), **used}
            found.append(Ingredient("manifest", label, _node_digest(match), _line(match)))
        else:
            found.append(Ingredient("manifest", label, digest(written(match))))
    found += [
        Ingredient("input", file.path, digest([file.sha256, file.mode]), used[file.path])
        for file in inputs
        if file.path in used
    ]
    return tuple(found)


def software_and_configurations(
    doc: DataObjectCache, checkpoint_name: str
) -> list[tuple[str, DataObject]]:
    """The nodes with the checkpoint's name, by unique labels: `software`, `configuration 1`."""
    software = software_for(doc, checkpoint_name)
    named: list[tuple[str, DataObject]] = [] if software is None else [("software", software)]
    named += [
        (f"configuration {number}", node)
        for number, node in enumerate(configurations_for(doc, checkpoint_name), 1)
    ]
    return named


def _references(doc: DataObjectCache, checkpoint_name: str) -> Iterator[Ingredient]:
    """The values in the manifest of the `%{path}`s in a checkpoint's nodes. Values in the persistent part are
    results of earlier checkpoints, whose keys are already chained."""
    lines: dict[str, int] = {}
    for _, node in software_and_configurations(doc, checkpoint_name):
        for each in (node, *node.get_descendants()):
            for text in _texts(each):
                for path in references(text):
                    lines.setdefault(path, _line(each))
    for path, line in sorted(lines.items()):
        with suppress(NotFound):
            value = substitute(doc.volatile, f"%{{{path.removeprefix('/volatile')}}}")
            yield Ingredient("manifest", f"%{{{path}}}", digest(value), line)


def _texts(node: DataObject) -> Iterator[str]:
    """All texts of a node, without those of its children."""
    for field in fields_of(type(node)):
        value = getattr(node, field.name)
        values = value if isinstance(value, tuple) else (value,)
        yield from (one for one in values if isinstance(one, str))


def _arguments(
    spec: CheckpointSpec, factory: CheckpointFactory
) -> Iterator[tuple[Ingredient, str]]:
    """Each argument, with the text that names a captured file, or ""."""
    bound = match_arguments(factory, spec.args, spec.kwargs)
    places: dict[str, DataObject] = {
        node.name: node for node in spec.get_descendants() if isinstance(node, Arg | ArgList)
    }
    positional = spec.get_first_child(class_type=Args)
    for name, value in bound.values.items():
        node = positional if name == bound.positional else places.get(name)
        line = _line(spec if node is None else node)
        yield Ingredient("argument", name, digest(as_json(value)), line), bound.inputs.get(name, "")


def _files(node: DataObject) -> dict[str, int]:
    """The captured files of a node, with the lines that name them."""
    return {
        named: _line(inner)
        for inner in (node, *node.get_descendants())
        for named, _ in files_of(inner)
    }


def _read(doc: DataObjectCache, paths: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """What the paths lead to, with unique labels. Raises PathError for one that cannot match anything."""
    for path in paths:
        try:
            matches: list[Any] = find_path(doc, path)
        except NotFound:
            if not can_match(path, doc.registry):
                raise PathError(
                    f"{path!r} cannot match anything in any manifest",
                    "A checkpoint declares that it reads it, but its key would not cover it.",
                    "name elements by tag, //distro, and attributes with a dot, //distro.name",
                ) from None
            continue
        for number, match in enumerate(matches, 1):
            name = path.lstrip("/") if len(matches) == 1 else f"{path.lstrip('/')} {number}"
            yield name, match


def _node_digest(node: DataObject) -> str:
    element = write(node)
    if element is None:
        return digest(None)
    if isinstance(node, Software | Configuration):
        element.attrib.pop("name", "")
    return sha256(etree.tostring(element, method="c14n2")).hexdigest()


def _line(node: DataObject) -> int:
    return node.origin.line if node.origin else 0
