"""Repeating a completed build in varied surroundings, and comparing the results.

The repetition is an ordinary build with the same plan and the same inputs, under keys of its own: it reuses
nothing, and nothing of it is reused. It survives a restart as any build does. The comparison is made whenever
somebody asks, from the events and the layers of both builds, and changes nothing.
"""

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate

from dcd.configuration import Configuration
from dcd.engine.builds import Builds
from dcd.engine.manifests import Permit
from dcd.engine.runner import Runner
from dcd.engine.scheduler import Scheduler
from dcd.engine.stores import Stores
from dcd.planning import plan as planning
from dcd.platform.host_labels import kept_on
from statemachine.build import BuildState, Lifecycle
from statemachine.commands import repeated
from statemachine.errors import DcdError, NotFound, Refused, Unprepared
from statemachine.events import Actor
from statemachine.keys import changes, grown, with_salt, without_salt
from statemachine.plan import Locked, Plan
from statemachine.variation import REPEATED, described
from store.artifacts import EVIDENCE_SUMS, SUMS
from store.captured import captured_files, resolved_of
from store.eventlog import LogDamaged
from store.layers.comparison import FileDifference

MOST_FILES = 1000
"""The number of different files that a comparison names."""

COPIES_SHARE = 0.25
"""The share of the free space that whole copies of layers may take for a repetition."""


@dataclass(frozen=True, slots=True)
class ComparedProduct:
    """A product by its digests in both builds ("": it does not exist there)."""

    name: str
    first_sha256: str
    second_sha256: str

    @property
    def identical(self) -> bool:
        """Whether the builds have the same bytes."""
        return self.first_sha256 == self.second_sha256


