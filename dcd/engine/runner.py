"""Running one build: from its present state to the next state in which it stands still.

The state machine says what comes next (`next_step`); this module does it and reports the outcome as a
command. It keeps no state of its own beside the running attempts, so a build goes on after a crash
by running again. A checkpoint's event is on disk before its workspace is begun; its layer is on
disk before its completion is an event.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import structlog

from dcd import planner
from dcd.configuration import Configuration
from dcd.engine.borrowers import require_secrets
from dcd.engine.broadcast import progress
from dcd.engine.builds import Builds
from dcd.engine.claims import claims_released, release_claims
from dcd.engine.failures import broken_off, defect, disk_error, info_of
from dcd.engine.host import boot_id
from dcd.engine.locks import LayerLocks
from dcd.engine.publish import commit, publish
from dcd.engine.secret_digests import secret_digests
from dcd.engine.workspaces import claiming_workspace, kept_workspace, missing_layer, workspace_name
from dcd.planner.client import HERE, Planning
from dcd.planner.tasks import OfBuild
from dcd.planning import plan as planning
from dcd.platform.control_group import Delegated
from dcd.worker.launch import Cancelled, Completed, Died, Failed, Outcome, run_attempt
from dcd.worker.request import Claim, WorkerRequest
from dcd.worker.request import Progress as WorkerProgress
from statemachine.build import BuildState
from statemachine.commands import (
    ClaimResource,
    Command,
    CompleteCheckpoint,
    FailBuild,
    FailCheckpoint,
    FinishCancel,
    InterruptCheckpoint,
    Pause,
    ReuseCheckpoint,
    Rewind,
    Start,
    StartCheckpoint,
)
from statemachine.errors import DcdError, NotFound, Refused, Unavailable
from statemachine.keys import with_external
from statemachine.plan import PlannedCheckpoint
from statemachine.steps import CancelNow, Finish, PauseNow, RunCheckpoint, next_step
from store.artifacts import Artifacts
from store.blobs import Blobs
from store.host import space
from store.host.durable import DiskFull, used_up
from store.layers import Layer, LayerRecord, LayerStore, Workspace

log = structlog.get_logger()

FRESH_SECONDS = 60.0
"""A plan younger than this need not look at repositories again before their checkpoint starts."""

RETRY_SECONDS = 2.0
"""How long to wait for an event log that takes no events, before trying again."""

MANY_REFUSALS = 20
"""More refusals in a row than people can cause: a defect."""


@dataclass(frozen=True, slots=True)
class Stores:
    """Where the engine keeps what is not events."""

    layers: LayerStore
    blobs: Blobs
    artifacts: Artifacts
    logs: Path
    state_id: str
    secret_key: bytes = b""
    retired: tuple[LayerStore, ...] = ()
    """Back ends that were used before, with what they left."""


@dataclass(slots=True)
class Running:
    """An attempt that runs now. Setting `stop` ends it; `cause` then says why."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    cause: str = "cancelled"


