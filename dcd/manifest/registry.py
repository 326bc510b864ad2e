"""Which data object class handles which element, and the import and export of whole trees.

A registry is an immutable value: the project's classes, to which plug-ins' are added. For one element
the class of the lowest priority that says `can_handle` imports it; among equals the one added first. An
element that nobody handles, an attribute nobody reads: `InvalidManifest`, never silence.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, Self

from lxml import etree

from dcd.manifest.data_object import DataObject, Element, Origin, fields_of
from dcd.manifest.values import BadValue
from statemachine.errors import InvalidManifest


class Locate(Protocol):
    """Where an element, or one of its attributes, was written; None where that is not known."""

    def __call__(self, element: Element, attribute: str | None = None, /) -> Origin | None: ...


def nowhere(element: Element, attribute: str | None = None) -> Origin | None:
    """The places of a tree that was never written as text."""
    return None


@dataclass(frozen=True, slots=True)
class Registry:
    """The classes that can be imported, in the order in which they are asked."""

    classes: tuple[type[DataObject], ...] = ()

    def adding(self, *new: type[DataObject]) -> Self:
        """This registry with more classes."""
        ordered = sorted((*self.classes, *new), key=lambda cls: cls.PRIORITY)
        return type(self)(tuple(ordered))

    def handler(self, element: Element) -> type[DataObject] | None:
        """The class that imports the element, or None."""
        return next((cls for cls in self.classes if cls.can_handle(element)), None)

    def read(self, element: Element, locate: Locate = nowhere) -> DataObject:
        """Import the element and all below it. Raises InvalidManifest for the first thing wrong."""
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


def _places(
    cls: type[DataObject], element: Element, locate: Locate
) -> Iterator[tuple[str, list[Origin]]]:
    """Where the declared fields of an element were written."""
    for field in fields_of(cls):
        if field.declared.kind == "attribute":
            places = [locate(element, field.tag)] if field.tag in element.attrib else []
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
    if element is None:
        return ""
    etree.indent(element, "  ")
    return etree.tostring(element, encoding="unicode") + "\n"
