"""Checking a manifest's time zones and locales against those of this host.

The image's own packages decide what it knows, and they may be older or newer than the host's. So a name that
the host lacks is only doubtful, and no name is if the host has no list. Reads a few small files.

Source: tzfile(5), zoneinfo.TZPATH of Python; locale-gen(8), /usr/share/i18n/SUPPORTED of Debian.
"""

import difflib
import zoneinfo
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_SUPPORTED = Path("/usr/share/i18n/SUPPORTED")
_BUILT_IN = ("C", "POSIX", "C.UTF-8", "C.utf8")
"""The locales of the C library itself."""
_KINDS = ("posix/", "right/")
"""Directories with copies of all zones, without and with leap seconds."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A name that this host does not know. `meant` is a similar known one, or ""."""

    meant: str


def unknown_time_zone(name: str) -> Unknown | None:
    """The finding if the host has no time zone of that name, else None."""
    for kind in _KINDS:
        name = name.removeprefix(kind)
    if any(Path(directory, name).is_file() for directory in zoneinfo.TZPATH):
        return None
    known = zoneinfo.available_timezones()
    return Unknown(_most_similar(name, known)) if known and name not in known else None


def unknown_locale(name: str, supported: Path = _SUPPORTED) -> Unknown | None:
    """The finding if the host's C library has no source for a locale of that name, else None."""
    try:
        lines = supported.read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    known = {line.split()[0] for line in lines if line.strip() and not line.startswith("#")}
    if name in known or name in _BUILT_IN:
        return None
    return Unknown(_most_similar(name, known))


def _most_similar(name: str, known: Iterable[str]) -> str:
    """The known name that differs only in spelling, or ends with the name (`Berlin`), or is most similar."""

    def normalized(text: str) -> str:
        return text.lower().replace("-", "").replace(" ", "_")

    names = sorted(known)
    ways = {normalized(each.rpartition("/")[2]): each for each in reversed(names)}
    ways |= {normalized(each): each for each in names}
    near = difflib.get_close_matches(name, names, n=1)
    return ways.get(normalized(name)) or next(iter(near), "")
