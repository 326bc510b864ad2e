"""The original's constructors and their counterparts here.

A manifest may name a checkpoint as the original did (`solaris_install/transfer/ips`, `TransferIPS`). Keys
and values are (module, class), modules with dots. A counterpart that this installation does not have is
reported as such when the manifest is checked.

Source: the Caiman Unified Design's own manifests and documentation.
"""

_CHECKPOINTS = "solaris_install.distro_const.checkpoints"

COUNTERPARTS: dict[tuple[str, str], tuple[str, str]] = {
    ("solaris_install.transfer.ips", "TransferIPS"): (
        "dcd.checkpoints.transfer.ips",
        "TransferIPS",
    ),
    ("solaris_install.transfer.cpio", "TransferCPIO"): (
        "dcd.checkpoints.transfer.cpio",
        "TransferCPIO",
    ),
    ("solaris_install.transfer.svr4", "TransferSVR4"): (
        "dcd.checkpoints.transfer.svr4",
        "TransferSVR4",
    ),
    ("solaris_install.transfer.p5i", "TransferP5I"): (
        "dcd.checkpoints.transfer.p5i",
        "TransferP5I",
    ),
    ("solaris_install.boot.boot", "TextISOImageBootMenu"): (
        "dcd.checkpoints.boot.illumos",
        "TextISOImageBootMenu",
    ),
    ("solaris_install.boot.boot", "LiveCDISOImageBootMenu"): (
        "dcd.checkpoints.boot.illumos",
        "LiveCDISOImageBootMenu",
    ),
    ("solaris_install.boot.boot", "AIISOImageBootMenu"): (
        "dcd.checkpoints.boot.illumos",
        "AIISOImageBootMenu",
    ),
    (f"{_CHECKPOINTS}.custom_script", "CustomScript"): (
        "dcd.checkpoints.custom_script",
        "CustomScript",
    ),
    (f"{_CHECKPOINTS}.boot_archive_archive", "BootArchiveArchive"): (
        "dcd.checkpoints.boot.illumos",
        "BootArchiveArchive",
    ),
    (f"{_CHECKPOINTS}.create_iso", "CreateISO"): ("dcd.checkpoints.media.iso", "CreateISO"),
    (f"{_CHECKPOINTS}.create_usb", "CreateUSB"): ("dcd.checkpoints.media.usb", "CreateUSB"),
    (f"{_CHECKPOINTS}.ai_publish_pkg", "AIPublishPackages"): (
        "dcd.checkpoints.transfer.publish",
        "AIPublishPackages",
    ),
    **{
        (f"{_CHECKPOINTS}.{module}", f"{image}{suffix}"): (counterpart, f"{image}{suffix}")
        for module, suffix, counterpart in (
            ("pre_pkg_img_mod", "PrePkgImgMod", "dcd.checkpoints.image.illumos"),
            ("pkg_img_mod", "PkgImgMod", "dcd.checkpoints.image.illumos"),
            ("boot_archive_configure", "BootArchiveConfigure", "dcd.checkpoints.boot.illumos"),
        )
        for image in ("Text", "LiveCD", "AI")
    },
}
"""(module, class) of the original to (module, class) here."""

_OLDER = "transfer.transfer_"
"""How manifests from before the package `solaris_install` begin the names of modules of transfers."""


def original_module(module: str) -> str:
    """The original's module that an older name stands for; any other name as it is."""
    if module.removeprefix("solaris_install.").startswith(_OLDER):
        kind = module.rpartition(_OLDER)[2]
        return f"solaris_install.transfer.{kind}"
    return module
