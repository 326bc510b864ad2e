"""The OpenAPI 3.1 document, derived from the operations and the schemas.

Served at `/v1/openapi.json` and committed as docs/reference/openapi.json (a test compares the two).
`python -m dcd.api.reference` writes the file.
"""

import re
from inspect import cleandoc
from typing import Any

import msgspec

from dcd.api.operations import Operation, QueryParameter
from dcd.api.schemas import Problem

PATH_PARAMETERS: dict[str, dict[str, Any]] = {
    "id": {
        "description": "a build's id or a unique prefix of it",
        "schema": {"type": "string", "pattern": "^[a-z0-9-]{1,32}$"},
    },
    "sha256": {
        "description": "digest of the content, lower-case hex",
        "schema": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    },
    "key": {
        "description": "a layer's key",
        "schema": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    },
    "name": {
        "description": "a webhook's name",
        "schema": {"type": "string", "pattern": "^[a-z0-9][a-z0-9-]{0,39}$"},
    },
    "host": {
        "description": "the name of a member of the farm",
        "schema": {"type": "string", "pattern": "^[a-z0-9][a-z0-9.-]{0,62}$"},
    },
    "file": {
        "description": "the name of a file of an attempt",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9_+][A-Za-z0-9._+-]{0,199}$"},
    },
    "checkpoint": {
        "description": "a checkpoint's name",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"},
    },
    "artifact": {
        "description": "an artifact's name",
        "schema": {"type": "string", "pattern": "^[^./][^/]*$"},
    },
    "other": {
        "description": "another build, by its id or a prefix of it",
        "schema": {"type": "string"},
    },
    "attempt": {
        "description": "number of the attempt, from 1",
        "schema": {"type": "integer", "minimum": 1, "maximum": 1000000},
    },
}


def document(operations: tuple[Operation, ...], version: str) -> dict[str, Any]:
    """The OpenAPI document of the operations, as JSON values."""
    types: set[type] = {Problem}
    for operation in operations:
        types.update(t for t in (operation.request, operation.response) if t is not None)
    ordered = sorted(types, key=lambda t: t.__name__)
    references, components = msgspec.json.schema_components(
        ordered, ref_template="#/components/schemas/{name}"
    )
    schemas = dict(zip(ordered, references, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _describe(
            operation, schemas
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "dcd, the distribution constructor daemon",
            "version": version,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "Served over a Unix socket; see docs/reference/api.md.",
        },
        "paths": paths,
        "components": {"schemas": {name: _even(found) for name, found in components.items()}},
    }


def _even(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object as msgspec 0.23 describes it. Earlier versions keep the indentation of a
    docstring, and leave out the default of a field that is an empty object."""
    required = schema.get("required", ())
    properties = {
        name: value if name in required else {"default": {}} | value
        for name, value in schema.get("properties", {}).items()
    }
    even = schema | ({"properties": properties} if properties else {})
    return even | ({"description": cleandoc(text)} if (text := schema.get("description")) else {})


def _describe(operation: Operation, schemas: dict[type, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {
        operation.media_type: {
            "schema": schemas[operation.response] if operation.response else {"type": "string"}
        }
    }
    if operation.streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    problem = {"application/problem+json": {"schema": schemas[Problem]}}
    responses: dict[str, Any] = {
        str(status): {"description": "success", "content": content}
        for status in (operation.status, *operation.also)
    }
    for status in sorted({400, 403, 413, 429, 503, *operation.problems}):
        responses[str(status)] = {"description": "problem details", "content": problem}
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": [
            {"name": name, "in": "path", "required": True, **PATH_PARAMETERS[name]}
            for name in re.findall(r"{(\w+)}", operation.path)
        ]
        + [_query(parameter) for parameter in operation.query],
        "responses": responses,
    }
    body = {}
    if operation.raw_request:
        body = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    elif operation.request:
        body = {"application/json": {"schema": schemas[operation.request]}}
    return {**described, "requestBody": {"required": True, "content": body}} if body else described


def _query(parameter: QueryParameter) -> dict[str, Any]:
    schema: dict[str, Any]
    if parameter.kind is int:
        schema = {"type": "integer", "minimum": parameter.minimum, "maximum": parameter.maximum}
    elif parameter.choices:
        schema = {"type": "string", "enum": list(parameter.choices)}
    else:
        schema = {"type": "string", "pattern": parameter.pattern}
    return {
        "name": parameter.name,
        "in": "query",
        "required": False,
        "description": parameter.description,
        "schema": schema,
    }


def render(operations: tuple[Operation, ...], version: str) -> str:
    """The document as indented JSON text."""
    encoded = msgspec.json.encode(document(operations, version), order="deterministic")
    return msgspec.json.format(encoded, indent=1).decode() + "\n"
