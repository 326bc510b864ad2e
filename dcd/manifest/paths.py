"""Path strings: names of places in the DOC, and `%{path}` references in strings.

    /name            children of that name or tag  //name         descendants of that name or tag
    /name[@Class]    of a class                    /name[#2]      the first two only
    //name[?3]       no deeper than three          /name.title    an attribute's value

The parts in brackets combine (`[@Disk#2?3]`); without a name, every object matches. All characters except
letters, digits, `_`, `-`, `~` are quoted as in a URL (`%2F`), so names may have dots and slashes. Attributes
that begin with an underscore are not accessible.

Source: the Caiman Unified Design's data object path strings.
"""

import re
from typing import Any
from urllib.parse import quote, unquote

from dcd.manifest.data_object import DataObject
from dcd.manifest.values import written
from statemachine.errors import DcdError, NotFound

_STEP = re.compile(
    r"(?P<axis>//?)(?P<name>[^/\[\].]*)"
    r"(\[(@(?P<cls>[A-Za-z_][\w.]*))?(#(?P<count>[0-9]+))?(\?(?P<depth>[0-9]+))?\])?"
    r"(?P<attributes>(\.[A-Za-z][A-Za-z0-9_]*)*)"
)
_NOTHING = object()
_REFERENCE = re.compile(r"%\{(?P<path>[^{}]*)\}")


class PathError(DcdError):
    """A path string that is malformed, or names an unknown class or attribute."""

    problem = "invalid-manifest"


def quote_name(name: str) -> str:
    """A name in its form in a path string."""
    return quote(name, safe="").replace(".", "%2E")


def object_path(found: DataObject) -> str:
    """The path from the root to the object; `find_path` finds it, and siblings of the same name."""
    if found.parent is None:
        return ""
    return f"{object_path(found.parent)}/{quote_name(found.name)}"


def find_path(start: DataObject, path: str) -> list[Any]:
    """The objects that the path names below `start`, or with a trailing attribute its values that are set;
    never an empty list. Raises NotFound when nothing matches, PathError for a malformed path."""
    found: list[Any] = [start]
    steps = parse_path(path)
    for number, step in enumerate(steps):
        found = [match for parent in found for match in _matches(parent, step, path)]
        if step["attributes"]:
            if number < len(steps) - 1:
                raise PathError(f"{path!r}: an attribute can only be last")
            for name in step["attributes"][1:].split("."):
                found = [
                    value for match in found if (value := _attribute(match, name, path)) is not None
                ]
    if not found:
        raise NotFound(f"nothing in the DOC matches {path!r}")
    return found


def parse_path(path: str) -> list[re.Match[str]]:
    """The steps of a path string. Raises PathError when it is malformed."""
    steps: list[re.Match[str]] = []
    position = 0
    text = path.rstrip("/") if path.strip("/") else path
    while position < len(text):
        step = _STEP.match(text, position)
        if step is None:
            raise PathError(
                f"{path!r} is not a path string",
                f"it is wrong from {text[position:]!r} on",
                "write /child, //descendant, /name[@Class#count?depth] or /name.attribute",
            )
        steps.append(step)
        position = step.end()
    if not steps:
        raise PathError("a path string is empty", "", "write /child or //descendant")
    return steps


def class_and_name(step: re.Match[str], path: str) -> tuple[type[DataObject], str]:
    """The class and the name ("": any) in a step of a path. Raises PathError."""
    return (_class(step["cls"], path) if step["cls"] else DataObject), unquote(step["name"])


def references(text: str) -> list[str]:
    """The paths in the text's references `%{path}`."""
    return [reference["path"] for reference in _REFERENCE.finditer(text)]


def substitute(start: DataObject, text: str, separator: str = ",", quoted: bool = False) -> str:
    """The text with each `%{path}` replaced by the values found below `start`, joined by `separator`,
    each in single quotes with `quoted`. Raises NotFound and PathError."""

    def values(reference: re.Match[str]) -> str:
        found = [
            match.name if isinstance(match, DataObject) else written(match)
            for match in find_path(start, reference["path"])
        ]
        return separator.join(f"'{value}'" if quoted else value for value in found)

    return _REFERENCE.sub(values, text)


def _matches(parent: Any, step: re.Match[str], path: str) -> list[DataObject]:
    class_type, name = class_and_name(step, path)
    count = int(step["count"]) if step["count"] else None
    depth = int(step["depth"]) if step["depth"] else None
    if 0 in (count, depth):
        raise PathError(f"{path!r}: a limit of 0 finds nothing; it must be at least 1")
    found: list[DataObject] = parent.get_descendants(
        None, class_type, max_depth=1 if step["axis"] == "/" else depth
    )
    return [match for match in found if not name or name in (match.name, match.TAG)][:count]


def _class(name: str, path: str) -> type[DataObject]:
    """The data object class with this name, or module and name. Raises PathError."""
    pending: list[type[DataObject]] = [DataObject]
    while pending:
        cls = pending.pop()
        if name in (cls.__name__, f"{cls.__module__}.{cls.__qualname__}"):
            return cls
        pending.extend(cls.__subclasses__())
    raise PathError(f"{path!r}: there is no data object class {name!r}")


def _attribute(found: Any, name: str, path: str) -> Any:
    value = getattr(found, name, _NOTHING)
    if value is _NOTHING or callable(value):
        raise PathError(f"{path!r}: {found!r} has no attribute {name!r}")
    return value
