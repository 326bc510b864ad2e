"""`CreateUSB`: the image of a USB stick.

The ISO is hybrid and boots from a stick unchanged, so the stick's image is the same file under another name:
a hard link where the file system has them. Result: media/NAME.usb, delivered as an artifact.
"""

from dataclasses import dataclass

from dcd.checkpoints import products
from dcd.checkpoints.interface import Checkpoint, Context
from dcd.checkpoints.media import largest
from dcd.checkpoints.media.deliver import deliver_file
from dcd.checkpoints.recorded import record_medium, required_medium
from dcd.platform.inside import link_or_copy, new_file


@dataclass(frozen=True)
class CreateUSB(Checkpoint):
    """Make the image of a USB stick from the ISO of an earlier checkpoint."""

    DESCRIPTION = "Make the image of a USB stick"
    EXPECTED_SECONDS = 2.0
    DISK_BYTES = 1 << 30
    READS = largest.READS
    REQUIRES = (products.ISO,)
    PROVIDES = (products.USB,)

    def execute(self, context: Context) -> None:
        iso = required_medium(context, products.ISO)
        name = iso.with_suffix(".usb").name
        largest.check_size(context.doc, name, iso.stat().st_size)
        result = new_file(context.media, name)
        # Another name changes its ctime.
        context.made.add(iso)
        link_or_copy(iso, result)
        deliver_file(context, result, "usb")
        record_medium(context, "usb", result)
