"""What images of system containers have in common: the machine that they are for, and an init.

Source: uname(2) and Debian's dpkg-architecture(1) for the names of machines.
"""

from collections.abc import Mapping

from dcd.checkpoints.interface import Context
from dcd.checkpoints.packages import architecture_of
from dcd.platform.inside import exists
from statemachine.errors import CheckpointError

_MACHINES: Mapping[str, str] = {
    "amd64": "x86_64",
    "i386": "i686",
    "arm64": "aarch64",
    "armhf": "armv7l",
    "armel": "armv6l",
    "ppc64el": "ppc64le",
}
"""Debian's architectures to those of the kernel, where they differ."""


def architectures_of(context: Context) -> tuple[str, str]:
    """The image's architecture, by Debian's name and by the kernel's. Raises CheckpointError for an image
    without packages."""
    architecture = architecture_of(context.pkg_image)
    if architecture == "all":
        raise CheckpointError(
            "the architecture of the image is unknown",
            "its package database names none",
            "install the packages with a transfer before",
        )
    return architecture, _MACHINES.get(architecture, architecture)


def warn_without_init(context: Context) -> None:
    """Warn of an image that no container can start."""
    if not exists(context.pkg_image, "sbin/init"):
        context.warn("the image has no /sbin/init, which a system container starts with")
