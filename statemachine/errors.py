"""The one error hierarchy of the project.

Every error that a user can cause or can mend is a `DcdError`: what happened (brief), where and why
(details), and what to do (resolution). Its class fixes the exit code of `dcctl` and the HTTP problem
type (RFC 9457) of the API, so a command, a script and a web client see the same error. Lowest layer:
imports nothing.
"""

from typing import ClassVar


class DcdError(Exception):
    """Something went wrong that a person should read about.

    `problem` is the last part of the problem type `urn:dcd:problem:<problem>`, `status` the HTTP
    status, `exit_code` the exit code of `dcctl` (the table is in docs/reference/exit-codes.md).
    """

    problem: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(self, brief: str, details: str = "", resolution: str = "") -> None:
        super().__init__(brief)
        self.brief = brief
        self.details = details
        self.resolution = resolution

    def __str__(self) -> str:
        return "\n".join(part for part in (self.brief, self.details, self.resolution) if part)


class UsageError(DcdError):
    """A request that is malformed: bad JSON, a missing field, a value out of range."""

    problem, status, exit_code = "usage", 400, 2


class PermissionDenied(DcdError):
    """The peer may not do this."""

    problem, status, exit_code = "permission", 403, 10


class NotFound(DcdError):
    """No build, checkpoint, blob, artifact or log of that name."""

    problem, status, exit_code = "not-found", 404, 7


class Removed(NotFound):
    """The build was removed: its events are there, what it delivered and printed is not."""

    problem, status = "removed", 410


class Refused(DcdError):
    """The state machine does not allow this command in the present state."""

    problem, status, exit_code = "refused", 409, 6


class InvalidManifest(DcdError):
    """The manifest cannot be built as it stands. `dcd.manifest` subclasses it with diagnostics."""

    problem, status, exit_code = "invalid-manifest", 422, 8


class Unprepared(DcdError):
    """The host lacks something the plan needs: a tool, space, a privilege, a reachable mirror."""

    problem, status, exit_code = "unprepared", 424, 11


class Unavailable(DcdError):
    """The daemon cannot serve now: it is stopping, or its store has failed."""

    problem, status, exit_code = "unavailable", 503, 9


class TooManyRequests(DcdError):
    """A client asks for more than its share."""

    problem, status, exit_code = "too-many-requests", 429, 9


class LostEvents(DcdError):
    """The event log holds less than it once did. Told, not raised: the daemon serves all the same."""


class CheckpointError(DcdError):
    """A checkpoint could not do its work. Raised by `execute`, recorded in CheckpointFailed."""

    problem, status, exit_code = "checkpoint-failed", 500, 3
