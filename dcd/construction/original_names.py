"""The original's constructors and their counterparts here.

A manifest may name a checkpoint as the original did (`solaris_install/transfer/ips`, `TransferIPS`). The
original's checkpoints for installers, and others that are not here, have no counterpart.

Source: the Caiman Unified Design's own manifests and documentation.
"""

from collections.abc import Mapping

_CHECKPOINTS = "solaris_install.distro_const.checkpoints"

_KINDS = ("Text", "LiveCD", "AI")


def _same(*names: str) -> Mapping[str, str]:
    return {name: name for name in names}


def _kinds(here: str, there: str = "") -> Mapping[str, str]:
    """The classes for the three kinds of media."""
    return {f"{kind}{there or here}": f"{kind}{here}" for kind in _KINDS}


_MODULES: dict[str, tuple[str, Mapping[str, str]]] = {
    "solaris_install.transfer.ips": ("transfer.ips", _same("TransferIPS")),
    "solaris_install.transfer.cpio": ("transfer.cpio", _same("TransferCPIO")),
    "solaris_install.transfer.svr4": ("transfer.svr4", _same("TransferSVR4")),
    "solaris_install.transfer.p5i": ("transfer.p5i", _same("TransferP5I")),
    "solaris_install.boot.boot": ("boot.illumos.menu", _kinds("ISOImageBootMenu")),
    f"{_CHECKPOINTS}.grub_setup": ("boot.illumos.menu", _kinds("ISOImageBootMenu", "GrubSetup")),
    f"{_CHECKPOINTS}.custom_script": ("custom_script", _same("CustomScript")),
    f"{_CHECKPOINTS}.boot_archive_archive": ("boot.illumos.archive", _same("BootArchiveArchive")),
    f"{_CHECKPOINTS}.boot_archive_configure": (
        "boot.illumos.contents",
        _kinds("BootArchiveConfigure"),
    ),
    f"{_CHECKPOINTS}.create_iso": ("media.illumos.iso", {"CreateISO": "CreateIllumosISO"}),
    f"{_CHECKPOINTS}.create_usb": ("media.illumos.usb", {"CreateUSB": "CreateIllumosUSB"}),
    f"{_CHECKPOINTS}.ai_publish_pkg": ("transfer.publish", _same("AIPublishPackages")),
    f"{_CHECKPOINTS}.pre_pkg_img_mod": ("image.illumos.configure", _kinds("PrePkgImgMod")),
    f"{_CHECKPOINTS}.pkg_img_mod": ("image.illumos.compress", _kinds("PkgImgMod")),
}
"""Modules of the original to modules below `dcd.checkpoints`, and the names of the classes there and here."""

COUNTERPARTS: dict[tuple[str, str], tuple[str, str]] = {
    (original, there): (f"dcd.checkpoints.{module}", here)
    for original, (module, names) in _MODULES.items()
    for there, here in names.items()
}
"""(module, class) of the original to (module, class) here; modules with dots."""

ORIGINAL = "solaris_install."
"""The start of all modules of the original."""

_OLDER = "transfer.transfer_"
"""The start of a transfer's module in manifests from before the package `solaris_install`."""


def original_module(module: str) -> str:
    """The original's newer name of a module; any other name unchanged."""
    if module.removeprefix("solaris_install.").startswith(_OLDER):
        kind = module.rpartition(_OLDER)[2]
        return f"solaris_install.transfer.{kind}"
    return module
