"""Errors as the API tells them: problem details for HTTP, RFC 9457."""

import msgspec
from starlette.responses import Response

from dcd.api.schemas import Problem
from dcd.manifest.diagnostics import without_middle
from statemachine.errors import DcdError

PROBLEM_TYPE = "urn:dcd:problem:"

LONGEST_LINE, LONGEST_TEXT = 1000, 32_000
"""So many characters of a title, and of the other texts, are sent. A name of the request can be in any."""


def problem_response(error: DcdError, status: int | None = None) -> Response:
    """An error as an answer, with the HTTP `status` of the error's kind unless another is given."""
    status = status or error.status
    body = problem_json(error, status)
    return Response(body, status, media_type="application/problem+json")


def problem_json(error: DcdError, status: int | None = None) -> bytes:
    """An error as problem details; members that say nothing are left out. The member `status` is the one of
    the HTTP answer (RFC 9457, section 3.1.2)."""
    problem = Problem(
        type=PROBLEM_TYPE + error.problem,
        title=without_middle(error.brief, LONGEST_LINE),
        status=status or error.status,
        detail=without_middle(error.details, LONGEST_TEXT),
        resolution=without_middle(error.resolution, LONGEST_TEXT),
        diagnostics=getattr(error, "diagnostics", None),
        missing=getattr(error, "missing", None) or None,
    )
    members = msgspec.to_builtins(problem)
    return msgspec.json.encode({key: value for key, value in members.items() if value is not None})
