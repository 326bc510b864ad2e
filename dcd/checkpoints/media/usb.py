"""`CreateUSB`: the image of a USB stick.

The ISO is hybrid: written to a stick as it is, it boots. So the stick's image is the same file under
a name of its own, without a copy where the file system can link. Result: media/NAME.usb, delivered as
an artifact.
"""

import os
import shutil
from dataclasses import dataclass

from dcd.checkpoints import products
from dcd.checkpoints.interface import Checkpoint, Context, Needs
from dcd.checkpoints.media import largest
from dcd.checkpoints.media.deliver import deliver_file, record_medium, recorded_medium
from dcd.manifest.doc import DataObjectCache
from dcd.platform.inside import new_file
from statemachine.errors import CheckpointError


@dataclass(frozen=True)
class CreateUSB(Checkpoint):
    """Make the image of a USB stick from the ISO of a checkpoint before."""

    DESCRIPTION = "Make the image of a USB stick"

    READS = largest.READS
    REQUIRES = (products.ISO,)
    PROVIDES = (products.USB,)

    def needs(self, doc: DataObjectCache) -> Needs:
        return Needs(disk_bytes=1 << 30)

    def get_progress_estimate(self) -> float:
        return 2.0

    def execute(self, context: Context) -> None:
        iso = recorded_medium(context, "iso")
        if iso is None:
            raise CheckpointError(
                "there is no ISO to make a USB stick's image from",
                "",
                "run a checkpoint that makes an ISO (CreateISO) before",
            )
        largest.check_size(context.doc, iso.with_suffix(".usb").name, iso.stat().st_size)
        result = new_file(context.media, iso.with_suffix(".usb").name)
        # One more name for it is a change to it.
        context.made.add(iso)
        try:
            os.link(iso, result)
        except OSError:
            # No links here, or not between layers.
            shutil.copyfile(iso, result)
        deliver_file(context, result, "usb")
        record_medium(context, "usb", result)
