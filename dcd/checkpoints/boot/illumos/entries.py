"""The entries of a boot menu for media of illumos: those of the kind of medium, and those of `boot_mods`."""

from collections.abc import Sequence
from dataclasses import dataclass

from dcd.checkpoints.interface import Context
from dcd.manifest.doc import distro
from dcd.manifest.objects import BootEntry, BootMods
from dcd.platform.inside import read
from statemachine.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry: its title, and the arguments of the kernel as one text."""

    title: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Menu:
    """A boot menu. `default` is the index of the entry that starts by itself."""

    title: str
    timeout_seconds: int
    entries: tuple[Entry, ...]
    default: int


def menu_of(context: Context, own: Sequence[tuple[str, str]], timeout_seconds: int) -> Menu:
    """The menu of the manifest, around the medium's `own` entries: a suffix for the title, and arguments.
    The title is the manifest's, or the first line of the image's /etc/release. The first own entry starts by
    itself, unless the manifest has default entries; then the last of these does. Raises `CheckpointError`
    for arguments that no boot loader of illumos can hold."""
    found = context.doc.volatile.get_descendants(None, BootMods, max_count=1)
    mods = found[0] if found else BootMods()
    title = mods.title or _release(context) or distro(context.doc).name
    entries = [_entry(title, suffix, arguments) for suffix, arguments in own]
    chosen = entries[0]
    for given in mods.get_children(class_type=BootEntry):
        entry = _entry(title, given.title_suffix, given.kernel_args or "")
        entries.insert(0 if given.insert_at == "start" else len(entries), entry)
        if given.default_entry:
            chosen = entry
    at = next(index for index, entry in enumerate(entries) if entry is chosen)
    timeout = timeout_seconds if mods.timeout is None else mods.timeout
    return Menu(_one_line(title), timeout, tuple(entries), at)


def _entry(title: str, suffix: str, arguments: str) -> Entry:
    text = " ".join(arguments.split())
    if '"' in text or any(not character.isprintable() for character in text):
        raise CheckpointError(
            f"the kernel_args {text[:100]!r} cannot be in the boot menu",
            "the loader of illumos has no way to write a double quote or a control character there",
            "use single quotes, which the kernel's -B understands too",
        )
    return Entry(_one_line(f"{title} {suffix}"), text)


def _release(context: Context) -> str:
    lines = (read(context.pkg_image, "etc/release") or "").splitlines()
    return lines[0].strip() if lines else ""


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
