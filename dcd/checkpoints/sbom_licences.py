"""Licences of packages, from copyright files in the form that machines can read (DEP-5).

Names that SPDX has become its own, as debsbom maps them. Every other name, such as `public-domain` or
`GPL-2+ with OpenSSL exception`, becomes a reference `LicenseRef-...` with the text that the file has for it:
its end is a digest of name and text, so one reference never stands for two texts. Only
`dcd.checkpoints.sbom_writer` imports this: it needs the libraries of the extra `sbom`. Source:
https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/; SPDX 2.3, annex D and clause 10.
"""

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any

from debian.copyright import Copyright, License, parse_multiline_as_lines
from debsbom.apt.copyright import WELL_KNOWN_EXCEPTIONS, WELL_KNOWN_EXPRESSIONS
from license_expression import AND, OR, LicenseExpression, Licensing, get_spdx_licensing

_NO_TEXT = "The copyright file of the package names this licence without a text."
_UNNAMED = "unnamed"
_MOST_NAME = 60
_OPERATOR = re.compile(r"(,?)\s+(and|or)\s+|,\s+", re.IGNORECASE)
_KNOWN = {name.lower(): spdx for name, spdx in WELL_KNOWN_EXPRESSIONS.items()}
_EXCEPTIONS = {name.lower(): spdx for name, spdx in WELL_KNOWN_EXCEPTIONS.items()}
_FORMAT = "copyright-format"

_VALUE = re.compile(r"^([A-Za-z][A-Za-z0-9-]*:[^\n]*\n)((?: +[^\s][^\n]*\n){2,})", re.MULTILINE)
"""A field and the other lines of its value."""
_OTHER_SEPARATORS = re.compile(r"[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
"""What ends a line for the library and not for `_VALUE`."""
_MARK = re.compile(r"\ue000([0-9]+)\ue000")

Texts = Mapping[str, str]
"""Texts of licences by their names in small letters."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A licence that SPDX does not have."""

    identifier: str
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Licence:
    """An SPDX expression, and what its references stand for."""

    expression: str
    references: tuple[Reference, ...]


@cache
def licence_of(file: Path) -> Licence | None:
    """The licence in a copyright file; None for free text, for a form that cannot be read, and without a
    file."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return licence_in(text)


@cache
def licence_in(text: str) -> Licence | None:
    """The licence in the text of a copyright file."""
    if _FORMAT not in text[:2000]:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            short, values = _shortened(text)
            found = Copyright(StringIO(short), strict=False)
        named, texts = _licences(found)
        texts = {name: _restored(each, values) for name, each in texts.items()}
        references: dict[str, Reference] = {}
        parts = [_parsed(each, texts, references) for each in named]
    except Exception as error:  # noqa: BLE001 - its author chose its form; nothing else depends on it
        logging.getLogger(__name__).debug("a copyright file cannot be read: %s", error)
        return None
    if not parts:
        return None
    combined = AND(*parts) if len(parts) > 1 else parts[0]
    used = tuple(references[name] for name in sorted(references))
    return Licence(str(combined.simplify()), used)


def _shortened(text: str) -> tuple[str, list[str]]:
    """The text with one line, a mark, in place of all but the first of each value, and those lines. The
    library takes 10 us for each line, and most lines are those of licences."""
    values: list[str] = []
    if _OTHER_SEPARATORS.search(text) or "\ue000" in text:
        return text, values

    def marked(found: re.Match[str]) -> str:
        values.append(found[2])
        return f"{found[1]} \ue000{len(values) - 1}\ue000\n"

    return _VALUE.sub(marked, text), values


def _restored(text: str, values: Sequence[str]) -> str:
    """The text of a licence with the lines that its mark stands for, as the library gives them."""

    def lines(found: re.Match[str]) -> str:
        return "\n".join(parse_multiline_as_lines(f"\n{values[int(found[1])]}")[1:])

    return _MARK.sub(lines, text).strip()


def _licences(found: Copyright) -> tuple[list[License], dict[str, str]]:
    """The different licences of the files, and the texts of all that have one."""
    # The library declares these fields as what makes them, not as what they are.
    paragraphs: list[Any] = [each.license for each in found.all_files_paragraphs()]
    own = [each for each in (found.header.license, *paragraphs) if each is not None]
    apart: list[Any] = [each.license for each in found.all_license_paragraphs()]
    texts: dict[str, str] = {}
    for each in (*apart, *own):
        if each is not None and each.text and each.text.strip():
            texts.setdefault(each.synopsis.strip().lower(), each.text.strip())
    named = {each.synopsis.strip(): each for each in own}
    return list(named.values()), texts


def _parsed(licence: License, texts: Texts, references: dict[str, Reference]) -> LicenseExpression:
    """The expression of one synopsis. A comma ends what `and` would bind first: `A or B, and C` is
    `(A or B) and C`."""
    synopsis = " ".join(licence.synopsis.split())
    pieces = _OPERATOR.split(synopsis)
    names, operators = pieces[::3], list(zip(pieces[1::3], pieces[2::3], strict=True))
    terms = [_term(name.strip(), synopsis, texts, references) for name in names]
    groups: list[tuple[str, list[LicenseExpression], list[str]]] = [("", [terms[0]], [])]
    for (comma, word), term in zip(operators, terms[1:], strict=True):
        joined = (word or "and").lower()
        if comma or not word:
            groups.append((joined, [term], []))
        else:
            groups[-1][1].append(term)
            groups[-1][2].append(joined)
    whole = [_joined(members, words) for _, members, words in groups]
    return _joined(whole, [word for word, _, _ in groups[1:]])


def _joined(terms: Sequence[LicenseExpression], words: Sequence[str]) -> LicenseExpression:
    """Terms with the words between them; `and` binds first."""
    choices: list[list[LicenseExpression]] = [[terms[0]]]
    for word, term in zip(words, terms[1:], strict=True):
        if word == "or":
            choices.append([term])
        else:
            choices[-1].append(term)
    alternatives = [AND(*each) if len(each) > 1 else each[0] for each in choices]
    return OR(*alternatives) if len(alternatives) > 1 else alternatives[0]


def _term(
    name: str, synopsis: str, texts: Texts, references: dict[str, Reference]
) -> LicenseExpression:
    licensing = _licensing()
    for spelling in _spellings(name):
        parsed = licensing.parse(spelling) if spelling else None
        if parsed is not None and not licensing.unknown_license_keys(parsed):
            return parsed
    reference = _reference(name, texts.get(name.lower()) or texts.get(synopsis.lower()) or _NO_TEXT)
    references[reference.identifier] = reference
    return licensing.parse(reference.identifier)


def _spellings(name: str) -> Iterator[str]:
    """How SPDX may spell a name of DEP-5."""
    short = name.lower()
    yield _EXCEPTIONS.get(short, "")
    yield _KNOWN.get(short, "")
    # Names of SPDX have no spaces.
    yield name if re.fullmatch(r"[A-Za-z0-9.+-]+", name) else ""
    base = re.sub(r"\.0(?=\+?$)", "", short)
    yield _KNOWN.get(base, "")


def _reference(name: str, text: str) -> Reference:
    said = name or _UNNAMED
    digest = sha256(f"{said}\0{' '.join(text.split())}".encode()).hexdigest()[:12]
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", said.replace("+", " or later "))[:_MOST_NAME].strip("-.")
    return Reference(f"LicenseRef-{plain or _UNNAMED}-{digest}", said, text)


@cache
def _licensing() -> Licensing:
    """SPDX's list of licences. To read it takes 45 ms."""
    return get_spdx_licensing()