class Runner:
    """Runs builds; one task a build. See the module."""

    def __init__(
        self,
        builds: Builds,
        stores: Stores,
        settings: Callable[[], Configuration],
        planner: Planning = HERE,
        groups: Delegated | None = None,
    ) -> None:
        self.builds = builds
        self._planner = planner
        self.stores = stores
        self._settings = settings
        self._groups = groups
        self._planned_at: dict[str, float] = {}
        self.stopping = False
        """Set when the daemon stops: builds go no further than their next durable point."""
        self._running: dict[str, Running] = {}
        self.locks = LayerLocks(builds.broadcast)

    def planned(self, build: str, fresh: bool = True) -> None:
        """Note whether the external state in the build's keys was looked at just now."""
        if fresh:
            self._planned_at[build] = time.monotonic()
        else:
            self._planned_at.pop(build, None)

    def stop(self, build: str, cause: str) -> None:
        """End the attempt of `build` that runs now, if any; `cause` as in CheckpointInterrupted."""
        self.locks.recall(build)
        if running := self._running.get(build):
            running.cause = cause
            running.stop.set()

    def stop_all(self, cause: str) -> None:
        """End all attempts that run now, and all waiting."""
        for build in (*self._running, *self.locks.waiting()):
            self.stop(build, cause)

    async def run(self, build: str) -> None:
        """Run a build until it stands still or the daemon stops."""
        try:
            await self._run(build)
        finally:
            self._planned_at.pop(build, None)

    async def _run(self, build: str) -> None:
        try:
            state = await self._insist(build, Start())
        except Refused:
            return  # somebody paused or cancelled it as its turn came
        if state.running:
            state = await self._settle(state)
        refusals = 0
        while not self.stopping:
            try:
                after = await self._step(state)
                refusals = 0
            except Refused:
                # A person's command came between the look and the step: look again.
                refusals += 1
                if refusals > MANY_REFUSALS:
                    raise
                after = await self.builds.state(build)
            if after is None:
                return
            state = after

    async def give_up(self, build: str, error: Exception) -> None:
        """Fail a build that a defect in dcd stopped."""
        info = defect(error)
        running = (await self.builds.state(build)).running
        command = FailCheckpoint(running.name, info) if running else FailBuild(info)
        with contextlib.suppress(Refused, Unavailable):
            await self._insist(build, command)

    async def _step(self, state: BuildState) -> BuildState | None:
        step = next_step(state)
        needs_layers = isinstance(step, RunCheckpoint) or (step == Finish() and state.unpublished)
        if needs_layers and (
            lost := await asyncio.to_thread(missing_layer, self.stores.layers, state)
        ):
            checkpoint, reason = lost
            log.warning("a layer is missing", build=state.id, checkpoint=checkpoint, reason=reason)
            return await self._command(state, Rewind(checkpoint, reason))
        match step:
            case RunCheckpoint(index):
                return await self._run_checkpoint(state, index)
            case PauseNow(reason, cause):
                return await self._command(state, Pause(reason, cause, wanted=True))
            case CancelNow():
                return await self._command(state, FinishCancel())
            case Finish():
                return await self._finish(state)
            case None:
                return None

    async def _settle(self, state: BuildState) -> BuildState:
        """Give the attempt that a dead daemon left open its outcome: complete when its layer was
        committed, interrupted otherwise; failed when what it claimed cannot be released."""
        record = state.running
        assert record is not None
        if workspace := claiming_workspace(state):
            try:
                await release_claims(state)
            except DcdError as error:
                return await self._command(state, FailCheckpoint(record.name, info_of(error)))
            await asyncio.to_thread(self.stores.layers.release, workspace)
        layer = await asyncio.to_thread(self.stores.layers.find, record.key)
        if layer and (layer.record.made_by, layer.record.attempt) == (state.id, record.attempts):
            return await self._command(
                state,
                CompleteCheckpoint(
                    record.name,
                    seconds=layer.record.seconds,
                    artifacts=layer.record.artifacts,
                    size_bytes=layer.size_bytes,
                    left=layer.record.left,
                ),
            )
        cause = "daemon-died" if record.boot_id == boot_id() else "machine-rebooted"
        return await self._command(state, InterruptCheckpoint(record.name, cause))

    async def _finish(self, state: BuildState) -> BuildState:
        try:
            return await publish(
                self._insist, self.stores.artifacts, self.stores.layers, self._planner, state
            )
        except DiskFull as error:
            return await self._command(state, Pause(str(error), "no-space"))
        except (Refused, Unavailable):
            raise
        except DcdError as error:
            return await self._command(state, FailBuild(info_of(error)))
        except OSError as error:
            return await self._command(state, FailBuild(disk_error(error)))

    async def _run_checkpoint(self, state: BuildState, index: int) -> BuildState:
        name = state.plan.checkpoints[index].name
        try:
            external = await self._external(state, index)
        except DcdError as error:
            return await self._command(state, FailCheckpoint(name, info_of(error)))
        plan = state.plan if external is None else with_external(state.plan, index, external)
        planned = plan.checkpoints[index]
        async with self.locks.turn(state.id, planned.key) as mine:
            if not mine or self.stopping:
                return await self.builds.state(state.id)
            if layer := await asyncio.to_thread(self.stores.layers.find, planned.key):
                return await self._reuse(state, planned, layer, external)
            settings = self._settings()
            if lacking := space.lacking(settings.state_dir, planned, settings.min_free_bytes):
                return await self._command(state, Pause(lacking, "no-space"))
            return await self._attempt(state, index, planned, external)

    async def _external(self, state: BuildState, index: int) -> dict[str, str] | None:
        """External state for the checkpoint's key as of now; None when it is as planned. Repositories are
        asked again only when the plan is not fresh, the tools of this host always."""
        planned = state.plan.checkpoints[index]
        recorded = planning.recorded_external(planned)
        await asyncio.to_thread(require_secrets, self._settings(), state.actor, planned.secrets)
        age = time.monotonic() - self._planned_at.get(state.id, float("-inf"))
        if age < FRESH_SECONDS:
            found = await asyncio.to_thread(planning.with_present_host, planned)
        else:
            with self.builds.broadcast.waiting(state.id, "answers of repositories"):
                found = (await self._planner.ask(planner.EXTERNAL, self._of(state, index))).state
        key = self.stores.secret_key
        found |= await asyncio.to_thread(secret_digests, planned.secrets, key)
        return None if found == recorded else found

    def _of(self, state: BuildState, index: int) -> OfBuild:
        modules = self._settings().checkpoint_modules
        return OfBuild(state.manifest, state.plan.checkpoints[index], modules)

    async def _reuse(
        self,
        state: BuildState,
        planned: PlannedCheckpoint,
        layer: Layer,
        external: dict[str, str] | None,
    ) -> BuildState:
        await asyncio.to_thread(self.stores.layers.touch, planned.key)
        return await self._command(
            state,
            ReuseCheckpoint(
                planned.name,
                key=planned.key,
                reused_from=layer.record.made_by,
                artifacts=layer.record.artifacts,
                external=external or {},
                left=layer.record.left,
            ),
        )

    async def _attempt(
        self,
        state: BuildState,
        index: int,
        planned: PlannedCheckpoint,
        external: dict[str, str] | None,
    ) -> BuildState:
        attempt = state.next_attempt(planned.name)
        logs = self.stores.logs / state.id
        log_path = logs / f"{planned.name}.{attempt}.log"
        running = Running()
        self._running[state.id] = running
        try:
            state = await self._command(
                state,
                StartCheckpoint(
                    planned.name,
                    attempt=attempt,
                    key=planned.key,
                    log=str(log_path.relative_to(self.stores.logs.parent)),
                    boot_id=boot_id(),
                    external=external or {},
                ),
            )
            log.info("checkpoint started", build=state.id, checkpoint=planned.name, attempt=attempt)
            with self.builds.broadcast.waiting(state.id, "its workspace to be made"):
                workspace = await asyncio.to_thread(
                    self.stores.layers.begin, state.parent_key, workspace_name(state)
                )
            try:
                async with claims_released(self.builds, state.id):
                    outcome = await self._work(state, index, attempt, workspace, log_path, running)
                state = await self._conclude(state, index, attempt, workspace, outcome, running)
                return state
            finally:
                if kept_workspace(state) != workspace.name:
                    with self.builds.broadcast.waiting(state.id, "its workspace to be removed"):
                        await asyncio.to_thread(self.stores.layers.discard, workspace)
        except DiskFull as error:
            return await self._command(
                state, InterruptCheckpoint(planned.name, "no-space", str(error))
            )
        except (Refused, Unavailable):
            raise
        except DcdError as error:
            return await self._command(state, FailCheckpoint(planned.name, info_of(error)))
        except OSError as error:
            return await self._command(state, broken_off(planned.name, error))
        finally:
            del self._running[state.id]
            self.builds.broadcast.clear(state.id)

    async def _work(
        self,
        state: BuildState,
        index: int,
        attempt: int,
        workspace: Workspace,
        log_path: Path,
        running: Running,
    ) -> Outcome:
        planned = state.plan.checkpoints[index]
        evidence = log_path.with_suffix("")
        evidence.mkdir(parents=True, exist_ok=True)
        wanted = await self._planner.ask(planner.NEEDS, self._of(state, index))
        await asyncio.to_thread(
            require_secrets, self._settings(), state.actor, wanted.needs.secrets
        )
        request = WorkerRequest(
            state_id=self.stores.state_id,
            build=state.id,
            checkpoint=planned.name,
            attempt=attempt,
            mod_path=planned.mod_path,
            checkpoint_class=planned.checkpoint_class,
            args=planned.args,
            kwargs=planned.kwargs,
            manifest=state.manifest,
            layers=self._settings().state_dir / "layers",
            workspace=workspace,
            evidence=evidence,
            inputs=self._inputs(state),
            environment=planning.environment(state, wanted.needs, wanted.http_proxy),
            allowed=self._settings().checkpoint_modules,
            external=planning.recorded_external(planned),
            network=planned.network,
            grants=planning.grants(wanted.needs, self._settings()),
        )
        on_progress = partial(self._report, state, index, attempt, time.monotonic())
        on_progress(WorkerProgress())
        return await run_attempt(
            request,
            log_path=log_path,
            on_progress=on_progress,
            on_claim=partial(self._claim, state.id, planned.name),
            stop=running.stop,
            grace_seconds=self._settings().cancel_grace_seconds,
            groups=self._groups,
        )

    async def _claim(self, build: str, checkpoint: str, claim: Claim) -> None:
        await self._insist(build, ClaimResource(checkpoint, claim.kind, claim.name))

    def _inputs(self, state: BuildState) -> dict[str, Path]:
        """The captured files by the paths that the manifest names."""
        for file in state.inputs:
            if not self.stores.blobs.has(file.sha256):
                raise NotFound(
                    f"the captured file {file.path} is lost",
                    f"blob {file.sha256} is not in {self.stores.blobs.directory}",
                    f"capture it again: dcctl resume {state.id} --manifest FILE",
                )
        return {file.path: self.stores.blobs.path(file.sha256) for file in state.inputs}

    async def _conclude(
        self,
        state: BuildState,
        index: int,
        attempt: int,
        workspace: Workspace,
        outcome: Outcome,
        running: Running,
    ) -> BuildState:
        planned = state.plan.checkpoints[index]
        command: Command
        match outcome:
            case Completed() if changed := await asyncio.to_thread(planning.changed_host, planned):
                command = InterruptCheckpoint(
                    planned.name, "host-changed", f"{', '.join(changed)} changed while it ran"
                )
            case Completed(artifacts, seconds, left):
                record = LayerRecord(
                    key=planned.key,
                    parent=workspace.parent,
                    made_by=state.id,
                    checkpoint=planned.name,
                    attempt=attempt,
                    seconds=seconds,
                    artifacts=artifacts,
                    left=left,
                )
                layers, delivered = self.stores.layers, self.stores.artifacts
                with self.builds.broadcast.waiting(state.id, "its layer to be on disk"):
                    layer = await asyncio.to_thread(commit, layers, delivered, workspace, record)
                command = CompleteCheckpoint(
                    planned.name,
                    seconds=seconds,
                    artifacts=artifacts,
                    size_bytes=layer.size_bytes,
                    left=left,
                )
            case Failed(error, seconds, no_space):
                command = (
                    InterruptCheckpoint(planned.name, "no-space", error.brief)
                    if no_space
                    else FailCheckpoint(planned.name, error, seconds=seconds)
                )
            case Cancelled():
                command = InterruptCheckpoint(planned.name, running.cause)
            case Died(how, tail):
                # It may have had no room left to say why.
                cause = "no-space" if used_up(workspace.directory) else "worker-died"
                command = InterruptCheckpoint(planned.name, cause, f"{how}\n{tail}".strip())
        log.info(
            "checkpoint ended",
            build=state.id,
            checkpoint=planned.name,
            outcome=type(outcome).__name__.lower(),
            seconds=round(outcome.seconds, 1),
        )
        return await self._command(state, command)

    def _report(
        self,
        state: BuildState,
        index: int,
        attempt: int,
        started: float,
        report: WorkerProgress,
    ) -> None:
        seconds = time.monotonic() - started
        plan = state.plan.checkpoints
        self.builds.broadcast.report(
            state.id, progress(plan, index, attempt, report.fraction, report.message, seconds)
        )

    def _command(self, state: BuildState, command: Command) -> Awaitable[BuildState]:
        return self._insist(state.id, command)

    async def _insist(self, build: str, command: Command) -> BuildState:
        """Carry out a command of the engine's own, however long the log takes no events: an outcome
        that cannot be written yet must not be lost."""
        while True:
            try:
                return await self.builds.command(build, command)
            except Unavailable as error:
                if self.stopping:
                    raise
                log.error("the event log takes no events; waiting", build=build, error=str(error))
                with self.builds.broadcast.waiting(build, f"the event log: {error.brief}"):
                    await asyncio.sleep(RETRY_SECONDS)
