"""The tables of docs/reference/api.md, generated from the operations and the schemas.

    python -m dcd.api.reference docs/reference

writes them between the marks in the page, and openapi.json beside it; a test compares both.
"""

import json
import re
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dcd.api.openapi import document, render
from dcd.api.operations import Operation

NOTES = {
    "health": (
        "`warning` when the event log has lost events; 503 with a problem while events cannot be "
        "appended, a part of the state directory is gone or read-only, or the daemon stops"
    ),
    "configuration": "`waiting` is the value after a restart, if it differs",
    "reload": "the settings in `waiting` need a restart",
    "collect": "removes unneeded data, then layers over `max_bytes`, least recently used first",
    "backup": "the header Repr-Digest has its sha256 (RFC 9530)",
    "verify_layer": "a damaged layer is never used again",
    "put_blob": (
        "the body is the file; 200 when the user has sent it before, 400 when its digest differs"
    ),
    "validate": "200 even for an invalid manifest, with `ok` false",
    "plan": (
        "`action` is `run`, `reuse`, `unavailable` (it cannot run here, so a submit is "
        "refused) or `unknown` (a repository is unreachable); `key` is empty from the "
        "first such checkpoint on"
    ),
    "submit": "200 for an idempotency key that the user has already sent with the same content",
    "list_builds": "`next` is the `before` of the next page",
    "resume": "with a manifest, `kept` and `rerun` say which checkpoints are kept and why others run",
    "shell": (
        "for root; one line of JSON, then nothing: the workspace is removed when the "
        "connection ends"
    ),
    "events": (
        "with `Accept: text/event-stream` a stream, which starts after `Last-Event-ID` or `after`"
    ),
    "all_events": (
        "the stream has no end; `after` is the `position` of a list of builds, so that nothing is lost "
        "between the two"
    ),
    "log": "at most 8 MiB; use a larger `offset` for the rest",
    "doc": (
        "after checkpoint `at`, or the last completed one; an object has `path` and "
        "`xml`, an attribute `value`"
    ),
    "metrics": "see [metrics.md](metrics.md)",
}
"""Notes for authors of clients, beyond the types of operations."""

BEGIN, END = "<!-- made by python -m dcd.api.reference -->", "<!-- end -->"


def page(text: str, operations: tuple[Operation, ...]) -> str:
    """The text of the page with its tables renewed."""
    parts = re.split(f"({re.escape(BEGIN)}|{re.escape(END)})", text)
    made = [_operations(operations), _types(operations)]
    places = [index + 1 for index, part in enumerate(parts) if part == BEGIN]
    for place, table in zip(places, made, strict=True):
        parts[place] = f"\n\n{table}\n"
    return "".join(parts)


def _operations(operations: tuple[Operation, ...]) -> str:
    lines = ["| method and path | does | body | answers |", "|---|---|---|---|"]
    for operation in operations:
        query = "&".join(f"{parameter.name}=" for parameter in operation.query)
        path = f"{operation.path}?{query}" if query else operation.path
        does = "; ".join(filter(None, (operation.summary, NOTES.get(operation.name))))
        cells = (f"`{operation.method} {path}`", does, _body(operation), _answer(operation))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _body(operation: Operation) -> str:
    if operation.raw_request:
        return "bytes"
    return f"`{operation.request.__name__}`" if operation.request else ""


def _answer(operation: Operation) -> str:
    statuses = ", ".join(map(str, (operation.status, *operation.also)))
    named = operation.response is not None and operation.response is not dict
    kind = operation.response.__name__ if named and operation.response else operation.media_type
    return f"{statuses} `{kind}`"


def _types(operations: tuple[Operation, ...]) -> str:
    components = document(operations, "")["components"]["schemas"]
    return "\n".join(line for name in sorted(components) for line in _type(name, components[name]))


def _type(name: str, schema: dict[str, Any]) -> Iterator[str]:
    described = " ".join(schema.get("description", "").split())
    yield f"### {name}\n\n{described}\n"
    if properties := schema.get("properties"):
        required = schema.get("required", ())
        yield "| field | type | default |\n|---|---|---|"
        for field, value in properties.items():
            default = "required" if field in required else f"`{json.dumps(value.get('default'))}`"
            yield f"| `{field}` | {_kind(value)} | {default} |"
        yield ""


def _kind(value: dict[str, Any]) -> str:
    if reference := value.get("$ref"):
        name = reference.rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if options := value.get("anyOf"):
        return " or ".join(_kind(option) for option in options)
    if "enum" in value:
        return " or ".join(f"`{choice}`" for choice in value["enum"])
    match value.get("type"):
        case "array":
            return f"list of {_kind(value.get('items', {}))}"
        case "object" if isinstance(value.get("additionalProperties"), dict):
            return f"object of {_kind(value['additionalProperties'])}"
        case "integer" if "minimum" in value and "maximum" in value:
            return f"integer from {value['minimum']} to {value['maximum']}"
        case "string" if "maxLength" in value:
            return f"string of at most {value['maxLength']} characters"
        case "string" if "format" in value:
            return str(value["format"])
        case None:
            return "any"
        case kind:
            return str(kind)


if __name__ == "__main__":
    from dcd.api.app import OPERATIONS

    directory = Path(sys.argv[1])
    place = directory / "api.md"
    place.write_text(page(place.read_text(), OPERATIONS))
    (directory / "openapi.json").write_text(render(OPERATIONS, version("dcd")))
