"""The RELAX NG grammar of manifests, generated from the declarations of the data objects.

`grammar/dc.rng` is for editors (completion, validation, help by `a:documentation`) and other tools; the
daemon uses `dcd.manifest.check`, which has better messages for the same declarations. The order of children
is free. A parameter, `${name}`, can replace a typed value. Includes are resolved before validation, so
`xi:include` is not in the grammar.

Source: RELAX NG Specification and RELAX NG DTD Compatibility, OASIS, 2001; XML Schema Part 2 for datatypes.
"""

from collections.abc import Iterator, Mapping, Sequence

from lxml import etree

from dcd.manifest.data_object import DataObject, Element, OneOf, Particle, fields_of
from dcd.manifest.fields import Field
from dcd.manifest.objects import BUILTIN, DC, CheckpointSpec, Profile
from dcd.manifest.paths import class_and_name, parse_path
from dcd.manifest.profiles import WHEN
from dcd.manifest.registry import Registry, particles_of
from dcd.manifest.values import Form, choices, optional_of

RNG = "http://relaxng.org/ns/structure/1.0"
ANNOTATIONS = "http://relaxng.org/ns/compatibility/annotations/1.0"
DATATYPES = "http://www.w3.org/2001/XMLSchema-datatypes"


def documentation(cls: type[DataObject]) -> str:
    """The documentation of an element, on one line."""
    return " ".join((cls.__doc__ or "").split())


def classes_below(root: type[DataObject] = DC) -> list[type[DataObject]]:
    """The class and all classes that it allows at any depth, each once, outer ones first."""
    found: dict[type[DataObject], None] = {}

    def visit(cls: type[DataObject]) -> None:
        found.setdefault(cls)
        for particle in particles_of(cls):
            if particle.of not in found:
                visit(particle.of)

    visit(root)
    return list(found)


def can_match(path: str, registry: Registry = BUILTIN) -> bool:
    """Whether a path string whose names are tags can find anything in any manifest. Raises PathError when
    it is malformed."""
    added = [cls for cls in registry.classes if cls.EXTENDS]
    roots: list[type[DataObject]] = [DC, *added]
    everything = {below for root in roots for below in classes_below(root)}
    found: set[type[DataObject]] | None = None
    for step in parse_path(path):
        wanted, name = class_and_name(step, path)
        if found is None and step["axis"] == "/" and name == "volatile":
            continue
        if found is None:
            inner = {DC} if step["axis"] == "/" else everything
        else:
            inner = {
                cls
                for parent in found
                for cls in (
                    *(particle.of for particle in particles_of(parent)),
                    *(cls for cls in added if parent.TAG in cls.EXTENDS),
                )
            }
            if step["axis"] == "//":
                inner = {below for cls in inner for below in classes_below(cls)}
        found = {cls for cls in inner if issubclass(cls, wanted) and name in ("", cls.TAG)}
        for attribute in filter(None, step["attributes"].split(".")):
            found = {
                cls
                for cls in found
                if attribute == "name" or attribute in {field.name for field in fields_of(cls)}
            }
    return bool(found)


Offers = Mapping[type[DataObject], Mapping[str, Sequence[str]]]
"""Names that an editor offers for an element with a free name, each with its documentation."""


_OFFERED_FOR: Mapping[type[DataObject], str] = {CheckpointSpec: "type"}
"""The attribute for which names are offered, where it is not the name."""


def grammar_text(offers: Offers) -> str:
    """The grammar as XML text."""
    namespaces: dict[str | None, str] = {None: RNG, "a": ANNOTATIONS}
    grammar = etree.Element(_rng("grammar"), nsmap=namespaces)  # type: ignore[arg-type]
    grammar.set("datatypeLibrary", DATATYPES)
    _add(_add(grammar, "start"), "ref", name="dc")
    for cls in classes_below():
        _define(grammar, cls, offers.get(cls, {}))
    _define_use(grammar)
    _define_when(grammar)
    etree.indent(grammar, "  ")
    return etree.tostring(grammar, encoding="unicode") + "\n"


def _rng(name: str) -> str:
    return f"{{{RNG}}}{name}"


def _add(parent: Element, name: str, /, **attributes: str) -> Element:
    element = etree.SubElement(parent, _rng(name))
    for key, value in attributes.items():
        element.set(key, value)
    return element


def _document(parent: Element, text: str) -> None:
    etree.SubElement(parent, f"{{{ANNOTATIONS}}}documentation").text = text


