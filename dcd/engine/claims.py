"""Releasing the claims of a build's open attempt.

A claim is in the event log before the resource exists (`ResourceClaimed`), and the resource is removed
before the event that ends the attempt. So a worker, daemon or machine can only leave resources claimed
by an open attempt, whenever it dies. Releasing is idempotent: a missing resource counts as released.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import structlog

from dcd.engine.builds import Builds
from statemachine.build import BuildState

logger = structlog.get_logger()


Release = Callable[[str, str], object]


async def release_claims(release: Release, state: BuildState) -> None:
    """Release all claims of a build's open attempt, whose worker has ended. Raises DcdError when a
    release fails."""
    for claim in state.running.claims if state.running else ():
        logger.info("releasing", build=state.id, kind=claim.kind, name=claim.name)
        await asyncio.to_thread(release, claim.kind, claim.name)


@contextlib.asynccontextmanager
async def claims_released(builds: Builds, release: Release, build: str) -> AsyncIterator[None]:
    """On exit, also by an exception, release the claims made for the build inside the context."""
    try:
        yield
    finally:
        await release_claims(release, await builds.state(build))
