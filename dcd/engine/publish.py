"""Delivering the artifacts of a build to its artifact directory, and completing the build.

Every checkpoint's artifacts are linked from their layers; the canonical manifest and SHA256SUMS, the
digests of all products, are written beside them, then the provenance of these. Evidence (console logs and
screenshots of boots), which differs each time, has its digests in a separate file, with those of the
provenance. Each file is complete and synced before its event; all steps are idempotent, and give the same
bytes when a crash has them repeated.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from dcd.engine.papers import provenance_of
from dcd.engine.stores import Stores
from dcd.planner.client import Planning
from dcd.planner.tasks import WITHHOLD, WithoutSecrets, WithSecrets
from statemachine.build import BuildState
from statemachine.commands import Change
from statemachine.errors import NotFound
from statemachine.events import ArtifactPublished, BuildCompleted, Event
from statemachine.provenance import boot_proof
from statemachine.results import Artifact
from statemachine.statements import BOOT_SUFFIX, PROVENANCE_SUFFIX, REBUILD_SUFFIX
from statemachine.verdict import verdict_statement
from store.artifacts import EVIDENCE_SUMS, SUMS

_LEFT_OUT = "<!-- This copy of the manifest omits passwords, hashes and other secrets. -->\n"

Record = Callable[[str, Change], Awaitable[BuildState]]
Read = Callable[[str], Awaitable[Sequence[Event]]]


async def publish(
    record: Record, read: Read, stores: Stores, planner: Planning, state: BuildState
) -> BuildState:
    """Publish all unpublished artifacts, and complete the build.

    `record` records a change by the engine, and waits as long as the log accepts no events; `read` returns
    all events of a build. Raises DcdError when a layer's file is missing, DiskFull.
    """

    async def write(
        name: str, kind: str, text: str, *, evidence: bool = False, exported: str = ""
    ) -> BuildState:
        written = await asyncio.to_thread(stores.privileged.write, state.id, name, kind, text)
        artifact = replace(written, evidence=evidence)
        return await record(state.id, ArtifactPublished(artifact, exported))

    secret = WithSecrets(state.manifest, state.parameters, epoch=state.source_date_epoch)
    withholding = asyncio.ensure_future(planner.ask(WITHHOLD, secret))
    try:
        for artifact in state.unpublished:
            key = _key(state, artifact)
            delivered = await asyncio.to_thread(stores.privileged.publish, state.id, artifact, key)
            state = await record(state.id, ArtifactPublished(delivered))
        without = await withholding
    finally:
        withholding.cancel()
        await asyncio.gather(withholding, return_exceptions=True)
    state = await write(f"{state.name}.xml", "xml", _delivered(without), exported=without.exported)
    state = await write(SUMS, "text", _sums(state, evidence=False))
    events = await read(state.id)
    made = await asyncio.to_thread(provenance_of, stores.packages, events, without.parameters)
    said = {
        f"{state.name}{PROVENANCE_SUFFIX}": made,
        f"{state.name}{BOOT_SUFFIX}": boot_proof(events),
    }
    said[f"{state.name}{REBUILD_SUFFIX}"] = verdict_statement(events)
    for name, text in said.items():
        if text is not None:
            state = await write(name, "in-toto", text, evidence=True)
    for signature in await asyncio.to_thread(stores.privileged.sign, state.id, state.name):
        state = await record(state.id, ArtifactPublished(signature))
    state = await write(EVIDENCE_SUMS, "text", _sums(state, evidence=True))
    seconds = sum(each.seconds or 0.0 for each in state.checkpoints)
    return await record(state.id, BuildCompleted(seconds))


def _delivered(without: WithoutSecrets) -> str:
    """The manifest without secrets, for recipients of the image."""
    return _LEFT_OUT * without.had_any + without.manifest


def _sums(state: BuildState, *, evidence: bool) -> str:
    """The digests of the published products, or of all other files, in the form of sha256sum(1)."""
    listed = (
        artifact
        for artifact in state.published
        if artifact.evidence is evidence and artifact.name not in (SUMS, EVIDENCE_SUMS)
    )
    return "".join(f"{a.sha256}  {a.name}\n" for a in sorted(listed, key=lambda a: a.name))


def _key(state: BuildState, artifact: Artifact) -> str:
    """The layer with the file of a declared artifact: of the checkpoint that declared it last."""
    for record in reversed(state.checkpoints):
        if artifact in record.artifacts:
            return record.key
    raise NotFound(f"no checkpoint of build {state.id} declares {artifact.name}")
