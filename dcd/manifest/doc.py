"""The DOC: the tree of data objects that checkpoints read and write.

`volatile` is the content of the manifest; `persistent` is the data that checkpoints pass to later ones, and
is saved as XML text with each layer. Path strings begin at the DOC (`//boot_mods`, `/persistent/iso`). A DOC
belongs to one thread; builds share nothing in it.

Source: the Caiman Unified Design's data object cache.
"""

from lxml import etree

from dcd.manifest.data_dict import DataObjectDict
from dcd.manifest.data_object import DataObject, Element, Object
from dcd.manifest.data_object import Origin as SourceOrigin
from dcd.manifest.objects import BUILTIN, CheckpointSpec, Configuration, Distro, Software
from dcd.manifest.paths import PathError, find_path, object_path, substitute
from dcd.manifest.registry import Registry, write, write_text
from statemachine.errors import InvalidManifest

_PARSER = etree.XMLParser(
    resolve_entities=False, no_network=True, load_dtd=False, remove_blank_text=False
)


class Part(DataObject):
    """One of the two parts of the DOC; its tag is its name."""

    def to_xml(self) -> Element:
        return etree.Element(self.name)


class DataObjectCache(DataObject):
    """The DOC of one build."""

    def __init__(self, registry: Registry = BUILTIN) -> None:
        super().__init__(name="doc")
        self.registry = registry
        self.persistent = Part(name="persistent")
        self.volatile = Part(name="volatile")
        self.insert_children([self.persistent, self.volatile])

    def to_xml(self) -> Element:
        return etree.Element("doc")

    def to_text(self) -> str:
        """The whole DOC as XML text; `from_text` reads it back equal."""
        return write_text(self)

    @classmethod
    def from_text(cls, text: str, registry: Registry = BUILTIN) -> "DataObjectCache":
        """The DOC that `to_text` wrote. Raises InvalidManifest."""
        cache = cls(registry)
        root = _parse(text, "doc")
        for part in (cache.persistent, cache.volatile):
            for element in root.iterchildren(part.name):
                part.insert_children(registry.read(child) for child in element.iterchildren("*"))
        return cache

    def persistent_text(self) -> str:
        """The persistent part as XML text, to be saved with a layer."""
        return write_text(self.persistent)

    def restore_persistent(self, text: str | None) -> None:
        """Replace the persistent part by a saved one (None or empty: clear it). Raises InvalidManifest."""
        self.persistent.delete_children()
        if text and text.strip():
            root = _parse(text, "persistent")
            self.persistent.insert_children(
                self.registry.read(child) for child in root.iterchildren("*")
            )

    def find_path(self, path: str) -> list[object]:
        """The objects and values of a path string; see `dcd.manifest.paths.find_path`."""
        return find_path(self, path)

    def substitute(self, text: str, separator: str = ",", quoted: bool = False) -> str:
        """The text with its `%{path}` references replaced; see `dcd.manifest.paths.substitute`."""
        return substitute(self, text, separator, quoted)


def _parse(text: str, tag: str) -> Element:
    """Parse text that this program wrote. `dcd.planning.load` parses that of clients."""
    try:
        root = etree.fromstring(text.encode(), _PARSER)
    except etree.XMLSyntaxError as error:
        raise InvalidManifest("a stored DOC cannot be read", str(error)) from None
    if root.tag != tag:
        raise InvalidManifest(
            "a stored DOC cannot be read", f"its root is <{root.tag}>, not <{tag}>"
        )
    return root


def distro(doc: DataObjectCache) -> Distro:
    """The distribution that the manifest describes. Raises InvalidManifest when there is none."""
    found = doc.volatile.get_descendants(None, Distro, max_count=1)
    if not found:
        raise InvalidManifest("the manifest describes no distribution", "", "add <distro name=...>")
    return found[0]


def software_for(doc: DataObjectCache, checkpoint_name: str) -> Software | None:
    """The software named for a checkpoint, or None."""
    found = doc.volatile.get_descendants(checkpoint_name, Software, max_count=1)
    return found[0] if found else None


def configurations_for(doc: DataObjectCache, checkpoint_name: str) -> list[Configuration]:
    """The configurations named for a checkpoint, in the manifest's order."""
    return doc.volatile.get_descendants(checkpoint_name, Configuration)


def checkpoints_of(doc: DataObjectCache) -> list[CheckpointSpec]:
    """The checkpoints of the execution section, in order."""
    return doc.volatile.get_descendants(None, CheckpointSpec)


__all__ = [
    "DataObject", "DataObjectCache", "DataObjectDict", "Object", "PathError", "Registry",
    "SourceOrigin", "checkpoints_of", "configurations_for", "distro", "find_path", "object_path",
    "software_for", "substitute", "write", "write_text",
]  # fmt: skip
