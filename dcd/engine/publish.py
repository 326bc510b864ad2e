"""Delivering the artifacts of a build to its artifact directory, and completing the build.

Every checkpoint's artifacts are linked from their layers; the canonical manifest and SHA256SUMS, the
digests of all products, are written beside them. Evidence (console logs and screenshots of boots),
which differs each time, has its digests in a separate file. Each file is complete and synced before its
event; all steps are idempotent.
"""

import asyncio
from collections.abc import Awaitable, Callable

from dcd.launcher.client import Privileged
from dcd.planner.client import Planning
from dcd.planner.tasks import WITHHOLD, WithSecrets
from statemachine.build import BuildState
from statemachine.commands import Change
from statemachine.errors import NotFound
from statemachine.events import ArtifactPublished, BuildCompleted
from statemachine.results import Artifact
from store.artifacts import EVIDENCE_SUMS, SUMS

_LEFT_OUT = "<!-- This copy of the manifest omits passwords, hashes and other secrets. -->\n"

Record = Callable[[str, Change], Awaitable[BuildState]]


async def publish(
    record: Record, privileged: Privileged, planner: Planning, state: BuildState
) -> BuildState:
    """Publish all unpublished artifacts, and complete the build.

    `record` records a change by the engine, and waits as long as the log accepts no events. Raises
    DcdError when a layer's file is missing, DiskFull.
    """
    for artifact in state.unpublished:
        key = _key(state, artifact)
        delivered = await asyncio.to_thread(privileged.publish, state.id, artifact, key)
        state = await record(state.id, ArtifactPublished(delivered))
    manifest = await asyncio.to_thread(
        privileged.write,
        state.id,
        f"{state.name}.xml",
        "xml",
        await _delivered(planner, state.manifest),
    )
    state = await record(state.id, ArtifactPublished(manifest))
    others = [a for a in state.published if a.name not in (SUMS, EVIDENCE_SUMS)]
    for name, evidence in ((EVIDENCE_SUMS, True), (SUMS, False)):
        listed = sorted((a for a in others if a.evidence is evidence), key=lambda a: a.name)
        if evidence and not listed:
            continue
        lines = "".join(f"{artifact.sha256}  {artifact.name}\n" for artifact in listed)
        sums = await asyncio.to_thread(privileged.write, state.id, name, "text", lines)
        state = await record(state.id, ArtifactPublished(sums))
    seconds = sum(record.seconds or 0.0 for record in state.checkpoints)
    return await record(state.id, BuildCompleted(seconds))


async def _delivered(planner: Planning, manifest: str) -> str:
    """The manifest without secrets, for recipients of the image."""
    without = await planner.ask(WITHHOLD, WithSecrets(manifest))
    return _LEFT_OUT * without.had_any + without.manifest


def _key(state: BuildState, artifact: Artifact) -> str:
    """The layer with the file of a declared artifact: of the checkpoint that declared it last."""
    for record in reversed(state.checkpoints):
        if artifact in record.artifacts:
            return record.key
    raise NotFound(f"no checkpoint of build {state.id} declares {artifact.name}")