@dataclass(frozen=True, slots=True)
class ComparedCheckpoint:
    """A checkpoint by the digests of its layers' contents in both builds ("": not known), and the layers'
    keys. `identical` is None where it is not known."""

    name: str
    first_key: str
    second_key: str
    first_content: str
    second_content: str
    identical: bool | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A build and its repetition. `identical`: all products are, and all layers whose contents are known.
    `checkpoint` is the first with another result, `files` the first of the `different_files` of its layers;
    `example` has the paths on this host, in both layers, of the first with another content;
    `unknown` is the reason why these are not known. `changed` names what was not the same before: then the
    results may differ. `varied` are the surroundings that were not the same on purpose."""

    first: str
    second: str
    identical: bool
    checkpoint: str | None
    files: tuple[FileDifference, ...]
    different_files: int
    example: tuple[str, ...]
    unknown: str
    changed: tuple[str, ...]
    varied: tuple[str, ...]
    checkpoints: tuple[ComparedCheckpoint, ...]
    products: tuple[ComparedProduct, ...]


class Reproductions:
    """See the module."""

    def __init__(
        self,
        builds: Builds,
        runner: Runner,
        scheduler: Scheduler,
        stores: Stores,
        settings: Callable[[], Configuration],
    ) -> None:
        self._builds = builds
        self._runner = runner
        self._scheduler = scheduler
        self._stores = stores
        self._settings = settings

    async def begin(
        self, build: str, checkpoint: str | None, actor: Actor, permit: Permit
    ) -> tuple[BuildState, bool]:
        """Submit a repetition of a build from a checkpoint on (None: of all). Returns it and True; or the one
        that this user has begun already and that has not ended, and False. Raises Refused for a build that
        cannot be repeated, NotFound, Unprepared for lack of space, PermissionDenied."""
        first = await self._builds.state(build)
        if first.lifecycle is not Lifecycle.COMPLETED:
            raise Refused(
                f"build {first.id} cannot be reproduced: it is {first.lifecycle}",
                "only a completed build has results to compare with",
                f"wait until it is completed: dcctl follow {first.id}",
            )
        if first.reproduces:
            raise Refused(
                f"build {first.id} is itself a repetition of build {first.reproduces}",
                resolution=f"dcctl reproduce {first.reproduces}",
            )
        if (begun := await self._begun(first, actor)) is not None:
            return begun, False
        settings = self._settings()
        index = 0 if checkpoint is None else first.index(checkpoint)
        kept = Plan(tuple(planning.without_publishing(first.plan.checkpoints)))
        plan = with_salt(kept, min(index, len(kept.checkpoints) - 1), planning.new_salt())
        await asyncio.to_thread(permit, plan)
        await asyncio.to_thread(self._require_inputs, first)
        locked = first.locked
        if locked is None or locked.fetch:
            locked = await asyncio.to_thread(self._captured, first) or locked
        apart = checkpoint is None and await asyncio.to_thread(self._has_space, first)
        await asyncio.to_thread(
            planning.check_host, plan, settings.state_dir, settings.min_free_bytes
        )
        submitted = replace(
            repeated(first, plan),
            locked=locked,
            reproduces=first.id,
            variation=REPEATED if apart else replace(REPEATED, place="in-a-varied-directory"),
            # This host has the layers that those of the repetition are compared with.
            requires=kept_on(self._builds.host, first.requires),
        )
        state = await self._builds.create(submitted, actor)
        self._runner.planned(state.id, fresh=False)
        self._scheduler.wake()
        return state, True

    async def compare(self, build: str) -> Comparison:
        """Compare a completed repetition with the build that it repeats. Raises Refused for another build,
        NotFound."""
        second = await self._builds.state(build)
        if not second.reproduces:
            raise Refused(
                f"build {second.id} repeats no other build",
                resolution=f"repeat it: dcctl reproduce {second.id}",
            )
        if second.lifecycle is not Lifecycle.COMPLETED:
            raise Refused(
                f"build {second.id} cannot be compared: it is {second.lifecycle}",
                resolution=f"dcctl follow {second.id}",
            )
        first = await self._builds.state(second.reproduces)
        return await asyncio.to_thread(self._compared, first, second)

    async def _begun(self, first: BuildState, actor: Actor) -> BuildState | None:
        """The repetition that a user has begun and that has not ended. The log has also those that wait for a
        member of a farm, or that another one drives."""
        for summary in await self._builds.ask(self._builds.log.unfinished):
            if (summary.name, summary.actor.uid) != (first.name, actor.uid):
                continue
            with contextlib.suppress(NotFound, LogDamaged):
                state = await self._builds.state(summary.id)
                if state.reproduces == first.id and not state.ended:
                    return state
        return None

    def _has_space(self, first: BuildState) -> bool:
        """Whether the layers of a build may be kept elsewhere, each possibly as a copy of the whole tree:
        there has to be space, and the limit of all layers must not remove others for them."""
        settings = self._settings()
        known = {layer.record.key: layer.size_bytes for layer in self._stores.layers.layers()}
        needed = sum(accumulate(known.get(record.key, 0) for record in first.checkpoints))
        limit = settings.layers_max_bytes
        if limit and sum(known.values()) + needed > limit:
            return False
        return needed < shutil.disk_usage(settings.state_dir).free * COPIES_SHARE

    def _captured(self, first: BuildState) -> Locked | None:
        """The packages that a build captured, so that a change of its repositories makes no difference; None
        if it has captured none, or not all."""
        try:
            packages = resolved_of(self._stores.packages, first.resolved).packages
            captured_files(self._stores.packages, first.resolved)
        except DcdError:
            return None
        whole = packages and all(package.kind == "deb" for package in packages)
        return Locked(first.resolved) if whole else None

    def _require_inputs(self, first: BuildState) -> None:
        try:
            self._stores.inputs(first)
        except NotFound as error:
            raise Unprepared(
                f"build {first.id} cannot be repeated: {error.brief}",
                "captured files are kept while a build needs them",
                "submit its manifest again: dcctl reproduce MANIFEST",
            ) from error

    def _compared(self, first: BuildState, second: BuildState) -> Comparison:
        checkpoints = tuple(self._checkpoints(first, second))
        products = _products(first, second)
        differing = next((one for one in checkpoints if one.identical is False), None)
        files: tuple[FileDifference, ...] = ()
        example: tuple[str, ...] = ()
        count, unknown = 0, ""
        if differing is not None:
            found = self._stores.privileged.compare_layers(
                differing.first_key, differing.second_key, MOST_FILES
            )
            files, count, unknown = found.files, found.count, found.unknown
            example = found.example
        elif any(one.identical is None for one in checkpoints):
            unknown = (
                "some layers are not known: they were removed, or an earlier version made them"
            )
        return Comparison(
            first=first.id,
            second=second.id,
            identical=differing is None and all(product.identical for product in products),
            checkpoint=differing.name if differing else None,
            files=files,
            different_files=count,
            example=example,
            unknown=unknown,
            changed=tuple(_changed(first, second)),
            varied=tuple(self._varied(first, second)),
            checkpoints=checkpoints,
            products=products,
        )

    def _checkpoints(self, first: BuildState, second: BuildState) -> Iterator[ComparedCheckpoint]:
        # What publishes comes last, and is not repeated.
        for one, other in zip(first.checkpoints, second.checkpoints, strict=False):
            mine, its = self._content(one.key), self._content(other.key)
            identical = mine == its if mine and its else None
            yield ComparedCheckpoint(one.name, one.key, other.key, mine, its, identical)

    def _varied(self, first: BuildState, second: BuildState) -> Iterator[str]:
        if second.variation:
            yield from described(second.variation)
        place = self._stores.privileged.place_of
        pairs = zip(first.checkpoints, second.checkpoints, strict=False)
        places = ((place(one.key), place(other.key)) for one, other in pairs)
        for before, after in places:
            if before and after and before != after:
                yield f"the layers ({after} instead of {before})"
                break

    def _content(self, key: str) -> str:
        layer = self._stores.layers.find(key)
        return layer.record.content if layer else ""


def _products(first: BuildState, second: BuildState) -> tuple[ComparedProduct, ...]:
    digests = [
        {
            artifact.name: artifact.sha256
            # The published ones of a removed build are gone.
            for artifact in state.published or state.declared
            if not artifact.evidence and artifact.name not in (SUMS, EVIDENCE_SUMS)
        }
        for state in (first, second)
    ]
    names = sorted({*digests[0], *digests[1]})
    return tuple(
        ComparedProduct(name, digests[0].get(name, ""), digests[1].get(name, "")) for name in names
    )


def _changed(first: BuildState, second: BuildState) -> Iterator[str]:
    """What was not the same for the repetition: repositories, tools of the host, a result that was grown."""
    for name in grown(first.plan):
        yield f"{name}: the first build added to an earlier result, the second one made it anew"
    pairs = zip(
        without_salt(first.plan).checkpoints, without_salt(second.plan).checkpoints, strict=False
    )
    for before, after in pairs:
        if before.ingredients != after.ingredients:
            yield f"{after.name}: {'; '.join(changes(before, after))}"
