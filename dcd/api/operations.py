"""An operation: one method on one path, its types, and its handler.

The table of operations is the only description of the API: the router serves it, and
`dcd.api.openapi` turns it into the OpenAPI document.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dcd.api.handling import Api
from dcd.manifest.diagnostics import did_you_mean
from statemachine.errors import UsageError

Handler = Callable[[Api, Request], Awaitable[Response]]

Body = TypeVar("Body")


@dataclass(frozen=True, slots=True)
class QueryParameter:
    """A query parameter: an integer, or a string limited to `choices` or `pattern`."""

    name: str
    description: str
    kind: type[int] | type[str] = int
    minimum: int = 0
    maximum: int = 2**53 - 1
    choices: tuple[str, ...] = ()
    pattern: str = r"^[\x20-\x7e]{1,200}$"


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the API. `response` None means that the body is not JSON (`media_type`)."""

    method: str
    path: str
    handler: Handler
    summary: str
    response: type | None
    request: type | None = None
    raw_request: bool = False
    status: int = 200
    also: tuple[int, ...] = ()
    """Other success statuses with the same body."""
    query: tuple[QueryParameter, ...] = ()
    problems: tuple[int, ...] = ()
    media_type: str = "application/json"
    streams: bool = False
    """Responds with an event stream when the client accepts one."""

    @property
    def name(self) -> str:
        """The name of the operation: that of its handler."""
        return self.handler.__name__


def _check_query(request: Request, operation: Operation) -> None:
    """Raises UsageError for a query parameter that the operation does not have, or a duplicate one."""
    names = [parameter.name for parameter in operation.query]
    taken = f"{operation.name} takes {', '.join(names) or 'none'}"
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if name not in names:
            near = did_you_mean(name, names)
            raise UsageError(
                f"there is no query parameter {name[:100]!r} of {request.method} {operation.path}",
                taken,
                f"did you mean {near}?" if near else "",
            )
        if given.count(name) > 1:
            raise UsageError(f"query parameter {name} is given more than once", taken)


def json_response(value: Any, status: int = 200) -> Response:
    """`value` (dataclasses, datetimes and so on) as a JSON response."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


async def body_of(request: Request, schema: type[Body]) -> Body:
    """The request's JSON body, validated.

    A missing body counts as `{}`. Raises UsageError with the name of the wrong field.
    """
    content = await request.body() or b"{}"
    try:
        return msgspec.json.decode(content, type=schema, strict=True)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(
            "the request's body is not valid", str(error), "see /v1/openapi.json for its schema"
        ) from None


def integer(request: Request, parameter: QueryParameter, default: int) -> int:
    """A query parameter that is an integer in the parameter's range."""
    text, what = request.query_params.get(parameter.name), f"query parameter {parameter.name}"
    return default if text is None else whole_number(text, what, parameter)


def whole_number(text: str, what: str, parameter: QueryParameter) -> int:
    """The integer value of a text in the request, in the parameter's range. Raises UsageError."""
    if not re.fullmatch(r"[0-9]{1,16}", text) or not (
        parameter.minimum <= int(text) <= parameter.maximum
    ):
        raise UsageError(
            f"{what} must be an integer from {parameter.minimum} to {parameter.maximum}",
            f"got {text[:100]!r}",
        )
    return int(text)


def choice(request: Request, parameter: QueryParameter, default: str) -> str:
    """A query parameter that is one of the parameter's choices."""
    text = request.query_params.get(parameter.name, default)
    if text not in parameter.choices:
        raise UsageError(
            f"query parameter {parameter.name} must be one of {', '.join(parameter.choices)}",
            f"got {text[:100]!r}",
        )
    return text


def string(request: Request, parameter: QueryParameter) -> str | None:
    """A query parameter that matches the parameter's pattern, or None when it is missing."""
    text = request.query_params.get(parameter.name)
    if text is not None and not re.fullmatch(parameter.pattern, text):
        raise UsageError(
            f"query parameter {parameter.name} must match {parameter.pattern}",
            f"got {text[:100]!r}",
        )
    return text


def limit(default: int, maximum: int) -> QueryParameter:
    """The query parameter `limit` of a list."""
    return QueryParameter("limit", f"maximum number of items (default {default})", int, 1, maximum)


def routes(operations: tuple[Operation, ...], api: Api) -> list[Route]:
    """The operations as Starlette routes, with handlers that use `api`."""
    paths: dict[str, dict[str, Operation]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = operation
    return [
        Route(path, _dispatch(methods, api), methods=list(methods))
        for path, methods in paths.items()
    ]


def _dispatch(methods: dict[str, Operation], api: Api) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        # Starlette adds HEAD to GET.
        operation = methods["GET" if request.method == "HEAD" else request.method]
        request.scope["dcd.operation"] = operation.name
        _check_query(request, operation)
        return await operation.handler(api, request)

    return endpoint
