"""What pkg(1) prints, understood: progress, unknown packages, the list of packages. Pure.

Source: pkg(1) without a terminal; a phase's line may be cut short by an error.
"""

import re
from collections.abc import Callable, Iterable

from dcd.checkpoints.interface import Report

_PHASES = {
    "Startup": (0.0, 0.02),
    "Planning": (0.02, 0.1),
    "Download": (0.1, 0.6),
    "Actions": (0.6, 0.95),
    "Finalize": (0.95, 1.0),
}
_LINE = re.compile(r"(?P<phase>Startup|Planning|Download|Actions|Finalize): (?P<text>.*)")
_PERCENT = re.compile(r"\b([0-9]{1,3})%")
_NO_MATCH = re.compile(
    r"pattern\(s\) did not match any [^\n]*\n(?:\S[^\n]*\n)*\s*?(?P<names>(?:[ \t]+\S+\n?)+)"
)
_FMRI = re.compile(r"pkg://(?P<publisher>[^/]+)/(?P<name>[^@]+)@(?P<version>\S+)")


class InstallProgress:
    """Turns lines of pkg into reports. The fraction never goes back; with `show`, each line is told."""

    def __init__(self, report: Callable[[Report], None], show: bool) -> None:
        self._report = report
        self._show = show
        self._fraction = 0.0

    def line(self, line: str) -> None:
        """Take in one line."""
        found = _LINE.match(line)
        if found:
            begin, end = _PHASES[found["phase"]]
            percent = _PERCENT.search(found["text"])
            part = min(int(percent[1]), 100) / 100 if percent else 0.0
            self._fraction = max(self._fraction, begin + (end - begin) * part)
        if found or (self._show and line.strip()):
            self._report(Report(self._fraction, line.strip()))


def unmatched(output: str) -> list[str]:
    """The patterns that pkg says it knows no package for."""
    found = _NO_MATCH.search(output)
    return found["names"].split() if found else []


def package_lines(listing: Iterable[str]) -> list[str]:
    """Publisher, name and version of each line of `pkg list -H -v`, separated by tabs, sorted."""
    found = (_FMRI.match(line) for line in listing)
    return sorted("\t".join(match.groups()) for match in found if match)
