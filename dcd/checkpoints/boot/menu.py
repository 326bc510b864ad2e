"""`GrubBootMenu`: GRUB's menu for live media, from the manifest's `boot_mods`.

The image itself has one entry, with its kernel's messages on the screen and the first serial port. The
entries of `boot_mods` are before or after it. The menu is on the screen and on the serial port. Result:
media/iso/boot/grub/grub.cfg, for the kernel and initramfs that `CreateISO` puts into /live. Titles and
arguments are the same in the menu and the kernel as in the manifest, with all their characters.
Source: the GRUB manual (shell-like scripting, quoting), live-boot(7).
"""

import shlex
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated

from dcd.checkpoints import architecture, products
from dcd.checkpoints.architecture import hardware
from dcd.checkpoints.image.os_release import os_release
from dcd.checkpoints.interface import Checkpoint, Context, Report
from dcd.manifest.doc import distro
from dcd.manifest.forms import KERNEL_ARGUMENTS, LONGEST_KERNEL_ARGUMENTS
from dcd.manifest.objects import BootEntry, BootMods
from dcd.platform.inside import regular_file, write
from statemachine.errors import CheckpointError

_DEFAULT_TIMEOUT_SECONDS = 5

_UNWRITABLE = ("Cc", "Cs", "Zl", "Zp")
"""Categories of Unicode: control characters, halves of characters, ends of lines and paragraphs."""


@dataclass(frozen=True, slots=True)
class Serial:
    """A serial line: its number, speed in bits a second, parity (`no`, `odd`, `even`) and bits."""

    unit: int
    speed: int
    parity: str = "no"
    bits: int = 8

    @property
    def command(self) -> str:
        """GRUB's command to configure it."""
        form = "" if (self.parity, self.bits) == ("no", 8) else f" --word={self.bits}"
        form += "" if self.parity == "no" else f" --parity={self.parity}"
        return f"serial --unit={self.unit} --speed={self.speed}{form}"


MEDIA_SERIAL = Serial(0, 115200)
"""The serial line of live media, as in the arguments of their own entry."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the menu: its title, and the arguments of its kernel."""

    title: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Menu:
    """A boot menu: its entries in order. `own` is the index of the image's own entry, `default` that of the
    one that starts by itself."""

    title: str
    timeout_seconds: int
    entries: tuple[Entry, ...]
    own: int
    default: int


@dataclass(frozen=True)
class GrubBootMenu(Checkpoint):
    """Write GRUB's menu for live media.

    Without a title in the manifest, entries have the image's own name (PRETTY_NAME in its
    os-release(5)).
    """

    DESCRIPTION = "Write the boot menu"
    EXPECTED_SECONDS = 1.0
    REQUIRES = (products.BOOT_ARCHIVE,)
    PROVIDES = (products.BOOT_MENU,)
    READS = ("//boot_mods", "//distro.name", *architecture.READS)

    kernel_args: Annotated[str, KERNEL_ARGUMENTS] = "boot=live components quiet"
    """The kernel arguments of every entry, before its own. They are separated by spaces and quoted
    as for a shell: `dyndbg="file drivers/usb/* +p"` is one argument."""

    def execute(self, context: Context) -> None:
        menu = menu_of(context, self.kernel_args)
        for kernel_file in ("vmlinuz", "initrd.img"):
            if regular_file(context.boot_archive, kernel_file) is None:
                raise products.missing(products.BOOT_ARCHIVE, f"it has no {kernel_file}")
        write(context.media, "iso/boot/grub/grub.cfg", grub_cfg(menu))
        context.report(Report(1.0, f"{len(menu.entries)} boot entries"))


