"""Reading a `distribution` manifest so that nothing in it goes unnoticed.

Whoever converts a part asks the reader for it. What was asked for counts as carried over, unless it is left
with a reason; what nobody asked for is found at the end. So every text and attribute of the old manifest is
in the new one or in the list of what could not be carried. Values that the manifest does not give come from
its defaults file, which is another XML file of the original's; they were never written by anybody, so they
are in neither. Pure.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from dcd.manifest.data_object import Element, Origin
from dcd.manifest.diagnostics import Diagnostic, ManifestError, error, warning
from dcd.manifest.source import LIMITS, Source, read

ROOT = "distribution"
_CONTAINERS = {
    "boot_archive", "distro_constr_flags", "finalizer", "grub_menu_modifications", "img_params",
    "key_value_pairs", "output_image", "packages",
}  # fmt: skip
"""Elements that say nothing when nothing is in them."""

_TEXT = ""
"""What stands for an element's text among the names of its attributes."""


@dataclass(slots=True)
class Reader:
    """An old manifest, the defaults for it, and what has been asked for."""

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
        """Say that all of an element, and all in it, is in the result."""
        for found in element.iter("*"):
            self._asked.add((found, _TEXT))
            self._asked.update((found, str(name)) for name in found.attrib)

    def leave(self, element: Element, message: str, suggestion: str = "") -> None:
        """Say that an element, and all in it, cannot be carried over, and why."""
        self.carried(element)
        self.note(element, message, suggestion)

    def note(self, element: Element | None, message: str, suggestion: str = "") -> None:
        """Say something about the result that whoever uses it has to know."""
        where = None if element is None else self.source.origin(element)
        self.left.append(warning(where, message, "", suggestion))

    def unasked(self) -> Iterator[Diagnostic]:
        """What nobody has asked for."""
        for element in self.source.elements():
            for name in map(str, element.attrib):
                if (element, name) not in self._asked:
                    yield self._lost(element, f'{name}="{element.get(name)}" of <{element.tag}>')
            text = " ".join((element.text or "").split())
            alone = not (len(element) or element.attrib or element.tag in _CONTAINERS)
            says_something = bool(text) or alone
            if says_something and (element, _TEXT) not in self._asked:
                yield self._lost(element, f"<{element.tag}>{text}</{element.tag}>")

    def _lost(self, element: Element, what: str) -> Diagnostic:
        return warning(self.source.origin(element), f"{what} has no counterpart")


def read_old(text: str, path: str, defaults: str | None) -> Reader:
    """A reader of the manifest and its defaults file. Raises ManifestError for what is not one."""
    source = read(text, path, LIMITS)
    if source.root.tag != ROOT:
        what = (
            "is a manifest of the Caiman Unified Design already" if source.root.tag == "dc" else ""
        )
        raise ManifestError(
            [
                error(
                    source.origin(source.root),
                    f"<{source.root.tag}> {what or 'is not a manifest'}",
                    f"Manifests from before the Caiman Unified Design have the root element <{ROOT}>.",
                    "use it as it is" if what else "",
                )
            ]
        )
    return Reader(source, {} if defaults is None else _defaults(defaults))


def _defaults(text: str) -> dict[str, str]:
    source = read(text, "the defaults file", LIMITS)
    if source.root.tag != "defaults_and_validation_manifest":
        where = source.origin(source.root) or Origin("the defaults file", 1)
        raise ManifestError([error(where, f"<{source.root.tag}> is not a file of defaults")])
    return {
        element.get("nodepath", "").strip(): (element.text or "").strip().strip('"')
        for element in source.root.iter("default")
        # The others name code of the original that made up a value.
        if element.get("from") == "value"
    }
