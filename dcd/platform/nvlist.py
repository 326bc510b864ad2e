"""Name-value lists in XDR, as ZFS writes them into labels.

`parse` and `encode` are inverse to each other, byte for byte, for every list that libnvpair writes. A list is
not a dictionary: it keeps order, types and duplicate names. Malformed data raises `NvListError`; nothing is
read past the end of the data, and lists nest at most `MAX_DEPTH` deep. Pure.

Source: libnvpair(3LIB), the on-disk format of XDR-encoded nvlists; RFC 4506 (XDR).
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

from statemachine.errors import DcdError

MAX_DEPTH = 32
_XDR, _LITTLE_ENDIAN = 1, 1


class NvListError(DcdError):
    """Bytes that are not a name-value list, or values that do not fit their types."""


class NvType(IntEnum):
    """The types of values, by their numbers on disk (data_type_t)."""

    BOOLEAN = 1
    BYTE = 2
    INT16 = 3
    UINT16 = 4
    INT32 = 5
    UINT32 = 6
    INT64 = 7
    UINT64 = 8
    STRING = 9
    BYTE_ARRAY = 10
    INT16_ARRAY = 11
    UINT16_ARRAY = 12
    INT32_ARRAY = 13
    UINT32_ARRAY = 14
    INT64_ARRAY = 15
    UINT64_ARRAY = 16
    STRING_ARRAY = 17
    HRTIME = 18
    NVLIST = 19
    NVLIST_ARRAY = 20
    BOOLEAN_VALUE = 21
    INT8 = 22
    UINT8 = 23
    BOOLEAN_ARRAY = 24
    INT8_ARRAY = 25
    UINT8_ARRAY = 26
    DOUBLE = 27


_NUMBERS: dict[NvType, tuple[str, int]] = {
    NvType.BYTE: ("I", 1),
    NvType.INT8: ("i", 1),
    NvType.UINT8: ("I", 1),
    NvType.INT16: ("i", 2),
    NvType.UINT16: ("I", 2),
    NvType.INT32: ("i", 4),
    NvType.UINT32: ("I", 4),
    NvType.BOOLEAN_VALUE: ("I", 4),
    NvType.INT64: ("q", 8),
    NvType.UINT64: ("Q", 8),
    NvType.HRTIME: ("q", 8),
    NvType.DOUBLE: ("d", 8),
}
"""The format of a number in XDR, and its size in the memory of a reader."""

_ARRAYS = {
    NvType.INT8_ARRAY: NvType.INT8,
    NvType.UINT8_ARRAY: NvType.UINT8,
    NvType.INT16_ARRAY: NvType.INT16,
    NvType.UINT16_ARRAY: NvType.UINT16,
    NvType.INT32_ARRAY: NvType.INT32,
    NvType.UINT32_ARRAY: NvType.UINT32,
    NvType.INT64_ARRAY: NvType.INT64,
    NvType.UINT64_ARRAY: NvType.UINT64,
    NvType.BOOLEAN_ARRAY: NvType.BOOLEAN_VALUE,
}

_PAIR_HEADER, _LIST_HEADER, _POINTER = 16, 24, 8
"""Sizes of nvpair_t, nvlist_t and a pointer in a reader's memory; the pair's decoded size counts them."""


@dataclass(frozen=True, slots=True)
class NvPair:
    """A name and its value: an int, bool, float, str, bytes, `NvList`, or a tuple of them, according to
    `type`; None for BOOLEAN, whose presence is its value. Text that is not UTF-8 keeps its bytes as
    surrogates."""

    name: str
    type: NvType
    value: Any = None


@dataclass(frozen=True, slots=True)
class NvList:
    """A list of pairs. `flags` 1 means that names are unique."""

    pairs: tuple[NvPair, ...] = ()
    flags: int = 1
    version: int = 0

    def get(self, name: str, kind: NvType) -> Any:
        """The value of the first pair of that name and type, or None."""
        found = (pair for pair in self.pairs if pair.name == name and pair.type == kind)
        return next((pair.value for pair in found), None)

    def with_value(self, name: str, kind: NvType, value: Any) -> "NvList":
        """The list with a single pair of that name: in place of the first one, or at the end. With the value
        None, without pairs of that name."""
        if value is None:
            return replace(self, pairs=tuple(p for p in self.pairs if p.name != name))
        pair = NvPair(name, kind, value)
        places = [number for number, p in enumerate(self.pairs) if p.name == name]
        if not places:
            return replace(self, pairs=(*self.pairs, pair))
        kept = [p for n, p in enumerate(self.pairs) if n == places[0] or n not in places]
        return replace(self, pairs=tuple(pair if p.name == name else p for p in kept))


def parse(data: bytes) -> tuple[NvList, int]:
    """The list at the beginning of `data`, and its length in bytes. Raises NvListError."""
    if len(data) < 4 or data[0] != _XDR or data[1] > _LITTLE_ENDIAN:
        raise NvListError(
            "the data is not a name-value list in XDR", f"It begins with {data[:4]!r}."
        )
    reader = _Reader(data, 4)
    return _read_list(reader, 0), reader.at


def encode(nvlist: NvList) -> bytes:
    """The list as bytes, with the header that `parse` expects. Raises NvListError for a value that does not
    fit its type."""
    try:
        return bytes((_XDR, _LITTLE_ENDIAN, 0, 0)) + _written_list(nvlist)
    except (struct.error, UnicodeEncodeError, AttributeError, TypeError) as failure:
        raise NvListError("a value does not fit its type", str(failure)) from failure


class _Reader:
    """The bytes, and the present position in them."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at

    def take(self, size: int) -> bytes:
        if size < 0 or self.at + size > len(self.data):
            raise NvListError(
                "the name-value list is truncated",
                f"{size} bytes are needed at {self.at} of {len(self.data)}.",
            )
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, form: str) -> Any:
        return struct.unpack(f">{form}", self.take(struct.calcsize(form)))[0]

    def opaque(self, size: int) -> bytes:
        taken = self.take(size)
        self.take(-size % 4)
        return taken

    def string(self) -> str:
        return self.opaque(self.number("I")).decode("utf-8", "surrogateescape")