def menu_of(context: Context, kernel_args: str, own_args: str | None = None) -> Menu:
    """The menu of the manifest, titled by the manifest, the image's own name, or the distribution's.
    `kernel_args` are in every entry, `own_args` (by default the consoles of live media) in the image's own,
    which starts by itself unless the manifest has default entries; then the last of these does."""
    # The last console gets init's output.
    if own_args is None:
        own_args = f"console={hardware(context.doc).serial},115200 console=tty0"
    found = context.doc.volatile.get_descendants(None, BootMods, max_count=1)
    mods = found[0] if found else BootMods()
    title = mods.title or _name_of_image(context) or distro(context.doc).name

    def entry(title: str, arguments: str) -> Entry:
        return Entry(_one_line(title), tuple(shlex.split(f"{kernel_args} {arguments}")))

    own = default = entry(title, own_args)
    before: list[Entry] = []
    after: list[Entry] = []
    for given in mods.get_children(class_type=BootEntry):
        added = entry(f"{title} {given.title_suffix}", given.kernel_args or "")
        (before if given.insert_at == "start" else after).append(added)
        if given.default_entry:
            default = added
    entries = (*before, own, *after)
    starting = next(index for index, one in enumerate(entries) if one is default)
    timeout = _DEFAULT_TIMEOUT_SECONDS if mods.timeout is None else mods.timeout
    return Menu(title, timeout, entries, len(before), starting)


def grub_cfg(
    menu: Menu,
    *,
    find: str = "",
    kernel: str = "/live/vmlinuz",
    initramfs: str = "/live/initrd.img",
    serial: Serial | None = MEDIA_SERIAL,
    others: Sequence[str] = (),
) -> str:
    """The text of grub.cfg. `find` is the command that makes the file system with kernel and initramfs
    GRUB's root, if it is another one; the menu is also shown on the line `serial`. The versions of `others`,
    kernels beside the first, get an entry each at the end, with the arguments of the image's own."""
    lines = [find] if find else []
    lines += [f"set default={menu.default}", f"set timeout={menu.timeout_seconds}"]
    if serial is not None:
        lines += ["", *serial_lines(serial)]
    for entry in menu.entries:
        lines += _menu_entry(entry, kernel, initramfs)
    own = menu.entries[menu.own]
    for version in others:
        entry = Entry(f"{own.title}, with Linux {version}", own.arguments)
        directory, name = PurePosixPath(kernel).parent, PurePosixPath(kernel).name.partition("-")[0]
        at = (str(directory / f"{one}-{version}") for one in (name, "initrd.img"))
        lines += _menu_entry(entry, *at)
    return "\n".join(lines) + "\n"


def _menu_entry(entry: Entry, kernel: str, initramfs: str) -> list[str]:
    return [
        "",
        f"menuentry {grub_word(entry.title)} {{",
        f"    linux {grub_word(kernel)} {grub_arguments(entry.arguments)}".rstrip(),
        f"    initrd {grub_word(initramfs)}",
        "}",
    ]


def serial_lines(serial: Serial) -> list[str]:
    """The lines of grub.cfg that show the menu on a serial line too."""
    return [
        "# UEFI firmware shows its console on the serial port too; with both, the output is doubled.",
        'if [ "$grub_platform" = pc ]; then',
        f"    if {serial.command}; then",
        "        terminal_input console serial",
        "        terminal_output console serial",
        "    fi",
        "fi",
    ]


def _name_of_image(context: Context) -> str | None:
    """PRETTY_NAME of the image's os-release(5)."""
    return os_release(context.pkg_image).get("PRETTY_NAME") or None


def _one_line(text: str) -> str:
    """A title on one line. GRUB reads one that begins with a hyphen as an option of `menuentry`, even in
    quotes."""
    return " ".join(text.split()).lstrip("- ")


def grub_word(text: str) -> str:
    """A word of GRUB's language. Between single quotes only a single quote is special; GRUB itself quotes
    blanks for the kernel. Raises CheckpointError for a control character, which GRUB would change."""
    if any(unicodedata.category(character) in _UNWRITABLE for character in text):
        raise CheckpointError(
            f"{text[:100]!r} cannot be in GRUB's menu",
            "It has a control character or the end of a line.",
            "correct the title or the arguments in the manifest, or the image's os-release",
        )
    return shlex.quote(text)


def grub_arguments(words: Sequence[str]) -> str:
    """The arguments of a kernel. Raises CheckpointError when they are too long for it."""
    check_length(" ".join(words))
    return " ".join(map(grub_word, words))


def check_length(arguments: str) -> None:
    """Raise CheckpointError when the arguments of a kernel are too long for it."""
    if len(arguments.encode()) > LONGEST_KERNEL_ARGUMENTS:
        raise CheckpointError(
            "an entry of the boot menu has too many arguments for the kernel",
            f"together they have at most {LONGEST_KERNEL_ARGUMENTS} bytes; the kernel cuts off the rest",
            "leave out some of kernel_args, or of the boot_entry's",
        )
