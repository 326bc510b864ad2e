"""The `software` of a transfer checkpoint: found by the checkpoint's name, of the type that it transfers."""

from collections.abc import Iterator

from dcd.checkpoints.interface import Checkpoint
from dcd.manifest.diagnostics import Diagnostic, error
from dcd.manifest.doc import DataObjectCache, software_for
from dcd.manifest.objects.software import Dir, Software, SoftwareData
from dcd.manifest.tokens import has_token


def software_of(doc: DataObjectCache, checkpoint: Checkpoint, kind: str | None = None) -> Software:
    """The checkpoint's software; one that lists nothing where the manifest has none, or (where `kind` is
    given) one of another type, which `check_software` reports."""
    found = software_for(doc, checkpoint.name)
    fits = found is not None and kind in (None, found.type)
    return found if found is not None and fits else Software(name=checkpoint.name)


def listed_bytes(software: Software) -> int:
    """The space that the lists of the software say they need."""
    return sum(data.size or 0 for data in software.get_descendants(class_type=SoftwareData))


def check_software(
    doc: DataObjectCache, checkpoint: Checkpoint, *kinds: str
) -> Iterator[Diagnostic]:
    """An error when the checkpoint has no software, or (where `kinds` are given) one of another type."""
    found = software_for(doc, checkpoint.name)
    kind = kinds[0] if kinds else "CPIO"
    if found is None:
        yield error(
            checkpoint.argument_place(doc),
            f"{checkpoint.name} needs a <software> of type {kind}",
            "it has none",
            f'add <software name="{checkpoint.name}" type="{kind}">',
        )
    elif kinds and found.type not in kinds:
        yield error(
            found.place_of("type"),
            f"{checkpoint.name} needs a <software> of type {kind}",
            f"it has one of type {found.type}",
            f'type="{kind}"',
        )


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
