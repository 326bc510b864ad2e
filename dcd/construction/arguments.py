"""Arguments of checkpoints: texts of the manifest matched against a constructor's annotated signature.

`<args>` is the first positional argument after the name; `<arg>` and `<arglist>` are keyword arguments. Each
text is converted to its parameter's annotation (see `dcd.manifest.values`), so that "false" is False; a
parameter of list type takes an `arglist`, or a text whose words are quoted as for a shell. Pure.
"""

import enum
import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from dcd.manifest.diagnostics import MOST, did_you_mean, hint, listed, shortened
from dcd.manifest.values import (
    BadValue,
    InputPath,
    choices,
    convert,
    convert_list,
    element_of,
    expected,
    form_of,
    is_list,
    optional_of,
    written,
)
from statemachine.plan import Json

Texts = str | Sequence[str]

ARGS = ""
"""The name under which problems of the positional argument are reported."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A fault of one argument (`ARGS`: the positional one; None: a missing one)."""

    argument: str | None
    message: str
    why: str = ""
    suggestion: str = ""
    item: int | None = None
    """The item at fault of an argument that is a list, from 0."""


@dataclass(frozen=True, slots=True)
class Bound:
    """Converted arguments: `values` by parameter name, in the order of the signature; `positional`
    is the parameter of `<args>`, and `inputs` are the texts that name captured files."""

    values: dict[str, Any]
    positional: str | None
    inputs: dict[str, str]


class BadArguments(Exception):
    """Arguments that do not match; `dcd.construction.constructors` reports them. `bound` are the matching
    ones, if they are enough to construct with."""

    def __init__(self, problems: Sequence[Problem], bound: Bound | None) -> None:
        super().__init__("; ".join(problem.message for problem in problems))
        self.problems = tuple(problems)
        self.bound = bound


def match_arguments(factory: Any, args: Sequence[str], kwargs: Mapping[str, Texts]) -> Bound:
    """Convert the texts for the factory, whose first parameter (the checkpoint's name) is left out.
    Raises BadArguments with all faults."""
    parameters = parameters_of(factory)
    open_ended = next((p for p in parameters if p.kind is p.VAR_KEYWORD), None)
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    ordered = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    problems: list[Problem] = []
    texts: dict[str, tuple[inspect.Parameter, Texts, str]] = {}
    if len(args) > len(ordered):
        problems.append(
            Problem(
                ARGS,
                "it takes no positional argument" if not ordered else "it takes one <args> only",
                f"Its arguments are {described(parameters)}.",
                f'<kwargs><arg name="{ordered[-1].name}">{shortened(args[-1])}</arg></kwargs>'
                if ordered
                else "remove <args>",
            )
        )
    for parameter, positional in zip(ordered, args, strict=False):
        texts[parameter.name] = (parameter, positional, ARGS)
    for name, text in kwargs.items():
        if len(problems) >= MOST:
            break
        parameter_found = named.get(name, open_ended)
        if parameter_found is None:
            problems.append(_unknown(name, text, parameters))
        elif name in texts:
            problems.append(Problem(name, f"argument {name!r} is given by <args> already"))
        else:
            texts[name] = (parameter_found, text, name)
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p for p in parameters if p.default is p.empty and p.kind not in variadic]
    problems += [_missing(p, parameters) for p in needed if p.name not in texts]
    values: dict[str, Any] = {}
    for name, (parameter, given, argument) in texts.items():
        wrong = list(_wrong(name, argument, given, parameter))
        if not wrong:
            values[name] = _converted(given, parameter)
        problems += wrong
    bound = Bound(
        values,
        ordered[0].name if args and ordered and ordered[0].name in values else None,
        {
            n: str(t)
            for n, (p, t, _) in texts.items()
            if n in values and optional_of(p.annotation)[0] is InputPath
        },
    )
    if problems:
        enough = all(p.name in values for p in needed)
        raise BadArguments(problems, bound if enough else None)
    return bound


