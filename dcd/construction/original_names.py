"""The original's constructors and their counterparts here.

A manifest may name a checkpoint as the original did (`solaris_install/transfer/ips`, `TransferIPS`). A
counterpart that this installation does not have is reported when the manifest is checked.

Source: the Caiman Unified Design's own manifests and documentation.
"""

from collections.abc import Sequence

_CHECKPOINTS = "solaris_install.distro_const.checkpoints"

_KINDS = ("Text", "LiveCD", "AI")

_MODULES: dict[str, tuple[str, Sequence[str]]] = {
    "solaris_install.transfer.ips": ("transfer.ips", ["TransferIPS"]),
    "solaris_install.transfer.cpio": ("transfer.cpio", ["TransferCPIO"]),
    "solaris_install.transfer.svr4": ("transfer.svr4", ["TransferSVR4"]),
    "solaris_install.transfer.p5i": ("transfer.p5i", ["TransferP5I"]),
    "solaris_install.boot.boot": (
        "boot.illumos",
        [f"{kind}ISOImageBootMenu" for kind in _KINDS],
    ),
    f"{_CHECKPOINTS}.custom_script": ("custom_script", ["CustomScript"]),
    f"{_CHECKPOINTS}.boot_archive_archive": ("boot.illumos", ["BootArchiveArchive"]),
    f"{_CHECKPOINTS}.boot_archive_configure": (
        "boot.illumos",
        [f"{kind}BootArchiveConfigure" for kind in _KINDS],
    ),
    f"{_CHECKPOINTS}.create_iso": ("media.iso", ["CreateISO"]),
    f"{_CHECKPOINTS}.create_usb": ("media.usb", ["CreateUSB"]),
    f"{_CHECKPOINTS}.ai_publish_pkg": ("transfer.publish", ["AIPublishPackages"]),
    f"{_CHECKPOINTS}.pre_pkg_img_mod": (
        "image.illumos",
        [f"{kind}PrePkgImgMod" for kind in _KINDS],
    ),
    f"{_CHECKPOINTS}.pkg_img_mod": ("image.illumos", [f"{kind}PkgImgMod" for kind in _KINDS]),
}
"""Modules of the original to modules below `dcd.checkpoints`, and the classes, which have the same names."""

COUNTERPARTS: dict[tuple[str, str], tuple[str, str]] = {
    (original, name): (f"dcd.checkpoints.{module}", name)
    for original, (module, names) in _MODULES.items()
    for name in names
}
"""(module, class) of the original to (module, class) here; modules with dots."""

_OLDER = "transfer.transfer_"
"""The start of a transfer's module in manifests from before the package `solaris_install`."""


def original_module(module: str) -> str:
    """The original's newer name of a module; any other name unchanged."""
    if module.removeprefix("solaris_install.").startswith(_OLDER):
        kind = module.rpartition(_OLDER)[2]
        return f"solaris_install.transfer.{kind}"
    return module
