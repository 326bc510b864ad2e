"""Running one build: from its present state until it stops.

The state machine determines the next step (`next_step`); this module carries it out and records the
outcome. Its only own state is the running attempts, so a build continues after a crash by running
again. A checkpoint's event is on disk before its workspace is created; its layer is on disk before the
event of its completion.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version

import structlog

from dcd.configuration import Configuration
from dcd.engine.attempt import Attempt, Resources
from dcd.engine.borrowers import require_secrets
from dcd.engine.builds import Builds
from dcd.engine.claims import release_claims
from dcd.engine.failures import defect, disk_error
from dcd.engine.ground_rule import ground_rule
from dcd.engine.locked import has_inputs
from dcd.engine.locks import LayerLocks
from dcd.engine.needs import Needs
from dcd.engine.package_locks import is_locked_result
from dcd.engine.publish import publish
from dcd.engine.secret_digests import secret_state
from dcd.engine.sharing import NOT_SHARED, Sharing
from dcd.engine.soundness import check, unchecked
from dcd.engine.stores import Stores
from dcd.engine.takeover import taken_over
from dcd.engine.workspaces import claiming_workspace, missing_layer
from dcd.planner import tasks
from dcd.planner.client import HERE, Planning
from dcd.planning import plan as planning
from dcd.planning.action import decide_action
from dcd.planning.ground import Ground, choose_ground
from dcd.planning.labels import with_code
from statemachine.build import BuildState, Lifecycle
from statemachine.commands import Change, FailCheckpoint, InterruptCheckpoint, Pause, Start
from statemachine.errors import DcdError, NotFound, Refused, Unavailable
from statemachine.events import (
    BuildFailed,
    BuildRewound,
    CheckpointCompleted,
    CheckpointReused,
    LayerDamaged,
)
from statemachine.keys import grown_from, with_external
from statemachine.plan import Plan, PlannedCheckpoint
from statemachine.results import ErrorInfo
from statemachine.steps import Deliver, RunCheckpoint, next_step
from store.eventlog import Fenced
from store.host import space
from store.host.boot import boot_id
from store.host.conversation import Gone
from store.host.durable import DiskFull
from store.layers import Layer

logger = structlog.get_logger()

FRESH_SECONDS = 60.0
"""For a plan younger than this, repositories are not queried again before their checkpoint starts."""

RETRY_SECONDS = 2.0
"""The delay before trying an event log again that accepts no events."""

MANY_REFUSALS = 20
"""More consecutive refusals than people can cause indicate a defect."""


class Runner:
    """Runs builds, with one task per build. See the module."""

    def __init__(
        self,
        builds: Builds,
        stores: Stores,
        settings: Callable[[], Configuration],
        planner: Planning = HERE,
        sharing: Sharing = NOT_SHARED,
    ) -> None:
        self.builds = builds
        self.stores = stores
        self._sharing = sharing
        self._needs = Needs(planner)
        self._resources = Resources(
            builds, stores, settings, planner, self._needs, self._record_durably
        )
        self._planned_at: dict[str, float] = {}
        self.stopping = False
        """Set when the daemon stops: builds continue only to their next durable point."""
        self._attempts: dict[str, Attempt] = {}
        self._sound: dict[str, set[str]] = {}
        """The keys of layers that running builds have made or checked."""
        self.locks = LayerLocks(builds.broadcast)
        self._submitting = 0
        self._leaving: set[str] = set()
        """The builds that continue only to their next durable point."""

    def planned(self, build: str, fresh: bool = True) -> None:
        """Record whether the external state in the build's keys is fresh."""
        if fresh:
            self._planned_at[build] = time.monotonic()
        else:
            self._planned_at.pop(build, None)

    def stop(self, build: str, cause: str) -> None:
        """End the running attempt of `build`, if any; `cause` as in CheckpointInterrupted."""
        self.locks.recall(build)
        self._sharing.give_up(build)
        if attempt := self._attempts.get(build):
            attempt.stop(cause)

    def leave(self, build: str) -> None:
        """End the run of `build` when its running attempt has ended. Its state stays as it is."""
        self.locks.recall(build)
        self._sharing.give_up(build)
        self._leaving.add(build)

    def using_packages(self) -> bool:
        """Whether an attempt, or a build that is being submitted, may be using files of the package store
        that no event names yet."""
        attempts = any(attempt.uses_packages for attempt in self._attempts.values())
        return attempts or self._submitting > 0

    @contextmanager
    def submitting_locked(self) -> Iterator[None]:
        """While a build is submitted that no event names yet, but that uses packages of the store."""
        self._submitting += 1
        try:
            yield
        finally:
            self._submitting -= 1

    def stop_all(self, cause: str) -> None:
        """End all running attempts and all waits."""
        for build in (*self._attempts, *self.locks.waiting()):
            self.stop(build, cause)

    async def run(self, build: str) -> None:
        """Run a build until it stops or the daemon stops."""
        try:
            await self._run(build)
        finally:
            self._planned_at.pop(build, None)
            self._sound.pop(build, None)
            self._needs.forget(build)
            self._leaving.discard(build)

    async def _run(self, build: str) -> None:
        try:
            state = await self._record_durably(build, self._start())
            if state.running:
                state = await self._settle(state)
        except Refused:
            return  # paused, cancelled or taken by another member just before its turn
        refusals = 0
        while not (self.stopping or self._leaves(state)):
            try:
                after = await self._step(state)
                refusals = 0
            except Fenced:
                logger.warning("another member took the build", build=build)
                return
            except Refused:
                # A person's command came between reading the state and the step: read it again.
                refusals += 1
                if refusals > MANY_REFUSALS:
                    raise
                after = await self.builds.state(build)
            if after is None:
                return
            state = after

    def _leaves(self, state: BuildState) -> bool:
        """Whether the build is to continue elsewhere. One that is made is delivered here: elsewhere all of it
        would be made again; and one that is to be paused or cancelled waits for no other member."""
        to_make = state.lifecycle is Lifecycle.RUNNING and state.next is not None
        return state.id in self._leaving and to_make

    def _start(self) -> Start:
        builder = self._resources.settings().builder_id
        return Start(builder, version("dcd"), self.stores.layers.name)

    async def give_up(self, build: str, error: Exception) -> None:
        """Fail a build after a defect in dcd."""
        info = defect(error)
        running = (await self.builds.state(build)).running
        change = FailCheckpoint(running.name, info) if running else BuildFailed(None, info)
        with contextlib.suppress(Refused, Unavailable):
            await self._record_durably(build, change)

    async def _step(self, state: BuildState) -> BuildState | None:
        step = next_step(state)
        needs_layers = isinstance(step, RunCheckpoint) or (step == Deliver() and state.unpublished)
        if needs_layers:
            for record in state.checkpoints[: state.completed]:
                if (damaged := await self._damaged(state, record.name, record.key)) is not None:
                    state = damaged
                    break
        if needs_layers and (lost := await self._lost(state)):
            checkpoint, reason = lost
            logger.warning(
                "a layer is missing", build=state.id, checkpoint=checkpoint, reason=reason
            )
            return await self._record(state, BuildRewound(checkpoint, reason, "layer-missing"))
        match step:
            case RunCheckpoint(index):
                if await self._lacks_inputs(state):
                    return await self.builds.state(state.id)
                return await self._run_checkpoint(state, index)
            case Deliver():
                return await self._deliver(state)
            case None:
                return None
            case change:
                return await self._record(state, change)

    async def _lost(self, state: BuildState) -> tuple[str, str] | None:
        """As `missing_layer`, after those that others share have come."""
        layers = self.stores.layers
        lost = await asyncio.to_thread(missing_layer, layers, state)
        for record in state.checkpoints[: state.completed] if lost else ():
            there = await asyncio.to_thread(layers.find, record.key)
            if there is None and not await self._bring(state, record.key):
                break
        return lost and await asyncio.to_thread(missing_layer, layers, state)

    async def _bring(self, state: BuildState, key: str) -> bool:
        """Have a layer here that another build server shares. Returns whether it has come."""
        with self.builds.broadcast.waiting(state.id, "a layer from the registry"):
            return await self._sharing.bring(state.id, key)

    async def _lacks_inputs(self, state: BuildState) -> bool:
        """Whether captured files or packages of the build have yet to come, after a wait. Those that no
        member has offered are an error of the attempt."""
        if not self.builds.host or await asyncio.to_thread(has_inputs, self.stores, state):
            return False
        digests = [file.sha256 for file in state.inputs]
        with self.builds.broadcast.waiting(state.id, "its captured files from the registry"):
            if await self._sharing.fetch(digests, state.locked):
                return False
            await asyncio.sleep(RETRY_SECONDS)
        return True

    async def _damaged(self, state: BuildState, checkpoint: str, key: str) -> BuildState | None:
        """Check the layer of that key, and those below it that this build has not checked, before it uses
        them for the first time. The state after the event that one is damaged, None when none is."""
        sound, layers = self._sound.setdefault(state.id, set()), self.stores.layers
        if key in sound:
            return None  # as each step finds for all checkpoints before it: no thread for that
        for each in await asyncio.to_thread(unchecked, layers, key, sound):
            try:
                with self.builds.broadcast.waiting(state.id, "a check of a layer"):
                    found = await asyncio.to_thread(
                        check, layers, self.builds.log, each, whole=False
                    )
            except NotFound:
                return None  # it is made again
            if found.state == "damaged":
                logger.error("a layer is damaged", build=state.id, layer=each, damage=found.damage)
                damaged = LayerDamaged(checkpoint, each, found.made_by, found.damage)
                return await self._record(state, damaged)
            sound.add(each)
        return None

    async def _settle(self, state: BuildState) -> BuildState:
        """Record the outcome of an attempt that a dead daemon left open, here or on another member of the
        farm: completed if its layer was committed, otherwise interrupted; failed if its claims cannot be
        released. Only the host that has claimed a resource can release it."""
        record = state.running
        assert record is not None
        here = self.builds.is_here(record.host)
        if here and (workspace := claiming_workspace(state)):
            try:
                await release_claims(self.stores.privileged.release, state)
            except DcdError as error:
                return await self._record(state, FailCheckpoint(record.name, ErrorInfo.of(error)))
            await asyncio.to_thread(self.stores.layers.release, workspace)
        layer = await asyncio.to_thread(self.stores.layers.find, record.key)
        made = layer and (layer.record.made_by, layer.record.attempt, layer.record.brought)
        if layer and made == (state.id, record.attempts, False):
            return await self._record(
                state,
                CheckpointCompleted(
                    record.name,
                    attempt=record.attempts,
                    key=record.key,
                    seconds=layer.record.seconds,
                    artifacts=layer.record.artifacts,
                    size_bytes=layer.size_bytes,
                    left=layer.record.left,
                    warnings=layer.record.warnings,
                    resolved=layer.record.resolved,
                    content=layer.record.content,
                    publications=layer.record.publications,
                ),
            )
        rebooted = record.boot_id != boot_id()
        cause = "host-lost" if not here else "machine-rebooted" if rebooted else "daemon-died"
        return await self._record(state, InterruptCheckpoint(record.name, cause))

    async def _deliver(self, state: BuildState) -> BuildState:
        try:
            return await publish(
                self._record_durably,
                self.builds.events,
                self.stores,
                self._resources.planner,
                state,
            )
        except DiskFull as error:
            return await self._record(state, Pause(str(error), "no-space"))
        except (Refused, Unavailable):
            raise
        except DcdError as error:
            return await self._record(state, BuildFailed(None, ErrorInfo.of(error)))
        except OSError as error:
            return await self._record(state, BuildFailed(None, disk_error(error)))

    async def _run_checkpoint(self, state: BuildState, index: int) -> BuildState:
        name = state.plan.checkpoints[index].name
        try:
            external = await self._external(state, index)
        except Gone:
            raise
        except DcdError as error:
            return await self._record(state, FailCheckpoint(name, ErrorInfo.of(error)))
        plan = state.plan if external is None else with_external(state.plan, index, external)
        layers, settings = self.stores.layers, self._resources.settings()
        rule = ground_rule(settings)
        ground = await asyncio.to_thread(choose_ground, plan, index, layers, rule)
        planned = ground.plan.checkpoints[index]
        async with self.locks.turn(state.id, planned.key) as mine:
            if not mine or self.stopping:
                return await self.builds.state(state.id)
            action = await asyncio.to_thread(decide_action, planned, layers)
            if action.layer is None and await self._bring(state, planned.key):
                action = await asyncio.to_thread(decide_action, planned, layers)
            if action.layer and await self._is_locked_result(state, action.layer):
                if (damaged := await self._damaged(state, name, planned.key)) is not None:
                    return damaged
                return await self._reuse(state, planned, action.layer, external)
            if taken := await self._take_over(state, ground.plan, index):
                return await self._reuse(state, planned, taken[0], external, taken[1])
            if shortage := space.lack_of_space(
                settings.state_dir, planned, settings.min_free_bytes
            ):
                return await self._record(state, Pause(shortage, "no-space"))
            return await self._attempt(state, index, ground, external)

    async def _external(self, state: BuildState, index: int) -> dict[str, str] | None:
        """The present external state for the checkpoint's key; None when it is as planned. Repositories
        are queried only when the plan is not fresh, and never for a locked build; the tools of this host
        always."""
        planned = state.plan.checkpoints[index]
        recorded = planning.recorded_external(planned)
        await asyncio.to_thread(
            require_secrets, self._resources.settings(), state.actor, planned.secrets
        )
        age = time.monotonic() - self._planned_at.get(state.id, float("-inf"))
        if age < FRESH_SECONDS or state.locked or state.rebuild:
            found = await asyncio.to_thread(planning.with_present_host, planned)
        else:
            with self.builds.broadcast.waiting(state.id, "responses of repositories"):
                question = self._resources.of_build(state, index)
                found = await self._resources.planner.ask(tasks.EXTERNAL, question)
        digests = self.stores.privileged.secret_digests
        found |= await asyncio.to_thread(secret_state, planned.secrets, digests)
        found = with_code(found, state.requires)
        return None if found == recorded else found

    async def _is_locked_result(self, state: BuildState, layer: Layer) -> bool:
        resolved = layer.record.resolved
        return await asyncio.to_thread(is_locked_result, self.stores, state.locked, resolved)

    async def _reuse(
        self,
        state: BuildState,
        planned: PlannedCheckpoint,
        layer: Layer,
        external: dict[str, str] | None,
        source: Layer | None = None,
    ) -> BuildState:
        await asyncio.to_thread(self.stores.layers.touch, planned.key)
        return await self._record(
            state,
            CheckpointReused(
                planned.name,
                key=planned.key,
                reused_from=(source or layer).record.made_by,
                artifacts=layer.record.artifacts,
                external=external or {},
                left=layer.record.left,
                warnings=layer.record.warnings,
                resolved=layer.record.resolved,
                grown=grown_from(planned),
                content=layer.record.content,
                taken_from="" if source is None else source.record.key,
            ),
        )

    async def _take_over(
        self, state: BuildState, plan: Plan, index: int
    ) -> tuple[Layer, Layer] | None:
        if plan.checkpoints[index].inputs is None:
            return None
        with self.builds.broadcast.waiting(state.id, "a comparison of what it reads"):
            layers, privileged = self.stores.layers, self.stores.privileged
            return await asyncio.to_thread(taken_over, state, plan, index, layers, privileged)

    async def _attempt(
        self,
        state: BuildState,
        index: int,
        ground: Ground,
        external: dict[str, str] | None,
    ) -> BuildState:
        async with contextlib.AsyncExitStack() as held:
            if key := ground.key:
                # Two builds make a base once, and nothing removes the layer before a workspace is on it.
                mine = await held.enter_async_context(self.locks.turn(state.id, key))
                lost = ground.grown and not await asyncio.to_thread(self.stores.layers.find, key)
                if not mine or lost or self.stopping:
                    return await self.builds.state(state.id)
                name = state.plan.checkpoints[index].name
                there = await asyncio.to_thread(self.stores.layers.find, key)
                if there is None and await self._bring(state, key):
                    there = await asyncio.to_thread(self.stores.layers.find, key)
                if there and (damaged := await self._damaged(state, name, key)) is not None:
                    return damaged
            attempt = Attempt(self._resources, state, index, ground, external, held.aclose)
            self._attempts[state.id] = attempt
            try:
                after = await attempt.run()
            finally:
                del self._attempts[state.id]
        made = after.checkpoints[index]
        if made.done:
            self._sound.setdefault(state.id, set()).add(made.key)
        return after

    def _record(self, state: BuildState, change: Change) -> Awaitable[BuildState]:
        return self._record_durably(state.id, change)

    async def _record_durably(self, build: str, change: Change) -> BuildState:
        """Record a change by the engine, and wait as long as the log accepts no events: an outcome must
        not be lost."""
        while True:
            try:
                return await self.builds.command(build, change)
            except Unavailable as error:
                if self.stopping:
                    raise
                logger.error(
                    "the event log accepts no events; waiting", build=build, error=str(error)
                )
                with self.builds.broadcast.waiting(build, f"the event log: {error.brief}"):
                    await asyncio.sleep(RETRY_SECONDS)
