"""Values of the manifest: text on one side, annotated Python types on the other.

The same conversions serve attributes of data objects and arguments of checkpoints, so that "false" is
False everywhere. An annotation is one of bool, int, float, str, Path, a Literal, an Enum, a list or tuple
of these (text is split as a shell would), or `X | None`. `BadValue` says what was expected and, where
values are few, which they are. Pure.
"""

import enum
import math
import re
import shlex
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin


class BadValue(ValueError):
    """A text that is not a value of the type. `expected` is a noun phrase; `choices` are the allowed
    values where they can be listed."""

    def __init__(self, given: object, expected: str, choices: tuple[str, ...] = ()) -> None:
        super().__init__(f"{given!r} is not {expected}")
        self.given = given
        self.expected = expected
        self.choices = choices


class InputPath(str):
    """The type of an argument that names a file to be captured: the file is read by the client at submit,
    and a running checkpoint finds its copy as `context.inputs[path]`."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Form:
    """A form of text beyond its type: `pattern` must match all of it, `expected` names it in messages."""

    pattern: str
    expected: str
    example: str

    def check(self, text: str) -> None:
        """Raise BadValue unless the whole text has this form."""
        if not re.fullmatch(self.pattern, text):
            raise BadValue(text, f"{self.expected} (such as {self.example})")


SIZE = Form(
    r"[0-9]+(\.[0-9]+)? ?([kKmMgGtTpPeE]([iI]?[bB])?|[bB]|[sS][eE][cC][sS]?)",
    "a size with its unit",
    "512mb, 4gb or 2048secs",
)
CHECKPOINT_NAME = Form(
    r"[A-Za-z0-9][A-Za-z0-9._\-]*",
    "a name of letters, digits, dots, underscores and hyphens",
    "ba-init",
)
MODE = Form(r"[0-7]{3,4}", "a file mode in octal digits", "0644")
OWNER = Form(
    r"[A-Za-z0-9_.\-]+(:[A-Za-z0-9_.\-]+)?", "an owner and, after a colon, a group", "root:root"
)
IDENTIFIER = Form(
    r"[A-Za-z_][A-Za-z0-9_]*", "a name of letters, digits and underscores", "hostname"
)

_UNIT_EXPONENT = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5, "e": 6}


def size_bytes(text: str, sector_bytes: int = 512) -> int:
    """Bytes of a size such as `4gb`, `1.5GiB`, `2048secs`. Units are powers of 1024, as the original
    and ZFS count them. Raises BadValue."""
    SIZE.check(text)
    number, unit = re.fullmatch(r"([0-9.]+) ?([A-Za-z]+)", text).groups()  # type: ignore[union-attr]
    if unit.lower().startswith("sec"):
        return int(float(number) * sector_bytes)
    return int(float(number) * 1024 ** _UNIT_EXPONENT[unit[0].lower()])


def optional_of(annotation: Any) -> tuple[Any, bool]:
    """The annotation without None, and whether None was allowed."""
    if get_origin(annotation) in (Union, types.UnionType):
        rest = tuple(option for option in get_args(annotation) if option is not type(None))
        if len(rest) < len(get_args(annotation)):
            return (rest[0] if len(rest) == 1 else Union[rest]), True  # noqa: UP007
    return annotation, False


def is_list(annotation: Any) -> bool:
    """Whether values of the annotation are sequences (an `arglist` in the manifest)."""
    plain, _ = optional_of(annotation)
    return plain in (list, tuple) or get_origin(plain) in (list, tuple)


def element_of(annotation: Any) -> Any:
    """The annotation of the elements of a list or tuple annotation."""
    plain, _ = optional_of(annotation)
    arguments = [argument for argument in get_args(plain) if argument is not Ellipsis]
    return arguments[0] if arguments else str


def choices(annotation: Any) -> tuple[str, ...]:
    """The values of an annotation where they can be listed, as the manifest writes them."""
    plain, _ = optional_of(annotation)
    if plain is bool:
        return ("true", "false")
    if get_origin(plain) is Literal:
        return tuple(str(option) for option in get_args(plain))
    if isinstance(plain, type) and issubclass(plain, enum.Enum):
        return tuple(str(member.value) for member in plain)
    if is_list(plain):
        return choices(element_of(plain))
    return ()


def expected(annotation: Any) -> str:
    """What the annotation wants, as a noun phrase: `true or false`, `a whole number`."""
    plain, _ = optional_of(annotation)
    if is_list(plain):
        return f"a list of values, each {expected(element_of(plain))}"
    if get_origin(plain) in (Union, types.UnionType):
        return " or ".join(expected(option) for option in get_args(plain))
    listed = choices(plain)
    if listed:
        return listed[0] if len(listed) == 1 else f"{', '.join(listed[:-1])} or {listed[-1]}"
    names = {int: "a whole number", float: "a number", Path: "a path", InputPath: "a file's path"}
    return names.get(plain, "text")


def convert(text: str, annotation: Any) -> Any:
    """The value that `text` denotes under the annotation. Raises BadValue."""
    plain, _ = optional_of(annotation)
    if get_origin(plain) in (Union, types.UnionType):
        return _convert_union(text, plain)
    if is_list(plain):
        return convert_list(shell_words(text), plain)
    for member_text, member in _listed(plain):
        if text.strip() == member_text:
            return member
    if choices(plain):
        raise BadValue(text, expected(plain), choices(plain))
    if plain is int and re.fullmatch(r"[+-]?[0-9]{1,18}", text.strip()):
        return int(text.strip())
    if plain is float and re.fullmatch(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?", text.strip()):
        number = float(text.strip())
        if math.isfinite(number):
            return number
    if plain in (int, float):
        raise BadValue(text, expected(plain))
    return plain(text.strip()) if plain in (Path, InputPath) else text


def convert_list(items: list[str], annotation: Any) -> Any:
    """The list or tuple that the texts denote under a list or tuple annotation. Raises BadValue."""
    plain, _ = optional_of(annotation)
    values = [convert(item, element_of(plain)) for item in items]
    return tuple(values) if plain is tuple or get_origin(plain) is tuple else values


def shell_words(text: str) -> list[str]:
    """The words of a text, quoted as for a shell. Raises BadValue for a quote that is never closed."""
    try:
        return shlex.split(text)
    except ValueError:
        raise BadValue(text, "a list of words with balanced quotes") from None


def written(value: object) -> str:
    """A scalar value as the manifest writes it; `convert` reads it back."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value.value) if isinstance(value, enum.Enum) else str(value)


def _listed(plain: Any) -> list[tuple[str, object]]:
    if plain is bool:
        return [("true", True), ("false", False)]
    if get_origin(plain) is Literal:
        return [(written(option), option) for option in get_args(plain)]
    if isinstance(plain, type) and issubclass(plain, enum.Enum):
        return [(str(member.value), member) for member in plain]
    return []


def _convert_union(text: str, union: Any) -> Any:
    for option in get_args(union):
        try:
            return convert(text, option)
        except BadValue:
            continue
    raise BadValue(text, expected(union), choices(union))
