"""Rebuilding: a completed build again, from what it captured, without network, and the verdict.

A rebuild is an ordinary build, under keys of its own, so it reuses nothing. Its first event says what its
results are to be compared with, so it survives a restart as any build does, and the verdict can be asked for
at any time. A rebuild boots nothing: boots make no products.
"""

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce

from dcd.configuration import Configuration
from dcd.engine.builds import Builds
from dcd.engine.manifests import ManifestSource, Options, Permit
from dcd.engine.papers import provenance_of
from dcd.engine.runner import Runner
from dcd.engine.scheduler import Scheduler
from dcd.engine.stores import Stores
from dcd.engine.vouched import MOST_BYTES, Statement, check_submit, read_statement
from dcd.planning import plan as planning
from dcd.platform.host_labels import kept_on
from dcd.signing.checking import signer_of
from dcd.signing.keys import can_sign
from statemachine.build import BuildState, Lifecycle
from statemachine.commands import repeated
from statemachine.errors import DcdError, NotFound, Refused, Unprepared, UsageError
from statemachine.events import Actor, BuildSubmitted
from statemachine.fold import evolve
from statemachine.keys import chain, with_salt, without_grown, without_salt
from statemachine.plan import Locked, Plan
from statemachine.provenance import public, results
from statemachine.rebuild import Rebuild
from statemachine.verdict import Compared, judge_rebuild
from store.captured import captured_files
from store.host.regular import read_regular
from store.layers.comparison import FileDifference, LayerDifferences, compare_texts
from store.layers.content import MOST_PACKED_BYTES, unpacked

MOST_FILES = 1000
"""The number of different files that a verdict names."""

MOST_LISTS_BYTES = 16 << 20
"""The size of all lists of packages of an import."""

BOOTS = "VerifyBoot"
"""The end of the names of the classes that only boot products."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdict of a rebuild, as `statemachine.verdict.Verdict`, and the files that differ after
    `checkpoint`: the first of `different_files`; `unknown` is the reason why they are not known."""

    good: bool
    build: str
    rebuild: str
    products: tuple[Compared, ...]
    checkpoint: str
    changed: tuple[str, ...]
    checked: tuple[str, ...]
    unchecked: tuple[str, ...]
    files: tuple[FileDifference, ...]
    different_files: int
    unknown: str


