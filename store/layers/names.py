"""Whether a program could look for a name: by the texts that it contains.

A file that is no ELF program, a script for instance, could look for each word in it. An ELF program looks
for texts in its data, not for what its instructions look like: a name of two letters is in most of them. A
text is a run of printable characters that ends with a zero, or is long. In one with spaces, most of them
messages, the name has to be where a command or the last part of a path can be. Linkers store a text that is
the end of another one only once, so the end of a word counts. A name of a library counts anywhere, since what
a program is linked with is not in its data.

Contents are those of images: nothing in them is relied on. Source: elf(5).
"""

import re
import struct

LEAST_UNENDED = 16
"""Characters of a text that does not end with a zero: there are languages whose texts do not."""

MOST_AROUND = 200
"""How far the beginning and the end of a text are looked for."""

_EXECUTABLE, _LOADED, _PROGRAM_DATA = 0x4, 0x2, 1
_UNPRINTABLE = re.compile(rb"[^\t\n\x20-\x7e]")
_SPACE = re.compile(rb"\s")
_COMMAND = re.compile(rb"(?:^|[;&|(`'\"$={}/\n])[ \t]*\Z")


def data_of(content: bytes) -> bytes | None:
    """The loaded data of an ELF program without its instructions. None if the content is none, or one without
    a table of sections that makes sense."""
    if content[:4] != b"\x7fELF":
        return None
    try:
        return _data_of(content)
    except (struct.error, IndexError):
        return None


def _data_of(content: bytes) -> bytes | None:
    order, is_64 = "<" if content[5] == 1 else ">", content[4] == 2
    (start,) = struct.unpack_from(f"{order}{'Q' if is_64 else 'I'}", content, 40 if is_64 else 32)
    size, count = struct.unpack_from(f"{order}HH", content, 58 if is_64 else 46)
    section = f"{order}{'IIQQQQ' if is_64 else 'IIIIII'}"
    found: list[bytes] = []
    for number in range(count):
        at = start + number * size
        _, kind, flags, _, offset, length = struct.unpack_from(section, content, at)
        if kind == _PROGRAM_DATA and flags & _LOADED and not flags & _EXECUTABLE:
            found.append(content[offset : offset + length])
            if sum(map(len, found)) > len(content):
                return None
    return b"\0".join(found) if found else None


def has_name(content: bytes, data: bytes | None, name: bytes, only_paths: bool = False) -> bool:
    """Whether a program could look for the name. `data` is that of `data_of`. `only_paths`: only as the last
    part of a path, as libraries name programs."""
    if name not in content:
        return False
    literal = re.escape(name)
    if data is None or b".so" in name:
        pattern = rb"(?<![\w.+-])" + literal + rb"(?![\w.+-])|" + literal + rb"\0"
        return re.search(pattern, content) is not None
    before = rb"(?<=/)" if only_paths else rb"(?<![\w.+-])"
    pattern = before + literal + rb"(?![\w.+-])"
    if not only_paths:
        pattern += rb"|" + literal + rb"(?=\0)"
    return any(_is_looked_for(data, match.span()) for match in re.finditer(pattern, data))


def _is_looked_for(data: bytes, span: tuple[int, int]) -> bool:
    start, end = span
    before = _printable(data[max(0, start - MOST_AROUND) : start][::-1])[::-1]
    after = _printable(data[end : end + MOST_AROUND])
    ends = data[end + len(after) : end + len(after) + 1]
    text = before + data[start:end] + after
    if ends != b"\0" and len(text) < LEAST_UNENDED:
        return False
    return _SPACE.search(text) is None or _COMMAND.search(before) is not None


def _printable(text: bytes) -> bytes:
    end = _UNPRINTABLE.search(text)
    return text if end is None else text[: end.start()]
