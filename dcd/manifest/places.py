"""The lines of a checkpoint's elements in the author's file, kept beside the canonical manifest.

The objects of a stored manifest have no origin. The plan has the lines of those that a checkpoint reads, in
the order of the document, and an attempt sets them again, so that its errors name the author's lines. Pure.
"""

from collections.abc import Iterator

from dcd.manifest.data_object import DataObject, Origin, fields_of
from dcd.manifest.doc import DataObjectCache, configurations_for, software_for
from dcd.manifest.objects import CheckpointSpec


def places_of(doc: DataObjectCache, checkpoint: str) -> tuple[str, ...]:
    """The place of each element of the checkpoint and of each text in one: `LINE`, or `LINE FILE` for a file
    other than the manifest; "" if it is not known."""
    top = next((each.origin for each in doc.volatile.children if each.origin), None)
    places = (
        node.places.get(tag, [None])[0] if tag else node.origin
        for node, tag in _elements(doc, checkpoint)
    )
    return tuple(_written(place, top.file if top else "") for place in places)


def put_places(
    doc: DataObjectCache, checkpoint: str, places: tuple[str, ...], manifest_path: str
) -> None:
    """Give the elements the places that `places_of` found in the same manifest; none, when their number
    differs: an older plan has no places."""
    elements = list(_elements(doc, checkpoint))
    if len(elements) != len(places):
        return
    for (node, tag), text in zip(elements, places, strict=True):
        if not text:
            continue
        line, _, file = text.partition(" ")
        origin = Origin(file or manifest_path, int(line))
        if tag:
            node.places = {**node.places, tag: [origin]}
        else:
            node.origin = origin


def _elements(doc: DataObjectCache, checkpoint: str) -> Iterator[tuple[DataObject, str]]:
    """The objects that the checkpoint reads, each with "", then with the tag of its text."""
    software = software_for(doc, checkpoint)
    tops: list[DataObject] = [
        *doc.volatile.get_descendants(checkpoint, CheckpointSpec, max_count=1),
        *([] if software is None else [software]),
        *configurations_for(doc, checkpoint),
    ]
    for top in tops:
        for node in (top, *top.get_descendants()):
            yield node, ""
            yield from (
                (node, field.tag)
                for field in fields_of(type(node))
                if field.declared.kind == "text"
            )


def _written(place: Origin | None, manifest_path: str) -> str:
    if place is None:
        return ""
    return f"{place.line}" if place.file == manifest_path else f"{place.line} {place.file}"
