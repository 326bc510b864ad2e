"""Dataclasses as plain JSON values, and back, with the standard library alone.

For processes that import nothing else: `as_plain` gives what json can encode, `from_plain` rebuilds a value
of a type and accepts nothing that the type does not describe. Types: dataclasses, str, int, float, bool,
None, Path, unions with None, tuples, collections of one type, dictionaries with str keys, and Any.
"""

import types
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path, PurePath
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")

_LISTS = (tuple, Collection, Iterable, Sequence)


def as_plain(value: Any) -> Any:
    """A value as JSON values: dataclasses and mappings become dictionaries, sequences and sets lists, paths
    strings."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: as_plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): as_plain(each) for key, each in value.items()}
    if isinstance(value, Sequence | Set) and not isinstance(value, str | bytes):
        return [as_plain(each) for each in value]
    return value


def from_plain(kind: type[T], value: object, *, newer: bool = False) -> T:
    """The value of type `kind` that JSON values describe. With `newer`, unknown fields are ignored, as in a
    file that a later version wrote. Raises ValueError, naming the place."""
    return _Reader(newer).read(kind, value, "")  # type: ignore[no-any-return]


class _Reader:
    def __init__(self, newer: bool) -> None:
        self._newer = newer

    def read(self, kind: Any, value: Any, at: str) -> Any:
        origin, arguments = get_origin(kind), get_args(kind)
        if kind is Any:
            return value
        if origin in (Union, types.UnionType):
            return self._union(arguments, value, at)
        if origin in _LISTS and isinstance(value, list):
            fixed = origin is tuple and arguments[-1] is not Ellipsis
            if fixed and len(arguments) != len(value):
                raise ValueError(
                    f"{at or 'the value'} has {len(value)} parts, not {len(arguments)}"
                )
            kinds = arguments if fixed else (arguments[0],) * len(value)
            pairs = enumerate(zip(kinds, value, strict=True))
            return tuple(self.read(kind, each, f"{at}[{i}]") for i, (kind, each) in pairs)
        if origin in (dict, Mapping) and isinstance(value, dict):
            return {
                key: self.read(arguments[1], each, f"{at}.{key}") for key, each in value.items()
            }
        if kind is float and type(value) is int:
            return float(value)
        if kind is Path and isinstance(value, str) and "\0" not in value:
            return Path(value)
        if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, dict):
            return self._dataclass(kind, value, at)
        if kind in (str, int, float, bool, types.NoneType) and type(value) is kind:
            return value
        raise ValueError(f"{at or 'the value'} is {type(value).__name__}, not {kind}")

    def _union(self, kinds: Sequence[Any], value: Any, at: str) -> Any:
        if value is None and types.NoneType in kinds:
            return None
        (kind,) = (each for each in kinds if each is not types.NoneType)
        return self.read(kind, value, at)

    def _dataclass(self, kind: type[Any], value: dict[str, Any], at: str) -> Any:
        hints = _hints(cast(Hashable, kind))
        unknown = set(value) - set(hints)
        missing = _required(cast(Hashable, kind)) - set(value)
        if missing or (unknown and not self._newer):
            wrong = sorted(missing or unknown)
            raise ValueError(
                f"{at or kind.__name__}: {'missing' if missing else 'unknown'}: {wrong}"
            )
        return kind(
            **{
                name: self.read(hints[name], each, f"{at}.{name}")
                for name, each in value.items()
                if name in hints
            }
        )


@cache
def _hints(kind: Hashable) -> dict[str, Any]:
    assert isinstance(kind, type)
    hints = get_type_hints(kind)
    return {each.name: hints[each.name] for each in fields(kind)}


@cache
def _required(kind: Hashable) -> frozenset[str]:
    assert isinstance(kind, type)
    return frozenset(
        each.name
        for each in fields(kind)
        if each.default is MISSING and each.default_factory is MISSING
    )