def _read_list(reader: _Reader, depth: int) -> NvList:
    if depth > MAX_DEPTH:
        raise NvListError("the name-value list is nested too deep", f"The limit is {MAX_DEPTH}.")
    version, flags = reader.number("i"), reader.number("I")
    pairs: list[NvPair] = []
    while True:
        begin = reader.at
        encoded, decoded = reader.number("I"), reader.number("I")
        if encoded == 0 and decoded == 0:
            return NvList(tuple(pairs), flags, version)
        pair = _read_pair(reader, depth)
        if reader.at - begin != encoded:
            raise NvListError(
                f"the size of the pair {pair.name!r} is wrong",
                f"It is {encoded} bytes in the data, and {reader.at - begin} in fact.",
            )
        pairs.append(pair)


def _read_pair(reader: _Reader, depth: int) -> NvPair:
    name, number, count = reader.string(), reader.number("I"), reader.number("I")
    try:
        kind = NvType(number)
    except ValueError:
        raise NvListError(f"the pair {name!r} has an unknown type", str(number)) from None
    return NvPair(name, kind, _read_value(reader, kind, count, depth))


def _read_value(reader: _Reader, kind: NvType, count: int, depth: int) -> Any:
    if kind == NvType.BOOLEAN:
        return None
    if kind in _NUMBERS:
        return _number_of(kind, reader.number(_NUMBERS[kind][0]))
    match kind:
        case NvType.STRING:
            return reader.string()
        case NvType.BYTE_ARRAY:
            return reader.opaque(count)
        case NvType.STRING_ARRAY:
            return _several(reader, count, reader.string)
        case NvType.NVLIST:
            return _read_list(reader, depth + 1)
        case NvType.NVLIST_ARRAY:
            return _several(reader, count, lambda: _read_list(reader, depth + 1))
    element = _ARRAYS[kind]
    if reader.number("I") != count:
        raise NvListError("an array has two different lengths")
    form = _NUMBERS[element][0]
    return _several(reader, count, lambda: _number_of(element, reader.number(form)))


def _several(reader: _Reader, count: int, read: Callable[[], Any]) -> tuple[Any, ...]:
    # Each takes at least four bytes: a wrong length must not fill the memory.
    if count * 4 > len(reader.data) - reader.at:
        raise NvListError("an array is longer than the list", f"It claims {count} elements.")
    return tuple(read() for _ in range(count))


def _number_of(kind: NvType, number: Any) -> Any:
    if kind != NvType.BOOLEAN_VALUE:
        return number
    if number > 1:
        raise NvListError("a boolean is neither true nor false", str(number))
    return bool(number)


def _written_list(nvlist: NvList) -> bytes:
    pairs = b"".join(map(_written_pair, nvlist.pairs))
    return struct.pack(">iI", nvlist.version, nvlist.flags) + pairs + bytes(8)


def _written_pair(pair: NvPair) -> bytes:
    name, name_memory = _string(pair.name)
    value, memory = _written_value(pair.type, pair.value)
    body = name + struct.pack(">II", pair.type, _count(pair)) + value
    decoded = _aligned(_PAIR_HEADER + name_memory) + _aligned(memory)
    return struct.pack(">II", len(body) + 8, decoded) + body


def _written_value(kind: NvType, value: Any) -> tuple[bytes, int]:
    """The value in XDR, and its size in the memory of a reader."""
    match kind:
        case NvType.BOOLEAN:
            return b"", 0
        case NvType.STRING:
            return _string(value)
        case NvType.BYTE_ARRAY:
            return _padded(value), len(value)
        case NvType.STRING_ARRAY:
            texts = [_string(text) for text in value]
            return b"".join(data for data, _ in texts), sum(_POINTER + size for _, size in texts)
        case NvType.NVLIST:
            return _written_list(value), _LIST_HEADER
        case NvType.NVLIST_ARRAY:
            return b"".join(map(_written_list, value)), (_POINTER + _LIST_HEADER) * len(value)
    if kind in _NUMBERS:
        form, size = _NUMBERS[kind]
        return struct.pack(f">{form}", value), size
    form, size = _NUMBERS[_ARRAYS[kind]]
    return struct.pack(f">I{len(value)}{form}", len(value), *value), size * len(value)


def _count(pair: NvPair) -> int:
    if pair.type == NvType.BOOLEAN:
        return 0
    return len(pair.value) if isinstance(pair.value, tuple | bytes) else 1


def _string(text: str) -> tuple[bytes, int]:
    data = text.encode("utf-8", "surrogateescape")
    return struct.pack(">I", len(data)) + _padded(data), len(data) + 1


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _aligned(size: int) -> int:
    return size + -size % 8
