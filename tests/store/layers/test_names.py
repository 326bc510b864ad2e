"""Which names a program could look for, by the texts that it contains."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.layers.names import data_of, has_name

EXECUTABLE, LOADED = 4, 2


def elf(*sections: tuple[int, bytes]) -> bytes:
    """A program of 64 bits with these sections: their flags and contents."""
    contents = b"".join(content for _, content in sections)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, 64 + len(contents), 0, 64, 0, 0, 64, len(sections), 0
    )
    table, offset = b"", 64
    for flags, content in sections:
        table += struct.pack("<IIQQQQIIQQ", 0, 1, flags, 0, offset, len(content), 0, 0, 1, 0)
        offset += len(content)
    return header + contents + table


def names(program: bytes, name: bytes, only_paths: bool = False) -> bool:
    return has_name(program, data_of(program), name, only_paths)


@pytest.mark.parametrize(
    "text",
    [
        b"\0jq\0",
        b"\0/usr/bin/jq\0",
        b"\0jq --raw-output %s\0",
        b"\0test -e x && jq . %s\0",
        b"\0%s/jq is started\0",
        b"\0readers of lines: /usr/bin/jq, nothing else\x01",
        # The end of another text, which a linker stores once for both.
        b"\0libjq\0",
    ],
)
def test_a_text_that_a_program_can_look_for_counts(text: bytes) -> None:
    assert names(elf((LOADED, text)), b"jq")


@pytest.mark.parametrize(
    "text",
    [
        b"\0unknown jq option\0",
        b"\0jqs\0",
        b"\x13jq\x9a",
        b"\0ljq9\0",
    ],
)
def test_messages_tables_and_parts_of_words_do_not_count(text: bytes) -> None:
    assert not names(elf((LOADED, text)), b"jq")


def test_instructions_and_what_is_not_loaded_do_not_count() -> None:
    program = elf((LOADED, b"\0text\0"), (LOADED | EXECUTABLE, b"\0jq\0"), (0, b"\0jq\0"))
    assert not names(program, b"jq")
    assert names(program, b"text")


def test_a_library_names_programs_by_their_paths() -> None:
    library = elf((LOADED, b"\0tree\0/usr/sbin/unix_chkpwd\0%s/mount\0"))
    assert not names(library, b"tree", only_paths=True)
    assert names(library, b"unix_chkpwd", only_paths=True)
    assert names(library, b"mount", only_paths=True)


def test_names_of_libraries_count_wherever_they_are() -> None:
    assert names(elf((LOADED, b"text"), (0, b"\0libnew.so.2\0")), b"libnew.so.2")


def test_every_word_of_a_script_counts() -> None:
    assert names(b"#!/bin/sh\necho unknown jq option", b"jq")
    assert not names(b"#!/bin/sh\necho jqs", b"jq")


def test_every_word_of_a_program_without_a_table_of_sections_counts() -> None:
    assert names(elf()[:40] + b"\0" * 24 + b" an unknown jq option", b"jq")


def test_sections_that_overlap_are_not_unpacked() -> None:
    section = (LOADED, b"x" * 4096)
    program = elf(section)
    table = program[64 + 4096 :]
    many = bytearray(program + table * 500)
    struct.pack_into("<H", many, 60, 501)
    assert data_of(bytes(many)) is None


@given(st.binary(max_size=200))
def test_no_content_of_an_image_breaks_it(tail: bytes) -> None:
    for start in (b"", b"\x7fELF", b"\x7fELF\x02\x01", elf((LOADED, b"text"))[:60]):
        has_name(start + tail, data_of(start + tail), b"text")
