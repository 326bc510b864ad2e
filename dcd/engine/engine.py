"""The engine as the API sees it: commands and questions about builds.

Every command names its actor and answers with the build's state after it. Rights are checked by the
API; legality by the machine; this module adds what is neither: reading manifests, planning, waking the
scheduler, stopping attempts.
"""

import asyncio
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from dcd import planner
from dcd.configuration import Configuration
from dcd.engine.builds import Builds
from dcd.engine.garbage import Collector
from dcd.engine.losses import NO_LOSSES, Losses
from dcd.engine.runner import Runner
from dcd.engine.scheduler import Scheduler
from dcd.engine.secret_digests import with_secrets
from dcd.engine.shells import Shells
from dcd.engine.stores import Stores
from dcd.engine.usage import DiskUsage, measure
from dcd.engine.workspaces import lost_layer
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.migrate import Migrated
from dcd.manifest.secrets import Borrower
from dcd.planner.client import Left, Planning
from dcd.planner.tasks import (
    Captured,
    InDocument,
    Manifest,
    OldManifest,
    Planned,
    Rules,
    Task,
    WithoutSecrets,
    WithSecrets,
)
from dcd.planning import plan as planning
from dcd.planning.document import Match, saved
from dcd.planning.history import History, expected, most_alike
from dcd.planning.preview import Intention, compared, intentions
from statemachine.build import BuildState
from statemachine.commands import (
    Command,
    Remove,
    Replacement,
    RequestCancel,
    RequestPause,
    Resume,
    Retry,
)
from statemachine.errors import DcdError, Refused, Unavailable
from statemachine.events import Actor, BuildSubmitted
from statemachine.keys import canonical, epoch_of, with_epoch
from statemachine.plan import Plan
from store.eventlog import Conflict

Answer = TypeVar("Answer")

SHOWN = 16
"""For so many builds it is kept what they are without their secrets."""

Permit = Callable[[Plan], None]
"""Raises PermissionDenied when the actor may not run a plan."""


