"""Manifests from clients: checked, planned, converted and shown by planners (`dcd.planner`).

The daemon's process never parses a manifest. This module checks a planner's answer against the client's
permissions again.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from dcd.checkpoints.interface import Known
from dcd.configuration import Configuration
from dcd.engine.ground_rule import ground_rule
from dcd.engine.secret_digests import with_secrets
from dcd.engine.stores import Stores
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.lock import Lock
from dcd.manifest.migrate import Migrated
from dcd.manifest.secrets import Borrower
from dcd.planner import tasks
from dcd.planner.client import Left, Planning
from dcd.planner.rules import rules_of
from dcd.planner.tasks import (
    Captured,
    InDocument,
    Manifest,
    OldManifest,
    Planned,
    Task,
    WithoutSecrets,
    WithSecrets,
)
from dcd.planning import plan as planning
from dcd.planning.document import Match, saved
from dcd.planning.epoch import BuildTime
from dcd.planning.history import History, expected, most_alike
from dcd.planning.labels import refuse_secrets, require_labels
from dcd.planning.preview import Intention, intentions
from dcd.planning.values import with_values
from statemachine.build import BuildState
from statemachine.errors import DcdError, PermissionDenied, UsageError
from statemachine.events import Actor, BuildSubmitted
from statemachine.keys import canonical
from statemachine.plan import Locked, Plan
from statemachine.rebuild import Rebuild

Answer = TypeVar("Answer")

SHOWN = 16
"""The number of builds in the cache of manifests without secrets."""

Permit = Callable[[Plan], None]
"""A check that raises PermissionDenied when the actor may not run a plan."""


@dataclass(frozen=True, slots=True)
class ManifestSource:
    """A manifest as a client sent it: text, path of its file, files by absolute path (digest and mode
    of an uploaded blob; None: the client does not have the file), parameters, and parameters of the
    manifest that it replaces."""

    text: str
    path: str
    files: Mapping[str, tuple[str, int] | None]
    parameters: Mapping[str, str]
    inherited: Mapping[str, str] = field(default_factory=dict)
    profiles: tuple[str, ...] = ()
    inherited_profiles: tuple[str, ...] = ()
    """The selected profiles, and those of the manifest that it replaces."""
    source_date_epoch: int | None = None
    """The requested time of the build, seconds since 1970."""
    known: Known | None = None
    """The repositories of a locked build."""
    lock: Lock | None = None
    """The lock of its packages."""
    offline: bool = False
    """Whether everything comes from the package store."""
    host_code: bool = False
    borrower: Borrower | None = None
    """Whether the sender may run code on the host, and the user of its secrets."""
    require: tuple[str, ...] = ()
    """The labels that its sender asks of the host, beside those in the manifest."""
    owner: int | None = None
    """The user whose blobs `files` may name; None: all users."""
    left: Left | None = None
    """Returns when the client has disconnected."""


@dataclass(frozen=True, slots=True)
class Signature:
    """A signed statement, the sha256 of an uploaded DSSE envelope, and the public key in PEM that has to have
    signed it."""

    envelope: str
    key: str


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a submitted build."""

    pause_before: str | None = None
    fresh: bool = False
    priority: int = 0
    idempotency_key: str | None = None
    fresh_from: str | None = None
    """The checkpoint from which on no result is reused."""
    grow: bool = False
    """Whether a transfer may add packages to the result of an earlier build."""
    locked: Locked | None = None
    """What the build uses in place of its repositories."""
    rebuild: Rebuild | None = None
    """What the results are compared with."""
    signature: Signature | None = None
    """The signature of the provenance of what they are compared with."""


def all_labels(planned: Planned, source: ManifestSource) -> tuple[str, ...]:
    """All labels that a build of a planned manifest requires of the host."""
    return tuple(sorted({*planned.requires, *source.require}))


