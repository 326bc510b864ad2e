"""Read access to builds: states, events, artifacts, the copy of the event log. `dcd.engine.outputs` has the
logs of attempts.

Reads never wait for running builds.
"""

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from dcd.engine.backup import copy_of
from dcd.engine.broadcast import Broadcast
from dcd.engine.builds import Builds, now
from dcd.engine.outputs import Outputs
from dcd.engine.papers import provenance_of
from dcd.engine.retention import kind_of
from dcd.engine.sharing import NOT_SHARED, Sharing
from dcd.engine.standing import Standing, standing_in
from dcd.engine.stores import Stores
from dcd.engine.usage import Sizes, sizes
from statemachine.build import BuildState, Lifecycle
from statemachine.errors import DcdError, NotFound
from statemachine.events import Event
from statemachine.fold import evolve
from statemachine.machine import BuildMachine
from statemachine.outlook import Outlook, outlook
from statemachine.provenance import boot_proof
from statemachine.results import Artifact
from store.artifacts import Verdict
from store.eventlog import BuildSummary

MOVING = (Lifecycle.QUEUED, Lifecycle.RUNNING, Lifecycle.PAUSING, Lifecycle.CANCELLING)
"""States in which a build continues without a command."""

_KEPT = 1024
"""The number of ended builds whose outlook is kept in memory."""

_ENDED = Outlook((), 0.0, 0.0, None)
"""The outlook of an ended build whose events cannot be read."""


