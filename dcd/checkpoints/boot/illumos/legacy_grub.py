"""menu.lst, the menu of GRUB 0.97, for images of illumos before its own loader.

Source: the manual of GRUB 0.97; the original's boot entries of media.
"""

from dcd.checkpoints.boot.illumos.entries import Menu

MENU = "boot/grub/menu.lst"

_KERNEL = "/boot/platform/i86pc/kernel/amd64/unix"
_ARCHIVE = "/boot/platform/i86pc/amd64/boot_archive"


def menu_lst(menu: Menu, *, hidden: bool) -> str:
    """The text of menu.lst. `hidden`: the menu is only shown when a key is pressed."""
    lines = [
        "# Written by dcd from boot_mods of the manifest.",
        f"default {menu.default}",
        f"timeout {menu.timeout_seconds}",
        *(["hiddenmenu"] if hidden else []),
    ]
    for entry in menu.entries:
        lines += ["", f"title {entry.title}"]
        lines += [f"\tkernel$ {_KERNEL} {entry.arguments}".rstrip(), f"\tmodule$ {_ARCHIVE}"]
    lines += ["", "title Boot from Hard Disk", "\trootnoverify (hd0)", "\tchainloader +1"]
    return "\n".join(lines) + "\n"
