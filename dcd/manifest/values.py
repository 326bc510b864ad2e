"""Values of the manifest: text on one side, annotated Python types on the other.

Attributes of data objects and arguments of checkpoints have the same conversions, so that "false" is False
everywhere. An annotation is one of bool, int, float, str, Path, a Literal, an Enum, a list or tuple of these
(the words of a text, quoted as for a shell), or `X | None`. `Annotated[str, FORM]` takes only text of that
form (`dcd.manifest.forms`). Pure.
"""

import enum
import math
import re
import shlex
import types
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin


class BadValue(ValueError):
    """A text that is not a value of the type. `expected` is a noun phrase; `choices` are the allowed
    values where they can be listed."""

    def __init__(self, given: object, expected: str, choices: tuple[str, ...] = ()) -> None:
        super().__init__(f"{given!r} is not {expected}")
        self.given = given
        self.expected = expected
        self.choices = choices


class InputPath(str):
    """The type of an argument that names a captured file: the client reads the file at submit, and a running
    checkpoint finds its copy as `context.inputs[path]`."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Form:
    """A form of text beyond its type: `pattern` must match all of it, `expected` names it in messages, and
    it has at most `longest` characters.

    The pattern is a regular expression of both Python and XML Schema, for the grammar of editors: no `(?:`,
    no `\\d`, no anchors. `also` checks more than a pattern can, and returns the expectation, or "" for
    a valid text. `fitting` changes a text into a valid one. `why` is the reason for having no pattern (see
    `free`). Messages never contain `secret` text.
    """

    pattern: str
    expected: str
    example: str
    longest: int = 255
    why: str = ""
    secret: bool = False
    also: Callable[[str], str] | None = None
    fitting: Callable[[str], str] | None = None

    def suggestion(self, text: str) -> str:
        """The probable intention of the text, in this form; empty when it is not known."""
        if self.fitting is not None:
            return self.fitting(text)
        if self.secret or self.why:
            return ""
        return next((near for near in _near(text[: self.longest]) if self._holds(near)), "")

    def _holds(self, text: str) -> bool:
        try:
            self.check(text)
        except BadValue:
            return False
        return True

    def check(self, text: str) -> None:
        """Raise BadValue unless the whole text has this form. Only free text may have control characters:
        in some language they end a line, a word or the whole text."""
        given = "..." if self.secret else text
        if len(text) > self.longest:
            raise BadValue(
                given, f"{self.expected} of at most {self.longest} characters (it has {len(text)})"
            )
        if not re.fullmatch(self.pattern, text) or (not self.why and _CONTROL.search(text)):
            example = f" (such as {self.example})" if self.example else ""
            raise BadValue(given, f"{self.expected}{example}")
        if self.also is not None and (wanted := self.also(text)):
            raise BadValue(given, wanted)


def _near(text: str) -> Iterator[str]:
    """Texts like the given one: without accents, with one hyphen for each run of marks, in small letters."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().strip()
    for marks in (r"[^A-Za-z0-9._]+", r"[^A-Za-z0-9]+"):
        near = re.sub(r"[._\-]{2,}", "-", re.sub(marks, "-", plain)).strip("-._")
        if any(letter.isalnum() for letter in near):
            yield from (near, near.lower())


