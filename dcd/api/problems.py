"""Errors as the API tells them: problem details for HTTP, RFC 9457."""

import msgspec
from starlette.responses import Response

from dcd.api.schemas import Problem
from statemachine.errors import DcdError

PROBLEM_TYPE = "urn:dcd:problem:"


def problem_response(error: DcdError) -> Response:
    """An error as an answer."""
    return Response(problem_json(error), error.status, media_type="application/problem+json")


def problem_json(error: DcdError) -> bytes:
    """An error as problem details; members that say nothing are left out."""
    problem = Problem(
        type=PROBLEM_TYPE + error.problem,
        title=error.brief,
        status=error.status,
        detail=error.details,
        resolution=error.resolution,
        diagnostics=getattr(error, "diagnostics", None),
        missing=getattr(error, "missing", None) or None,
    )
    members = msgspec.to_builtins(problem)
    return msgspec.json.encode({key: value for key, value in members.items() if value is not None})
