"""What the errors of earlier passes over a manifest mean for the passes after them.

A manifest with errors is still examined as far as it is whole, so that one pass reports all of its mistakes.
What a later pass then misses because an earlier one refused it is no mistake of its own: a finding at an
element that is at fault, or that holds one that is, is a consequence. Pure.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from dcd.manifest.data_object import Element, Origin, attributes_of
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.source import Source

_FOR_CHECKPOINTS = ("software", "configuration")


@dataclass(frozen=True, slots=True)
class Damage:
    """What is not whole: the `places` of faults and of the elements that hold them; the names of
    `checkpoints` whose software or configuration has one; the `tags` of those elements. `unnamed`: a software
    or configuration is at fault itself, so that it may be the one that a checkpoint lacks."""

    places: frozenset[Origin] = frozenset()
    checkpoints: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    unnamed: bool = False

    def __bool__(self) -> bool:
        return bool(self.places)

    def own(self, found: Iterable[Diagnostic]) -> Iterator[Diagnostic]:
        """The findings that are no consequence of the damage."""
        return (each for each in found if each.origin not in self.places)

    def concerns(self, checkpoint: str, reads: Collection[str]) -> bool:
        """Whether what the checkpoint reads of the manifest (`Checkpoint.READS`) is not whole."""
        tags = {path.rpartition("/")[2].partition(".")[0].partition("[")[0] for path in reads}
        return self.unnamed or checkpoint in self.checkpoints or not tags.isdisjoint(self.tags)


def damage(source: Source, found: Iterable[Diagnostic]) -> Damage:
    """The damage that the errors among `found` are."""
    faults = {each.origin for each in found if each.severity == "error"} - {None}
    if not faults:
        return Damage()
    places = {origin for origin in faults if origin is not None}
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