@dataclass(frozen=True, slots=True)
class ManifestSource:
    """A manifest as a client sent it: text, the path it was read from, files by absolute path (digest
    and mode of an uploaded blob; None: the client has no such file), parameters, and those of the
    manifest that it replaces."""

    text: str
    path: str
    files: Mapping[str, tuple[str, int] | None]
    parameters: Mapping[str, str]
    inherited: Mapping[str, str] = field(default_factory=dict)
    source_date_epoch: int | None = None
    """The build's time that the client asks for, seconds since 1970."""
    host_code: bool = False
    borrower: Borrower | None = None
    """Whoever sent it may run code of their own on the host."""
    owner: int | None = None
    """The user whose blobs `files` may name; None: everybody's."""
    left: Left | None = None
    """Returns when nobody waits for the answer any more."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a submitted build is to run."""

    pause_before: str | None = None
    fresh: bool = False
    priority: int = 0
    idempotency_key: str | None = None
    fresh_from: str | None = None
    """The checkpoint from which on nothing is reused."""


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
        self.builds = builds
        self.stores = stores
        self._planner = planner
        self._shown: dict[bytes, WithoutSecrets] = {}
        self._runner = runner
        self._scheduler = scheduler
        self._settings = settings
        self._home = _place(settings().state_dir)
        self._history = History(builds.log)
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
        return self.builds.log.trouble or self._trouble_of_store()

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
        stores = self.stores
        return (self.builds.log.path, stores.blobs.directory, stores.layers.directory)

    def settings_changed(self) -> None:
        """Act on new settings: more builds may run, fewer layers may be kept."""
        self._scheduler.wake()
        self.collector.wake()

    async def validate(
        self, source: ManifestSource, pause_before: str | None, actor: Actor
    ) -> tuple[Diagnostic, ...]:
        """Warnings about the manifest, of which nothing from `pause_before` on runs yet. Raises ManifestError
        with everything that is wrong with it, what its checkpoints find among it; InputsMissing."""
        return (await self._ask(planner.CHECK, source, actor, pause_before)).diagnostics

    async def submit(
        self, source: ManifestSource, options: Options, actor: Actor, permit: Permit
    ) -> tuple[BuildState, bool]:
        """A new build, queued, and True; or the one submitted before under the same idempotency key,
        and False. Raises ManifestError, InputsMissing, Unprepared, PermissionDenied, Refused for a key that
        was used for another submit."""
        request = _digest(source, options)
        if earlier := await self._earlier(options.idempotency_key, actor, request):
            return earlier, False
        planned = await self._plan(source, actor, permit, options.pause_before)
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
            state = await self.builds.create(submitted, actor)
        except Conflict:
            # The same request, sent twice at once.
            if earlier := await self._earlier(options.idempotency_key, actor, request):
                return earlier, False
            raise
        self._runner.planned(state.id)
        self._scheduler.wake()
        return state, True

    async def plan(
        self, source: ManifestSource, options: Options, actor: Actor, permit: Permit
    ) -> tuple[str, tuple[Intention, ...]]:
        """The distribution's name, and what would happen if it were submitted now with these options."""
        preview = await self._ask(planner.PREVIEW, source, actor, options.pause_before)
        await asyncio.to_thread(permit, preview.plan)

        def compare() -> tuple[Intention, ...]:
            same = self._history.of(preview.name)
            plan = with_secrets(preview.plan, self.stores.secret_key)
            likely = expected(plan, same, self._history.of(None))
            alike = most_alike(likely, source.path, same)
            layers = self.stores.layers
            return intentions(likely, alike, layers, options.fresh, same, options.fresh_from)

        return preview.name, (*await asyncio.to_thread(compare), *preview.rest)

    async def migrate(self, old: OldManifest, actor: Actor, left: Left) -> Migrated:
        """A manifest from before the redesign, converted. Raises ManifestError."""
        return await self._planner.ask(planner.MIGRATE, old, actor, left)

    async def find(
        self,
        build: str,
        at: str | None,
        path: str | None,
        actor: Actor,
        left: Left,
        *,
        whole: bool,
    ) -> tuple[str | None, tuple[Match, ...]]:
        """What a path string names in the DOC of a build after checkpoint `at`, or as it is now, and that
        checkpoint's name; secrets are left out unless it is `whole`. Raises NotFound, Refused, UsageError."""
        state = await self.builds.state(build)
        after, persistent = await asyncio.to_thread(saved, self.stores.layers, state, at)
        wanted = InDocument(state.manifest, persistent, path, whole)
        return after, (await self._planner.ask(planner.FIND, wanted, actor, left)).matches

    async def without_secrets(self, given: WithSecrets, actor: Actor) -> WithoutSecrets:
        """A manifest with its parameters and plan, without its secrets. Asked again and again for the same
        builds, so the last answers are kept."""
        key = hashlib.sha256(canonical(given)).digest()
        found = self._shown.pop(key, None)
        if found is None:
            found = await self._planner.ask(planner.WITHHOLD, given, actor)
        self._shown[key] = found
        while len(self._shown) > SHOWN:
            del self._shown[next(iter(self._shown))]
        return found

    async def pause(self, build: str, before: str | None, actor: Actor) -> BuildState:
        """Stop before `before`, or after the checkpoint that runs now."""
        _, state = await self._transition(build, RequestPause(before), actor)
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
            epoch = epoch_of((await self.builds.state(build)).plan)
            source = replace(source, source_date_epoch=epoch)
            planned = await self._plan(source, actor, permit, pause_before)
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
        await asyncio.to_thread(self.stores.artifacts.remove, build)
        await asyncio.to_thread(self.stores.logs.remove, build)
        return state

    async def usage(self) -> DiskUsage:
        """What uses the space of the state directory."""
        settings = self._settings()
        return await asyncio.to_thread(
            measure,
            settings.state_dir,
            self.stores,
            self.builds.log,
            self.builds.unfinished(),
            settings.layers_max_bytes,
        )

    async def checkpoints(self, build: str) -> tuple[BuildState, tuple[bool, ...]]:
        """A build, and for each of its checkpoints whether the build can be resumed from it: it has
        completed, or it is the first that has not, and the layer that it stands on is there."""
        state = await self.builds.state(build)
        lost = await asyncio.to_thread(lost_layer, self.stores.layers, state)
        last = state.completed if lost is None else state.index(lost.name)
        return state, tuple(
            not state.ended and index <= last for index in range(len(state.checkpoints))
        )

    async def _transition(
        self, build: str, command: Command, actor: Actor
    ) -> tuple[BuildState, BuildState]:
        """A person's command: the states before and after it. A build that goes on or ends lets go of
        the workspace of its failed attempt."""
        before, after = await self.builds.transition(build, command, actor)
        self._runner.locks.recall(build)
        self._scheduler.wake()
        if after.lifecycle is not before.lifecycle:
            await self.shells.release(before)
        return before, after

    async def _plan(
        self, source: ManifestSource, actor: Actor, permit: Permit, pause_before: str | None
    ) -> Planned:
        planned = await self._ask(planner.PLAN, source, actor, pause_before)
        # A planner has looked, before it opened anything; what it says is looked at again here.
        await asyncio.to_thread(permit, planned.plan)
        return await asyncio.to_thread(self._checked, planned)

    def _checked(self, planned: Planned) -> Planned:
        """The plan with the durations that earlier builds show. Raises Unprepared for lack of space."""
        settings = self._settings()
        planning.check_host(planned.plan, settings.state_dir, settings.min_free_bytes)
        plan = with_secrets(planned.plan, self.stores.secret_key)
        same, others = self._history.of(planned.name), self._history.of(None)
        return replace(planned, plan=expected(plan, same, others))

    async def _ask(
        self,
        task: Task[Manifest, Answer],
        source: ManifestSource,
        actor: Actor,
        pause_before: str | None = None,
    ) -> Answer:
        """`pause_before`: what comes from that checkpoint on is not run yet."""
        manifest = await asyncio.to_thread(self._manifest, source, pause_before)
        return await self._planner.ask(task, manifest, actor, source.left)

    async def _earlier(
        self, idempotency_key: str | None, actor: Actor, request: str
    ) -> BuildState | None:
        """The build that this user submitted with this key, and with the same content. Raises Refused when
        the content was another."""
        if idempotency_key is None:
            return None
        log = self.builds.log
        build = await self.builds.ask(log.by_idempotency_key, actor.uid, idempotency_key)
        if build is None:
            return None
        state = await self.builds.state(build)
        # Version 0.1.0 did not record what was submitted.
        if state.request_sha256 not in ("", request):
            raise Refused(
                f"the idempotency key {idempotency_key} belongs to another submit of yours",
                f"it made build {build}, from another manifest, other files, parameters or options",
                "give each submit a key of its own",
            )
        return state

    def _manifest(self, source: ManifestSource, pause_before: str | None) -> Manifest:
        """What a planner gets to see of a manifest. Raises NotFound for a file that was not uploaded."""
        blobs = self.stores.blobs
        files: dict[str, Captured | None] = {}
        for path, uploaded in source.files.items():
            if uploaded is None:
                files[path] = None
                continue
            sha256, mode = uploaded
            files[path] = Captured(sha256, mode, blobs.path(sha256, source.owner))
        settings = self._settings()
        return Manifest(
            text=source.text,
            path=source.path,
            files=files,
            parameters=source.parameters,
            inherited=source.inherited,
            source_date_epoch=source.source_date_epoch,
            pause_before=pause_before,
            host_code=source.host_code,
            borrower=source.borrower,
            rules=Rules(
                include_directories=tuple(map(str, settings.include_directories)),
                include_map={prefix: str(path) for prefix, path in settings.include_map.items()},
                modules=settings.checkpoint_modules,
                elements=settings.elements_limit,
                checkpoints=settings.checkpoints_limit,
            ),
        )


def _digest(source: ManifestSource, options: Options) -> str:
    """The digest of all that a submit says: two with the same one ask for the same."""
    time = source.source_date_epoch
    said = (source.path, source.text, source.files, source.parameters, time, options)
    return hashlib.sha256(canonical(said)).hexdigest()


def _place(directory: Path) -> tuple[int, int]:
    """What tells a directory from another of the same name. Raises OSError."""
    status = directory.stat()
    return status.st_dev, status.st_ino
