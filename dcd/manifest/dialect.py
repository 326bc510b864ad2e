"""Older forms of elements, translated into those of the grammar before a manifest is checked.

Only forms with one meaning are accepted: `software_data type=` and `<zpool><dataset>` are in examples of the
original's manual page, `<sigpolicy>` is in manifests in use. Translated elements keep their places. Changes
the tree.
"""

from collections.abc import Iterator

from dcd.manifest.data_object import Element
from dcd.manifest.diagnostics import Diagnostic, warning
from dcd.manifest.source import Source


def translate(source: Source) -> Iterator[Diagnostic]:
    """Translate the tree, with warnings about contradictions."""
    for software in source.root.iter("software"):
        kind = software.get("type", "IPS").strip()
        for data in software.findall("software_data"):
            yield from _type_of_data(source, data, kind)
    for dataset in list(source.root.iter("dataset")):
        _unwrap(dataset)
    for policy in list(source.root.iter("sigpolicy")):
        yield from _policy(source, policy)


def _type_of_data(source: Source, data: Element, kind: str) -> Iterator[Diagnostic]:
    given = data.get("type", kind)
    data.attrib.pop("type", "")
    if given.strip() != kind:
        yield warning(
            source.origin(data, "type"),
            f"this list has type={given!r}, but the type of its <software>, {kind!r}, counts",
            "All lists of one <software> are transferred by one checkpoint.",
            "leave type out of <software_data>",
        )


def _unwrap(dataset: Element) -> None:
    """The file systems of `<zpool><dataset>` are the pool's."""
    pool = dataset.getparent()
    if pool is None or pool.tag != "zpool" or dataset.attrib:
        return
    at = pool.index(dataset)
    pool.remove(dataset)
    for offset, inner in enumerate(list(dataset)):
        pool.insert(at + offset, inner)


def _policy(source: Source, policy: Element) -> Iterator[Diagnostic]:
    """`<sigpolicy name="..."/>` is the publisher's attribute `signature_policy`."""
    publisher = policy.getparent()
    if publisher is None or publisher.tag != "publisher" or set(policy.attrib) != {"name"}:
        return
    name = policy.get("name", "")
    if publisher.get("signature_policy", name) != name:
        yield warning(
            source.origin(policy, "name"),
            f"signature_policy of the publisher is {publisher.get('signature_policy')!r}, which counts",
            "",
            "keep one of them",
        )
    elif "signature_policy" not in publisher.attrib:
        publisher.set("signature_policy", name)
        place, origin = source.places.get(publisher), source.origin(policy, "name")
        if place is not None and origin is not None:
            place.attributes["signature_policy"] = origin
    publisher.remove(policy)
