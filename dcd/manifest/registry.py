"""The data object classes by element, and the import and export of whole trees.

A registry is an immutable value: the project's classes and those of plug-ins. Of the classes that can handle
an element the one with the lowest priority imports it; among equals the one added first. An element without a
class and an attribute that no class reads raise `InvalidManifest`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, Self

from lxml import etree

from dcd.manifest.data_object import (
    DataObject,
    Element,
    OneOf,
    Origin,
    Particle,
    attributes_of,
    fields_of,
    handles_more_than_its_tag,
    reads_itself,
)
from dcd.manifest.fields import Field
from dcd.manifest.source import TEXT
from dcd.manifest.values import BadValue
from statemachine.errors import InvalidManifest


class Locate(Protocol):
    """The place of an element, or of one of its attributes; None if it is not known."""

    def __call__(self, element: Element, attribute: str | None = None, /) -> Origin | None: ...


def nowhere(element: Element, attribute: str | None = None) -> Origin | None:
    """No place: for a tree without a text."""
    return None


@dataclass(frozen=True, slots=True)
class Registry:
    """The classes that can be imported, in the order of their precedence."""

    classes: tuple[type[DataObject], ...] = ()

    def adding(self, *new: type[DataObject]) -> Self:
        """This registry with more classes."""
        if not new:
            return self
        return type(self)(tuple(sorted((*self.classes, *new), key=lambda cls: cls.PRIORITY)))

    def handler(self, element: Element) -> type[DataObject] | None:
        """The class that imports the element, or None."""
        candidates = _candidates(self.classes, element.tag)
        return next((cls for cls in candidates if cls.can_handle(element)), None)

    def read(self, element: Element, locate: Locate = nowhere) -> DataObject:
        """Import the element and all below it. Raises InvalidManifest for the first fault."""
        cls = self.handler(element)
        where = locate(element)
        if cls is None:
            raise InvalidManifest(f"nothing handles the element <{element.tag}>", str(where or ""))
        try:
            found = cls.from_xml(element)
        except BadValue as error:
            raise InvalidManifest(f"<{element.tag}>: {error}", str(where or "")) from None
        found.origin = where
        found.places = dict(_places(cls, element, locate)) if where else {}
        found.insert_children(
            self.read(child, locate)
            for child in element.iterchildren("*")
            if not cls.consumes(child)
        )
        return found

    def read_whole(self, element: Element, locate: Locate = nowhere) -> DataObject | None:
        """Import the valid part of the element and of all below it: without attributes that are unknown or
        malformed, and without elements that no class handles, that are misplaced or that lack something
        required. None when nothing is left."""
        cls = self.handler(element)
        found = None if cls is None else _remains(cls, element)
        if cls is None or found is None:
            return None
        found.origin = locate(element)
        found.places = dict(_places(cls, element, locate)) if found.origin else {}
        for child in element.iterchildren("*"):
            handler = None if cls.consumes(child) else self.handler(child)
            if handler is not None and may_stand_in(handler, cls):
                inner = self.read_whole(child, locate)
                found.insert_children([] if inner is None else inner)
        return found


@lru_cache(maxsize=1024)
def _candidates(classes: tuple[type[DataObject], ...], tag: str) -> tuple[type[DataObject], ...]:
    """Of these classes, those that can handle an element with the tag, in order, as far as the tag says it. A
    worker that asked each class would copy the memory of all."""
    return tuple(cls for cls in classes if tag == cls.TAG or handles_more_than_its_tag(cls))


def particles_of(cls: type[DataObject]) -> list[Particle]:
    """The data objects that a class allows, alternatives included, in declared order."""
    return [
        option
        for content in cls.CONTENT
        for option in (content.options if isinstance(content, OneOf) else (content,))
    ]


def may_stand_in(cls: type[DataObject], holder: type[DataObject]) -> bool:
    """Whether objects of the holder's class may contain those of the class."""
    return holder.TAG in cls.EXTENDS or cls.TAG in {found.of.TAG for found in particles_of(holder)}


def _remains(cls: type[DataObject], element: Element) -> DataObject | None:
    """The object of the valid part of an element; None when too little is left. The tag replaces a missing
    name."""
    try:
        return cls.from_xml(element)
    except BadValue:
        if reads_itself(cls):
            return None
    known = {(field.declared.kind == "attribute", field.tag): field for field in fields_of(cls)}
    whole = etree.Element(element.tag)
    whole.text = element.text
    for name, value in attributes_of(element).items():
        if (True, name) in known and _parses(known[True, name], value):
            whole.set(name, value)
    for child in element.iterchildren("*"):
        if (False, str(child.tag)) in known:
            etree.SubElement(whole, child.tag).text = child.text
    name_field = known.get((True, "name"))
    if name_field is not None and _parses(name_field, cls.TAG):
        whole.set("name", whole.get("name", cls.TAG))
    try:
        return cls.from_xml(whole)
    except BadValue:
        return None


def _parses(field: Field, text: str) -> bool:
    try:
        field.parse(text.strip())
    except BadValue:
        return False
    return True


def _places(
    cls: type[DataObject], element: Element, locate: Locate
) -> Iterator[tuple[str, list[Origin]]]:
    """The places of the declared fields of an element."""
    for field in fields_of(cls):
        if field.declared.kind == "attribute":
            places = [locate(element, field.tag)] if field.tag in element.attrib else []
        elif field.declared.kind == "text":
            places = [locate(element, TEXT)]
        else:
            places = [locate(child) for child in element.iterchildren(field.tag)]
        if found := [place for place in places if place is not None]:
            yield field.tag, found


def write(found: DataObject) -> Element | None:
    """The XML of an object and all below it; None when the object has none."""
    element = found.to_xml()
    if element is not None:
        element.extend(
            part for part in (write(child) for child in found.children) if part is not None
        )
    return element


def write_text(found: DataObject) -> str:
    """The XML text of an object and all below it, indented, ending in a newline; empty when it has none."""
    element = write(found)
    return "" if element is None else indented(element)


def indented(element: Element) -> str:
    """The XML text of an element, indented, ending in a newline."""
    etree.indent(element, "  ")
    return etree.tostring(element, encoding="unicode") + "\n"
