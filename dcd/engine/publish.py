"""Delivering the artifacts of a build to its artifact directory, and completing the build.

Every checkpoint's artifacts are linked from their layers; the canonical manifest and SHA256SUMS, the
digests of all products, are written beside them. Evidence (console logs and screenshots of boots),
which differs each time, has its digests in a separate file. Each file is complete and synced before its
event; all steps are idempotent.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from dcd.planner.client import Planning
from dcd.planner.tasks import WITHHOLD, WithSecrets
from statemachine.build import BuildState
from statemachine.commands import Change
from statemachine.errors import NotFound
from statemachine.events import Artifact, ArtifactPublished, BuildCompleted
from store.artifacts import EVIDENCE_SUMS, SUMS, Artifacts
from store.layers import Layer, LayerRecord, LayerStore, Workspace

_LEFT_OUT = "<!-- This copy of the manifest omits passwords, hashes and other secrets. -->\n"

Insist = Callable[[str, Change], Awaitable[BuildState]]


async def publish(
    insist: Insist, artifacts: Artifacts, layers: LayerStore, planner: Planning, state: BuildState
) -> BuildState:
    """Publish all unpublished artifacts, and complete the build.

    `insist` records a change by the engine, and waits as long as the log accepts no events. Raises
    DcdError when a layer's file is missing, DiskFull.
    """
    for artifact in state.unpublished:
        source = await asyncio.to_thread(_source, layers, state, artifact)
        delivered = await asyncio.to_thread(artifacts.publish, state.id, artifact, source)
        state = await insist(state.id, ArtifactPublished(delivered))
    manifest = await asyncio.to_thread(
        artifacts.write,
        state.id,
        f"{state.name}.xml",
        "xml",
        await _delivered(planner, state.manifest),
    )
    state = await insist(state.id, ArtifactPublished(manifest))
    others = [a for a in state.published if a.name not in (SUMS, EVIDENCE_SUMS)]
    for name, evidence in ((EVIDENCE_SUMS, True), (SUMS, False)):
        listed = sorted((a for a in others if a.evidence is evidence), key=lambda a: a.name)
        if evidence and not listed:
            continue
        lines = "".join(f"{artifact.sha256}  {artifact.name}\n" for artifact in listed)
        sums = await asyncio.to_thread(artifacts.write, state.id, name, "text", lines.encode())
        state = await insist(state.id, ArtifactPublished(sums))
    seconds = sum(record.seconds or 0.0 for record in state.checkpoints)
    return await insist(state.id, BuildCompleted(seconds))


def commit(
    layers: LayerStore, artifacts: Artifacts, workspace: Workspace, record: LayerRecord
) -> Layer:
    """Turn the workspace of a completed attempt into a layer, with its artifacts ready to be delivered.
    Blocking. Raises DiskFull."""
    for artifact in record.artifacts:
        file = layers.own_file(workspace, artifact.path)
        if file is not None:
            artifacts.adopt(file)
    return layers.commit(workspace, record)


async def _delivered(planner: Planning, manifest: str) -> bytes:
    """The manifest without secrets, for recipients of the image."""
    without = await planner.ask(WITHHOLD, WithSecrets(manifest))
    return (_LEFT_OUT * without.had_any + without.manifest).encode()


def _source(layers: LayerStore, state: BuildState, artifact: Artifact) -> Path:
    """The file of a declared artifact in the layer of the checkpoint that declared it last."""
    for record in reversed(state.checkpoints):
        if artifact in record.artifacts:
            return layers.file(record.key, artifact.path)
    raise NotFound(f"no checkpoint of build {state.id} declares {artifact.name}")
