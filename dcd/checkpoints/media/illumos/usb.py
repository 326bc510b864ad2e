"""`CreateIllumosUSB`: the image of a USB stick with illumos.

The hybrid ISO of `CreateIllumosISO` starts from a stick unchanged, so the stick's image is the same file
under another name. The original's usbgen copied the ISO into a file system of type ufs, for GRUB 0.97, which
cannot start an ISO from a stick.
"""

from dataclasses import dataclass

from dcd.checkpoints import products
from dcd.checkpoints.interface import Checkpoint, Context
from dcd.checkpoints.media import largest
from dcd.checkpoints.media.deliver import deliver_file
from dcd.checkpoints.media.illumos.iso import ISOBOOT, PMBR, RECORD
from dcd.checkpoints.recorded import record_medium, recorded, required_medium
from dcd.platform.inside import link_or_copy, new_file
from statemachine.errors import CheckpointError


@dataclass(frozen=True)
class CreateIllumosUSB(Checkpoint):
    """Make the image of a USB stick from the ISO of an earlier checkpoint."""

    DESCRIPTION = "Make the image of a USB stick"
    EXPECTED_SECONDS = 2.0
    DISK_BYTES = 2 << 30
    READS = largest.READS
    REQUIRES = (products.ISO,)
    PROVIDES = (products.USB,)

    def execute(self, context: Context) -> None:
        iso = required_medium(context, products.ISO)
        if not recorded(context, RECORD).get("hybrid"):
            raise CheckpointError(
                "the ISO does not start from a stick",
                f"for that the image needs {PMBR}, {ISOBOOT} and boot/loader64.efi of illumos' loader",
                "add system/boot/loader to the transfer, or leave this checkpoint out",
            )
        name = iso.with_suffix(".usb").name
        largest.check_size(context.doc, name, iso.stat().st_size)
        result = new_file(context.media, name)
        # Another name changes its ctime.
        context.made.add(iso)
        link_or_copy(iso, result)
        deliver_file(context, result, "usb")
        record_medium(context, "usb", result)
