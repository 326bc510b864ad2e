"""Errors as the API reports them: problem details for HTTP, RFC 9457."""

from http import HTTPStatus

import msgspec
from starlette.responses import Response

from dcd.api.schemas import Problem
from dcd.manifest.diagnostics import without_middle
from statemachine.errors import DcdError

STATUSES = {
    "usage": HTTPStatus.BAD_REQUEST,
    "permission": HTTPStatus.FORBIDDEN,
    "not-found": HTTPStatus.NOT_FOUND,
    "refused": HTTPStatus.CONFLICT,
    "removed": HTTPStatus.GONE,
    "invalid-manifest": HTTPStatus.UNPROCESSABLE_ENTITY,
    "inputs-missing": HTTPStatus.UNPROCESSABLE_ENTITY,
    "unprepared": HTTPStatus.FAILED_DEPENDENCY,
    "bad-key": HTTPStatus.FAILED_DEPENDENCY,
    "too-many-requests": HTTPStatus.TOO_MANY_REQUESTS,
    "client-left": 499,  # nginx's status; never sent
    "unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "checkpoint-failed": HTTPStatus.INTERNAL_SERVER_ERROR,
    "no-package-database": HTTPStatus.INTERNAL_SERVER_ERROR,
    "internal": HTTPStatus.INTERNAL_SERVER_ERROR,
}
"""The HTTP status for each `DcdError.problem`. An error of HTTP itself has its own `status`."""

PROBLEM_TYPE = "urn:dcd:problem:"

LONGEST_LINE, LONGEST_TEXT = 1000, 32_000
"""The maximum length of a title and of the other texts, since each may contain names from the
request."""


def problem_response(error: DcdError, status: int | None = None) -> Response:
    """The response for an error, with the HTTP `status` of its problem unless another is given."""
    status = status or status_of(error)
    body = problem_json(error, status)
    return Response(body, status, media_type="application/problem+json")


def status_of(error: DcdError) -> int:
    """The HTTP status for an error."""
    return int(getattr(error, "status", STATUSES[error.problem]))


def problem_json(error: DcdError, status: int | None = None) -> bytes:
    """An error as problem details without empty members. The member `status` equals the HTTP status
    (RFC 9457, section 3.1.2)."""
    problem = Problem(
        type=PROBLEM_TYPE + error.problem,
        title=without_middle(error.brief, LONGEST_LINE),
        status=status or status_of(error),
        detail=without_middle(error.details, LONGEST_TEXT),
        resolution=without_middle(error.resolution, LONGEST_TEXT),
        diagnostics=getattr(error, "diagnostics", None),
        missing=getattr(error, "missing", None) or None,
    )
    members = msgspec.to_builtins(problem)
    return msgspec.json.encode({key: value for key, value in members.items() if value is not None})