class Manifests:
    """See the module."""

    def __init__(
        self,
        planner: Planning,
        stores: Stores,
        settings: Callable[[], Configuration],
        history: History,
    ) -> None:
        self._planner = planner
        self._stores = stores
        self._settings = settings
        self._history = history
        self._shown: dict[bytes, WithoutSecrets] = {}

    async def check(
        self, source: ManifestSource, pause_before: str | None, actor: Actor
    ) -> tuple[Diagnostic, ...]:
        """The warnings about a manifest whose checkpoints from `pause_before` on do not run yet. Raises
        ManifestError with all its errors, including those found by its checkpoints; InputsMissing."""
        return await self._ask(tasks.CHECK, source, actor, pause_before)

    async def plan(
        self, source: ManifestSource, actor: Actor, permit: Permit, pause_before: str | None
    ) -> Planned:
        """The plan of a manifest, with estimates from earlier builds. Raises ManifestError,
        InputsMissing, PermissionDenied, and Unprepared for a missing tool or a lack of space."""
        planned = await self._ask(tasks.PLAN, source, actor, pause_before)
        # The planner has checked this before it opened any file; the check is repeated for its answer.
        await asyncio.to_thread(permit, planned.plan)
        return await asyncio.to_thread(self._checked, planned, source.require)

    async def preview(
        self, source: ManifestSource, options: Options, actor: Actor, permit: Permit
    ) -> tuple[str, BuildTime, tuple[Intention, ...], str]:
        """The distribution's name, the build's time, the preview of a submit with these options, and the list
        of checkpoints that was chosen for a manifest without one."""
        preview = await self._ask(tasks.PREVIEW, source, actor, options.pause_before)
        await asyncio.to_thread(permit, preview.plan)
        grown = self.grown(preview.plan, options)

        def compare() -> tuple[tuple[Intention, ...], BuildState | None]:
            same = self._history.of(preview.name)
            plan = with_secrets(grown, self._stores.privileged.secret_digests)
            likely = expected(plan, same, self._history.of(None))
            alike = most_alike(likely, source.path, same)
            layers = self._stores.layers
            rule = ground_rule(self._settings())
            told = (likely, alike, layers, options.fresh, same, options.fresh_from, rule)
            return intentions(*told), alike

        found, alike = await asyncio.to_thread(compare)
        runs = [(each.name, each.reason) for each in found if each.action == "run"]
        if alike is not None and runs:
            told = dict(await self.with_values(runs, alike.manifest, preview.canonical, actor))
            found = tuple(replace(each, reason=told.get(each.name, each.reason)) for each in found)
        return preview.name, preview.time, (*found, *preview.rest), preview.choice

    def submitted(
        self, source: ManifestSource, options: Options, planned: Planned, salt: str
    ) -> BuildSubmitted:
        """The first event of a build of a planned manifest; `salt` makes the keys of a fresh one new. Raises
        as `grown`, and NotFound."""
        plan = self.grown(planned.plan, options)
        if options.fresh or options.fresh_from is not None:
            plan = planning.declining_reuse(plan, options.fresh_from, salt)
        return BuildSubmitted(
            name=planned.name,
            manifest=planned.canonical,
            manifest_path=source.path,
            plan=plan,
            inputs=planned.inputs,
            parameters=dict(source.parameters),
            profiles=source.profiles,
            pause_before=options.pause_before,
            fresh=options.fresh,
            priority=options.priority,
            idempotency_key=options.idempotency_key,
            time_origin=planned.time.origin,
            locked=options.locked,
            require=source.require,
            requires=all_labels(planned, source),
        )

    def grown(self, plan: Plan, options: Options) -> Plan:
        """The plan whose checkpoints may grow if the options say so. Raises UsageError, and PermissionDenied
        where builds do not grow."""
        if options.grow and (options.fresh or options.fresh_from is not None):
            raise UsageError(
                "a fresh build does not grow",
                "to grow is to add packages to the result of an earlier build",
                "leave out --grow, or the option for a fresh build",
            )
        if options.grow:
            plan = planning.growing(plan)
        wanted = not options.fresh and any(planned.grow for planned in plan.checkpoints)
        if wanted and self._settings().grown_builds != "allowed":
            raise PermissionDenied(
                "builds do not grow on this server",
                "its setting grown_builds is refused: every result is made from the whole list of packages",
                "leave out --grow, and grow in the manifest's <distro>",
            )
        return plan

    async def after_transfers(self, source: ManifestSource, actor: Actor) -> str | None:
        """The checkpoint after the last transfer that a lock is made of, if there is one. Raises
        ManifestError when there is nothing to lock, InputsMissing."""
        return await self._ask(tasks.TRANSFERS, source, actor) or None

    async def lockables(self, state: BuildState, actor: Actor) -> tuple[tasks.Locking | None, ...]:
        """What a lock says of each checkpoint of a build, before its packages."""
        modules = self._settings().checkpoint_modules
        of = tasks.OfRest(state.manifest, state.plan.checkpoints, modules)
        return await self._planner.ask(tasks.LOCKABLES, of, actor)

    async def migrate(self, old: OldManifest, actor: Actor, left: Left) -> Migrated:
        """Convert a manifest from before the redesign. Raises ManifestError."""
        return await self._planner.ask(tasks.MIGRATE, old, actor, left)

    async def find(
        self,
        state: BuildState,
        at: str | None,
        path: str | None,
        actor: Actor,
        left: Left,
        *,
        whole: bool,
    ) -> tuple[str | None, tuple[Match, ...]]:
        """The matches of a path string in the DOC of a build after checkpoint `at` (None: at present),
        and that checkpoint's name; secrets are omitted unless `whole` is set. Raises NotFound, Refused,
        UsageError."""
        after, persistent = await asyncio.to_thread(saved, self._stores.layers, state, at)
        wanted = InDocument(state.manifest, persistent, path, whole)
        return after, await self._planner.ask(tasks.FIND, wanted, actor, left)

    async def mix(
        self, first: str, second: str, take: tuple[int, ...], actor: Actor
    ) -> tasks.Mixed:
        """A manifest between two stored ones."""
        return await self._planner.ask(tasks.MIX, tasks.Between(first, second, take), actor)

    async def with_values(
        self, reasons: Sequence[tuple[str, str]], before: str, after: str, actor: Actor
    ) -> list[tuple[str, str]]:
        """Reasons for the runs of checkpoints, by their names, with the values that differ between two stored
        manifests. Secrets are left out."""
        if not any("changed" in reason for _, reason in reasons):
            return list(reasons)
        try:
            texts = [
                (await self.without_secrets(WithSecrets(text), actor)).manifest
                for text in (before, after)
            ]
            edits = (await self.mix(texts[0], texts[1], (), actor)).edits
        except DcdError:  # the values are an extra: the plan is not refused for them
            return list(reasons)
        return [(name, with_values(name, reason, edits)) for name, reason in reasons]

    async def without_secrets(self, given: WithSecrets, actor: Actor) -> WithoutSecrets:
        """A manifest with its parameters and plan, without its secrets. The last results are cached,
        since the same builds are requested repeatedly."""
        key = hashlib.sha256(canonical(given)).digest()
        found = self._shown.pop(key, None)
        if found is None:
            found = await self._planner.ask(tasks.WITHHOLD, given, actor)
        self._shown[key] = found
        while len(self._shown) > SHOWN:
            del self._shown[next(iter(self._shown))]
        return found

    def _checked(self, planned: Planned, require: Sequence[str]) -> Planned:
        """The plan with estimates from earlier builds. Raises Unprepared for lack of space, and for labels
        that are asked of a host and that this one lacks."""
        settings = self._settings()
        asked = {*require, *planned.placement}
        if settings.farm_database:  # the build waits for a member that has them
            refuse_secrets(asked)
        else:
            if asked:
                require_labels(asked, self._stores.privileged.host_labels())
            planning.check_host(planned.plan, settings.state_dir, settings.min_free_bytes)
        plan = with_secrets(planned.plan, self._stores.privileged.secret_digests)
        same, others = self._history.of(planned.name), self._history.of(None)
        return replace(planned, plan=expected(plan, same, others))

    async def _ask(
        self,
        task: Task[Manifest, Answer],
        source: ManifestSource,
        actor: Actor,
        pause_before: str | None = None,
    ) -> Answer:
        """Ask a planner. The checkpoints from `pause_before` on do not run yet."""
        manifest = await asyncio.to_thread(self._manifest, source, pause_before)
        return await self._planner.ask(task, manifest, actor, source.left)

    def _manifest(self, source: ManifestSource, pause_before: str | None) -> Manifest:
        """The planner's form of a manifest. Raises NotFound for a file that was not uploaded."""
        blobs = self._stores.blobs
        files: dict[str, Captured | None] = {}
        for path, uploaded in source.files.items():
            if uploaded is None:
                files[path] = None
                continue
            sha256, mode = uploaded
            files[path] = Captured(sha256, mode, blobs.path(sha256, source.owner))
        return Manifest(
            text=source.text,
            path=source.path,
            files=files,
            parameters=source.parameters,
            inherited=source.inherited,
            profiles=source.profiles,
            inherited_profiles=source.inherited_profiles,
            source_date_epoch=source.source_date_epoch,
            known=source.known,
            lock=source.lock,
            pause_before=pause_before,
            host_code=source.host_code,
            borrower=source.borrower,
            rules=rules_of(self._settings()),
        )
