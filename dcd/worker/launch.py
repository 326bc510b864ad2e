"""Running one attempt in a worker process, as the daemon sees it. (Being written.)"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dcd.worker.request import Progress, WorkerRequest
from statemachine.events import Artifact, ErrorInfo


@dataclass(frozen=True, slots=True)
class Completed:
    """The checkpoint has done its work; the workspace is to be committed."""

    artifacts: tuple[Artifact, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The checkpoint said no. `no_space`: for want of disk space."""

    error: ErrorInfo
    seconds: float
    no_space: bool = False


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The worker ended because `stop` was set, by itself or by force."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Died:
    """The worker ended without a verdict: `how` it ended, and the last lines of its log."""

    how: str
    tail: str
    seconds: float


Outcome = Completed | Failed | Cancelled | Died


async def run_attempt(
    request: WorkerRequest,
    *,
    log_path: Path,
    on_progress: Callable[[Progress], None],
    stop: asyncio.Event,
    grace_seconds: float = 10.0,
) -> Outcome:
    """Run an attempt to its end. Call from the main thread's event loop.

    When `stop` is set the worker is asked to stop, and killed with all it started `grace_seconds`
    later; when the calling task is cancelled it is killed at once. When this returns or raises,
    nothing of the worker is left: no process, mount or loop device. Raises Unprepared when the
    worker cannot be started.
    """
    raise NotImplementedError
