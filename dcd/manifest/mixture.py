"""Manifests between two manifests: their differences one by one, and the first manifest with some of them.

Elements correspond by tag and name, in order. Each attribute, text and element that differs is one change;
an element in the place of another is one change together. The number of a change is its position in the
document, whatever changes are taken. Pure.
"""

from collections.abc import Collection, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from lxml import etree

from dcd.manifest.source import LIMITS, read

_IDENTITY = ("name", "id", "path", "suite", "source", "mount_point")
"""The attributes that tell elements of a tag apart, the most telling first."""

_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Edit:
    """A change of a manifest: the place in it, and the value or element there in both ("": none)."""

    place: str
    before: str
    after: str


@dataclass(slots=True)
class _Mixture:
    take: Collection[int]
    edits: list[Edit] = field(default_factory=list)

    def choose(self, place: str, before: str, after: str) -> bool:
        """Number a change. Returns whether it is taken."""
        self.edits.append(Edit(place, before, after))
        return len(self.edits) - 1 in self.take


def mixed(first: str, second: str, take: Collection[int]) -> tuple[str, tuple[Edit, ...]]:
    """The first of two canonical manifests with the changes `take` towards the second, and all changes.
    Raises ManifestError."""
    roots = [read(text, "the stored manifest", LIMITS).root for text in (first, second)]
    mixture = _Mixture(take)
    root = _mix(roots[0], roots[1], "", mixture)
    return etree.tostring(root, encoding="unicode"), tuple(mixture.edits)


def _mix(
    before: etree._Element, after: etree._Element, place: str, mixture: _Mixture
) -> etree._Element:
    here = f"{place}/{_label(before)}" if place else _label(before)
    result = etree.Element(before.tag)
    for name in dict.fromkeys((*before.attrib, *after.attrib)):
        values = (before.get(name), after.get(name))
        value = values[0]
        if values[0] != values[1] and mixture.choose(
            f"{here} {name}", values[0] or "", values[1] or ""
        ):
            value = values[1]
        if value is not None:
            result.set(name, value)
    texts = [(each.text or "").strip() for each in (before, after)]
    result.text = texts[0] or None
    if texts[0] != texts[1] and mixture.choose(here, *texts):
        result.text = texts[1] or None
    result.extend(_children(before, after, here, mixture))
    return result


def _children(
    before: etree._Element, after: etree._Element, here: str, mixture: _Mixture
) -> Iterator[etree._Element]:
    one, other = _elements(before), _elements(after)
    matcher = SequenceMatcher(None, [_key(e) for e in one], [_key(e) for e in other], False)
    for kind, i, j, k, m in matcher.get_opcodes():
        if kind == "equal":
            for mine, its in zip(one[i:j], other[k:m], strict=True):
                yield _mix(mine, its, here, mixture)
        else:
            yield from _one_by_one(one[i:j], other[k:m], here, mixture)


def _one_by_one(
    one: Sequence[etree._Element],
    other: Sequence[etree._Element],
    here: str,
    mixture: _Mixture,
) -> Iterator[etree._Element]:
    """Elements that are added or removed, or one in another's place."""
    if len(one) == len(other) == 1:
        yield deepcopy(other[0] if mixture.choose(here, _text(one[0]), _text(other[0])) else one[0])
        return
    for element in one:
        if not mixture.choose(here, _text(element), ""):
            yield deepcopy(element)
    for element in other:
        if mixture.choose(here, "", _text(element)):
            yield deepcopy(element)


def _elements(parent: etree._Element) -> list[etree._Element]:
    return [child for child in parent if isinstance(child.tag, str)]


def _key(element: etree._Element) -> tuple[str, str]:
    for name in _IDENTITY:
        if (value := element.get(name)) is not None:
            return element.tag, value
    return element.tag, "" if len(element) else (element.text or "").strip()


def _label(element: etree._Element) -> str:
    tag, name = _key(element)
    return (
        f"{tag} {name[:_SHOWN]}" if name and any(element.get(each) for each in _IDENTITY) else tag
    )


def _text(element: etree._Element) -> str:
    return " ".join(etree.tostring(element, encoding="unicode", with_tail=False).split())
