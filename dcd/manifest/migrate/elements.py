"""Making the elements of the new manifest, with the comments in it. Pure."""

import re

from lxml import etree

from dcd.manifest.data_object import Element

Arguments = dict[str, str | list[str] | None]
"""Keyword arguments of a checkpoint; those that are None or empty are left out."""


def add(parent: Element, tag: str, text: str | None = None, /, **attributes: str | None) -> Element:
    """A new last child; attributes that are None are left out."""
    element = etree.SubElement(parent, tag)
    for name, value in attributes.items():
        if value is not None:
            element.set(name, value)
    element.text = text
    return element


def comment(text: str) -> Element:
    """A comment; spaces separate hyphens, as XML requires."""
    safe = re.sub(r"-(?=-)|-$", "- ", text)
    return etree.Comment(f" {safe.strip()} ")
