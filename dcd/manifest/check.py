"""Checks a tree against the declarations of the data objects: the manifest's grammar.

One pass finds every deviation and reports it in terms of the manifest: its place, what is allowed there,
and the corrected snippet. The RELAX NG grammar in `grammar/dc.rng`, for editors, is generated from the same
declarations; a test compares the two. Pure.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from lxml import etree

from dcd.manifest.data_object import (
    DataObject,
    Element,
    OneOf,
    attributes_of,
    fields_of,
    reads_itself,
)
from dcd.manifest.diagnostics import Diagnostic, did_you_mean, error, hint, listed, shortened
from dcd.manifest.fields import Field
from dcd.manifest.profiles import WHEN
from dcd.manifest.registry import Registry, may_stand_in, particles_of
from dcd.manifest.source import Source
from dcd.manifest.values import BadValue, choices


def check_structure(source: Source, registry: Registry) -> Iterator[Diagnostic]:
    """Yield every deviation of the tree from the grammar."""
    root = source.root
    if root.tag == "dc":
        yield from _Check(source, registry).element(root, registry.handler(root) or DataObject)
    elif root.tag == "distribution":
        yield error(
            source.origin(root),
            "this manifest is from before the Caiman Unified Design",
            "Its root element is <distribution>; that of a manifest is <dc>.",
            "convert it: dcctl migrate MANIFEST",
        )
    else:
        yield error(
            source.origin(root),
            f"<{root.tag}> is not a manifest",
            "The root element of a manifest is <dc>.",
        )


@dataclass(frozen=True, slots=True)
class _Check:
    source: Source
    registry: Registry

    def element(self, element: Element, cls: type[DataObject]) -> Iterator[Diagnostic]:
        """The element, which `cls` handles, and its content."""
        if reads_itself(cls):
            try:
                cls.from_xml(element)
            except BadValue as bad:
                yield error(self.source.origin(element), f"<{element.tag}>: {bad}", _doc(cls))
            return
        known = fields_of(cls)
        yield from self.attributes(element, [f for f in known if f.declared.kind == "attribute"])
        texts = [f for f in known if f.declared.kind == "text"]
        yield from self.text(element, texts[0] if texts else None)
        inner = {f.tag: f for f in known if f.declared.kind in ("child", "children")}
        allowed = {particle.of.TAG for particle in particles_of(cls)}
        for child in element.iterchildren("*"):
            if child.tag in inner:
                yield from self.text_child(child, inner[str(child.tag)])
                continue
            handler = self.registry.handler(child)
            if handler and may_stand_in(handler, cls):
                yield from self.element(child, handler)
            else:
                yield self.stranger(child, handler, element, [*inner, *sorted(allowed)])
        yield from self.counts(element, cls, list(inner.values()))

    def attributes(self, element: Element, known: list[Field]) -> Iterator[Diagnostic]:
        fields = {field.tag: field for field in known}
        for name, value in attributes_of(element).items():
            field = fields.get(name)
            if field is None:
                yield self.unknown_attribute(element, name, list(fields))
                continue
            try:
                field.parse(value.strip())
            except BadValue as bad:
                yield self.bad_value(element, field, value, bad)
        for field in known:
            if field.required and field.tag not in element.attrib:
                values = choices(field.annotation)
                allowed = f" Allowed: {listed(values)}." if values else ""
                yield error(
                    self.source.origin(element),
                    f"<{element.tag}> needs the attribute {field.tag!r}",
                    field.declared.doc + allowed,
                    self.tag_with(element, {field.tag: values[0]}) if values else "",
                )

    def unknown_attribute(self, element: Element, name: str, known: list[str]) -> Diagnostic:
        missing = [candidate for candidate in known if candidate not in element.attrib]
        meant = did_you_mean(name, [*missing, WHEN])
        return error(
            self.source.origin(element, name),
            f"<{element.tag}> has no attribute {name!r}{hint(meant)}",
            f"It has {listed(known, 'and')}." if known else "It has no attributes.",
            self.tag_with(element, {meant or "": element.get(name, "")}, without=name),
        )

    def bad_value(self, element: Element, field: Field, value: str, bad: BadValue) -> Diagnostic:
        meant = did_you_mean(value, bad.choices) if bad.choices else None
        suggestion = meant or (bad.choices[0] if bad.choices else "")
        if not suggestion and field.form is not None:
            suggestion = field.form.suggestion(value)
        return error(
            self.source.origin(element, field.tag),
            f"{field.tag}={_shown(value, field)!r} of <{element.tag}> is not {bad.expected}{hint(meant)}",
            field.declared.doc,
            f'{field.tag}="{suggestion}"' if suggestion else "",
        )

    def text(self, element: Element, field: Field | None) -> Iterator[Diagnostic]:
        written = [element.text or "", *(child.tail or "" for child in element)]
        stray = next((text.strip() for text in written if text.strip()), "")
        if field is None and stray:
            yield error(
                self.source.origin(element),
                f"<{element.tag}> holds the text {shortened(stray)!r}",
                f"<{element.tag}> has elements and attributes only, no text.",
                "remove the text, or put it into the element that it belongs to",
            )
        elif field is not None and field.required and not stray:
            yield error(
                self.source.origin(element), f"<{element.tag}> is empty", field.declared.doc
            )
        elif field is not None:
            yield from self.value_of(element, field)

    def value_of(self, element: Element, field: Field) -> Iterator[Diagnostic]:
        """Whether the text of the element is a value of the field."""
        text = (element.text or "").strip()
        if not text and field.declared.kind == "children":
            return  # The cross checks report it where it matters.
        try:
            field.parse(text)
        except BadValue as bad:
            example = field.form.suggestion(text) if field.form is not None else ""
            yield error(
                self.source.origin(element),
                f"{_shown(text, field)!r} in <{element.tag}> is not {bad.expected}",
                field.declared.doc,
                f"<{element.tag}>{example}</{element.tag}>" if example else "",
            )

    def text_child(self, child: Element, field: Field) -> Iterator[Diagnostic]:
        for name in attributes_of(child):
            yield self.unknown_attribute(child, name, [])
        yield from self.value_of(child, field)
        for inner in child.iterchildren("*"):
            yield self.stranger(inner, self.registry.handler(inner), child, [])

    def stranger(
        self,
        child: Element,
        handler: type[DataObject] | None,
        parent: Element,
        allowed: list[str],
    ) -> Diagnostic:
        tag = str(child.tag)
        meant = did_you_mean(tag, allowed)
        homes = sorted(() if handler is None else handler.EXTENDS)
        homes += sorted(
            cls.TAG
            for cls in self.registry.classes
            if tag in {particle.of.TAG for particle in particles_of(cls)}
            or tag in {f.tag for f in fields_of(cls) if f.declared.kind in ("child", "children")}
        )
        if homes:
            message = f"<{tag}> does not belong in <{parent.tag}>"
            suggestion = f"put it into {listed(f'<{home}>' for home in homes)}"
        else:
            message = f"there is no element <{tag}>"
            key = (str(parent.tag), tag.lower().replace("-", "_").removesuffix("s"))
            suggestion = _ELSEWHERE.get(key, "")
            listing, text = self.listing(parent), (child.text or "").strip()
            if not suggestion and not meant and listing and text and not len(child):
                message += f"; did you mean <{listing}>?"
                suggestion = f"<{listing}>{shortened(text)}</{listing}>"
        if meant and meant != tag and not set(homes) & set(allowed):
            message += f"; did you mean <{meant}>?"
            suggestion = self.start_tag(etree.Element(meant), attributes_of(child))
        return error(
            self.source.origin(child),
            message,
            f"<{parent.tag}> may hold {listed(f'<{name}>' for name in allowed)}."
            if allowed
            else f"<{parent.tag}> may hold no elements.",
            suggestion,
        )

    def listing(self, parent: Element) -> str:
        """The element of a parent's list of texts, or ""."""
        cls = self.registry.handler(parent)
        known = () if cls is None else fields_of(cls)
        return next((field.tag for field in known if field.declared.kind == "children"), "")

    def counts(
        self, element: Element, cls: type[DataObject], inner: list[Field]
    ) -> Iterator[Diagnostic]:
        count = Counter(str(child.tag) for child in element.iterchildren("*"))
        for field in inner:
            if field.required and not count[field.tag]:
                yield self.lacks(element, [field.tag], field.declared.doc)
            if field.declared.kind == "child" and count[field.tag] > 1:
                yield self.too_many(element, field.tag)
        for content in cls.CONTENT:
            options = content.options if isinstance(content, OneOf) else (content,)
            present = [option for option in options if count[option.of.TAG]]
            for option in present:
                if option.maximum is not None and count[option.of.TAG] > option.maximum:
                    yield self.too_many(element, option.of.TAG)
            if len(present) > 1:
                yield self.mixed(element, [option.of.TAG for option in present])
            needed = content.required if isinstance(content, OneOf) else content.minimum > 0
            if needed and not present:
                tags = [option.of.TAG for option in options]
                yield self.lacks(element, tags, _doc(options[0].of))

    def lacks(self, element: Element, tags: list[str], why: str) -> Diagnostic:
        needed = listed(f"<{tag}>" for tag in tags)
        origin = self.source.origin(element)
        return error(origin, f"<{element.tag}> needs {needed}", why, f"add {needed}")

    def too_many(self, element: Element, tag: str) -> Diagnostic:
        first, second, *_ = map(self.source.origin, element.findall(tag))
        return error(
            second,
            f"<{element.tag}> holds more than one <{tag}>",
            f"The first is at {first}.",
            "keep one of them",
        )

    def mixed(self, element: Element, tags: list[str]) -> Diagnostic:
        second = element.find(tags[1])
        return error(
            self.source.origin(element if second is None else second),
            f"<{element.tag}> holds {listed((f'<{tag}>' for tag in tags), 'and')}",
            "Only one of these may be used.",
            f"keep either {listed(f'<{tag}>' for tag in tags)}",
        )

    def tag_with(self, element: Element, new: dict[str, str], without: str = "") -> str:
        """The element's start tag with attributes added and one left out."""
        kept = {k: v for k, v in attributes_of(element).items() if k != without}
        return self.start_tag(element, {**kept, **{k: v for k, v in new.items() if k}})

    def start_tag(self, element: Element, attributes: dict[str, str]) -> str:
        """A start tag as messages show it: without secrets."""
        handler = self.registry.handler(element)
        known = {f.tag: f for f in (fields_of(handler) if handler is not None else ())}
        written = "".join(
            f' {name}="{_shown(value, known.get(name))}"' for name, value in attributes.items()
        )
        return f"<{element.tag}{written}>"


_KEYS = 'keys are in ssh_key: <ssh_key source="id_ed25519.pub"/>'
_ELSEWHERE = {
    ("user", "sshkey"): _KEYS,
    ("user", "ssh_authorized_key"): _KEYS,
    ("user", "authorized_key"): _KEYS,
    ("user", "group"): 'name the groups in its attribute: groups="sudo video"',
    ("interface", "addres"): 'give it as an attribute: address="192.0.2.10/24"',
    ("interface", "gateway"): 'give it as an attribute: gateway="192.0.2.1"',
    ("interface", "dn"): 'give it as an attribute: dns="192.0.2.1"',
    ("distro", "hostname"): 'give it to DebianPrePkgImgMod: <arg name="hostname">box</arg>',
    ("software", "package"): "list packages in <software_data>, each in a <name>",
}
"""By parent and element (in small letters, with underscores, without a final s): the right form."""


def _shown(value: str, field: Field | None) -> str:
    """The value as messages show it."""
    secret = field is not None and field.form is not None and field.form.secret
    return "..." if secret else shortened(value)


def _doc(cls: type[DataObject]) -> str:
    return (cls.__doc__ or "").split("\n", 1)[0]
