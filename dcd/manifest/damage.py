"""The parts of a manifest that later passes leave out because an earlier pass found an error in them.

The rest of a manifest with errors is still examined, so that one run reports all mistakes. A finding of a
later pass at a faulty element, or at one that contains it, is a consequence of the first error and is not
reported. Pure.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from dcd.manifest.data_object import Element, Origin, attributes_of
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.source import Source

_FOR_CHECKPOINTS = ("software", "configuration")


@dataclass(frozen=True, slots=True)
class Damage:
    """The `places` of faults and of the elements that contain them; the names of `checkpoints` whose
    software or configuration has a fault; the `tags` of those elements. `unnamed`: a software or
    configuration is itself at fault, so that its name is not reliable."""

    places: frozenset[Origin] = frozenset()
    checkpoints: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    unnamed: bool = False

    def __bool__(self) -> bool:
        return bool(self.places)

    def own(self, found: Iterable[Diagnostic]) -> Iterator[Diagnostic]:
        """The findings that are not consequences of the damage."""
        return (each for each in found if each.origin not in self.places)

    def concerns(self, checkpoint: str, reads: Collection[str]) -> bool:
        """Whether a part of the manifest that the checkpoint reads (`Checkpoint.READS`) is damaged."""
        tags = {path.rpartition("/")[2].partition(".")[0].partition("[")[0] for path in reads}
        return self.unnamed or checkpoint in self.checkpoints or not tags.isdisjoint(self.tags)


def damage(source: Source, found: Iterable[Diagnostic]) -> Damage:
    """The damage by the errors among `found`."""
    faults = {each.origin for each in found if each.severity == "error" and each.origin is not None}
    if not faults:
        return Damage()
    places = set(faults)
    checkpoints: set[str] = set()
    tags: set[str] = set()
    unnamed = False
    for element in source.elements():
        if faults.isdisjoint(_places(source, element)):
            continue
        unnamed = unnamed or element.tag in _FOR_CHECKPOINTS
        for holder in (element, *element.iterancestors()):
            if (origin := source.origin(holder)) is not None:
                places.add(origin)
            if holder.tag in _FOR_CHECKPOINTS:
                checkpoints.add(holder.get("name", ""))
            if holder.tag not in ("distro", "dc") or holder is element:
                tags.add(str(holder.tag))
    return Damage(frozenset(places), frozenset(checkpoints), frozenset(tags), unnamed)


def _places(source: Source, element: Element) -> Iterator[Origin | None]:
    yield source.origin(element)
    for attribute in attributes_of(element):
        yield source.origin(element, attribute)
