"""The engine as the API sees it: commands about builds.

Every command names its actor and answers with the build's state after it. Rights are checked by the
API; legality by the machine; this module adds what is neither: planning, waking the scheduler, stopping
attempts. Questions are answered by its parts: `manifests` (what clients send), `records` (what builds leave).
"""

import asyncio
import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dcd.configuration import Configuration
from dcd.engine.builds import Builds
from dcd.engine.garbage import Collector
from dcd.engine.losses import NO_LOSSES, Losses
from dcd.engine.manifests import Manifests, ManifestSource, Options, Permit
from dcd.engine.records import Records
from dcd.engine.runner import Runner
from dcd.engine.scheduler import Scheduler
from dcd.engine.shells import Shells
from dcd.engine.stores import Stores
from dcd.engine.usage import DiskUsage, measure
from dcd.engine.workspaces import lost_layer
from dcd.planner.client import Planning
from dcd.planning import plan as planning
from dcd.planning.history import History
from dcd.planning.preview import compared
from statemachine.build import BuildState
from statemachine.commands import (
    Command,
    Remove,
    Replacement,
    RequestCancel,
    RequestPause,
    Resume,
    Retry,
    WithdrawPause,
)
from statemachine.errors import DcdError, Refused, Unavailable
from statemachine.events import Actor, BuildSubmitted
from statemachine.keys import canonical, epoch_of, with_epoch
from store.eventlog import Conflict
from store.host.durable import DiskFull