@functools.lru_cache(maxsize=256)
def parameters_of(factory: Any) -> tuple[inspect.Parameter, ...]:
    """The parameters of a checkpoint's constructor after its name, annotations evaluated. Default values
    of a dataclass's fields include those that a factory makes."""
    made = {
        field.name: field.default_factory
        for field in vars(factory).get("__dataclass_fields__", {}).values()
        if field.init and field.default_factory is not MISSING
    }
    return tuple(
        each.replace(default=made[each.name]()) if each.name in made else each
        for each in inspect.signature(factory, eval_str=True).parameters.values()
    )[1:]


def described(parameters: Sequence[inspect.Parameter]) -> str:
    """The parameters as a list for people: `size_pad (a whole number)`."""
    known = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
    return listed((f"{p.name} ({expected(type_of(p))})" for p in known), "and") or "none"


def as_json(value: Any) -> Json:
    """A converted argument as a JSON value, for its digest."""
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, enum.Enum):
        return as_json(value.value)
    return str(value) if isinstance(value, Path | str) else value


def type_of(parameter: inspect.Parameter) -> Any:
    """The annotation of a parameter; without one it takes text."""
    return str if parameter.annotation is parameter.empty else parameter.annotation


def _wrong(
    name: str, argument: str, text: Texts, parameter: inspect.Parameter
) -> Iterator[Problem]:
    """Yield the fault of an argument's text, or that of each item of a list."""
    wanted = type_of(parameter)
    try:
        if isinstance(text, str):
            _converted(text, parameter)
        elif not is_list(wanted):
            raise BadValue(list(text), f"a single value, {expected(wanted)}", choices(wanted))
    except BadValue as bad:
        yield _bad(name, argument, bad, parameter)
        return
    for item, each in enumerate(() if isinstance(text, str) else text):
        try:
            convert(each, element_of(wanted))
        except BadValue as bad:
            yield _bad(name, argument, bad, parameter, item)


def _converted(text: Texts, parameter: inspect.Parameter) -> Any:
    if not isinstance(text, str):
        return convert_list(list(text), type_of(parameter))
    # The default need not have the form. Manifests of the original leave an argument empty for None.
    if text == parameter.default or (not text.strip() and parameter.default is None):
        return parameter.default
    return convert(text, type_of(parameter))


def _given(value: object) -> str:
    return repr(shortened(value)) if isinstance(value, str) else shortened(repr(value))


def _unknown(name: str, text: Texts, parameters: Sequence[inspect.Parameter]) -> Problem:
    meant = did_you_mean(name, [p.name for p in parameters])
    items = "" if isinstance(text, str) else "".join(f"<argitem>{each}</argitem>" for each in text)
    listing = f'<arglist name="{meant}">{items}</arglist>'
    return Problem(
        name,
        f"there is no argument {name!r}{hint(meant)}",
        f"Its arguments are {described(parameters)}.",
        "" if not meant else listing if items else f'<arg name="{meant}">{text}</arg>',
    )


def _missing(parameter: inspect.Parameter, parameters: Sequence[inspect.Parameter]) -> Problem:
    tag = "arglist" if is_list(type_of(parameter)) else "arg"
    return Problem(
        None,
        f"argument {parameter.name!r} is missing: {expected(type_of(parameter))}",
        f"Its arguments are {described(parameters)}.",
        f'add <{tag} name="{parameter.name}"> to its <kwargs>',
    )


def _bad(
    name: str,
    argument: str,
    bad: BadValue,
    parameter: inspect.Parameter,
    item: int | None = None,
) -> Problem:
    meant = did_you_mean(str(bad.given), bad.choices)
    usual = written(parameter.default) if isinstance(parameter.default, int | float | str) else ""
    why = f"Without it, {usual} is used." if usual else "It may be left out."
    form = form_of(parameter.annotation)
    example = form.suggestion(str(bad.given)) if form is not None else ""
    value = meant or (bad.choices[0] if bad.choices else "" if item is not None else usual)
    value = value or example
    tag = f'<arg name="{name}">{value}</arg>' if item is None else f"<argitem>{value}</argitem>"
    return Problem(
        argument,
        f"argument {name!r} is {_given(bad.given)}, not {bad.expected}{hint(meant)}",
        "" if parameter.default is parameter.empty else why,
        tag if value else "",
        item,
    )