def _define(grammar: Element, cls: type[DataObject], offered: Mapping[str, Sequence[str]]) -> None:
    element = _add(_add(grammar, "define", name=cls.TAG), "element", name=cls.TAG)
    _document(element, documentation(cls))
    fields = fields_of(cls)
    for field in fields:
        if field.declared.kind == "attribute":
            holder = element if field.required else _add(element, "optional")
            attribute = _add(holder, "attribute", name=field.tag)
            _document(attribute, field.declared.doc)
            _value(attribute, field, offered if field.name == _OFFERED_FOR.get(cls, "name") else {})
    if cls not in (DC, Profile):
        _add(element, "ref", name=WHEN)
    texts = [field for field in fields if field.declared.kind == "text"]
    if texts:
        _text(element, texts[0])
        return
    patterns = [*_text_children(fields), *(_content(content) for content in cls.CONTENT)]
    holder = _add(element, "interleave") if len(patterns) > 1 else element
    holder.extend(patterns)
    if not patterns and not any(field.declared.kind == "attribute" for field in fields):
        _add(element, "empty")


def _define_when(grammar: Element) -> None:
    attribute = _add(_add(_add(grammar, "define", name=WHEN), "optional"), "attribute", name=WHEN)
    _document(
        attribute, "The condition under which the element counts: dev, suite=trixie, not dev."
    )
    _add(attribute, "text")


def _text_children(fields: tuple[Field, ...]) -> Iterator[Element]:
    for field in fields:
        if field.declared.kind not in ("child", "children"):
            continue
        many = field.declared.kind == "children"
        pattern = etree.Element(_rng("zeroOrMore" if many else "optional"))
        element = _add(pattern, "element", name=field.tag)
        _document(element, field.declared.doc)
        _add(element, "ref", name=WHEN)
        _text(element, field)
        yield element if field.required else pattern


def _content(content: Particle | OneOf) -> Element:
    if isinstance(content, Particle):
        return _particle(content)
    choice = etree.Element(_rng("choice"))
    choice.extend(_particle(option) for option in content.options)
    if content.required:
        return choice
    optional = etree.Element(_rng("optional"))
    optional.append(choice)
    return optional


def _particle(particle: Particle) -> Element:
    name = {
        (0, 1): "optional",
        (0, None): "zeroOrMore",
        (1, None): "oneOrMore",
        (1, 1): "group",
    }[particle.minimum, particle.maximum]
    holder = etree.Element(_rng(name))
    reference = _add(holder, "ref", name=particle.of.TAG)
    return reference if name == "group" else holder


def _value(attribute: Element, field: Field, offered: Mapping[str, Sequence[str]]) -> None:
    plain, _ = optional_of(field.annotation)
    listed = choices(plain)
    if not listed and plain is not int and _is_free(field.form):
        _add(attribute, "text")
        return
    choice = _add(attribute, "choice")
    for value in (*listed, *offered):
        _add(choice, "value").text = value
        for text in offered.get(value, ()):
            _document(choice, text)  # for the value before it (RELAX NG DTD Compatibility)
    if not listed and plain is int:
        data = _add(choice, "data", type="integer")
        for name, limit in (
            ("minInclusive", field.declared.minimum),
            ("maxInclusive", field.declared.maximum),
        ):
            if limit is not None:
                _add(data, "param", name=name).text = str(limit)
    elif not listed:
        _form(choice, field)
    _add(choice, "ref", name="parameter-use")


def _text(element: Element, field: Field) -> None:
    """The text of an element by its form; white space only where it may be empty."""
    if not _is_free(field.form):
        choice = _add(element, "choice")
        _form(choice, field)
        _add(choice, "ref", name="parameter-use")
    elif field.required and field.declared.kind == "text":
        data = _add(element, "data", type="string")
        _add(data, "param", name="pattern").text = r"[\s\S]*\S[\s\S]*"
    else:
        _add(element, "text")


def _form(choice: Element, field: Field) -> None:
    assert field.form is not None
    data = _add(choice, "data", type="token")
    _add(data, "param", name="maxLength").text = str(field.form.longest)
    _add(data, "param", name="pattern").text = field.form.pattern
    if field.default == "" or field.declared.kind == "children":
        _add(choice, "value").text = ""


def _is_free(form: Form | None) -> bool:
    return form is None or bool(form.why)


def _define_use(grammar: Element) -> None:
    data = _add(_add(grammar, "define", name="parameter-use"), "data", type="string")
    _document(data, "A value that uses a parameter: ${name}.")
    _add(data, "param", name="pattern").text = r".*[$]\{[A-Za-z_][A-Za-z0-9_]*\}.*"