class Records:
    """See the module."""

    def __init__(self, builds: Builds, stores: Stores, sharing: Sharing = NOT_SHARED) -> None:
        self._builds = builds
        self._stores = stores
        self._sharing = sharing
        self.outputs = Outputs(stores, sharing, builds.host)
        """The logs and files of attempts."""
        self._log = builds.log
        self._ended = lru_cache(maxsize=_KEPT)(self._outlook_of_ended)

    @property
    def broadcast(self) -> Broadcast:
        """The source of notifications about builds and their progress."""
        return self._builds.broadcast

    @property
    def host(self) -> str:
        """The name of this member of a farm; "" on a single machine."""
        return self._builds.host

    def elsewhere(self, state: BuildState) -> str:
        """The other member of a farm that has the artifacts of a build; "" when they are here."""
        there = self._builds.named(state.host)
        return "" if there == self._builds.host else there

    @property
    def position(self) -> int:
        """The position of the last event."""
        return self._log.position

    def unfinished(self) -> list[BuildState]:
        """The builds that have not ended, in order of submission."""
        return self._builds.unfinished()

    async def find(self, prefix: str) -> str:
        """The id of the build that starts with `prefix`. Raises NotFound."""
        return await self._builds.ask(self._log.resolve_prefix, prefix)

    async def state(self, build: str) -> BuildState:
        """The state of a build. Raises NotFound."""
        return await self._builds.state(build)

    async def page(
        self,
        states: tuple[Lifecycle, ...] | None,
        limit: int,
        before: int | None,
        group: str | None = None,
    ) -> list[BuildSummary]:
        """At most `limit` builds, newest first, in these states (None: any), submitted before a position, of
        this group (None: of any or none). Raises NotFound."""
        return await self._builds.ask(self._log.list_builds, states, limit, before, None, group)

    async def superseding(self, builds: Collection[BuildSummary]) -> dict[str, str]:
        """For each of the builds at rest of whose distribution a later one has completed: that one."""
        names = {build.name for build in builds}
        newest = await self._builds.ask(self._log.newest_completed, names) if names else {}
        return {
            build.id: newest[kind_of(build)][1]
            for build in builds
            if build.state not in MOVING
            and newest.get(kind_of(build), (0, ""))[0] > build.submitted_position
        }

    async def group(self, prefix: str) -> tuple[str, list[tuple[BuildSummary, dict[str, str]]]]:
        """A group's id and its builds, each with its cell. Raises NotFound."""
        return await self._builds.ask(self._log.group, prefix)

    async def summary(self, build: str) -> BuildSummary:
        """A build as `page` lists it. Raises NotFound."""
        return await self._builds.ask(self._log.summary, build)

    def outlook(self, state: BuildState) -> Outlook:
        """How far a build is."""
        progress = self.broadcast.progress(state.id)
        running = state.running
        of_it = progress and running and progress.data.checkpoint == running.name
        return outlook(state, now(), progress.data.fraction if progress and of_it else None)

    async def outlooks(self, builds: Collection[BuildSummary]) -> dict[str, Outlook]:
        """How far these builds are. The events of ended builds are read at most once while they are kept."""
        wanted = {each.id for each in builds}
        found = {state.id: self.outlook(state) for state in self.unfinished() if state.id in wanted}
        others = [each for each in builds if each.id not in found]
        read = await self._builds.ask(self._outlooks_of_others, others) if others else {}
        return found | read

    def _outlooks_of_others(self, builds: Sequence[BuildSummary]) -> dict[str, Outlook]:
        """Of builds that have ended, or are another member's."""
        return {
            build.id: self._outlook_of(build.id, now())
            if build.state in MOVING
            else self._ended(build.id, build.sequence)
            for build in builds
        }

    def _outlook_of_ended(self, build: str, sequence: int) -> Outlook:
        """The outlook of a build whose newest event has that sequence number."""
        return self._outlook_of(build, None)

    def _outlook_of(self, build: str, present: datetime | None) -> Outlook:
        """The outlook of a build at present; None: when it changed last."""
        state: BuildState | None = None
        try:
            for event in self._log.read_build(build):
                state = evolve(state, event)
        except DcdError:  # damaged: a request for the build itself says how
            state = None
        return _ENDED if state is None else outlook(state, present or state.updated_at)

    async def events(self, build: str | None, after: int, limit: int) -> list[Event]:
        """At most `limit` events of a build (None: of all) after a position, oldest first."""
        return await self._builds.ask(self._log.read, build, after, limit)

    async def provenance(self, build: str, parameters: Mapping[str, str]) -> str:
        """The provenance of a build, whose parameters are given without secrets. Raises Refused."""
        events = await self._builds.events(build)
        return await asyncio.to_thread(provenance_of, self._stores.packages, events, parameters)

    async def boot_proof(self, build: str) -> str | None:
        """The statement that the products of a build boot, if it has booted them. Raises Refused."""
        return boot_proof(await self._builds.events(build))

    async def settled(self, build: str, after: int) -> bool:
        """Whether a build continues only by a command, and has no event after a position."""
        state = await self.state(build)
        return state.lifecycle not in MOVING and state.log_position <= after

    async def machine(self, build: str) -> BuildMachine:
        """The machine of a build, created from its events. Raises NotFound."""
        return BuildMachine.rehydrate(await self._builds.ask(self._log.read_build, build))

    async def verify(self, build: str) -> tuple[int, list[str]]:
        """The number of events of a build, and their problems. Raises NotFound."""
        problems = await asyncio.to_thread(self._log.verify, build)
        return (await self._builds.ask(self._log.summary, build)).sequence, problems

    @property
    def artifacts(self) -> Path:
        """The directory of all artifacts; who may read them is in its mode."""
        return self._stores.artifacts.directory

    def artifact_path(self, build: str, artifact: Artifact) -> Path:
        """The path of a published artifact."""
        return self._stores.artifacts.path(build, artifact)

    def artifact(self, state: BuildState, name: str) -> tuple[Artifact, Path | Iterator[bytes]]:
        """The published artifact of that name and its file, or its content, which comes from the registry of
        the farm. Raises NotFound. Blocking."""
        for artifact in state.published:
            path = self.artifact_path(state.id, artifact)
            if artifact.name != name:
                continue
            if path.is_file():
                return artifact, path
            digest = f"sha256:{artifact.sha256}"
            if self._sharing.has(digest):
                return artifact, self._sharing.read(digest, artifact.size_bytes)
        there = self.elsewhere(state)
        if there and any(each.name == name for each in state.published):
            raise NotFound(
                f"{name} of build {state.id} is on {there}",
                "it is not in the registry",
                f"ask there: ssh {there} dcctl download {state.id}",
            )
        names = ", ".join(artifact.name for artifact in state.published)
        raise NotFound(
            f"build {state.id} has no artifact {name!r}",
            f"it has delivered {names}" if names else "it has delivered nothing yet",
        )

    async def verify_artifacts(self, state: BuildState) -> Sequence[Verdict]:
        """Verify each published artifact of a build against its digest. Raises NotFound on another member
        than that with the files."""
        paths = [self.artifact_path(state.id, artifact) for artifact in state.published]
        there = self.elsewhere(state)
        if there and not any(path.exists() for path in paths):
            raise NotFound(
                f"the artifacts of build {state.id} are on {there}",
                "files are verified where they are",
                f"ask there: ssh {there} dcctl artifacts --verify {state.id}",
            )
        return await asyncio.to_thread(self._stores.artifacts.verify, state.id, state.published)

    async def keep_blob(self, content: BinaryIO, sha256: str, owner: int | None) -> bool:
        """Store a captured file for its owner. Returns whether it is new. Raises UsageError for a wrong
        digest, DiskFull."""
        return await asyncio.to_thread(self._stores.blobs.put, content, sha256, owner)

    async def copy(self) -> tuple[BinaryIO, int, bytes]:
        """A consistent copy of the event log: the open file, its size in bytes and its sha256."""
        return await asyncio.to_thread(copy_of, self._log, self._log.directory)

    def sizes(self) -> Sizes:
        """The sizes in the state directory that are cheap to measure. Blocking."""
        return sizes(self._stores, self._log)

    def standing(self) -> Standing:
        """The unfinished builds of the whole log. Blocking. Raises Unavailable."""
        return standing_in(self._log)

    def ended_counts(self) -> dict[Lifecycle, int]:
        """The number of ended builds by state. Blocking."""
        return dict(self._log.ended_counts())