_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters except tab and newline, which are for the pattern; line ends; lone surrogates."""


def free(why: str, longest: int = 1 << 24) -> Form:
    """The form of arbitrary text. `why` is the reason for having no pattern: its reader, and how it gets
    there unchanged."""
    return Form(r"[\s\S]*", "text", "", longest, why)


def _fits(text: str) -> str:
    most = "a size of less than 8 EiB, the largest that a file can have"
    return "" if _in_bytes(text, 512) < 1 << 63 else most


SIZE = Form(
    r"[0-9]{1,19}(\.[0-9]{1,19})? ?([kKmMgGtTpPeE]([iI]?[bB])?|[bB]|[sS][eE][cC][sS]?)",
    "a size with its unit",
    "512mb, 4gb or 2048secs",
    40,
    also=_fits,
)
_UNIT_EXPONENT = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5, "e": 6}


def size_bytes(text: str, sector_bytes: int = 512) -> int:
    """Bytes of a size such as `4gb`, `1.5GiB`, `2048secs`. Units are powers of 1024, as the original
    and ZFS count them. Raises BadValue."""
    SIZE.check(text)
    return _in_bytes(text, sector_bytes)


def _in_bytes(text: str, sector_bytes: int) -> int:
    number, unit = re.fullmatch(r"([0-9.]+) ?([A-Za-z]+)", text).groups()  # type: ignore[union-attr]
    if unit.lower().startswith("sec"):
        return int(Fraction(number) * sector_bytes)
    return int(Fraction(number) * 1024 ** _UNIT_EXPONENT[unit[0].lower()])


def optional_of(annotation: Any) -> tuple[Any, bool]:
    """The annotation without None and without its form, and whether None was allowed."""
    plain, optional, _ = _taken_apart(annotation)
    return plain, optional


def form_of(annotation: Any) -> Form | None:
    """The form in `Annotated[str, FORM]` for the texts of an annotation (of a list: for each)."""
    plain, _, form = _taken_apart(annotation)
    return form_of(element_of(plain)) if form is None and is_list(plain) else form


def _taken_apart(annotation: Any) -> tuple[Any, bool, Form | None]:
    plain, optional, form = annotation, False, None
    while True:
        if get_origin(plain) is Annotated:
            plain, *notes = get_args(plain)
            form = next((note for note in notes if isinstance(note, Form)), form)
            continue
        if get_origin(plain) in (Union, types.UnionType):
            rest = tuple(option for option in get_args(plain) if option is not type(None))
            if len(rest) < len(get_args(plain)):
                plain, optional = (rest[0] if len(rest) == 1 else Union[rest]), True  # noqa: UP007
                continue
        return plain, optional, form


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
    """The values of an annotation if they can be listed, in the form of the manifest."""
    plain, _ = optional_of(annotation)
    if is_list(plain):
        return choices(element_of(plain))
    return tuple(written(value) for value in _listed(plain))


def expected(annotation: Any) -> str:
    """The values of the annotation as a noun phrase: `true or false`, `a whole number`."""
    plain, _, form = _taken_apart(annotation)
    if is_list(plain):
        return f"a list of values, each {expected(element_of(plain))}"
    if form is not None and not form.why:
        return form.expected
    if get_origin(plain) in (Union, types.UnionType):
        return " or ".join(expected(option) for option in get_args(plain))
    listed = choices(plain)
    if listed:
        return listed[0] if len(listed) == 1 else f"{', '.join(listed[:-1])} or {listed[-1]}"
    names = {int: "a whole number", float: "a number", Path: "a path", InputPath: "a file's path"}
    return names.get(plain, "text")


def convert(text: str, annotation: Any) -> Any:
    """The value that `text` denotes under the annotation. Raises BadValue."""
    plain, _, form = _taken_apart(annotation)
    if plain is str:  # most values
        if form is not None:
            form.check(text)
        return text
    if get_origin(plain) in (Union, types.UnionType):
        return _convert_union(text, plain)
    if is_list(plain):
        return convert_list(shell_words(text), plain)
    if plain is bool and text.strip() in ("True", "False"):
        return text.strip() == "True"  # as in manifests of the original
    for value in _listed(plain):
        if text.strip() == written(value):
            return value
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
    if form is not None:
        form.check(text)
    return plain(text.strip()) if plain in (Path, InputPath) else text


def convert_list(items: list[str], annotation: Any) -> Any:
    """The list or tuple that the texts denote under a list or tuple annotation. Raises BadValue."""
    plain, _ = optional_of(annotation)
    values = [convert(item, element_of(plain)) for item in items]
    return tuple(values) if plain is tuple or get_origin(plain) is tuple else values


def shell_words(text: str) -> list[str]:
    """The words of a text, quoted as for a shell. Raises BadValue for a quote without an end."""
    try:
        return shlex.split(text)
    except ValueError:
        raise BadValue(text, "a list of words with balanced quotes") from None


def written(value: object) -> str:
    """A scalar value in the form of the manifest; `convert` reverses it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value.value) if isinstance(value, enum.Enum) else str(value)


def _listed(plain: Any) -> Sequence[object]:
    if plain is bool:
        return (True, False)
    if get_origin(plain) is Literal:
        return get_args(plain)
    return list(plain) if isinstance(plain, type) and issubclass(plain, enum.Enum) else ()


def _convert_union(text: str, union: Any) -> Any:
    for option in get_args(union):
        try:
            return convert(text, option)
        except BadValue:
            continue
    raise BadValue(text, expected(union), choices(union))
