"""The architecture of the image in the manifest, the machines that it starts on, and checkpoints that make
nothing for them."""

from collections.abc import Collection, Iterator

from dcd.checkpoints.interface import Checkpoint
from dcd.manifest.diagnostics import Diagnostic, error, listed
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.objects.software import Image
from dcd.platform import foreign
from dcd.platform.hardware import HARDWARE, PC, Hardware

READS = ("//image.architecture",)
"""The DOC paths that determine it, as in `Checkpoint.READS`."""

AUTO = "auto"
"""In place of a serial line: the first one of the machine."""


def image_architecture(doc: DataObjectCache) -> str:
    """The architecture of the image, by Debian's name: that of the manifest, else that of this host, or
    `amd64` on one that Debian does not have."""
    found = _named(doc)
    return (found and found.architecture) or foreign.own() or "amd64"


def hardware(doc: DataObjectCache) -> Hardware:
    """The machines that the image starts on. Of an unknown architecture, which `check_hardware` refuses, they
    are PCs."""
    return HARDWARE.get(image_architecture(doc), PC)


def serial_line(doc: DataObjectCache, wanted: str, settings: str = "") -> str:
    """The serial line `wanted`; instead of `auto` the first one of the machine, with these settings."""
    return f"{hardware(doc).serial}{settings}" if wanted == AUTO else wanted


def check_hardware(
    doc: DataObjectCache,
    checkpoint: Checkpoint,
    does: str,
    only: Collection[str] = tuple(HARDWARE),
) -> Iterator[Diagnostic]:
    """An error when the image is of another architecture than `only` these. `does` is the work of the
    checkpoint as a verb phrase: `makes a medium for`."""
    architecture = image_architecture(doc)
    if architecture in only:
        return
    image = _named(doc)
    place = image.place_of("architecture") if image is not None else None
    yield error(
        checkpoint.argument_place(doc),
        f"{checkpoint.name} {does} machines of {listed(only)} only, and the image is for {architecture}",
        f"The architecture is at {place}." if place else "",
        "leave this checkpoint out, and use the image area or the archive of another checkpoint",
    )


def _named(doc: DataObjectCache) -> Image | None:
    """The first image in the manifest that names its architecture."""
    images = doc.volatile.get_descendants(class_type=Image)
    return next((image for image in images if image.architecture), None)
