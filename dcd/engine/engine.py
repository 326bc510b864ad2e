"""The engine's interface for the API: commands to builds.

Every command has an actor and returns the build's new state. The API checks permissions and the machine
checks legality; this module adds planning, waking the scheduler and stopping attempts. Its parts answer
queries: `manifests` (from clients), `records` (results of builds).
"""

import asyncio
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

from dcd.configuration import Configuration
from dcd.engine.bisections import Bisections
from dcd.engine.builds import Builds
from dcd.engine.differences import ComparedBuilds
from dcd.engine.garbage import Collector
from dcd.engine.groups import Axis, planned_group
from dcd.engine.hosts import Hosts, in_farm
from dcd.engine.locked import has_inputs, known_repositories, require_packages_here
from dcd.engine.losses import NO_LOSSES, Losses
from dcd.engine.manifests import Manifests, ManifestSource, Options, Permit, all_labels
from dcd.engine.package_locks import PackageLocks, require_offline
from dcd.engine.rebuilds import Rebuilds, rebuild_plan, require_captured
from dcd.engine.records import Records
from dcd.engine.reproductions import Reproductions
from dcd.engine.retention import Retention
from dcd.engine.runner import Runner
from dcd.engine.scheduler import Scheduler
from dcd.engine.sharing import NOT_SHARED, Sharing
from dcd.engine.shells import Shells
from dcd.engine.soundness import Scrub, Soundness, soundness
from dcd.engine.stores import Stores
from dcd.engine.usage import DiskUsage, measure
from dcd.engine.vouched import check_planned
from dcd.engine.workspaces import lost_layer
from dcd.notify.notifier import Notifier
from dcd.planner.client import Planning
from dcd.planning import plan as planning
from dcd.planning.history import History
from dcd.planning.labels import code_label
from dcd.planning.preview import compared
from dcd.platform.host_labels import of_host
from statemachine.build import BuildState, Lifecycle
from statemachine.commands import (
    Command,
    Remove,
    Replacement,
    RequestCancel,
    RequestMove,
    RequestPause,
    Resume,
    Retry,
    WithdrawPause,
)
from statemachine.errors import DcdError, PermissionDenied, Refused, Unavailable
from statemachine.events import Actor, BuildSubmitted, InputFile
from statemachine.keys import canonical, epoch_of, with_epoch
from statemachine.plan import Locked
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
        keys: Mapping[Path, bytes] | None = None,
        hosts: Hosts | None = None,
        sharing: Sharing = NOT_SHARED,
    ) -> None:
        self.losses = losses
        self.sharing = sharing
        self.hosts = hosts
        """The members of the farm; None on a single machine."""
        self._builds = builds
        self._stores = stores
        self._runner = runner
        self._scheduler = scheduler
        self._settings = settings
        self._home = _place(settings().state_dir)
        self.manifests = Manifests(planner, stores, settings, History(builds.log))
        self.records = Records(builds, stores, sharing)
        self.differences = ComparedBuilds(stores)
        self.bisections = Bisections(builds, stores, self.manifests)
        self.shells = Shells(stores)
        builds.left = self.shells.release
        self.reproductions = Reproductions(builds, runner, scheduler, stores, settings)
        self.planner = planner
        self.locks = PackageLocks(builds, stores, self.manifests)
        self.rebuilds = Rebuilds(builds, runner, scheduler, stores, settings)
        self.collector = Collector(builds, runner, stores, settings, losses, sharing)
        self.scrub = Scrub(builds, stores, settings)
        self.notifier = Notifier(builds.log, partial(builds.broadcast.listen, None), settings, keys)
        self.retention = Retention(builds, settings, cancel=self.cancel, remove=self.remove)

    @property
    def stopping(self) -> bool:
        """Whether the daemon is stopping, so that no new work starts."""
        return self._runner.stopping

    def trouble(self) -> DcdError | None:
        """The reason why commands fail or soon will; None when healthy."""
        if self.stopping:
            return Unavailable("the daemon is stopping")
        return self.log_trouble or self._trouble_of_store()

    @property
    def log_trouble(self) -> DcdError | None:
        """Why appends to the event log fail or soon will; None when it is healthy."""
        return self._builds.log.trouble

    def _trouble_of_store(self) -> DcdError | None:
        state_dir = self._settings().state_dir
        remedy = "restore it in its place, then restart the daemon"
        try:
            place = _place(state_dir)
            read_only = bool(os.statvfs(state_dir).f_flag & os.ST_RDONLY)
            absent = [path for path in self._kept() if not path.exists()]
        except OSError as error:
            return Unavailable(f"the state directory {state_dir} is gone", str(error), remedy)
        if place != self._home:
            return Unavailable(
                f"the state directory {state_dir} was replaced while the daemon runs",
                "the daemon's data is in the original directory",
                remedy,
            )
        if absent:
            names = ", ".join(map(str, absent))
            return Unavailable("a part of the state directory is gone", names, remedy)
        if read_only:
            return Unavailable(
                f"the file system of {state_dir} is read-only",
                "the kernel remounts it read-only after a disk error",
                "look for the cause in the kernel's log, repair it, then restart the daemon",
            )
        return None

    def _kept(self) -> tuple[Path, ...]:
        """The directories that the daemon needs and does not recreate while it runs."""
        stores = self._stores
        return (self._builds.log.path, stores.blobs.directory, stores.layers.directory.parent)

    def disk_full(self, what: str, error: OSError) -> DcdError:
        """The error that the state directory has no space left for `what`."""
        return DiskFull(what, self._settings().state_dir, error)

    def require_host_code(self) -> None:
        """Raise PermissionDenied when no code of users may run outside images on this server. Blocking."""
        if not self._stores.privileged.allows_host_code():
            raise PermissionDenied(
                "code of users does not run on this server",
                "its setting `host_code` is empty, so the launcher refuses scripts outside the image and "
                "modules of others, even those of root",
                "run the script inside the image (chroot), or name the users, for instance root, in "
                "`host_code` and reload the daemon",
            )

    def examine_host(self) -> list[dict[str, str]]:
        """The checks of `dcd doctor`. Blocking."""
        return self._stores.privileged.examine_host()

    def settings_changed(self) -> None:
        """Apply new settings: more builds may run, fewer layers may be kept."""
        self._scheduler.wake()
        self.collector.wake()
        self.scrub.wake()
        self.retention.wake()
        self.notifier.settings_changed()

    async def submit(
        self, source: ManifestSource, options: Options, actor: Actor, permit: Permit
    ) -> tuple[BuildState, bool]:
        """Submit a build. Returns a new, queued build and True; or the build already submitted with the
        same idempotency key and False. Raises ManifestError, InputsMissing, Unprepared,
        PermissionDenied, and Refused for a key used by another submit."""
        if options.locked is None and source.lock is None and not source.offline:
            return await self._submit(source, options, actor, permit)
        with self._runner.submitting_locked():
            if options.locked is None:
                options = replace(options, locked=await self.locks.for_submit(source))
            return await self._submit(source, options, actor, permit)

    async def _submit(
        self, source: ManifestSource, options: Options, actor: Actor, permit: Permit
    ) -> tuple[BuildState, bool]:
        said, compared = None, options.rebuild
        if compared is not None:
            said = await asyncio.to_thread(self.rebuilds.vouched, source, options)
            signed_by = await asyncio.to_thread(self.rebuilds.signed_by, source, options)
            compared = replace(compared, vouched=True, signed_by=signed_by)
            if options.locked is not None:
                await asyncio.to_thread(self.rebuilds.adopt, options.locked.lists, source.owner)
        if options.locked and not options.locked.fetch:
            known = await asyncio.to_thread(known_repositories, self._stores, options.locked)
            source = replace(source, known=known)
        request = _digest(source, options)
        if earlier := await self._earlier(options.idempotency_key, actor, request):
            return earlier, False
        planned = await self.manifests.plan(source, actor, permit, options.pause_before)
        submitted = self.manifests.submitted(source, options, planned, planning.new_salt())
        submitted = replace(submitted, request_sha256=request)
        submitted = await self._placed(submitted)
        if source.offline and source.lock is not None:
            require_offline(planned.plan, source.lock)
        if said is not None:
            check_planned(said, planned)
            plan = rebuild_plan(planned.plan)
            require_captured(plan, options.locked.lists if options.locked else ())
            submitted = replace(submitted, plan=plan, fresh=True, rebuild=compared)
        try:
            state = await self._builds.create(submitted, actor)
        except Conflict:
            # The same request was sent twice concurrently.
            if earlier := await self._earlier(options.idempotency_key, actor, request):
                return earlier, False
            raise
        self._runner.planned(state.id)
        self._scheduler.wake()
        return state, True

    async def _placed(self, submitted: BuildSubmitted) -> BuildSubmitted:
        labels = await self._labels(submitted.requires, submitted.inputs, submitted.locked)
        return replace(submitted, requires=labels)

    async def _labels(
        self, wanted: tuple[str, ...], inputs: Sequence[InputFile], locked: Locked | None
    ) -> tuple[str, ...]:
        """The labels that a build requires of the host. In a farm other code would give it other keys;
        captured files, and what a locked build uses, are only on this member when no registry takes them."""
        host, found = self._builds.host, {*wanted}
        if not host:
            return wanted
        found.add(await asyncio.to_thread(code_label))
        digests = [file.sha256 for file in inputs]
        if (digests or locked) and not await self.sharing.offer(digests, locked):
            found.add(of_host(host))
        return tuple(sorted(found))

    async def lock(
        self, source: ManifestSource, options: Options, actor: Actor, permit: Permit
    ) -> tuple[BuildState, bool]:
        """Submit a build that pauses after its transfers, so that a lock can be made of it. Raises as
        `submit`, and ManifestError when there is nothing to lock."""
        before = await self.manifests.after_transfers(source, actor)
        return await self.submit(source, replace(options, pause_before=before), actor, permit)

    async def submit_group(
        self,
        source: ManifestSource,
        axes: Sequence[Axis],
        options: Options,
        actor: Actor,
        permit: Permit,
    ) -> tuple[str, bool]:
        """Submit a group: all builds or none. Returns its id and True; or that of the group already submitted
        with the same idempotency key and False. Raises as `submit`, for a fault of any cell."""
        request = hashlib.sha256(canonical((_digest(source, options), axes))).hexdigest()
        if earlier := await self._earlier(options.idempotency_key, actor, request):
            return earlier.group, False
        events = await planned_group(self.manifests, source, axes, options, actor, permit)
        submitted = {
            build: await self._placed(replace(each, request_sha256=request))
            for build, each in events.items()
        }
        try:
            states = await self._builds.create_together(submitted, actor)
        except Conflict:
            if earlier := await self._earlier(options.idempotency_key, actor, request):
                return earlier.group, False
            raise
        for state in states:
            self._runner.planned(state.id)
        self._scheduler.wake()
        return states[0].group, True

    async def pause(self, build: str, before: str | None, actor: Actor) -> BuildState:
        """Pause before `before`, or after the running checkpoint."""
        _, state = await self._transition(build, RequestPause(before), actor)
        return state

    async def withdraw_pause(self, build: str, actor: Actor) -> BuildState:
        """Withdraw a requested pause that the build has not reached."""
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
        """Resume a build. With a manifest, also return the names of the kept checkpoints, and the other
        ones each with the reason why it runs."""
        replacement = None
        if source is not None:
            # The build keeps its time, unless the manifest sets one.
            before = await self._builds.state(build)
            require_packages_here(before, self._builds.host)
            if before.locked:
                await self.sharing.fetch((), before.locked)
            earlier = before.plan
            epoch = epoch_of(earlier)
            source = replace(source, source_date_epoch=epoch, require=before.require)
            planned = await self.manifests.plan(source, actor, permit, pause_before)
            own_time = planned.time.origin == "manifest"
            timeless = epoch is None and not own_time
            plan = with_epoch(planned.plan, None) if timeless else planned.plan
            if any(each.grow for each in earlier.checkpoints) and any(
                each.base for each in plan.checkpoints
            ):
                plan = planning.growing(plan)
            replacement = Replacement(
                manifest=planned.canonical,
                manifest_path=source.path,
                plan=plan,
                inputs=planned.inputs,
                parameters={**source.inherited, **source.parameters},
                profiles=source.profiles or source.inherited_profiles,
                time_origin=planned.time.origin if own_time else "",
                requires=await self._labels(
                    all_labels(planned, source), planned.inputs, before.locked
                ),
            )
        else:
            await self._offer_again(build)
        command = Resume(rewind_to, pause_before, replacement)
        before, state = await self._transition(build, command, actor)
        self._runner.planned(build, fresh=replacement is not None)
        if replacement is None:
            return state, [], []
        kept, rerun = compared(before, state)
        told = await self.manifests.with_values(rerun, before.manifest, state.manifest, actor)
        return state, kept, told

    async def retry(self, build: str, actor: Actor) -> BuildState:
        """Continue a failed build from its present position."""
        await self._offer_again(build)
        _, state = await self._transition(build, Retry(), actor)
        self._runner.planned(build, fresh=False)
        return state

    async def _offer_again(self, build: str) -> None:
        """Offer the captured files and packages of a build to the farm, if they are here: the registry may
        have lost them."""
        state = await self._builds.state(build)
        if not self._builds.host or not (state.inputs or state.locked):
            return
        if await asyncio.to_thread(has_inputs, self._stores, state):
            await self.sharing.offer([file.sha256 for file in state.inputs], state.locked)

    async def cancel(self, build: str, actor: Actor) -> BuildState:
        """Cancel the build; a running attempt is stopped."""
        _, state = await self._transition(build, RequestCancel(), actor)
        self._runner.stop(build, "cancelled")
        return state

    async def move(self, build: str, to: str, actor: Actor) -> BuildState:
        """Have another member of the farm drive the build, after its running checkpoint: `to`, or any other
        ("") that has its labels. Raises UsageError on a single machine, NotFound, Refused."""
        farm = in_farm(self.hosts)
        state = await self._builds.state(build)
        if state.lifecycle in (Lifecycle.QUEUED, Lifecycle.RUNNING):
            await asyncio.to_thread(farm.require_move, state, to)
        _, state = await self._transition(build, RequestMove(to), actor)
        return state

    async def remove(self, build: str, actor: Actor) -> BuildState:
        """Remove the artifacts and logs of an ended build; its events are kept."""
        _, state = await self._transition(build, Remove(), actor)
        await asyncio.to_thread(self._stores.privileged.remove_results, build)
        return state

    async def usage(self) -> DiskUsage:
        """The use of space in the state directory."""
        settings = self._settings()
        return await asyncio.to_thread(
            measure,
            settings.state_dir,
            self._stores,
            self._builds.log,
            self._builds.unfinished_here(),
            settings.layers_max_bytes,
            settings.packages_max_bytes,
        )

    def soundness(self) -> Soundness:
        """What is known of the content of all layers. Blocking."""
        return soundness(self._stores.layers)

    async def checkpoints(self, build: str) -> tuple[BuildState, tuple[bool, ...]]:
        """A build, and for each of its checkpoints whether the build can be resumed from it: it has
        completed or is the next one, and its parent layer exists."""
        state = await self._builds.state(build)
        lost = await asyncio.to_thread(lost_layer, self._stores.layers, state)
        last = state.completed if lost is None else state.index(lost.name)
        return state, tuple(
            not state.ended and index <= last for index in range(len(state.checkpoints))
        )

    async def _transition(
        self, build: str, command: Command, actor: Actor
    ) -> tuple[BuildState, BuildState]:
        """Carry out a person's command. Returns the states before and after it. A build that continues
        or ends releases the workspace of its failed attempt."""
        before, after = await self._builds.transition(build, command, actor)
        self._runner.locks.recall(build)
        self._scheduler.wake()
        if after.lifecycle is not before.lifecycle:
            await self.shells.release(before)
        return before, after

    async def _earlier(
        self, idempotency_key: str | None, actor: Actor, request: str
    ) -> BuildState | None:
        """The build that this user submitted with this key and the same content. Raises Refused when
        the content differs."""
        if idempotency_key is None:
            return None
        log = self._builds.log
        build = await self._builds.ask(log.by_idempotency_key, actor.uid, idempotency_key)
        if build is None:
            return None
        state = await self._builds.state(build)
        # Version 0.1.0 did not record the digest of the request.
        if state.request_sha256 not in ("", request):
            raise Refused(
                f"the idempotency key {idempotency_key} belongs to another submit of yours",
                f"it created build {build}, from a different manifest, files, parameters or options",
                "use a separate key for each submit",
            )
        return state


def _digest(source: ManifestSource, options: Options) -> str:
    """The digest of a whole submit: requests with equal digests are equal."""
    time = source.source_date_epoch
    # Options of later versions do not change the digests of requests without them.
    given = {
        each.name: value
        for each in fields(options)
        if (value := getattr(options, each.name)) != each.default
    }
    for name in ("profiles", "require"):
        if value := getattr(source, name):
            given[name] = value
    said = (source.path, source.text, source.files, source.parameters, time, given)
    return hashlib.sha256(canonical(said)).hexdigest()


def _place(directory: Path) -> tuple[int, int]:
    """The identity of a directory, independent of its name. Raises OSError."""
    status = directory.stat()
    return status.st_dev, status.st_ino
