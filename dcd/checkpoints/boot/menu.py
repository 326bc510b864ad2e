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
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

from dcd.checkpoints import products
from dcd.checkpoints.interface import Checkpoint, Context, Report
from dcd.manifest.doc import DataObjectCache, distro
from dcd.manifest.forms import KERNEL_ARGUMENTS, LONGEST_KERNEL_ARGUMENTS
from dcd.manifest.objects import BootEntry, BootMods
from dcd.platform.inside import read, regular_file, write
from statemachine.errors import CheckpointError

_DEFAULT_TIMEOUT_SECONDS = 5

_UNWRITABLE = ("Cc", "Cs", "Zl", "Zp")
"""Categories of Unicode: control characters, halves of characters, ends of lines and paragraphs."""

_IMAGE_ENTRY_ARGUMENTS = "console=ttyS0,115200 console=tty0"
"""The last console gets init's output."""


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
    READS = ("//boot_mods", "//distro.name")

    kernel_args: Annotated[str, KERNEL_ARGUMENTS] = "boot=live components quiet"
    """The kernel arguments of every entry, before its own. They are separated by spaces and quoted
    as for a shell: `dyndbg="file drivers/usb/* +p"` is one argument."""

    def execute(self, context: Context) -> None:
        mods = boot_mods(context.doc)
        title = menu_title(context)
        entries, default, _ = menu(mods, title, self.kernel_args)
        for kernel_file in ("vmlinuz", "initrd.img"):
            if regular_file(context.boot_archive, kernel_file) is None:
                raise products.missing(products.BOOT_ARCHIVE, f"it has no {kernel_file}")
        text = grub_cfg(entries, default, menu_timeout(mods))
        write(context.media, "iso/boot/grub/grub.cfg", text)
        context.report(Report(1.0, f"{len(entries)} boot entries"))


def menu(
    mods: BootMods, title: str, kernel_args: str, own_args: str = _IMAGE_ENTRY_ARGUMENTS
) -> tuple[list[Entry], int, int]:
    """The entries in the order of the menu; the index of the one that starts by itself, which is the last
    default entry of the manifest, else the image's own; and the index of the image's own, whose arguments are
    `kernel_args` and `own_args`."""

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
    entries = [*before, own, *after]
    return entries, next(at for at, one in enumerate(entries) if one is default), len(before)


def grub_cfg(
    entries: list[Entry],
    default: int,
    timeout_seconds: int,
    *,
    find: str = "",
    kernel: str = "/live/vmlinuz",
    initramfs: str = "/live/initrd.img",
    serial: Serial | None = MEDIA_SERIAL,
) -> str:
    """The text of grub.cfg. `find` is the command that makes the file system with kernel and initramfs
    GRUB's root, if it is another one; the menu is also shown on the line `serial`."""
    lines = [*filter(None, [find]), f"set default={default}", f"set timeout={timeout_seconds}"]
    if serial is not None:
        lines += [
            "",
            "# UEFI firmware shows its console on the serial port too; with both, the output is doubled.",
            'if [ "$grub_platform" = pc ]; then',
            f"    if {serial.command}; then",
            "        terminal_input console serial",
            "        terminal_output console serial",
            "    fi",
            "fi",
        ]
    for entry in entries:
        lines += [
            "",
            f"menuentry {grub_word(entry.title)} {{",
            f"    linux {grub_word(kernel)} {grub_arguments(entry.arguments)}".rstrip(),
            f"    initrd {grub_word(initramfs)}",
            "}",
        ]
    return "\n".join(lines) + "\n"


def boot_mods(doc: DataObjectCache) -> BootMods:
    """The menu in the manifest."""
    found = doc.volatile.get_descendants(None, BootMods, max_count=1)
    return found[0] if found else BootMods()


def menu_timeout(mods: BootMods) -> int:
    """The seconds before the menu starts its default entry."""
    return _DEFAULT_TIMEOUT_SECONDS if mods.timeout is None else mods.timeout


def menu_title(context: Context) -> str:
    """The title of entries: that of the manifest, the image's own name, or the distribution's."""
    named = boot_mods(context.doc).title or _name_of_image(context)
    return named or distro(context.doc).name


def _name_of_image(context: Context) -> str | None:
    """PRETTY_NAME of the image's os-release(5)."""
    for line in (read(context.pkg_image, "etc/os-release") or "").splitlines():
        variable, _, value = line.partition("=")
        if variable.strip() == "PRETTY_NAME":
            # The text is the image's own: an open quote in it is no error.
            with suppress(ValueError):
                return " ".join(shlex.split(value)) or None
    return None


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
    if len(" ".join(words).encode()) > LONGEST_KERNEL_ARGUMENTS:
        raise CheckpointError(
            "an entry of the boot menu has too many arguments for the kernel",
            f"together they have at most {LONGEST_KERNEL_ARGUMENTS} bytes; the kernel cuts off the rest",
            "leave out some of kernel_args, or of the boot_entry's",
        )
    return " ".join(grub_word(word) for word in words)
