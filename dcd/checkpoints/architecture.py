"""The architecture of the image in the manifest, and checkpoints that are for x86 only."""

from collections.abc import Iterator

from dcd.checkpoints.interface import Checkpoint
from dcd.manifest.diagnostics import Diagnostic, error, warning
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.objects.software import Image
from dcd.platform.foreign import X86


def check_x86(
    doc: DataObjectCache, checkpoint: Checkpoint, does: str, *, fails: bool
) -> Iterator[Diagnostic]:
    """A finding when the image is not for x86: an error if the checkpoint `fails` then, a warning if its
    result does not start. `does` is its work as a verb phrase: `makes a medium for`."""
    images = doc.volatile.get_descendants(class_type=Image)
    foreign = (image for image in images if (image.architecture or "amd64") not in X86)
    image = next(foreign, None)
    if image is not None:
        yield (error if fails else warning)(
            checkpoint.argument_place(doc),
            f"{checkpoint.name} {does} x86 machines only, and the image is for {image.architecture}",
            f"The architecture is at {image.place_of('architecture')}." if image.origin else "",
            "leave this checkpoint out, and use the image area or the archive of another checkpoint",
        )
