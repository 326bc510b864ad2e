"""The architecture of an image, as far as the manifest says it, and what dcd can do with it."""

from collections.abc import Iterator

from dcd.checkpoints.interface import Checkpoint
from dcd.manifest.diagnostics import Diagnostic, error, warning
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.objects.software import Image
from dcd.platform.foreign import X86


def foreign_image(doc: DataObjectCache) -> Image | None:
    """The first image of another architecture than x86; None where the manifest names none."""
    images = doc.volatile.get_descendants(class_type=Image)
    return next((each for each in images if (each.architecture or "amd64") not in X86), None)


def check_x86(
    doc: DataObjectCache, checkpoint: Checkpoint, does: str, *, fails: bool
) -> Iterator[Diagnostic]:
    """A finding when the image is not of x86, which is all that what the checkpoint `does` is for: an error
    where it fails, a warning where it makes something that does not start."""
    image = foreign_image(doc)
    if image is not None:
        yield (error if fails else warning)(
            checkpoint.argument_place(doc),
            f"{checkpoint.name} {does} x86 machines only, and the image is for {image.architecture}",
            f"The architecture is at {image.place_of('architecture')}." if image.origin else "",
            "leave this checkpoint out, and use the image area or the archive of another checkpoint",
        )
