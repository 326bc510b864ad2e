"""One attempt at a checkpoint: its event, its workspace, its worker and its outcome.

    begin       CheckpointStarted is on disk, then the workspace is created
    work        the worker runs the checkpoint in it; afterwards its claims are released
    conclude the workspace becomes a layer, then CheckpointCompleted is on disk; or the event with the
    failure, and the workspace is removed

A checkpoint with a base (`dcd.planning.ground`) does its work in up to two stages, each with a worker and a
workspace of its own: the base layer, if there is none yet, and the result on it. The base layer has no event,
since CheckpointStarted names it; after a crash between the stages, the next attempt finds it.

After a crash in between, the next start finds the attempt open, and `dcd.engine.runner` settles it.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import structlog

from dcd.configuration import Configuration
from dcd.engine.borrowers import require_secrets
from dcd.engine.broadcast import progress
from dcd.engine.builds import Builds
from dcd.engine.claims import claims_released
from dcd.engine.failures import command_for_disk_error
from dcd.engine.needs import Needs
from dcd.engine.stores import Stores
from dcd.engine.workspaces import kept_workspace, workspace_name
from dcd.launcher.orders import AttemptOrder, Wanted
from dcd.planner.client import Planning
from dcd.planner.tasks import NeedsOfAttempt, OfBuild
from dcd.planning import plan as planning
from dcd.planning.ground import Ground
from dcd.worker.launch import Ending, run_attempt
from dcd.worker.messages import Cancelled, Claim, Completed, Died, Failed, Progress, Unsuited
from statemachine.build import BuildState, CheckpointRecord
from statemachine.commands import Change, FailCheckpoint, InterruptCheckpoint
from statemachine.errors import DcdError, Refused, Unavailable
from statemachine.events import CheckpointCompleted, CheckpointStarted, ResourceClaimed
from statemachine.keys import grown_from, own_digest
from statemachine.plan import PlannedCheckpoint, Stage
from statemachine.results import ErrorInfo
from store.host.boot import boot_id
from store.host.durable import DiskFull, used_up
from store.host.tools import tool_named
from store.layers import Layer, LayerRecord, Workspace

logger = structlog.get_logger()

T = TypeVar("T")

BASE_SHARE = 0.5
"""The share of the progress that belongs to the base, if it has to be made."""


@dataclass(frozen=True, slots=True)
class Resources:
    """The resources of attempts. `record` records a change by the engine, and waits as long as the
    event log accepts no events."""

    builds: Builds
    stores: Stores
    settings: Callable[[], Configuration]
    planner: Planning
    needs: Needs
    record: Callable[[str, Change], Awaitable[BuildState]]

    def of_build(self, state: BuildState, index: int) -> OfBuild:
        """The question to a planner about a checkpoint of a build."""
        modules = self.settings().checkpoint_modules
        return OfBuild(state.manifest, state.plan.checkpoints[index], modules)


class Attempt:
    """An attempt at the next checkpoint of `state`. `ground` has the plan with its present key and what it
    stands on, `external` is the external state in the key that has changed since the plan. `let_go` is called
    when nothing can remove the ground any more."""

    _needed: asyncio.Future[NeedsOfAttempt]

    def __init__(
        self,
        resources: Resources,
        state: BuildState,
        index: int,
        ground: Ground,
        external: dict[str, str] | None,
        let_go: Callable[[], Awaitable[None]],
    ) -> None:
        self._resources = resources
        self._before = state
        self._build = state.id
        self._index = index
        self._ground = ground
        self._planned = planned = ground.plan.checkpoints[index]
        self._external = external or {}
        self._let_go = let_go
        self._below: Layer | None = None
        self._handed = ""
        self._seconds = 0.0
        self._done = 0.0
        self._epoch = state.source_date_epoch
        self._number = state.next_attempt(planned.name)
        self._log = resources.stores.logs.path(state.id, planned.name, self._number)
        self._stop = asyncio.Event()
        self.uses_packages = False
        """Whether it may be using files of the package store."""
        self._cause = "cancelled"
        self._claims: set[Claim] = set()

    def stop(self, cause: str) -> None:
        """End the attempt; `cause` as in CheckpointInterrupted."""
        self._cause = cause
        self._stop.set()

    async def run(self) -> BuildState:
        """Run the attempt. Returns the build's state afterwards. Raises Refused and Unavailable."""
        name = self._planned.name
        try:
            async with _meanwhile(self._needs()) as self._needed:
                return await self._make(await self._begin())
        except DiskFull as error:
            return await self._record(InterruptCheckpoint(name, "no-space", str(error)))
        except (Refused, Unavailable):
            raise
        except DcdError as error:
            return await self._record(FailCheckpoint(name, ErrorInfo.of(error)))
        except OSError as error:
            return await self._record(command_for_disk_error(name, error))
        finally:
            self._resources.builds.broadcast.clear(self._build)

    async def _needs(self) -> NeedsOfAttempt:
        modules = self._resources.settings().checkpoint_modules
        return await self._resources.needs.of(self._before, self._index, modules)

    async def _begin(self) -> BuildState:
        planned = self._planned
        state = await self._record(
            CheckpointStarted(
                planned.name,
                attempt=self._number,
                key=planned.key,
                log=self._resources.stores.logs.recorded(self._log),
                boot_id=boot_id(),
                external=self._external,
                base=self._ground.base,
                grown=grown_from(planned),
                host=self._resources.builds.host,
            )
        )
        logger.info(
            "checkpoint started",
            build=self._build,
            checkpoint=planned.name,
            attempt=self._number,
        )
        return state

    async def _make(self, state: BuildState) -> BuildState:
        """Make the result, stage by stage."""
        layers, base = self._resources.stores.layers, self._ground.base
        if not base:
            return await self._stage(state, Stage.WHOLE, state.parent_key) or state
        under = self._ground.key
        if await asyncio.to_thread(layers.find, under) is None:
            if after := await self._stage(state, Stage.BASE, state.parent_key):
                return after
            self._done = BASE_SHARE
        await asyncio.to_thread(layers.touch, under)
        self._below = await asyncio.to_thread(layers.find, under)
        if after := await self._stage(state, Stage.REST, under):
            return after
        return await self._stage(state, Stage.WHOLE, state.parent_key) or state

    async def _stage(
        self, state: BuildState, stage: Stage, parent: str | None
    ) -> BuildState | None:
        """Do the work of a stage. Returns the state with the attempt's outcome, None when another stage has
        to follow."""
        privileged = self._resources.stores.privileged
        workspace = await self._make_workspace(state, parent)
        if stage is not Stage.BASE:
            await self._let_go()
        try:
            async with claims_released(privileged.release, self._build, self._claims):
                ending = await self._work(state, workspace, stage)
            self._seconds += ending.seconds
            self._handed = ending.handed
            after = await self._conclude(ending, workspace, stage)
            state = after or state
            return after
        finally:
            if kept_workspace(state) != workspace.name:
                await self._remove(workspace)

    async def _make_workspace(self, state: BuildState, parent: str | None) -> Workspace:
        with self._resources.builds.broadcast.waiting(self._build, "its workspace to be created"):
            return await asyncio.to_thread(
                self._resources.stores.layers.begin, parent, workspace_name(state)
            )

    async def _remove(self, workspace: Workspace) -> None:
        with self._resources.builds.broadcast.waiting(self._build, "its workspace to be removed"):
            await asyncio.to_thread(self._resources.stores.layers.release, workspace.name)

    async def _work(self, state: BuildState, workspace: Workspace, stage: Stage) -> Ending:
        order = await self._order(state, workspace, stage)
        started = time.monotonic() - self._seconds
        share = BASE_SHARE if stage is Stage.BASE else 1.0 - self._done

        def report(news: Progress) -> None:
            seconds = time.monotonic() - started
            fraction = None if news.fraction is None else self._done + share * news.fraction
            shown = progress(
                state.plan.checkpoints,
                self._index,
                self._number,
                fraction,
                news.message,
                seconds,
            )
            self._resources.builds.broadcast.report(self._build, shown)

        async def claim(claimed: Claim) -> None:
            if claimed not in self._claims:
                self._claims.add(claimed)
                name = self._planned.name
                await self._record(ResourceClaimed(name, self._number, claimed.kind, claimed.name))

        report(Progress())
        return await run_attempt(
            partial(self._resources.stores.privileged.start_worker, order),
            checkpoint=order.checkpoint,
            log_path=self._log,
            on_progress=report,
            on_claim=claim,
            stop=self._stop,
            grace_seconds=self._resources.settings().cancel_grace_seconds,
        )

    async def _order(self, state: BuildState, workspace: Workspace, stage: Stage) -> AttemptOrder:
        resources, planned = self._resources, state.plan.checkpoints[self._index]
        found = await self._needed
        needs = found.needs
        self.uses_packages = needs.packages
        await asyncio.to_thread(require_secrets, resources.settings(), state.actor, needs.secrets)
        return AttemptOrder(
            build=self._build,
            checkpoint=planned.name,
            attempt=self._number,
            mod_path=planned.mod_path,
            checkpoint_class=planned.checkpoint_class,
            manifest=state.manifest,
            workspace=workspace.name,
            wanted=Wanted(
                capabilities=needs.capabilities,
                devices=needs.devices,
                reads=tuple(each.path for each in needs.reads),
                writes=needs.writes,
                secrets=needs.secrets,
                host_code=found.host_code,
            ),
            args=planned.args,
            kwargs=planned.kwargs,
            inputs=resources.stores.inputs(state),
            environment=planning.environment(state, needs, found.http_proxy),
            external=planning.recorded_external(planned),
            manifest_path=state.manifest_path,
            places=planned.places,
            # Packages of a locked build are all captured, unless it fetches them.
            network=planned.network
            and not (state.rebuild or (state.locked and not state.locked.fetch and needs.packages)),
            packages=needs.packages,
            capture=resources.settings().capture,
            stage=stage.value,
            below=self._below.record.resolved if self._below and stage is Stage.REST else "",
            handed=self._handed if stage is Stage.REST else "",
            variation=state.variation,
            resolved=state.resolved if needs.contents else (),
            host_files=_entering(state.plan.checkpoints[: self._index]) if needs.contents else (),
            products=_delivered(state.checkpoints[: self._index]) if needs.contents else {},
            artifacts=state.declared if needs.contents else (),
            locked=state.locked,
        )

    async def _conclude(
        self, ending: Ending, workspace: Workspace, stage: Stage
    ) -> BuildState | None:
        """Record the outcome of the attempt; None when this stage does not end it."""
        name = self._planned.name
        change: Change | None
        match ending.outcome:
            case Completed():
                change = await self._commit(ending, workspace, stage)
            case Unsuited(reason):
                logger.info("no base", build=self._build, checkpoint=name, reason=reason)
                change = None
            case Failed(error, no_space=True):
                change = InterruptCheckpoint(name, "no-space", error.brief)
            case Failed(error):
                change = FailCheckpoint(name, error, seconds=self._seconds)
            case Cancelled():
                change = InterruptCheckpoint(name, self._cause)
            case Died(how, tail):
                # It may have had no space left to report the reason.
                cause = (
                    "no-space" if used_up(self._resources.settings().state_dir) else "worker-died"
                )
                change = InterruptCheckpoint(name, cause, f"{how}\n{tail}".strip())
        logger.info(
            "checkpoint ended",
            build=self._build,
            checkpoint=name,
            outcome=type(ending.outcome).__name__.lower(),
            stage=stage.value,
            seconds=round(ending.seconds, 1),
        )
        return None if change is None else await self._record(change)

    async def _commit(
        self, ending: Ending, workspace: Workspace, stage: Stage
    ) -> CheckpointCompleted | InterruptCheckpoint | None:
        """Turn the workspace into a layer, unless the host has changed from the state in the key. None for
        the base layer."""
        planned = self._planned
        if changed := await asyncio.to_thread(planning.changed_host, planned):
            what = f"{', '.join(changed)} changed while it ran"
            return InterruptCheckpoint(planned.name, "host-changed", what)
        is_base = stage is Stage.BASE
        record = LayerRecord(
            key=self._ground.base if is_base else planned.key,
            parent=workspace.parent,
            made_by=self._build,
            checkpoint=planned.name,
            attempt=self._number,
            seconds=self._seconds,
            artifacts=ending.artifacts,
            left=ending.left,
            warnings=ending.warnings,
            resolved=ending.resolved,
            publications=ending.publications,
            base=self._ground.base,
            listed=() if is_base else tuple(sorted(planned.listed)),
            own=own_digest(self._ground.plan, self._index) if planned.inputs else "",
            epoch=self._epoch,
        )
        commit = self._resources.stores.privileged.commit
        with self._resources.builds.broadcast.waiting(self._build, "its layer to be on disk"):
            layer = await asyncio.to_thread(commit, workspace.name, record, ending.document)
        if is_base:
            return None
        return CheckpointCompleted(
            planned.name,
            attempt=self._number,
            key=planned.key,
            seconds=self._seconds,
            artifacts=layer.record.artifacts,
            size_bytes=layer.size_bytes,
            left=ending.left,
            warnings=ending.warnings,
            resolved=layer.record.resolved,
            content=layer.record.content,
            publications=ending.publications,
            **self._base_named(),
        )

    def _base_named(self) -> dict[str, str]:
        """The base on which the result was made, for its event."""
        if self._below is None or self._below.record.key != self._ground.base:
            return {}
        return {"base": self._ground.base, "base_content": self._below.record.content}

    def _record(self, change: Change) -> Awaitable[BuildState]:
        return self._resources.record(self._build, change)


@contextlib.asynccontextmanager
async def _meanwhile(work: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Future[T]]:
    """Work that is done while other work is, and needed by its end; given up at the end of the context."""
    task = asyncio.ensure_future(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # also one that nobody has asked for


def _delivered(earlier: Sequence[CheckpointRecord]) -> dict[str, str]:
    """The products of the checkpoints, by name with their sha256."""
    artifacts = (artifact for record in earlier for artifact in record.artifacts)
    return {artifact.name: artifact.sha256 for artifact in artifacts if not artifact.evidence}


def _entering(earlier: Sequence[PlannedCheckpoint]) -> tuple[str, ...]:
    """The tools of the host whose files the checkpoints put into the image."""
    names = dict.fromkeys(name for planned in earlier for name in planned.tools)
    return tuple(name for name in names if tool_named(name).enters)
