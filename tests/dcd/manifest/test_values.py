"""Values: text to annotated types and back."""

import enum
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcd.manifest.values import BadValue, convert, expected, size_bytes, written


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("true", bool, True),
        ("false", bool, False),
        (" 17 ", int, 17),
        ("-3", int, -3),
        ("\x1f4\x1f", int, 4),
        ("2.5", float, 2.5),
        ("1e3", float, 1000.0),
        ("/etc", Path, Path("/etc")),
        ("red", Colour, Colour.RED),
        ("gzip", Literal["gzip", "lzma"], "gzip"),
        ("9", Literal[1, 9], 9),
        ("a 'b c'", list[str], ["a", "b c"]),
        ("1 2", tuple[int, ...], (1, 2)),
        ("17", int | None, 17),
        ("auto", int | Literal["auto"], "auto"),
        ("4", int | Literal["auto"], 4),
    ],
)
def test_a_text_denotes_a_value_of_its_type(text: str, annotation: Any, value: object) -> None:
    converted = convert(text, annotation)
    assert (converted, type(converted)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "annotation", "wanted"),
    [
        ("no", bool, "true or false"),
        ("1", bool, "true or false"),
        ("1_000", int, "a whole number"),
        ("1.5", int, "a whole number"),
        ("9" * 5000, int, "a whole number"),
        ("nan", float, "a number"),
        ("1e999", float, "a number"),
        ("green", Colour, "red or blue"),
        ("x 1", list[int], "a whole number"),
        ("'a", list[str], "a list of words with balanced quotes"),
        ("none", int | Literal["auto"], "a whole number or auto"),
    ],
)
def test_another_text_is_refused_and_says_what_is_wanted(
    text: str, annotation: Any, wanted: str
) -> None:
    with pytest.raises(BadValue) as caught:
        convert(text, annotation)
    assert caught.value.expected == wanted


@given(st.booleans() | st.integers(-(10**17), 10**17) | st.sampled_from(Colour) | st.text())
def test_what_is_written_is_read_back(value: object) -> None:
    assert convert(written(value), type(value)) == value


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1b", 1),
        ("4kb", 4096),
        ("2k", 2048),
        ("1.5GiB", 3 << 29),
        ("1 tb", 1 << 40),
        ("3secs", 1536),
    ],
)
def test_sizes_have_units_of_powers_of_1024(text: str, size: int) -> None:
    assert size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "17", "gb", "1.2.3gb", "1 lightyear", "-1gb"])
def test_a_size_without_a_unit_is_refused(text: str) -> None:
    with pytest.raises(BadValue, match="a size with its unit"):
        size_bytes(text)


def test_expectations_are_phrases() -> None:
    assert expected(list[Literal["bios", "uefi"]]) == "a list of values, each bios or uefi"
    assert expected(Path | None) == "a path"
