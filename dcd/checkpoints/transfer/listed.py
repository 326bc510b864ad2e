"""The `software` of a transfer checkpoint: the one of its name, and of its type."""

from collections.abc import Iterator

from dcd.checkpoints.interface import Checkpoint
from dcd.manifest.diagnostics import Diagnostic, error
from dcd.manifest.doc import DataObjectCache, software_for
from dcd.manifest.objects.software import Dir, Software, SoftwareData
from dcd.manifest.tokens import has_token


def software_of(doc: DataObjectCache, checkpoint: Checkpoint, kind: str | None = None) -> Software:
    """The checkpoint's software; an empty one if the manifest has none, or none of the type `kind`, which
    `check_software` reports."""
    found = software_for(doc, checkpoint.name)
    if found is None or kind not in (None, found.type):
        return Software(name=checkpoint.name)
    return found


def listed_bytes(software: Software) -> int:
    """The space that the lists of the software declare."""
    return sum(data.size or 0 for data in software.get_descendants(class_type=SoftwareData))


def check_software(
    doc: DataObjectCache, checkpoint: Checkpoint, kind: str = "CPIO", *, only: bool = True
) -> Iterator[Diagnostic]:
    """An error when the checkpoint has no software, or (with `only`) one of another type than `kind`."""
    found = software_for(doc, checkpoint.name)
    message = f"{checkpoint.name} needs a <software> of type {kind}"
    if found is None:
        remedy = f'add <software name="{checkpoint.name}" type="{kind}">'
        yield error(checkpoint.argument_place(doc), message, "it has none", remedy)
    elif only and found.type != kind:
        why = f"it has one of type {found.type}"
        yield error(found.place_of("type"), message, why, f'type="{kind}"')


def check_places(software: Software) -> Iterator[Diagnostic]:
    """Errors for directories of the software that are not in the workspace."""
    for place in software.get_descendants(class_type=Dir):
        if not has_token(place.path) or ".." in place.path.split("/"):
            yield error(
                place.place_of("path"),
                f"{place.path!r} is not in the workspace",
                "",
                "begin it with an area, such as {PKG_IMAGE_PATH} or {BOOT_ARCHIVE}",
            )
