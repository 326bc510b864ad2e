"""`CreateIllumosISO`: an ISO of illumos, which starts with BIOS and UEFI, from CD and from USB stick.

It holds the image area, as the checkpoints before have left it. BIOS starts boot/cdboot (of GRUB 0.97
boot/grub/stage2_eltorito) of the image by El Torito, UEFI a FAT file system with the image's loader64.efi;
with boot/pmbr and boot/isoboot it also starts as a stick (`hybrid`). Result: media/NAME.iso, delivered as an
artifact. All its times and ids derive from the build's time, so the same layer always gives the same bytes.
Source: the original's checkpoint create_iso; create_iso of OpenIndiana, image-builder, kayak; the El Torito
specification.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from dcd.checkpoints import products
from dcd.checkpoints.illumos_host import BIOS_BOOT, boot_loader, refuse_sparc
from dcd.checkpoints.image.illumos.hsfs import set_back_times, write_hsfs
from dcd.checkpoints.interface import Checkpoint, Context, Report
from dcd.checkpoints.media import largest
from dcd.checkpoints.media.deliver import deliver_file, media_name
from dcd.checkpoints.media.illumos.el_torito import boot_images
from dcd.checkpoints.media.illumos.esp import IMAGE, uefi_loaders, write_esp
from dcd.checkpoints.media.illumos.hybrid import SECTOR_BYTES, Partition, make_hybrid
from dcd.checkpoints.media.iso import needed_level
from dcd.checkpoints.recorded import record_medium, record_values
from dcd.checkpoints.times import source_date_epoch
from dcd.manifest.doc import distro
from dcd.manifest.forms import VOLUME_ID
from dcd.platform.inside import new_file, read, regular_file, resolve
from statemachine.errors import CheckpointError

PMBR, ISOBOOT = "boot/pmbr", "boot/isoboot"
RECORD = "illumos_medium"
"""The record of the ISO: whether it is `hybrid`."""


@dataclass(frozen=True)
class CreateIllumosISO(Checkpoint):
    """Make the ISO of an image of illumos."""

    DESCRIPTION = "Make the ISO"
    EXPECTED_SECONDS = 20.0
    REQUIRES = (products.LIVE_ROOT, products.RAMDISK, products.ILLUMOS_MENU)
    PROVIDES = (products.ISO,)
    READS = ("//distro.name", "//distro.add_timestamp", *largest.READS)
    TOOLS = ("xorriso", "mformat", "mcopy")
    DISK_BYTES = 2 << 30

    volume_id: Annotated[str, VOLUME_ID] | None = None
    """The medium's name in systems that mount it. Default: the distribution's name."""

    def execute(self, context: Context) -> None:
        image = context.pkg_image
        refuse_sparc(image)
        loader = boot_loader(image)
        volume_set = (read(image, ".volsetid") or "").strip()
        if not volume_set:
            raise products.missing(products.LIVE_ROOT, "the image has no .volsetid")
        epoch = source_date_epoch(context, 0)
        set_back_times(image, epoch)
        bios = regular_file(image, BIOS_BOOT[loader])
        loaders = uefi_loaders(image)
        if loaders:
            write_esp(context, loaders, epoch, new_file(image, IMAGE))
            set_back_times(resolve(image, "boot"), epoch)
        result = new_file(context.media, f"{media_name(context.doc, epoch)}.iso")
        context.report(Report(0.1, f"making {result.name}"))
        volume_id = distro(context.doc).name if self.volume_id is None else self.volume_id
        options: list[str] = [*needed_level(list(image.rglob("*")))]
        options += ["-volset", volume_set[:128], "-c", ".catalog"]
        if bios is not None:
            options += ["-b", BIOS_BOOT[loader], "-no-emul-boot", "-boot-load-size", "4"]
            options += ["-boot-info-table"]
        if loaders:
            options += ["-eltorito-alt-boot"] if bios is not None else []
            options += ["-e", IMAGE, "-no-emul-boot"]
        write_hsfs(context, image, result, epoch, volume_id=volume_id, more=options)
        hybrid = self._make_hybrid(context, result, f"{volume_id}\0{volume_set}")
        largest.check_size(context.doc, result.name, result.stat().st_size)
        context.report(Report(0.8, "computing its digest"))
        deliver_file(context, result, "iso")
        record_medium(context, "iso", result)
        record_values(context, RECORD, {"hybrid": hybrid})
        starts = [*(["BIOS"] if bios else []), *(["UEFI"] if loaders else [])]
        how = f"starts with {' and '.join(starts)}" + (", also from a stick" if hybrid else "")
        context.report(Report(1.0, f"{result.stat().st_size / (1 << 20):.1f} MiB, {how}"))

    def _make_hybrid(self, context: Context, iso: Path, identity: str) -> bool:
        """Make the ISO start from a stick too, if the image has the programs for it."""
        programs = [regular_file(context.pkg_image, path) for path in (PMBR, ISOBOOT)]
        esp = boot_images(iso).get("efi")
        if None in programs or esp is None:
            lacking = [p for p, f in zip((PMBR, ISOBOOT), programs, strict=True) if f is None]
            lacking += [] if esp else ["boot/loader64.efi"]
            context.report(
                Report(
                    message=f"the ISO starts from CD only: the image has no {', '.join(lacking)}"
                )
            )
            return False
        start = esp.offset_bytes // SECTOR_BYTES
        expected = regular_file(context.pkg_image, IMAGE)
        if expected is None:
            raise CheckpointError(f"the image has lost {IMAGE}")
        sectors = expected.stat().st_size // SECTOR_BYTES
        pmbr, isoboot = (file.read_bytes() for file in programs if file is not None)
        make_hybrid(iso, pmbr, isoboot, Partition(start, sectors), identity)
        return True
