"""Builds between two builds: some of the changes of packages, manifest and files from one to the other.

`dcctl bisect` asks for them one after another, to find the smallest set of changes that makes a test fail.
Each is an ordinary build, submitted once however often it is asked for, so the search has no state of its
own and continues after any interruption. Its packages come from what both builds captured, not from the
network, unless the bad build captured none.
"""

import asyncio
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dcd.checkpoints.publish.parts import is_publishing
from dcd.engine.builds import Builds
from dcd.engine.manifests import Manifests, ManifestSource, Options
from dcd.engine.stores import Stores
from statemachine.build import BuildState, CheckpointState
from statemachine.errors import NotFound, Refused
from statemachine.events import Actor, InputFile
from statemachine.keys import canonical
from statemachine.plan import Locked
from store.captured import resolved_of
from store.resolved import Resolved


@dataclass(frozen=True, slots=True)
class Change:
    """One change from the good build to the bad one: `kind` is `package`, `file` or `manifest`; `what` it is
    about, and the version, digest or text in each ("": none)."""

    kind: str
    what: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Bisection:
    """A good and a bad build, the checkpoint that tests them, and the changes between them by number. `files`
    and `versions` are the numbers' meanings."""

    good: BuildState
    bad: BuildState
    test: str
    edits: int
    changes: tuple[Change, ...]
    files: tuple[str, ...]
    packages: tuple[str, ...]


class Bisections:
    """See the module."""

    def __init__(self, builds: Builds, stores: Stores, manifests: Manifests) -> None:
        self._builds = builds
        self._stores = stores
        self._manifests = manifests

    async def between(self, good: str, bad: str, test: str | None, actor: Actor) -> Bisection:
        """The changes between two builds. Raises Refused for builds that a test does not tell apart,
        NotFound."""
        first, second = await self._builds.state(good), await self._builds.state(bad)
        name = _test(first, second, test)
        edits = (await self._manifests.mix(first.manifest, second.manifest, (), actor)).edits
        files = _changed_files(first.inputs, second.inputs)
        packages = await asyncio.to_thread(self._changed_packages, first, second)
        changes = (
            *(Change("manifest", edit.place, edit.before, edit.after) for edit in edits),
            *(Change("file", path, *_digests(path, first, second)) for path in files),
            *(Change("package", name, *versions) for name, versions in packages.items()),
        )
        return Bisection(first, second, name, len(edits), changes, files, tuple(packages))

    async def candidate(
        self, bisection: Bisection, take: Sequence[int], actor: Actor
    ) -> tuple[ManifestSource, Options]:
        """What to submit for the good build with the changes `take`."""
        chosen = frozenset(take)
        edits = tuple(number for number in sorted(chosen) if number < bisection.edits)
        mixed = await self._manifests.mix(
            bisection.good.manifest, bisection.bad.manifest, edits, actor
        )
        base = bisection.bad if chosen else bisection.good
        source = ManifestSource(
            text=mixed.text,
            path=base.manifest_path,
            files=self._files(bisection, chosen),
            parameters={},
            source_date_epoch=base.source_date_epoch if base.time_origin == "request" else None,
        )
        said = canonical([bisection.good.id, bisection.bad.id, bisection.test, sorted(chosen)])
        locked = await asyncio.to_thread(self._locked, bisection, chosen)
        return source, Options(
            pause_before=_after(base, bisection.test),
            idempotency_key=f"bisect-{hashlib.sha256(said).hexdigest()}",
            locked=locked,
        )

    def _changed_packages(
        self, first: BuildState, second: BuildState
    ) -> dict[str, tuple[str, str]]:
        if not second.resolved or first.resolved == second.resolved:
            return {}
        before, after = (_versions(self._resolved(state)) for state in (first, second))
        return {
            name: (before[name], after[name])
            for name in sorted(before.keys() & after.keys())
            if before[name] != after[name]
        }

    def _resolved(self, state: BuildState) -> Resolved:
        if not state.resolved:
            raise Refused(
                f"build {state.id} has no captured packages",
                "builds between two others use what these captured",
                "set capture = packages in the daemon's configuration, and build again",
            )
        return resolved_of(self._stores.packages, state.resolved)

    def _files(
        self, bisection: Bisection, chosen: frozenset[int]
    ) -> dict[str, tuple[str, int] | None]:
        begin = bisection.edits
        taken = {path for n, path in enumerate(bisection.files, begin) if n in chosen}
        found: dict[str, tuple[str, int] | None] = {}
        for state, wins in ((bisection.bad, taken), (bisection.good, None)):
            directory = Path((bisection.bad if chosen else bisection.good).manifest_path).parent
            for each in state.inputs:
                if wins is None and each.path in taken:
                    continue
                found[str(directory / each.path)] = (each.sha256, each.mode)
        return found

    def _locked(self, bisection: Bisection, chosen: frozenset[int]) -> Locked | None:
        good, bad = bisection.good, bisection.bad
        if not bad.resolved:
            return None
        if not chosen:
            return Locked(good.resolved)
        if len(chosen) == len(bisection.changes):
            return Locked(bad.resolved)
        if not bisection.packages and self._releases(good) == self._releases(bad):
            return Locked(good.resolved)
        begin = bisection.edits + len(bisection.files)
        versions = {}
        for number, name in enumerate(bisection.packages, begin):
            change = bisection.changes[number]
            versions[name] = change.after if number in chosen else change.before
        return Locked(tuple(dict.fromkeys((*good.resolved, *bad.resolved))), versions)

    def _releases(self, state: BuildState) -> set[tuple[str, str, str]]:
        files = self._resolved(state).files
        return {
            (file.repository, file.suite, file.sha256) for file in files if "Release" in file.path
        }


