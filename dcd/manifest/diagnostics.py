"""Diagnostics: everything wrong with a manifest, each with its place, the reason and the correction.

A diagnostic is data: it goes to the client as it is. `ManifestError` carries all of them at once, errors
first in the order of the source. Lines and columns count from 1; 0 means that the place is not known.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

from dcd.manifest.data_object import Origin
from statemachine.errors import InvalidManifest

MOST = 200
"""The number of diagnostics for one manifest; a hostile one could have a hundred thousand."""

_MANY = 200
_LONG = 100

LONGEST = 2000
"""The number of characters of each text of a diagnostic."""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """A fault (`error`) or a doubt (`warning`). `message` names it, `why` is the rule behind it,
    `suggestion` the correction: a snippet or an instruction."""

    severity: Literal["error", "warning"]
    file: str
    line: int
    column: int
    message: str
    why: str = ""
    suggestion: str = ""

    @property
    def origin(self) -> Origin | None:
        """The place; None when it is not known."""
        return Origin(self.file, self.line, self.column) if self.line else None

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}: " if self.line else ""
        return f"{place}{self.severity}: {self.message}"


class ManifestError(InvalidManifest):
    """A manifest with at least one error; `diagnostics` are all errors and warnings. `missing` are the
    named files that were not sent; the client can add which of them it cannot read."""

    def __init__(
        self, diagnostics: Iterable[Diagnostic], missing: "tuple[MissingInput, ...]" = ()
    ) -> None:
        self.diagnostics = tuple(diagnostics)
        self.missing = missing
        errors = [found for found in self.diagnostics if found.severity == "error"]
        brief = errors[0].message if len(errors) == 1 else f"the manifest has {len(errors)} errors"
        super().__init__(
            brief,
            "\n".join(
                "\n    ".join(filter(None, (str(found), found.why))) for found in self.diagnostics
            ),
            errors[0].suggestion if len(errors) == 1 else "",
        )


@dataclass(frozen=True, slots=True)
class MissingInput:
    """A file that the manifest names: `written` is its name there, `path` (absolute) is its place on the
    client's host. `kind` is `include`, or one of those of `dcd.manifest.inputs.files_of`; an `optional` one
    may be absent."""

    path: str
    kind: str
    optional: bool = False
    line: int = 0
    written: str = ""
    file: str = ""


def error(origin: Origin | None, message: str, why: str = "", suggestion: str = "") -> Diagnostic:
    """An error at a place of the source."""
    place = origin or Origin("", 0, 0)
    texts = (without_middle(text, LONGEST) for text in (message, why, suggestion))
    return Diagnostic("error", place.file, place.line, place.column, *texts)


def warning(origin: Origin | None, message: str, why: str = "", suggestion: str = "") -> Diagnostic:
    """A warning at a place of the source."""
    return replace(error(origin, message, why, suggestion), severity="warning")


def refusal(
    origin: Origin | None, message: str, why: str = "", suggestion: str = ""
) -> ManifestError:
    """The refusal of a manifest for one error."""
    return ManifestError([error(origin, message, why, suggestion)])


def at(origin: Origin, found: Diagnostic) -> Diagnostic:
    """The diagnostic at another place."""
    return replace(found, file=origin.file, line=origin.line, column=origin.column)


def refuse(found: Iterable[Diagnostic]) -> None:
    """Raise ManifestError with all of them when there is an error among them."""
    diagnostics = list(found)
    if any(each.severity == "error" for each in diagnostics):
        raise ManifestError(in_order(diagnostics))


def shortened(text: str) -> str:
    """The text on one line, cut where it is long."""
    flat = " ".join(text[: 2 * _LONG].split())
    return flat if len(flat) <= 60 else f"{flat[:57]}..."


def bounded(diagnostics: Iterable[Diagnostic]) -> list[Diagnostic]:
    """The first `MOST` of them, with an error that says so when there are more."""
    found = list(islice(diagnostics, MOST + 1))
    if len(found) > MOST:
        message = f"there are more than {MOST} faults; the rest is not shown"
        found[MOST] = error(found[MOST].origin, message, suggestion="correct these first")
    return found


def in_order(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """Without repetitions, errors first, each kind in the order of file, line and column."""
    return tuple(
        sorted(
            dict.fromkeys(diagnostics),
            key=lambda found: (found.severity, found.file, found.line, found.column),
        )
    )


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant, or None."""
    candidates = sorted(set(known))
    if len(candidates) > _MANY or len(word) > _LONG:
        return None
    folded = {candidate.lower(): candidate for candidate in candidates}
    if word.lower() in folded:
        return folded[word.lower()]
    return next(iter(difflib.get_close_matches(word, candidates, n=1, cutoff=0.6)), None)


def hint(meant: str | None) -> str:
    """The end of a message about a word that is not known; empty when no other was meant."""
    return f"; did you mean {meant!r}?" if meant else ""


def listed(words: Iterable[str], conjunction: str = "or") -> str:
    """The words as an English list: `a, b or c`; of very many, the first."""
    several = list(words)
    if len(several) > _LONG:
        several = [*several[: _LONG - 1], f"{len(several) - _LONG + 1} more"]
    if len(several) < 2:
        return "".join(several)
    return f"{', '.join(several[:-1])} {conjunction} {several[-1]}"


def without_middle(text: str, most: int) -> str:
    """The text, without its middle when it is longer than `most` characters, as a hostile name can be."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} [... {len(text) - 2 * half} characters ...] {text[-half:]}"
