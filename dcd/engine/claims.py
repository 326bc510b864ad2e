"""Releasing the claims of a build's open attempt.

A claim is in the event log before the resource exists (`ResourceClaimed`), and the resource is removed
before the event that ends the attempt. So a worker, daemon or machine can only leave resources claimed
by an open attempt, whenever it dies. Releasing is idempotent: a missing resource counts as released.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable

import structlog

from dcd.worker.messages import Claim as Claimed
from statemachine.build import BuildState, Claim

logger = structlog.get_logger()


Release = Callable[[str, str], object]


async def release_claims(release: Release, state: BuildState) -> None:
    """Release all claims of a build's open attempt, whose worker has ended. Raises DcdError when a
    release fails."""
    await _release(release, state.id, state.running.claims if state.running else ())


async def _release(release: Release, build: str, claims: Iterable[Claim | Claimed]) -> None:
    for claim in claims:
        logger.info("releasing", build=build, kind=claim.kind, name=claim.name)
        await asyncio.to_thread(release, claim.kind, claim.name)


@contextlib.asynccontextmanager
async def claims_released(
    release: Release, build: str, claims: set[Claimed]
) -> AsyncIterator[None]:
    """On exit, also by an exception, release the claims that were added for the build inside the context. The
    state need not name them any more: another member of a farm may have taken the build."""
    try:
        yield
    finally:
        await _release(release, build, claims)
