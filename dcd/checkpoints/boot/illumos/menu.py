"""`TextISOImageBootMenu`, `LiveCDISOImageBootMenu`, `AIISOImageBootMenu`: the boot menu of media of illumos.

The menu has the entries of the kind of medium, those of the manifest's `boot_mods` before or after them, and
the hard disk. It is for the boot loader that the image has: illumos' loader (`loader`), or GRUB 0.97
(`legacy_grub`). /.image_info gets the title, which installers use for the installed system's menu.
Source: the original's checkpoint boot; boot_mods.dtd; loader_setup of OpenIndiana.
"""

from dataclasses import dataclass
from typing import Annotated

from dcd.checkpoints import products
from dcd.checkpoints.boot.illumos.entries import Menu, menu_of
from dcd.checkpoints.boot.illumos.legacy_grub import MENU, menu_lst
from dcd.checkpoints.boot.illumos.loader import ADDITIONS, SETTINGS, additions, settings
from dcd.checkpoints.illumos_host import boot_loader, refuse_sparc
from dcd.checkpoints.interface import Checkpoint, Context, Report
from dcd.manifest.forms import LINE
from dcd.platform.inside import read, write

_IMAGE_INFO = ".image_info"
_TIMEOUT_SECONDS = 30
_TEXT_TIMEOUT_SECONDS = 5


@dataclass(frozen=True)
class TextISOImageBootMenu(Checkpoint):
    """Write the boot menu of a medium with the text installer: on the screen, and on two serial lines."""

    DESCRIPTION = "Write the boot menu"
    EXPECTED_SECONDS = 1.0
    REQUIRES = (products.IMAGE,)
    PROVIDES = (products.ILLUMOS_MENU,)
    READS = ("//boot_mods", "//distro.name")

    def execute(self, context: Context) -> None:
        own = (("", ""), ("ttya", "-B console=ttya"), ("ttyb", "-B console=ttyb"))
        menu = menu_of(context, own, _TEXT_TIMEOUT_SECONDS)
        _write_menu(context, menu, hidden=True)


@dataclass(frozen=True)
class LiveCDISOImageBootMenu(Checkpoint):
    """Write the boot menu of a live medium with a desktop: with the VESA driver, as text, with ssh."""

    DESCRIPTION = "Write the boot menu"
    EXPECTED_SECONDS = 1.0
    REQUIRES = (products.IMAGE,)
    PROVIDES = (products.ILLUMOS_MENU,)
    READS = ("//boot_mods", "//distro.name")

    def execute(self, context: Context) -> None:
        own = (
            ("", ""),
            ("VESA driver", "-B livemode=vesa"),
            ("text console", "-B livemode=text"),
            ("Enable SSH", "-B livessh=enable"),
        )
        _write_menu(context, menu_of(context, own, _TIMEOUT_SECONDS))


@dataclass(frozen=True)
class AIISOImageBootMenu(Checkpoint):
    """Write the boot menu of a medium with the automated installer, which asks for its manifest or not, on
    the screen and on two serial lines."""

    DESCRIPTION = "Write the boot menu"
    EXPECTED_SECONDS = 1.0
    REQUIRES = (products.IMAGE,)
    PROVIDES = (products.ILLUMOS_MENU,)
    READS = ("//boot_mods", "//distro.name")

    installadm_entry: Annotated[str, LINE] = "boot image"
    """The title of the entry that installadm(8) uses when it unpacks the image."""

    def execute(self, context: Context) -> None:
        asks = "-B install=true,aimanifest=prompt"
        own = (
            ("Automated Install custom", asks),
            ("Automated Install", "-B install=true"),
            ("Automated Install custom ttya", f"{asks},console=ttya"),
            ("Automated Install custom ttyb", f"{asks},console=ttyb"),
            ("Automated Install ttya", "-B install=true,console=ttya"),
            ("Automated Install ttyb", "-B install=true,console=ttyb"),
        )
        more = (
            *("GRUB_MIN_MEM64=0", "GRUB_DO_SAFE_DEFAULT=true"),
            f"NO_INSTALL_GRUB_TITLE={self.installadm_entry}",
        )
        _write_menu(context, menu_of(context, own, _TIMEOUT_SECONDS), more)


def _write_menu(
    context: Context, menu: Menu, more: tuple[str, ...] = (), *, hidden: bool = False
) -> None:
    image = context.pkg_image
    refuse_sparc(image)
    if boot_loader(image) == "loader":
        write(image, SETTINGS, settings(menu))
        write(image, ADDITIONS, additions(menu))
    else:
        write(image, MENU, menu_lst(menu, hidden=hidden))
    lines = [read(image, _IMAGE_INFO) or "", f"GRUB_TITLE={menu.title}\n"]
    lines += [f"{line}\n" for line in more]
    write(image, _IMAGE_INFO, "".join(lines))
    context.report(Report(1.0, f"{len(menu.entries)} boot entries"))
