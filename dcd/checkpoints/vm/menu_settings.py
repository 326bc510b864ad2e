"""The settings of `update-grub` in an installed system, so that its menu stays that of the manifest.

They are /etc/default/grub or, if the image has its own, a file in /etc/default/grub.d that is read after it
and outranks it. The manifest's own entries, which no setting can express, come from scripts in /etc/grub.d
and start the newest kernel.
Source: the GRUB manual, "Simple configuration handling"; grub-mkconfig's own 10_linux.
"""

import shlex
from pathlib import Path

from dcd.checkpoints.boot.menu import Entry, Menu, Serial, grub_arguments, grub_word
from dcd.platform.inside import exists, write

SETTINGS = "etc/default/grub"
OVERRIDE = "etc/default/grub.d/dcd.cfg"

_BEFORE, _AFTER = "etc/grub.d/09_dcd", "etc/grub.d/41_dcd"
"""Before and after 10_linux, which makes the image's own entry."""

_HEAD = r"""#!/bin/sh
# Entries of the image's menu, for its newest kernel.
set -e
. "$pkgdatadir/grub-mkconfig_lib"
kernel=$(ls /boot | sed -n 's/^vmlinuz-//p' | sort -V | tail -n 1)
[ -n "$kernel" ] || exit 0
boot=$(make_system_path_relative_to_its_root /boot)
device=$(prepare_grub_to_access_device "$("$grub_probe" --target=device /boot)")
"""

_ENTRY = r"""
printf '%s\n' {opening}
printf '%s\n    linux %s/vmlinuz-%s' "$device" "$boot" "$kernel"
printf ' root=UUID=%s {root} %s\n' "$GRUB_DEVICE_UUID" {arguments}
printf '    initrd %s/initrd.img-%s\n}}\n' "$boot" "$kernel"
"""


def write_menu_settings(
    root: Path, menu: Menu, serial: Serial | None, root_arguments: str = "ro"
) -> None:
    """Write the settings and the entries of a menu, whose arguments do not name kernel and root. It is also
    shown on the line `serial`. `root_arguments` follow the name of the root in the manifest's own entries."""
    variables = {
        "GRUB_DEFAULT": str(menu.own) if menu.default == menu.own else _id(menu.default),
        "GRUB_TIMEOUT": str(menu.timeout_seconds),
        # GRUB appends GNU/Linux.
        "GRUB_DISTRIBUTOR": menu.title.partition(" GNU/Linux")[0],
        "GRUB_CMDLINE_LINUX_DEFAULT": "",
        "GRUB_CMDLINE_LINUX": grub_arguments(menu.entries[menu.own].arguments),
    }
    if serial is not None:
        variables |= {
            "GRUB_TERMINAL": "console serial",
            "GRUB_SERIAL_COMMAND": serial.command,
        }
    lines = [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
    place = OVERRIDE if exists(root, SETTINGS) else SETTINGS
    write(root, place, "\n".join(lines) + "\n")
    numbered, own = list(enumerate(menu.entries)), menu.own
    for path, entries in ((_BEFORE, numbered[:own]), (_AFTER, numbered[own + 1 :])):
        if entries:
            given = (_entry(number, entry, root_arguments) for number, entry in entries)
            text = _HEAD + "".join(given)
            write(root, path, text, mode=0o755)


def _id(number: int) -> str:
    return f"dcd-{number}"


def _entry(number: int, entry: Entry, root_arguments: str) -> str:
    """The entry's part of the script: words of GRUB's language, quoted for the shell."""
    return _ENTRY.format(
        opening=shlex.quote(f"menuentry {grub_word(entry.title)} --id {_id(number)} {{"),
        root=root_arguments,
        arguments=shlex.quote(grub_arguments(entry.arguments)),
    )
