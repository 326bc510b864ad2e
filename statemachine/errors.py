"""The error hierarchy of the project.

Every error that a user can cause or correct is a `DcdError`: what happened (brief), where and why
(details), and what to do (resolution). Its class sets its `problem`, so a command, a script and
a web client see the same error: the API maps it to an HTTP status (`dcd.api.problems`), the command
lines to exit codes. Lowest layer: imports nothing.
"""

from typing import ClassVar


class DcdError(Exception):
    """An error for people.

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
    """The build was removed: its events are kept, its artifacts and logs are gone."""

    problem = "removed"


class Refused(DcdError):
    """The state machine does not allow this command in the present state."""

    problem = "refused"


class InvalidManifest(DcdError):
    """The manifest has errors. `dcd.manifest` subclasses it with diagnostics."""

    problem = "invalid-manifest"


class Unprepared(DcdError):
    """The host lacks a requirement of the plan: a tool, space, a privilege, a reachable mirror."""

    problem = "unprepared"


class Unavailable(DcdError):
    """The daemon cannot serve now: it is stopping, or its store has failed."""

    problem = "unavailable"


class TooManyRequests(DcdError):
    """A client exceeds its share."""

    problem = "too-many-requests"


class LostEvents(DcdError):
    """The event log has lost events. Reported, not raised: the daemon continues to serve."""


class CheckpointError(DcdError):
    """A checkpoint failed. Raised by `execute`, recorded in CheckpointFailed."""

    problem = "checkpoint-failed"


class NoPackageDatabase(CheckpointError):
    """An image whose packages are to be listed has no list of them."""

    problem = "no-package-database"
