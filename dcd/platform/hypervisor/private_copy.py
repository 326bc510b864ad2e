"""A private copy of an image for a guest, where the hypervisor cannot keep what the guest writes apart."""

from pathlib import Path

from dcd.platform.copying import copy_into
from dcd.platform.hypervisor.interface import Drive


def copy_image(drive: Drive, target: Path) -> Path:
    """Copy the image to `target` and return that. Holes stay holes. Raises OSError."""
    end = drive.image.stat().st_size if drive.length is None else drive.offset + drive.length
    with target.open("wb") as copy:
        copy.truncate(end - drive.offset)
    copy_into(drive.image, target, 0, begin=drive.offset, end=end)
    return target