@dataclass(frozen=True, slots=True)
class Rebuilds:
    """See the module."""

    builds: Builds
    runner: Runner
    scheduler: Scheduler
    stores: Stores
    settings: Callable[[], Configuration]

    async def begin(self, build: str, actor: Actor, permit: Permit) -> BuildState:
        """Submit the rebuild of a completed build. Raises Refused for a build that has not completed,
        NotFound when captured files are gone, Unprepared, PermissionDenied."""
        first = await self.builds.state(build)
        expected = await self.expected(first)
        settings = self.settings()
        plan = rebuild_plan(first.plan)
        await asyncio.to_thread(permit, plan)
        await asyncio.to_thread(self.require, first)
        await asyncio.to_thread(
            planning.check_host, plan, settings.state_dir, settings.min_free_bytes
        )
        submitted = replace(
            repeated(first, plan),
            locked=Locked(first.resolved) if first.resolved else None,
            rebuild=expected,
        )
        return await self.submit(submitted, actor)

    async def submit(self, submitted: BuildSubmitted, actor: Actor) -> BuildState:
        """Create the build, and have it run on this host, which has what it is compared with."""
        here = kept_on(self.builds.host, submitted.requires)
        state = await self.builds.create(replace(submitted, requires=here), actor)
        self.runner.planned(state.id, fresh=False)
        self.scheduler.wake()
        return state

    async def expected(self, first: BuildState) -> Rebuild:
        """What a rebuild of a build is compared with. Raises Refused unless it has completed."""
        if first.lifecycle is not Lifecycle.COMPLETED:
            raise Refused(
                f"build {first.id} cannot be rebuilt: it is {first.lifecycle}",
                "only a completed build has results to compare with",
                f"wait until it is completed: dcctl follow {first.id}",
            )
        events = await self.builds.events(first.id)
        # Its digest names it; parameters, which may be secret, do not matter to the comparison.
        said = await asyncio.to_thread(provenance_of, self.stores.packages, events, {})
        found = results(events)
        contents = {
            each["name"]: each["digest"]["sha256"]
            for each in json.loads(said)["predicate"]["runDetails"]["byproducts"]
            if each["uri"] == "urn:dcd:checkpoint" and "digest" in each
        }
        started = found.started
        return Rebuild(
            build=first.id,
            builder=started.data.builder if started else "",
            version=started.data.version if started else "",
            provenance=await self._provenance_digest(first, said),
            products={
                each.name: each.sha256
                for each in found.products
                if each.name != f"{first.name}.xml"
            },
            contents=contents,
            plan=public(first.plan),
        )

    async def _provenance_digest(self, first: BuildState, said: str) -> str:
        published = {each.name: each.sha256 for each in first.published}
        own = published.get(f"{first.name}.provenance.json")
        return own or hashlib.sha256(said.encode()).hexdigest()

    def require(self, first: BuildState) -> None:
        """Raise NotFound when captured files of a build are gone, Unprepared when a checkpoint has downloaded
        what was not captured. Blocking."""
        self.stores.inputs(first)
        captured_files(self.stores.packages, first.resolved)
        require_captured(first.plan, first.resolved)

    def vouched(self, source: ManifestSource, options: Options) -> Statement:
        """The uploaded provenance of the other server's build of which an export is submitted. Raises
        NotFound without one, UsageError unless it says the same as the submit. Blocking."""
        rebuild = options.rebuild
        assert rebuild is not None
        uploaded = self.stores.blobs.path(rebuild.provenance, source.owner)
        try:
            content = read_regular(uploaded, MOST_BYTES)
        except OSError as error:
            raise UsageError("the provenance cannot be read", str(error)) from error
        said = read_statement(content, rebuild)
        lists = options.locked.lists if options.locked else ()
        check_submit(said, source.text, lists, source.parameters)
        for name in rebuild.manifests.values():
            self.stores.blobs.path(name, source.owner)
        return said

    def signed_by(self, source: ManifestSource, options: Options) -> str:
        """The id of the key that has signed the uploaded provenance, if a key is given and the libraries to
        check that are here; else "". Raises NotFound, UsageError when it has not signed. Blocking."""
        rebuild, given = options.rebuild, options.signature
        if rebuild is None or given is None or not can_sign():
            return ""
        try:
            envelope, statement = (
                read_regular(self.stores.blobs.path(name, source.owner), MOST_BYTES)
                for name in (given.envelope, rebuild.provenance)
            )
        except OSError as error:
            raise UsageError("the signed provenance cannot be read", str(error)) from error
        return signer_of(envelope, given.key, statement)

    def adopt(self, lists: Sequence[str], owner: int | None) -> None:
        """Put uploaded files into the package store: the lists, and what these name. Each has to be an upload
        of the user `owner` (None: of anybody), or there already. Raises NotFound, and UsageError for lists
        that would take this process too much memory. Blocking."""
        if sum(self._size_bytes(name, owner) for name in lists) > MOST_LISTS_BYTES:
            raise UsageError(
                "the lists of packages are too long",
                f"together they may have {MOST_LISTS_BYTES >> 20} MiB, some 40,000 packages",
            )
        for names in (lists, self._named(lists)):
            for name in names:
                if not self.stores.packages.has(name):
                    with self.stores.blobs.path(name, owner).open("rb") as content:
                        self.stores.privileged.adopt_package(name, content.fileno())

    def _size_bytes(self, name: str, owner: int | None) -> int:
        packages = self.stores.packages
        path = packages.path(name) if packages.has(name) else self.stores.blobs.path(name, owner)
        return path.stat().st_size

    def _named(self, lists: Sequence[str]) -> Iterator[str]:
        for name in lists:
            yield from self.stores.packages.resolved(name).stored()

    async def verdict(self, build: str) -> Judged:
        """The verdict of a completed rebuild. Raises Refused for another build."""
        state = await self.builds.state(build)
        if state.rebuild is None:
            raise Refused(
                f"build {state.id} is no rebuild",
                resolution=f"rebuild it: dcctl rebuild {state.id}",
            )
        found = judge_rebuild(await self.builds.events(build))
        if found is None:
            raise NotFound(f"build {build} has no verdict")
        differing = LayerDifferences((), 0)
        if found.checkpoint:
            differing = await asyncio.to_thread(self._differences, state, found.checkpoint)
        return Judged(
            good=found.good,
            build=found.build,
            rebuild=found.rebuild,
            products=found.products,
            checkpoint=found.checkpoint,
            changed=found.changed,
            checked=found.checked,
            unchecked=found.unchecked,
            files=differing.files,
            different_files=differing.count,
            unknown=differing.unknown,
        )

    def _differences(self, state: BuildState, checkpoint: str) -> LayerDifferences:
        """The files that differ after a checkpoint, if the content manifests of both builds are here."""
        expected = state.rebuild
        assert expected is not None
        wanted = expected.contents[checkpoint]
        try:
            uploaded = self.stores.blobs.path(expected.manifests.get(checkpoint, ""))
            packed = read_regular(uploaded, MOST_PACKED_BYTES)
        except (DcdError, OSError):
            packed = self._content_here(expected.build, checkpoint)
        own = base64.b64decode(
            self.stores.privileged.content_of(state.checkpoints[state.index(checkpoint)].key)
        )
        before, after = unpacked(packed), unpacked(own)
        if before is None or after is None or hashlib.sha256(before).hexdigest() != wanted:
            return LayerDifferences((), 0, "the content manifest of a layer is not here any more")
        try:
            return compare_texts(before, after, MOST_FILES)
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
            return LayerDifferences((), 0, "the content manifest in the export is damaged")

    def _content_here(self, build: str, checkpoint: str) -> bytes:
        """The content manifest of a build of this server, compressed; empty without one."""
        try:
            first = reduce(evolve, self.builds.log.read_build(build), None)
            assert first is not None
            key = first.checkpoints[first.index(checkpoint)].key
        except DcdError:
            return b""
        return base64.b64decode(self.stores.privileged.content_of(key))


def rebuild_plan(plan: Plan) -> Plan:
    """The plan of a rebuild: without boots, publishing nothing, adding to no earlier result, under keys of
    its own."""
    kept = [each for each in plan.checkpoints if not each.checkpoint_class.endswith(BOOTS)]
    kept = planning.without_publishing(kept)
    plain = chain(replace(each, grow=False) for each in kept)
    return with_salt(without_salt(without_grown(plain, 0)), 0, planning.new_salt())


def require_captured(plan: Plan, lists: Sequence[str]) -> None:
    """Raise Unprepared for a plan with downloads of which no list was captured."""
    transfers = [each for each in plan.checkpoints if each.network]
    if len(transfers) > len(lists):
        names = ", ".join(each.name for each in transfers)
        raise Unprepared(
            f"the build cannot be rebuilt without network: {names}",
            "what it downloads was not captured",
            "only transfers of Debian packages are captured, with the setting capture = packages",
        )
