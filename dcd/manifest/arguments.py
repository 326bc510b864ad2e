"""Arguments of checkpoints: texts of the manifest matched against a constructor's annotated signature.

`<args>` is one text: the first positional argument after the name. `<arg>` and `<arglist>` are keywords. Each
text is converted to its parameter's annotation (see `dcd.manifest.values`), so that "false" is False; a
parameter of list type takes an `arglist`, or a text whose words are quoted as for a shell. Pure.
"""

import enum
import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcd.manifest.diagnostics import MOST, did_you_mean, listed, shortened
from dcd.manifest.values import (
    BadValue,
    InputPath,
    choices,
    convert,
    convert_list,
    expected,
    is_list,
    optional_of,
)
from statemachine.plan import Json

Texts = str | Sequence[str]

ARGS = ""
"""The name under which problems of the positional argument are reported."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with one argument (`ARGS`: the positional one; None: one that is missing)."""

    argument: str | None
    message: str
    why: str = ""
    suggestion: str = ""


class BadArguments(Exception):
    """Arguments that do not match; turned into diagnostics by `dcd.manifest.constructors`."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(problem.message for problem in problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Bound:
    """Converted arguments: `values` by parameter name, in the order of the signature; `positional`
    is the parameter that `<args>` went to, and `inputs` the texts that name captured files."""

    values: dict[str, Any]
    positional: str | None
    inputs: dict[str, str]


def match_arguments(factory: Any, args: Sequence[str], kwargs: Mapping[str, Texts]) -> Bound:
    """Convert the texts for the factory, whose first parameter (the checkpoint's name) is left out.
    Raises BadArguments with everything that is wrong."""
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
                "<kwargs><arg name=...>...</arg></kwargs>",
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
    problems.extend(
        _missing(parameter, parameters)
        for parameter in (*ordered, *(p for p in parameters if p.kind is p.KEYWORD_ONLY))
        if parameter.default is parameter.empty and parameter.name not in texts
    )
    values: dict[str, Any] = {}
    for name, (parameter, given, argument) in texts.items():
        try:
            values[name] = _converted(given, parameter.annotation)
        except BadValue as bad:
            problems.append(_bad(name, argument, bad, parameter))
    if problems:
        raise BadArguments(problems)
    return Bound(
        values,
        ordered[0].name if args else None,
        {n: str(t) for n, (p, t, _) in texts.items() if optional_of(p.annotation)[0] is InputPath},
    )


@functools.lru_cache(maxsize=256)
def parameters_of(factory: Any) -> tuple[inspect.Parameter, ...]:
    """The parameters of a checkpoint's constructor after its name, annotations evaluated."""
    return tuple(inspect.signature(factory, eval_str=True).parameters.values())[1:]


def described(parameters: Sequence[inspect.Parameter]) -> str:
    """The parameters as a list for people: `size_pad (a whole number)`."""
    return (
        listed(
            (
                f"{p.name} ({expected(type_of(p))})"
                for p in parameters
                if p.kind is not p.VAR_KEYWORD
            ),
            "and",
        )
        or "none"
    )


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


def _converted(text: Texts, annotation: Any) -> Any:
    wanted = str if annotation is inspect.Parameter.empty else annotation
    if not isinstance(text, str):
        if not is_list(wanted):
            raise BadValue(list(text), f"a single value, {expected(wanted)}", choices(wanted))
        return convert_list(list(text), wanted)
    return convert(text, wanted)


def _given(value: object) -> str:
    return repr(shortened(value)) if isinstance(value, str) else shortened(repr(value))


def _unknown(name: str, text: Texts, parameters: Sequence[inspect.Parameter]) -> Problem:
    meant = did_you_mean(name, [p.name for p in parameters])
    value = text if isinstance(text, str) else "..."
    return Problem(
        name,
        f"there is no argument {name!r}" + (f"; did you mean {meant!r}?" if meant else ""),
        f"Its arguments are {described(parameters)}.",
        f'<arg name="{meant}">{value}</arg>' if meant else "remove it",
    )


def _missing(parameter: inspect.Parameter, parameters: Sequence[inspect.Parameter]) -> Problem:
    listing = is_list(type_of(parameter))
    sample = (
        f'<arglist name="{parameter.name}"><argitem>...</argitem></arglist>'
        if listing
        else f'<arg name="{parameter.name}">...</arg>'
    )
    return Problem(
        None,
        f"argument {parameter.name!r} is missing: {expected(type_of(parameter))}",
        f"Its arguments are {described(parameters)}.",
        f"<kwargs>{sample}</kwargs>",
    )


def _bad(name: str, argument: str, bad: BadValue, parameter: inspect.Parameter) -> Problem:
    meant = did_you_mean(str(bad.given), bad.choices)
    value = meant or (bad.choices[0] if bad.choices else "...")
    return Problem(
        argument,
        f"argument {name!r} is {_given(bad.given)}, not {bad.expected}"
        + (f"; did you mean {meant!r}?" if meant else ""),
        f"Its type is {inspect.formatannotation(parameter.annotation)}.",
        f'<arg name="{name}">{value}</arg>',
    )
