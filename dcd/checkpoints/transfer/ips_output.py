"""The output of pkg(1): progress, unknown packages, causes of failures, the list of packages. Pure.

Source: pkg(1) without a terminal; a phase's line may be cut short by an error. pkg5: progress.py (its
CommandLineProgressTracker), transport/exception.py, api_errors.py.
"""

import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from dcd.checkpoints.interface import Report

_PHASES = {
    "Startup": (0.0, 0.02),
    "Planning": (0.02, 0.1),
    "Download": (0.1, 0.6),
    "Actions": (0.6, 0.95),
    "Finalize": (0.95, 1.0),
}
_LINE = re.compile(
    r"\s*(?P<phase>Startup|Planning|Download|Actions|Finalize): (?P<text>.*)", re.DOTALL
)
"""The names of phases are right-aligned."""

_PERCENT = re.compile(r"\b([0-9]{1,3})%")
_COUNT = re.compile(r"([0-9]+)/([0-9]+)\b")
_NO_MATCH = re.compile(
    r"pattern\(s\) did not match any [^\n]*\n(?:\S[^\n]*\n)*\s*?(?P<names>(?:[ \t]+\S+\n?)+)"
)
_FMRI = re.compile(r"pkg://(?P<publisher>[^/]+)/(?P<name>[^@]+)@(?P<version>\S+)")
_FILE = re.compile(r"\s*(?P<content>\S+)\s+0?(?P<mode>[0-7]{4})\s+(?P<path>\S.*)")

_TRANSPORT = re.compile(
    r"protocol error|[Ff]ramework (?:error|stall)|Transfer from '|Invalid content|Too many"
    r"|Invalid pkg\(5\) response|Unable to contact|Could not refresh the catalog"
)
_MISSING = re.compile(r"code: 4(?:04|10)\b|reason: (?:Not Found|Gone)\b")
_SIGNATURE = re.compile(
    r"signature[- ]policy|requires signatures|unsigned|is not signed|signature in|certificate .*(?:not"
    r" (?:found|trusted)|verif)",
    re.IGNORECASE,
)

Cause = Literal["transport", "missing", "signature", ""]


class InstallProgress:
    """Turns lines of pkg into reports. The fraction never decreases; with `show`, each line is a report. All
    lines are in the log already."""

    def __init__(self, report: Callable[[Report], None], show: bool) -> None:
        self._report = report
        self._show = show
        self._fraction = 0.0

    def line(self, line: str) -> None:
        """Read one line."""
        found = _LINE.match(line)
        if found:
            begin, end = _PHASES[found["phase"]]
            self._fraction = max(self._fraction, begin + (end - begin) * _part(found["text"]))
        if found or (self._show and line.strip()):
            self._report(Report(self._fraction, line.strip(), logged=True))


def _part(text: str) -> float:
    """The completed part of its phase in a line."""
    if text.startswith("Completed "):
        return 1.0
    if percent := _PERCENT.search(text):
        return min(int(percent[1]), 100) / 100
    count = _COUNT.search(text)
    return min(1.0, int(count[1]) / int(count[2])) if count and int(count[2]) else 0.0


def unmatched(output: str) -> list[str]:
    """The patterns for which pkg knows no package."""
    found = _NO_MATCH.search(output)
    return found["names"].split() if found else []


def cause(output: str) -> Cause:
    """The cause of a failure of pkg: packages did not arrive over the network, are not in the repository, or
    are not signed as required; "" for another cause."""
    if _SIGNATURE.search(output):
        return "signature"
    if not _TRANSPORT.search(output):
        return ""
    return "missing" if _MISSING.search(output) else "transport"


def package_lines(listing: Iterable[str]) -> list[str]:
    """Publisher, name and version of each line of `pkg list -H -v`, separated by tabs, sorted."""
    found = (_FMRI.match(line) for line in listing)
    return sorted("\t".join(match.groups()) for match in found if match)


@dataclass(frozen=True, slots=True)
class PackagedFile:
    """A file of an installed package: the name of its content in repositories (`action.hash`), its mode and
    its path."""

    content: str
    mode: int
    path: str


def packaged_files(listing: Iterable[str]) -> list[PackagedFile]:
    """The files in lines of `pkg contents -H -t file -o action.hash,mode,path`."""
    found = (_FILE.fullmatch(line.rstrip()) for line in listing)
    return [
        PackagedFile(each["content"], int(each["mode"], 8), each["path"]) for each in found if each
    ]


def accepted_licences(manifest: str) -> list[str]:
    """The licences in a package's manifest that have to be accepted, sorted. Source: pkg(7), the license
    action; attributes are quoted like words of a shell."""
    found = set()
    for line in manifest.splitlines():
        if not line.startswith("license "):
            continue
        try:
            words = shlex.split(line)
        except ValueError:
            continue
        attributes = dict(word.split("=", 1) for word in words if "=" in word)
        if attributes.get("must-accept", "").lower() == "true":
            found.add(attributes.get("license", ""))
    return sorted(found - {""})
