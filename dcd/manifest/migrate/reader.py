"""Reading a `distribution` manifest without losing any part of it.

The functions that convert a part read it through the reader, which marks it as carried over, unless it is
left out with a reason; at the end the reader lists the unread parts. So every text and attribute of the old
manifest is in the new one or in the list of parts without a counterpart. Missing values come from the
defaults file, another XML file of the original; the list does not contain its values. Pure.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from dcd.manifest.data_object import Element, Origin
from dcd.manifest.diagnostics import Diagnostic, refusal, warning
from dcd.manifest.source import LIMITS, Source, read

ROOT = "distribution"
_CONTAINERS = {
    "boot_archive", "distro_constr_flags", "finalizer", "grub_menu_modifications", "img_params",
    "key_value_pairs", "output_image", "packages",
}  # fmt: skip
"""Elements without a meaning when they are empty."""

_TEXT = ""
"""Means an element's text among the names of its attributes."""


@dataclass(slots=True)
class Reader:
    """An old manifest, its defaults, and the parts read so far."""

    source: Source
    defaults: dict[str, str] = field(default_factory=dict)
    left: list[Diagnostic] = field(default_factory=list)
    _asked: set[tuple[Element, str]] = field(default_factory=set)

    @property
    def root(self) -> Element:
        """The element `distribution`."""
        return self.source.root

    def find(self, path: str) -> Element | None:
        """The first element at a path below the root."""
        return self.root.find(path)

    def each(self, path: str) -> list[Element]:
        """All elements at a path below the root."""
        return self.root.findall(path)

    def text(self, path: str) -> str | None:
        """The text of the first element at the path, or its default, or None."""
        found = self.root.find(path)
        if found is None:
            return self.defaults.get(path)
        return self.text_of(found) or self.defaults.get(path)

    def attribute(self, path: str, name: str) -> str | None:
        """An attribute of the first element at the path, or its default, or None."""
        found = self.root.find(path)
        value = None if found is None else self.attribute_of(found, name)
        return value if value is not None else self.defaults.get(f"{path}/{name}")

    def text_of(self, element: Element) -> str:
        """The text of an element, without white space around it."""
        self._asked.add((element, _TEXT))
        return (element.text or "").strip()

    def attribute_of(self, element: Element, name: str) -> str | None:
        """An attribute of an element, without white space around it, or None."""
        self._asked.add((element, name))
        value = element.get(name)
        return None if value is None else value.strip()

    def carried(self, element: Element) -> None:
        """Mark an element and all of its content as carried over."""
        for found in element.iter("*"):
            self._asked.add((found, _TEXT))
            self._asked.update((found, str(name)) for name in found.attrib)

    def leave(self, element: Element, message: str, suggestion: str = "") -> None:
        """Report that an element and all of its content has no counterpart, and why."""
        self.carried(element)
        self.note(element, message, suggestion)

    def note(self, element: Element | None, message: str, suggestion: str = "") -> None:
        """Report something about the result that its user must know."""
        where = None if element is None else self.source.origin(element)
        self.left.append(warning(where, message, "", suggestion))

    def unasked(self) -> Iterator[Diagnostic]:
        """Yield a warning for each unread part."""
        for element in self.source.elements():
            for name in map(str, element.attrib):
                if (element, name) not in self._asked:
                    yield self._lost(element, f'{name}="{element.get(name)}" of <{element.tag}>')
            text = " ".join((element.text or "").split())
            alone = not (len(element) or element.attrib or element.tag in _CONTAINERS)
            if (text or alone) and (element, _TEXT) not in self._asked:
                yield self._lost(element, f"<{element.tag}>{text}</{element.tag}>")

    def _lost(self, element: Element, what: str) -> Diagnostic:
        return warning(self.source.origin(element), f"{what} has no counterpart")


def read_old(text: str, path: str, defaults: str | None) -> Reader:
    """A reader of the manifest and its defaults file. Raises ManifestError for a text that is neither."""
    source = read(text, path, LIMITS)
    if source.root.tag != ROOT:
        is_new = source.root.tag == "dc"
        what = (
            "is already a manifest of the Caiman Unified Design" if is_new else "is not a manifest"
        )
        raise refusal(
            source.origin(source.root),
            f"<{source.root.tag}> {what}",
            f"Manifests from before the Caiman Unified Design have the root element <{ROOT}>.",
            "use it unchanged" if is_new else "",
        )
    return Reader(source, {} if defaults is None else _defaults(defaults))


def _defaults(text: str) -> dict[str, str]:
    source = read(text, "the defaults file", LIMITS)
    if source.root.tag != "defaults_and_validation_manifest":
        where = source.origin(source.root) or Origin("the defaults file", 1)
        raise refusal(where, f"<{source.root.tag}> is not a file of defaults")
    return {
        element.get("nodepath", "").strip(): (element.text or "").strip().strip('"')
        for element in source.root.iter("default")
        # The other elements name code of the original that makes a value.
        if element.get("from") == "value"
    }
