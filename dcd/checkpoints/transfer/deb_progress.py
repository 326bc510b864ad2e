"""The progress of a transfer of Debian packages, from the output of apt and mmdebstrap.

A transfer has phases whose shares of the time are roughly the same for every image (measured); within
a phase, lines about single packages are counted against the number that apt announced.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from dcd.checkpoints.interface import Report


@dataclass(frozen=True, slots=True)
class _Phase:
    """A part of the transfer; each line that matches `counted` is one of the packages."""

    begin: float
    end: float
    message: str
    counted: str = ""
    each: int = 1


_UPDATE = _Phase(0.0, 0.05, "reading the repositories")
_PHASES = {
    r"Need to get ": _Phase(0.05, 0.25, "downloading packages", r"Get:\d+ "),
    r"I: extracting archives": _Phase(0.25, 0.35, "extracting the base system"),
    r"I: installing essential packages": _Phase(0.35, 0.5, "installing the base system"),
    r"I: installing remaining packages": _Phase(
        0.5, 0.97, "installing packages", r"(Unpacking|Setting up) ", 2
    ),
    r"I: cleaning ": _Phase(0.97, 1.0, "cleaning up"),
}
_REST: dict[str, _Phase] = {
    r"Need to get ": _Phase(0.05, 0.3, "downloading packages", r"Get:\d+ "),
    r"(Selecting previously unselected|Preparing to unpack|Setting up) ": _Phase(
        0.3, 1.0, "installing packages", r"(Unpacking|Setting up) ", 2
    ),
}
"""The same where apt installs onto a layer with a system."""

_ANNOUNCED = re.compile(r"\d+ upgraded, (\d+) newly installed")


class Progress:
    """Turns lines of output into reports; with `rest`, those of an installation onto a layer with a
    system."""

    def __init__(self, report: Callable[[Report], None], rest: bool = False) -> None:
        self._report = report
        self._phases = _REST if rest else _PHASES
        self._phase = _UPDATE
        self._total = 0
        self._count = 0
        self._report(Report(0.0, _UPDATE.message))

    def downloading(self, packages: int) -> None:
        """So many packages are going to be downloaded, each with a line like apt's."""
        self._enter(next(iter(self._phases.values())))
        self._total = packages

    def line(self, line: str) -> None:
        """Read one line of output."""
        if announced := _ANNOUNCED.search(line):
            self._total = int(announced[1])
            return
        for beginning, phase in self._phases.items():
            # Only later phases count: mmdebstrap asks apt for downloads again, of nothing.
            if phase.begin > self._phase.begin and re.match(beginning, line):
                self._enter(phase)
                return
        if self._total and self._phase.counted and re.match(self._phase.counted, line):
            self._count += 1
            share = min(1.0, self._count / (self._total * self._phase.each))
            span = self._phase.end - self._phase.begin
            self._report(Report(self._phase.begin + span * share, self._phase.message))

    def _enter(self, phase: _Phase) -> None:
        self._phase, self._count = phase, 0
        self._report(Report(phase.begin, phase.message))
