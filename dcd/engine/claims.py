"""What the open attempt of a build has claimed, released.

A claim is in the event log before the resource exists (`ResourceClaimed`), and the resource is gone before
the end of the attempt is an event. So the claims of an open attempt are all that a dead worker, daemon or
machine may have left, whenever it died. Releasing is idempotent: what is not there is released.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from dcd.engine.builds import Builds
from dcd.platform import resources
from statemachine.build import BuildState

logger = structlog.get_logger()


async def release_claims(state: BuildState) -> None:
    """Release all that the open attempt of a build has claimed; its worker has ended. Raises DcdError
    when something cannot be."""
    for claim in state.running.claims if state.running else ():
        logger.info("releasing", build=state.id, kind=claim.kind, name=claim.name)
        await asyncio.to_thread(resources.release, claim.kind, claim.name)


@contextlib.asynccontextmanager
async def claims_released(builds: Builds, build: str) -> AsyncIterator[None]:
    """On exit, whatever the cause, what was claimed for the build inside is released."""
    try:
        yield
    finally:
        await release_claims(await builds.state(build))
