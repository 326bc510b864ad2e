"""SQL that SQLite and PostgreSQL spell differently.

PostgreSQL reads documents with `dcd_json`, since its own functions refuse the escape of the character NUL.
"""

from collections.abc import Collection
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

Path = str | int
"""A name in an object, or an index in an array."""


class _Position(FunctionElement[int]):
    type = sa.Integer()
    inherit_cache = True
    name = "position"


class _Extract(FunctionElement[str]):
    type = sa.Text()
    inherit_cache = True
    name = "extract"


class _Items(FunctionElement[str]):
    type = sa.Text()
    inherit_cache = True
    name = "items"


class _Values(FunctionElement[str]):
    type = sa.Text()
    inherit_cache = True
    name = "values"


def position(within: sa.ColumnElement[str], of: str) -> sa.ColumnElement[int]:
    """The place of a text in another, from 1; 0 when it is not there."""
    return _Position(within, sa.literal(of))


def extract(document: sa.ColumnElement[Any], *path: Path) -> sa.ColumnElement[Any]:
    """What is at a path in JSON; NULL when it is not there. PostgreSQL returns numbers as text."""
    return _Extract(document, *_both(path))


def items(document: sa.ColumnElement[Any], *path: Path) -> sa.TableValuedAlias:
    """The items of an array at a path in JSON, as rows with a text `value`; none when it is not there."""
    return _Items(document, *_both(path)).table_valued("value")


def values(document: sa.ColumnElement[Any], *path: Path) -> sa.TableValuedAlias:
    """The values of an object at a path in JSON, as `items`."""
    return _Values(document, *_both(path)).table_valued("key", "value")


def any_of(texts: Collection[str]) -> sa.Select[Any]:
    """The texts as rows, in one parameter: databases limit the number of parameters."""
    return sa.select(items(sa.literal(msgspec.json.encode(list(texts)).decode())).c.value)


def _both(path: tuple[Path, ...]) -> tuple[sa.ColumnElement[Any], ...]:
    """A path, which the program knows, in the notations of SQLite and PostgreSQL."""
    steps = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    names = ",".join(str(step) for step in path)
    return sa.literal_column(f"'${steps}'"), sa.literal_column(f"'{{{names}}}'")


def _arguments(element: FunctionElement[Any], compiler: SQLCompiler, **options: Any) -> list[str]:
    return [compiler.process(clause, **options) for clause in element.clauses]


@compiles(_Position, "sqlite")
def _(element: _Position, compiler: SQLCompiler, **options: Any) -> str:
    return "instr({}, {})".format(*_arguments(element, compiler, **options))


@compiles(_Position, "postgresql")
def _(element: _Position, compiler: SQLCompiler, **options: Any) -> str:
    return "strpos({}, {})".format(*_arguments(element, compiler, **options))


@compiles(_Extract, "sqlite")
def _(element: _Extract, compiler: SQLCompiler, **options: Any) -> str:
    return "json_extract({}, {})".format(*_arguments(element, compiler, **options))


@compiles(_Extract, "postgresql")
def _(element: _Extract, compiler: SQLCompiler, **options: Any) -> str:
    return "(dcd_json({0}) #>> {2})".format(*_arguments(element, compiler, **options))


@compiles(_Items, "sqlite")
@compiles(_Values, "sqlite")
def _(element: FunctionElement[Any], compiler: SQLCompiler, **options: Any) -> str:
    return "json_each({}, {})".format(*_arguments(element, compiler, **options))


@compiles(_Items, "postgresql")
def _(element: _Items, compiler: SQLCompiler, **options: Any) -> str:
    document, _, path = _arguments(element, compiler, **options)
    return f"json_array_elements_text(dcd_json({document}) #> {path})"


@compiles(_Values, "postgresql")
def _(element: _Values, compiler: SQLCompiler, **options: Any) -> str:
    document, _, path = _arguments(element, compiler, **options)
    return f"json_each_text(dcd_json({document}) #> {path})"
