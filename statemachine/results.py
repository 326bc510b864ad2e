"""The results of an attempt as data: files, and an error. Not with the events, which workers do not need."""

from dataclasses import dataclass
from typing import Self

from statemachine.errors import CheckpointError, DcdError


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that a build delivers. `path` is relative to the workspace before publication, to the state
    directory afterwards (version 0.1.0 recorded an absolute path); `format` is a short word such as `iso`,
    `text`, `png`, `xml`, `qcow2`. `evidence` marks a record of a product's test, which differs each time: a
    console log, a screenshot."""

    name: str
    path: str
    format: str
    size_bytes: int
    sha256: str
    evidence: bool = False


@dataclass(frozen=True, slots=True)
class Publication:
    """A file that a checkpoint has published outside this server, under a URL. `uploaded`: this build has
    sent it; otherwise it was there already, with the same digest."""

    url: str
    sha256: str
    size_bytes: int
    uploaded: bool = True


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """A `DcdError` as data. `problem` is that of a checkpoint whose failure has an exit code of its own."""

    brief: str
    details: str = ""
    resolution: str = ""
    problem: str = ""

    @classmethod
    def of(cls, error: DcdError) -> Self:
        """The error as data."""
        own = isinstance(error, CheckpointError) and error.problem != CheckpointError.problem
        problem = error.problem if own else ""
        return cls(error.brief, error.details, error.resolution, problem)
