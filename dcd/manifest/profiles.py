"""Profiles: parts of a manifest that a build takes or leaves.

`<profile name>` declares one and `--profile` selects it. An element with `when` stays only where its
condition holds, and then as if it had none, so a profile counts for a build only by what it changes.

A condition joins terms with `and` and `or` (`and` binds more tightly): `dev` (the profile is selected),
`suite=trixie`, `suite!=trixie` (the value of a parameter, in single quotes where it has blanks), each perhaps
after `not`. Includes are resolved before, parameters replaced after. Pure; changes the tree.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from dcd.manifest.data_object import Element, Origin
from dcd.manifest.diagnostics import Diagnostic, did_you_mean, error, hint, listed, shortened
from dcd.manifest.source import Source

WHEN = "when"
PROFILE = "profile"

_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.\-]*"
_TOKEN = re.compile(rf"\s*({_NAME})(?:\s*(!?=)\s*(?:'([^']*)'|([^\s'\"=!()|&,]+)))?(?=\s|$)")
_WORDS = ("and", "or", "not")
_LISTS = ("configuration", "software_data")
"""Elements that mean nothing without content, unlike others: they are left out with the last of it."""
_FORM = (
    "A condition is the name of a profile, NAME=VALUE or NAME!=VALUE for a parameter, or several of them "
    "with and, or, not."
)
_EXAMPLE = 'when="dev and not suite=trixie"'


@dataclass(frozen=True, slots=True)
class Term:
    """A profile that has to be selected (`value` None), or a parameter that has to have a value; the
    opposite where it is `negated`."""

    name: str
    value: str | None
    negated: bool


Condition = tuple[tuple[Term, ...], ...]
"""Alternatives, each of terms that must all hold."""


class BadCondition(ValueError):
    """A text that is not a condition."""


def parse(text: str) -> Condition:
    """The condition of a text. Raises BadCondition."""
    alternatives: list[list[Term]] = [[]]
    negated, wanted, position = False, True, 0
    while text[position:].strip():
        found = _TOKEN.match(text, position)
        if found is None:
            raise BadCondition(f"{shortened(text[position:].strip())!r} cannot be read")
        position = found.end()
        name, operator, quoted, plain = found.groups()
        if name in _WORDS and operator is None:
            if name == "not" and wanted:
                negated = not negated
            elif name == "not" or wanted:
                raise BadCondition(f"{name!r} is in the wrong place")
            else:
                wanted = True
                if name == "or":
                    alternatives.append([])
            continue
        if not wanted:
            raise BadCondition(f"there is neither 'and' nor 'or' before {name!r}")
        value = None if operator is None else (plain if quoted is None else quoted)
        alternatives[-1].append(Term(name, value, negated ^ (operator == "!=")))
        negated, wanted = False, False
    if wanted:
        raise BadCondition("it ends where a profile or a parameter is expected")
    return tuple(tuple(each) for each in alternatives)


def holds(condition: Condition, profiles: Collection[str], values: Mapping[str, str]) -> bool:
    """Whether a condition holds for the selected profiles and the values of parameters."""

    def term_holds(term: Term) -> bool:
        if term.value is None:
            return (term.name in profiles) is not term.negated
        return (values.get(term.name) == term.value) is not term.negated

    return any(all(map(term_holds, alternative)) for alternative in condition)


def select(
    source: Source,
    profiles: Collection[str],
    inherited: Collection[str],
    given: Mapping[str, str],
) -> Iterator[Diagnostic]:
    """Leave out of the tree what the profiles and the `given` parameters leave out, and every `when`. Of the
    profiles of a replaced manifest, `inherited`, those count that are declared. Yields the faults, also those
    of conditions in parts that are left out."""
    declared: dict[str, Element] = {}
    for element in source.root.findall(PROFILE):
        name = element.get("name", "")
        if name in declared:
            yield error(source.origin(element), f"profile {name!r} is declared twice")
        declared.setdefault(name, element)
    for name in profiles:
        if name not in declared:
            meant = did_you_mean(name, declared)
            yield error(
                source.origin(source.root),
                f"the manifest has no profile {name!r}{hint(meant)}",
                f"It declares {listed(sorted(declared), 'and') or 'none'}.",
                f"--profile {meant}" if meant else f'<profile name="{name}"/>',
            )
    chosen = {*profiles, *inherited} & declared.keys()
    known = {element.get("name", "") for element in source.root.findall("parameter")}
    conditions: dict[Element, Condition] = {}
    for element in list(source.elements()):
        if (text := element.get(WHEN)) is None:
            continue
        del element.attrib[WHEN]
        origin = source.origin(element, WHEN)
        fault = _misplaced(element, origin)
        if fault is None:
            try:
                conditions[element] = parse(text)
            except BadCondition as bad:
                fault = error(
                    origin, f"when={shortened(text)!r}: {bad}", _FORM, f"such as {_EXAMPLE}"
                )
        if fault is not None:
            yield fault
            continue
        for term in (term for alternative in conditions[element] for term in alternative):
            yield from _unknown(term, element, origin, declared, known)
    for element, condition in conditions.items():
        if element.tag == "parameter" and not holds(condition, chosen, {}):
            _drop(element)
    values = _values(source, given)
    for element, condition in conditions.items():
        if element.tag != "parameter" and not holds(condition, chosen, values):
            _drop(element)


def _misplaced(element: Element, origin: Origin | None) -> Diagnostic | None:
    """The fault of a `when` on an element that cannot have one."""
    if element.getparent() is None or element.tag == PROFILE:
        return error(
            origin,
            f"<{element.tag}> takes no 'when'",
            "A condition is for the parts of a distribution and for parameters.",
            "put it on an element further inside",
        )
    return None


def _unknown(
    term: Term,
    element: Element,
    origin: Origin | None,
    declared: Collection[str],
    known: Collection[str],
) -> Iterator[Diagnostic]:
    """The fault of a term that names nothing, or what is not known yet."""
    kind, names = (PROFILE, declared) if term.value is None else ("parameter", known)
    if term.value is not None and element.tag == "parameter":
        yield error(
            origin,
            "the condition of a <parameter> names a parameter",
            "Whether a parameter is there depends on profiles only.",
            f"name a profile: {listed(sorted(declared)) or 'none is declared'}",
        )
    elif term.name not in names:
        meant = did_you_mean(term.name, names)
        other = known if term.value is None else declared
        swapped = f"{term.name}=VALUE" if term.value is None else term.name
        yield error(
            origin,
            f"there is no {kind} {term.name!r}{hint(meant)}",
            f"The manifest declares {listed(sorted(names), 'and') or 'none'}.",
            swapped if term.name in other else meant or f'declare it: <{kind} name="{term.name}"/>',
        )


def _values(source: Source, given: Mapping[str, str]) -> dict[str, str]:
    """The values of the parameters that are declared now; the first declaration counts."""
    values: dict[str, str] = {}
    for element in source.root.findall("parameter"):
        name = element.get("name", "")
        value = given.get(name, element.get("default"))
        if value is not None:
            values.setdefault(name, value)
    return values


def _drop(element: Element) -> None:
    """Take an element out of the tree, and a list that holds no other; the text after it stays."""
    parent = element.getparent()
    if parent is None:
        return
    alone = len(parent) == 1 and not (parent.text or "").strip() and "source" not in parent.attrib
    if alone and parent.tag in _LISTS:
        _drop(parent)
        return
    before = element.getprevious()
    if element.tail and before is not None:
        before.tail = (before.tail or "") + element.tail
    elif element.tail:
        parent.text = (parent.text or "") + element.tail
    parent.remove(element)