class Engine:
    """See the module."""

    def __init__(
        self,
        builds: Builds,
        runner: Runner,
        scheduler: Scheduler,
        stores: Stores,
        settings: Callable[[], Configuration],
        planner: Planning,
        losses: Losses = NO_LOSSES,
    ) -> None:
        self.losses = losses
        self._builds = builds
        self._stores = stores
        self._runner = runner
        self._scheduler = scheduler
        self._settings = settings
        self._home = _place(settings().state_dir)
        self.manifests = Manifests(planner, stores, settings, History(builds.log))
        self.records = Records(builds, stores)
        self.shells = Shells(stores, settings)
        self.collector = Collector(builds, runner, stores, settings, losses)

    @property
    def stopping(self) -> bool:
        """Whether nothing is started any more, because the daemon stops."""
        return self._runner.stopping

    def trouble(self) -> DcdError | None:
        """Why commands are not, or not safely, carried out at present; None when all is well."""
        if self.stopping:
            return Unavailable("the daemon is stopping")
        return self.log_trouble or self._trouble_of_store()

    @property
    def log_trouble(self) -> DcdError | None:
        """Why appends to the event log fail or soon will; None when it is healthy."""
        return self._builds.log.trouble

    def _trouble_of_store(self) -> DcdError | None:
        state_dir = self._settings().state_dir
        remedy = "put it back where it was, then restart the daemon"
        try:
            place = _place(state_dir)
            read_only = bool(os.statvfs(state_dir).f_flag & os.ST_RDONLY)
            absent = [path for path in self._kept() if not path.exists()]
        except OSError as error:
            return Unavailable(f"the state directory {state_dir} is gone", str(error), remedy)
        if place != self._home:
            return Unavailable(
                f"the state directory {state_dir} was replaced while the daemon runs",
                "what the daemon keeps is in the directory that was there before",
                remedy,
            )
        if absent:
            names = ", ".join(map(str, absent))
            return Unavailable("a part of the state directory is gone", names, remedy)
        if read_only:
            return Unavailable(
                f"the file system of {state_dir} is read-only",
                "the kernel makes it so after an error of the disk",
                "look for the cause in the kernel's log, repair it, then restart the daemon",
            )
        return None

    def _kept(self) -> tuple[Path, ...]:
        """What the daemon cannot do without, and does not make again while it runs."""
        stores = self._stores
        return (self._builds.log.path, stores.blobs.directory, stores.layers.directory)

    def disk_full(self, what: str, error: OSError) -> DcdError:
        """That the state directory has no room left for `what`."""
        return DiskFull(what, self._settings().state_dir, error)

    def settings_changed(self) -> None:
        """Act on new settings: more builds may run, fewer layers may be kept."""
        self._scheduler.wake()
        self.collector.wake()

    async def submit(
        self, source: ManifestSource, options: Options, actor: Actor, permit: Permit
    ) -> tuple[BuildState, bool]:
        """A new build, queued, and True; or the one submitted before under the same idempotency key,
        and False. Raises ManifestError, InputsMissing, Unprepared, PermissionDenied, Refused for a key that
        was used for another submit."""
        request = _digest(source, options)
        if earlier := await self._earlier(options.idempotency_key, actor, request):
            return earlier, False
        planned = await self.manifests.plan(source, actor, permit, options.pause_before)
        plan = planned.plan
        if options.fresh or options.fresh_from is not None:
            plan = planning.declining_reuse(plan, options.fresh_from)
        submitted = BuildSubmitted(
            name=planned.name,
            manifest=planned.canonical,
            manifest_path=source.path,
            plan=plan,
            inputs=planned.inputs,
            parameters=dict(source.parameters),
            pause_before=options.pause_before,
            fresh=options.fresh,
            priority=options.priority,
            idempotency_key=options.idempotency_key,
            request_sha256=request,
        )
        try:
            state = await self._builds.create(submitted, actor)
        except Conflict:
            # The same request, sent twice at once.
            if earlier := await self._earlier(options.idempotency_key, actor, request):
                return earlier, False
            raise
        self._runner.planned(state.id)
        self._scheduler.wake()
        return state, True

    async def pause(self, build: str, before: str | None, actor: Actor) -> BuildState:
        """Stop before `before`, or after the checkpoint that runs now."""
        _, state = await self._transition(build, RequestPause(before), actor)
        return state

    async def withdraw_pause(self, build: str, actor: Actor) -> BuildState:
        """Go past where a pause was requested, as long as the build has not reached it."""
        _, state = await self._transition(build, WithdrawPause(), actor)
        return state

    async def resume(
        self,
        build: str,
        rewind_to: str | None,
        pause_before: str | None,
        source: ManifestSource | None,
        actor: Actor,
        permit: Permit,
    ) -> tuple[BuildState, list[str], list[tuple[str, str]]]:
        """Go on. With a manifest: also the names of the checkpoints that are kept, and the others
        each with the reason why it runs."""
        replacement = None
        if source is not None:
            # It keeps its time, unless the manifest says one.
            epoch = epoch_of((await self._builds.state(build)).plan)
            source = replace(source, source_date_epoch=epoch)
            planned = await self.manifests.plan(source, actor, permit, pause_before)
            timeless = epoch is None and not planned.has_time
            replacement = Replacement(
                manifest=planned.canonical,
                manifest_path=source.path,
                plan=with_epoch(planned.plan, None) if timeless else planned.plan,
                inputs=planned.inputs,
                parameters={**source.inherited, **source.parameters},
            )
        command = Resume(rewind_to, pause_before, replacement)
        before, state = await self._transition(build, command, actor)
        self._runner.planned(build, fresh=replacement is not None)
        if replacement is None:
            return state, [], []
        return state, *compared(before, state)

    async def retry(self, build: str, actor: Actor) -> BuildState:
        """Let a failed build go on from where it stands."""
        _, state = await self._transition(build, Retry(), actor)
        self._runner.planned(build, fresh=False)
        return state

    async def cancel(self, build: str, actor: Actor) -> BuildState:
        """Give the build up; an attempt that runs is stopped."""
        _, state = await self._transition(build, RequestCancel(), actor)
        self._runner.stop(build, "cancelled")
        return state

    async def remove(self, build: str, actor: Actor) -> BuildState:
        """Drop the artifacts and logs of an ended build; its events stay."""
        _, state = await self._transition(build, Remove(), actor)
        await asyncio.to_thread(self._stores.artifacts.remove, build)
        await asyncio.to_thread(self._stores.logs.remove, build)
        return state

    async def usage(self) -> DiskUsage:
        """What uses the space of the state directory."""
        settings = self._settings()
        return await asyncio.to_thread(
            measure,
            settings.state_dir,
            self._stores,
            self._builds.log,
            self._builds.unfinished(),
            settings.layers_max_bytes,
        )

    async def checkpoints(self, build: str) -> tuple[BuildState, tuple[bool, ...]]:
        """A build, and for each of its checkpoints whether the build can be resumed from it: it has
        completed, or it is the first that has not, and the layer that it stands on is there."""
        state = await self._builds.state(build)
        lost = await asyncio.to_thread(lost_layer, self._stores.layers, state)
        last = state.completed if lost is None else state.index(lost.name)
        return state, tuple(
            not state.ended and index <= last for index in range(len(state.checkpoints))
        )

    async def _transition(
        self, build: str, command: Command, actor: Actor
    ) -> tuple[BuildState, BuildState]:
        """A person's command: the states before and after it. A build that goes on or ends lets go of
        the workspace of its failed attempt."""
        before, after = await self._builds.transition(build, command, actor)
        self._runner.locks.recall(build)
        self._scheduler.wake()
        if after.lifecycle is not before.lifecycle:
            await self.shells.release(before)
        return before, after

    async def _earlier(
        self, idempotency_key: str | None, actor: Actor, request: str
    ) -> BuildState | None:
        """The build that this user submitted with this key, and with the same content. Raises Refused when
        the content was another."""
        if idempotency_key is None:
            return None
        log = self._builds.log
        build = await self._builds.ask(log.by_idempotency_key, actor.uid, idempotency_key)
        if build is None:
            return None
        state = await self._builds.state(build)
        # Version 0.1.0 did not record what was submitted.
        if state.request_sha256 not in ("", request):
            raise Refused(
                f"the idempotency key {idempotency_key} belongs to another submit of yours",
                f"it made build {build}, from another manifest, other files, parameters or options",
                "give each submit a key of its own",
            )
        return state


def _digest(source: ManifestSource, options: Options) -> str:
    """The digest of all that a submit says: two with the same one ask for the same."""
    time = source.source_date_epoch
    said = (source.path, source.text, source.files, source.parameters, time, options)
    return hashlib.sha256(canonical(said)).hexdigest()


def _place(directory: Path) -> tuple[int, int]:
    """What tells a directory from another of the same name. Raises OSError."""
    status = directory.stat()
    return status.st_dev, status.st_ino