def _test(good: BuildState, bad: BuildState, test: str | None) -> str:
    """The checkpoint that tests both. Raises Refused, NotFound."""
    if test is None:
        failed = _failed(bad)
        if not failed and _failed(good):
            raise Refused(
                "the builds are the wrong way round",
                f"build {good.id} has failed, build {bad.id} is {bad.lifecycle}",
                f"dcctl bisect {bad.id} {good.id}",
            )
        if not failed:
            raise Refused(
                f"no checkpoint of build {bad.id} has failed",
                f"it is {bad.lifecycle}",
                "name the checkpoint that tells the builds apart with --test, or other builds",
            )
        test = failed[0]
    for state in (good, bad):
        if test not in {each.name for each in state.checkpoints}:
            raise NotFound(f"build {state.id} has no checkpoint {test}")
    if is_publishing(bad.plan.checkpoints[bad.index(test)].mod_path):
        raise Refused(
            f"{test} publishes, and is no test",
            "each build of the search would publish what it has made",
            "name another checkpoint with --test",
        )
    record = good.checkpoints[good.index(test)]
    if not record.done:
        raise Refused(
            f"build {good.id} has not passed {test}: it is {record.state}",
            resolution="name a good build first, in which it has completed, then the bad one",
        )
    return test


def _failed(state: BuildState) -> list[str]:
    return [each.name for each in state.checkpoints if each.state is CheckpointState.FAILED]


def _after(state: BuildState, test: str) -> str | None:
    """The checkpoint after the test, before which a build between others pauses."""
    names = [each.name for each in state.checkpoints]
    following = names[names.index(test) + 1 :]
    return following[0] if following else None


def _versions(resolved: Resolved) -> dict[str, str]:
    return {each.name: each.version for each in resolved.packages if each.kind == "deb"}


def _changed_files(first: Sequence[InputFile], second: Sequence[InputFile]) -> tuple[str, ...]:
    before, after = ({each.path: each for each in inputs} for inputs in (first, second))
    return tuple(
        path for path in sorted(before.keys() & after.keys()) if before[path] != after[path]
    )


def _digests(path: str, *states: BuildState) -> Iterator[str]:
    for state in states:
        yield next(each.sha256 for each in state.inputs if each.path == path)
