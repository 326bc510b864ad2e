"""Parameters: `<parameter name default>` declares one, `${name}` uses it, `--set` gives it a value.

They are replaced in every attribute and text, but not in values of parameters. `$${` means `${`. In a
manifest without parameters, `${...}` in a checkpoint's arguments is for the shell, as in manifests of the
original. Pure; changes the tree.
"""

import re
from collections.abc import Callable, Mapping

from dcd.manifest.characters import is_xml_text
from dcd.manifest.data_object import Element, Origin, attributes_of
from dcd.manifest.diagnostics import MOST, Diagnostic, did_you_mean, error, listed
from dcd.manifest.forms import IDENTIFIER
from dcd.manifest.source import Limits, Source

_USE = re.compile(r"\$\$\{|\$\{([^}]*)\}?")
_SHELL = ("args", "arg")


def substitute_parameters(
    source: Source, given: Mapping[str, str], limits: Limits
) -> list[Diagnostic]:
    """Replace all uses in the tree except in declarations. Returns the faults."""
    declared = source.root.findall("parameter")
    values, wrong = _values(source, declared, given)
    known = {element.get("name", "") for element in declared}
    budget = limits.max_expanded_bytes

    def replace(text: str, origin: Origin | None, shell: bool) -> str:
        nonlocal budget

        def value(use: re.Match[str]) -> str:
            name = use[1]
            if name is None:
                return "${"
            if name in values:
                return values[name]
            if name not in known and not (shell and not known) and len(wrong) <= MOST:
                wrong.append(_undefined(name, known, origin))
            return use[0]

        replaced = _USE.sub(value, text)
        budget -= max(0, len(replaced) - len(text))
        if budget < 0:
            wrong.append(error(origin, "the parameters' values make the manifest too big"))
            budget = limits.max_expanded_bytes
            values.clear()
        return replaced

    declarations = set(declared)
    for element in source.elements():
        if len(wrong) > MOST:  # more are not shown, and each costs a search for a similar name
            break
        if element not in declarations:
            _rewrite(element, source, replace)
    return wrong


def without_repeats(found: list[Diagnostic], undefined: list[Diagnostic]) -> list[Diagnostic]:
    """The findings without faults of values with a reference to an `undefined` parameter, whose text is
    unknown."""
    known = frozenset(undefined)
    places = {each.origin for each in undefined}
    return [
        each
        for each in found
        if each in known or each.origin not in places or "${" not in each.message
    ]


def escape(root: Element) -> None:
    """Rewrite a tree so that nothing in it means a parameter."""
    _everywhere(root, lambda text: text.replace("${", "$${"))


def unescape(root: Element) -> None:
    """Undo `escape`."""
    _everywhere(root, lambda text: text.replace("$${", "${"))


def _everywhere(root: Element, change: Callable[[str], str]) -> None:
    for element in root.iter("*"):
        for name, value in attributes_of(element).items():
            element.set(name, change(value))
        if element.text:
            element.text = change(element.text)


def _rewrite(
    element: Element, source: Source, replace: Callable[[str, Origin | None, bool], str]
) -> None:
    for name, value in attributes_of(element).items():
        if "${" in value:
            element.set(name, replace(value, source.origin(element, name), False))
    if element.text and "${" in element.text:
        element.text = replace(element.text, source.origin(element), element.tag in _SHELL)


def _values(
    source: Source, declared: list[Element], given: Mapping[str, str]
) -> tuple[dict[str, str], list[Diagnostic]]:
    values: dict[str, str] = {}
    wrong: list[Diagnostic] = []
    top = source.origin(source.root)
    names = {element.get("name", "") for element in declared}
    for name, value in given.items():
        if name not in names:
            meant = did_you_mean(name, names)
            wrong.append(
                error(
                    top,
                    f"the manifest has no parameter {name!r}",
                    f"It declares {listed(sorted(names), 'and') or 'none'}.",
                    f"--set {meant}={value}" if meant else f'<parameter name="{name}"/>',
                )
            )
        elif not is_xml_text(value):
            wrong.append(error(top, f"the value of parameter {name!r} has control characters"))
    for element in declared:
        name = element.get("name", "")
        chosen = given[name] if name in given else element.get("default")
        if name in values:
            wrong.append(error(source.origin(element), f"parameter {name!r} is declared twice"))
        elif chosen is not None and is_xml_text(chosen):
            values[name] = chosen
        elif chosen is None and re.fullmatch(IDENTIFIER.pattern, name):
            wrong.append(
                error(
                    source.origin(element),
                    f"parameter {name!r} has no value",
                    "It has no default, so it must be set.",
                    f"--set {name}=VALUE",
                )
            )
    return values, wrong


def _undefined(name: str, known: set[str], origin: Origin | None) -> Diagnostic:
    meant = did_you_mean(name, known)
    return error(
        origin,
        f"there is no parameter {name!r}",
        "${...} is replaced by a parameter's value; $${ means the characters ${ themselves.",
        f"${{{meant}}}" if meant else f'declare it: <parameter name="{name}"/>',
    )
