"""`max_size` of `media_im`: the largest size of a medium, compared as soon as a size is known."""

from dcd.manifest.doc import DataObjectCache
from dcd.manifest.objects.distro import MaxSize, MediaIm, VmIm
from dcd.manifest.objects.storage import Size
from statemachine.errors import CheckpointError

READS = ("//media_im/max_size",)
"""The DOC paths that determine it, as in `Checkpoint.READS`."""


def largest_bytes(doc: DataObjectCache, of: type[MediaIm] | type[VmIm] = MediaIm) -> int | None:
    """The `max_size` in bytes of a medium, or of a virtual machine; None for no limit."""
    for image in doc.volatile.get_descendants(class_type=of):
        for most in image.get_children(class_type=MaxSize):
            for size in most.get_children(class_type=Size):
                return size.size_bytes
    return None


def check_size(doc: DataObjectCache, what: str, size_bytes: int, *, alone: bool = True) -> None:
    """Raise `CheckpointError`, with the numbers, when `what` is larger than the largest medium. It is the
    whole medium, or (not `alone`) only a part of it."""
    most = largest_bytes(doc)
    if most is None or size_bytes <= most:
        return
    raise CheckpointError(
        f"{what} is larger than the medium may be",
        f"{'it has' if alone else 'already this has'} {_mib(size_bytes)} MiB ({size_bytes} bytes); "
        f"max_size of media_im is {_mib(most)} MiB ({most} bytes)",
        "put less into the image, compress it better (compression_level), or raise max_size",
    )


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):.1f}"
