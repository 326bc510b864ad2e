"""One attempt at a checkpoint: its event, its workspace, its worker and its outcome.

    begin       CheckpointStarted is on disk, then the workspace is created
    work        the worker runs the checkpoint in it; afterwards its claims are released
    conclude the workspace becomes a layer, then CheckpointCompleted is on disk; or the event with the
    failure, and the workspace is removed

After a crash in between, the next start finds the attempt open, and `dcd.engine.runner` settles it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from dcd.configuration import Configuration
from dcd.engine.borrowers import require_secrets
from dcd.engine.broadcast import progress
from dcd.engine.builds import Builds
from dcd.engine.claims import claims_released
from dcd.engine.failures import command_for_disk_error
from dcd.engine.host import boot_id
from dcd.engine.publish import commit
from dcd.engine.stores import Stores
from dcd.engine.workspaces import kept_workspace, workspace_name
from dcd.planner import tasks
from dcd.planner.client import Planning
from dcd.planner.tasks import OfBuild
from dcd.planning import plan as planning
from dcd.platform.control_group import Delegated
from dcd.worker.launch import Ending, run_attempt
from dcd.worker.request import (
    Cancelled,
    Claim,
    Completed,
    Died,
    Failed,
    Progress,
    WorkerRequest,
)
from statemachine.build import BuildState
from statemachine.commands import Change, FailCheckpoint, InterruptCheckpoint
from statemachine.errors import DcdError, Refused, Unavailable
from statemachine.events import CheckpointCompleted, CheckpointStarted, ErrorInfo, ResourceClaimed
from statemachine.plan import PlannedCheckpoint
from store.host.durable import DiskFull, used_up
from store.layers import LayerRecord, Workspace
from store.packages import Lent

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Means:
    """The resources of attempts. `record` records a change by the engine, and waits as long as the
    event log accepts no events."""

    builds: Builds
    stores: Stores
    settings: Callable[[], Configuration]
    planner: Planning
    groups: Delegated | None
    record: Callable[[str, Change], Awaitable[BuildState]]

    def of_build(self, state: BuildState, index: int) -> OfBuild:
        """The question to a planner about a checkpoint of a build."""
        modules = self.settings().checkpoint_modules
        return OfBuild(state.manifest, state.plan.checkpoints[index], modules)


class Attempt:
    """An attempt at the next checkpoint of `state`; `planned` is that checkpoint with its present key,
    `external` is the external state in the key that has changed since the plan."""

    def __init__(
        self,
        means: Means,
        state: BuildState,
        index: int,
        planned: PlannedCheckpoint,
        external: dict[str, str] | None,
    ) -> None:
        self._means = means
        self._build = state.id
        self._index = index
        self._planned = planned
        self._external = external or {}
        self._number = state.next_attempt(planned.name)
        self._log = means.stores.logs.path(state.id, planned.name, self._number)
        self._stop = asyncio.Event()
        self._cause = "cancelled"

    def stop(self, cause: str) -> None:
        """End the attempt; `cause` as in CheckpointInterrupted."""
        self._cause = cause
        self._stop.set()

    async def run(self) -> BuildState:
        """Run the attempt. Returns the build's state afterwards. Raises Refused and Unavailable."""
        name = self._planned.name
        try:
            state = await self._begin()
            workspace = await self._make_workspace(state)
            try:
                async with claims_released(self._means.builds, self._build):
                    ending = await self._work(state, workspace)
                state = await self._conclude(ending, workspace)
                return state
            finally:
                if kept_workspace(state) != workspace.name:
                    await self._remove(workspace)
        except DiskFull as error:
            return await self._record(InterruptCheckpoint(name, "no-space", str(error)))
        except (Refused, Unavailable):
            raise
        except DcdError as error:
            return await self._record(FailCheckpoint(name, ErrorInfo.of(error)))
        except OSError as error:
            return await self._record(command_for_disk_error(name, error))
        finally:
            self._means.builds.broadcast.clear(self._build)

    async def _begin(self) -> BuildState:
        planned = self._planned
        state = await self._record(
            CheckpointStarted(
                planned.name,
                attempt=self._number,
                key=planned.key,
                log=self._means.stores.logs.recorded(self._log),
                boot_id=boot_id(),
                external=self._external,
            )
        )
        logger.info(
            "checkpoint started",
            build=self._build,
            checkpoint=planned.name,
            attempt=self._number,
        )
        return state

    async def _make_workspace(self, state: BuildState) -> Workspace:
        with self._means.builds.broadcast.waiting(self._build, "its workspace to be created"):
            return await asyncio.to_thread(
                self._means.stores.layers.begin, state.parent_key, workspace_name(state)
            )

    async def _remove(self, workspace: Workspace) -> None:
        with self._means.builds.broadcast.waiting(self._build, "its workspace to be removed"):
            await asyncio.to_thread(self._means.stores.layers.discard, workspace)

    async def _work(self, state: BuildState, workspace: Workspace) -> Ending:
        request = await self._request(state, workspace)
        started = time.monotonic()

        def report(news: Progress) -> None:
            seconds = time.monotonic() - started
            shown = progress(
                state.plan.checkpoints,
                self._index,
                self._number,
                news.fraction,
                news.message,
                seconds,
            )
            self._means.builds.broadcast.report(self._build, shown)

        claims: set[Claim] = set()

        async def claim(claimed: Claim) -> None:
            if claimed not in claims:
                claims.add(claimed)
                name = self._planned.name
                await self._record(ResourceClaimed(name, self._number, claimed.kind, claimed.name))

        report(Progress())
        try:
            return await run_attempt(
                request,
                log_path=self._log,
                on_progress=report,
                on_claim=claim,
                stop=self._stop,
                grace_seconds=self._means.settings().cancel_grace_seconds,
                groups=self._means.groups,
            )
        finally:
            if request.packages is not None:
                await self._take_in(request.packages)

    async def _take_in(self, lent: Lent) -> None:
        """Keep what was downloaded, whatever the outcome. The build does not depend on it."""
        try:
            await asyncio.to_thread(self._means.stores.packages.take_in, lent)
        except OSError as error:
            logger.warning("packages are not kept", build=self._build, error=str(error))

    async def _request(self, state: BuildState, workspace: Workspace) -> WorkerRequest:
        means, planned = self._means, state.plan.checkpoints[self._index]
        evidence = means.stores.logs.evidence(self._build, planned.name, self._number)
        evidence.mkdir(parents=True, exist_ok=True)
        wanted = await means.planner.ask(tasks.NEEDS, means.of_build(state, self._index))
        settings = means.settings()
        await asyncio.to_thread(require_secrets, settings, state.actor, wanted.needs.secrets)
        return WorkerRequest(
            state_id=means.stores.state_id,
            build=self._build,
            checkpoint=planned.name,
            attempt=self._number,
            mod_path=planned.mod_path,
            checkpoint_class=planned.checkpoint_class,
            args=planned.args,
            kwargs=planned.kwargs,
            manifest=state.manifest,
            manifest_path=state.manifest_path,
            places=planned.places,
            layers=settings.state_dir / "layers",
            workspace=workspace,
            evidence=evidence,
            inputs=means.stores.inputs(state),
            environment=planning.environment(state, wanted.needs, wanted.http_proxy),
            allowed=settings.checkpoint_modules,
            external=planning.recorded_external(planned),
            network=planned.network,
            packages=await self._packages(workspace) if wanted.needs.packages else None,
            grants=planning.grants(wanted.needs, settings, host_code=wanted.host_code),
        )

    async def _packages(self, workspace: Workspace) -> Lent:
        return await asyncio.to_thread(self._means.stores.packages.lend, workspace.name)

    async def _conclude(self, ending: Ending, workspace: Workspace) -> BuildState:
        name = self._planned.name
        change: Change
        match ending.outcome:
            case Completed():
                change = await self._commit(ending, workspace)
            case Failed(error, no_space=True):
                change = InterruptCheckpoint(name, "no-space", error.brief)
            case Failed(error):
                change = FailCheckpoint(name, error, seconds=ending.seconds)
            case Cancelled():
                change = InterruptCheckpoint(name, self._cause)
            case Died(how, tail):
                # It may have had no space left to report the reason.
                cause = "no-space" if used_up(workspace.directory) else "worker-died"
                change = InterruptCheckpoint(name, cause, f"{how}\n{tail}".strip())
        logger.info(
            "checkpoint ended",
            build=self._build,
            checkpoint=name,
            outcome=type(ending.outcome).__name__.lower(),
            seconds=round(ending.seconds, 1),
        )
        return await self._record(change)

    async def _commit(self, ending: Ending, workspace: Workspace) -> Change:
        """Turn the workspace into a layer, unless the host has changed from the state in the key."""
        planned = self._planned
        if changed := await asyncio.to_thread(planning.changed_host, planned):
            what = f"{', '.join(changed)} changed while it ran"
            return InterruptCheckpoint(planned.name, "host-changed", what)
        record = LayerRecord(
            key=planned.key,
            parent=workspace.parent,
            made_by=self._build,
            checkpoint=planned.name,
            attempt=self._number,
            seconds=ending.seconds,
            artifacts=ending.artifacts,
            left=ending.left,
            warnings=ending.warnings,
        )
        stores = self._means.stores
        with self._means.builds.broadcast.waiting(self._build, "its layer to be on disk"):
            layer = await asyncio.to_thread(
                commit, stores.layers, stores.artifacts, workspace, record
            )
        return CheckpointCompleted(
            planned.name,
            attempt=self._number,
            key=planned.key,
            seconds=ending.seconds,
            artifacts=ending.artifacts,
            size_bytes=layer.size_bytes,
            left=ending.left,
            warnings=ending.warnings,
        )

    def _record(self, change: Change) -> Awaitable[BuildState]:
        return self._means.record(self._build, change)
