"""Time zones and locales that this host knows, by which a manifest's are looked at before anything is made.

What an image knows, its own packages decide, which may be older or newer. So a name that is not here is
doubtful and no more; and where the host has neither list, nothing is. Reads a few small files.

Source: tzfile(5), zoneinfo.TZPATH of Python; locale-gen(8), /usr/share/i18n/SUPPORTED of Debian.
"""

import difflib
import zoneinfo
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_SUPPORTED = Path("/usr/share/i18n/SUPPORTED")
_BUILT_IN = ("C", "POSIX", "C.UTF-8", "C.utf8")
"""What the C library brings by itself."""
_KINDS = ("posix/", "right/")
"""Directories that have all zones once more, without and with leap seconds."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A name that this host does not know. `meant` is a known one that is like it, or ""."""

    meant: str


def unknown_time_zone(name: str) -> Unknown | None:
    """What to say of a name that is no time zone here, or None."""
    for kind in _KINDS:
        name = name.removeprefix(kind)
    if any(Path(directory, name).is_file() for directory in zoneinfo.TZPATH):
        return None
    known = zoneinfo.available_timezones()
    return Unknown(_like(name, known)) if known and name not in known else None


def unknown_locale(name: str, supported: Path = _SUPPORTED) -> Unknown | None:
    """What to say of a name that the host's C library has no source of a locale for, or None."""
    try:
        lines = supported.read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    known = {line.split()[0] for line in lines if line.strip() and not line.startswith("#")}
    if name in known or name in _BUILT_IN:
        return None
    return Unknown(_like(name, known))


def _like(name: str, known: Iterable[str]) -> str:
    """The known name that is spelt otherwise, or ends so (`Berlin`), or else looks most like it."""

    def spelt(text: str) -> str:
        return text.lower().replace("-", "").replace(" ", "_")

    names = sorted(known)
    ways = {spelt(each.rpartition("/")[2]): each for each in reversed(names)}
    ways |= {spelt(each): each for each in names}
    near = difflib.get_close_matches(name, names, n=1)
    return ways.get(spelt(name)) or next(iter(near), "")
