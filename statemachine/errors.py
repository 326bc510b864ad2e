"""The one error hierarchy of the project.

Every error that a user can cause or correct is a `DcdError`: what happened (brief), where and why
(details), and what to do (resolution). Its class says which `problem` it is, so a command, a script and
a web client see the same error: the API maps it to an HTTP status (`dcd.api.problems`), the command
lines to exit codes. Lowest layer: imports nothing.
"""

from typing import ClassVar


class DcdError(Exception):
    """Something went wrong that a person should read about.

    `problem` is the last part of the problem type `urn:dcd:problem:<problem>` (RFC 9457).
    """

    problem: ClassVar[str] = "internal"

    def __init__(self, brief: str, details: str = "", resolution: str = "") -> None:
        super().__init__(brief)
        self.brief = brief
        self.details = details
        self.resolution = resolution

    def __str__(self) -> str:
        return "\n".join(part for part in (self.brief, self.details, self.resolution) if part)


class UsageError(DcdError):
    """A request that is malformed: bad JSON, a missing field, a value out of range."""

    problem = "usage"


class PermissionDenied(DcdError):
    """The peer may not do this."""

    problem = "permission"


class NotFound(DcdError):
    """No build, checkpoint, blob, artifact or log of that name."""

    problem = "not-found"


class Removed(NotFound):
    """The build was removed: its events are there, what it delivered and printed is not."""

    problem = "removed"


class Refused(DcdError):
    """The state machine does not allow this command in the present state."""

    problem = "refused"


class InvalidManifest(DcdError):
    """The manifest cannot be built as it stands. `dcd.manifest` subclasses it with diagnostics."""

    problem = "invalid-manifest"


class Unprepared(DcdError):
    """The host lacks something the plan needs: a tool, space, a privilege, a reachable mirror."""

    problem = "unprepared"


class Unavailable(DcdError):
    """The daemon cannot serve now: it is stopping, or its store has failed."""

    problem = "unavailable"


class TooManyRequests(DcdError):
    """A client asks for more than its share."""

    problem = "too-many-requests"


class LostEvents(DcdError):
    """The event log holds less than it once did. Told, not raised: the daemon serves all the same."""


class CheckpointError(DcdError):
    """A checkpoint could not do its work. Raised by `execute`, recorded in CheckpointFailed."""

    problem = "checkpoint-failed"
