"""Locks of packages (`dcd.manifest.lock`): made from what a build resolved, and what a locked build uses.

A lock is made by a build that runs the transfers of its manifest and pauses after the last: what it names is
what was installed, and all of it is in the package store from then on. A build with a lock fetches from the
repositories, if these still have the state of the lock; an offline one takes everything from the package
store, where an earlier build, or an import, has left a list with the same content.
"""

import asyncio
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from dcd.engine.borrowers import STARTER
from dcd.engine.builds import Builds
from dcd.engine.locked import known_repositories
from dcd.engine.manifests import Manifests, ManifestSource
from dcd.engine.stores import Stores
from dcd.manifest.lock import Lock, LockedFile, LockedPackage, LockedRepository, LockedTransfer
from dcd.manifest.withheld import WITHHELD
from dcd.planner.tasks import WithSecrets
from statemachine.build import BuildState, CheckpointRecord
from statemachine.errors import DcdError, Refused, Unprepared, UsageError
from statemachine.events import Actor
from statemachine.keys import digest
from statemachine.plan import Locked, Plan
from store.captured import captured_files
from store.resolved import RepositoryFile, Resolved, ResolvedPackage, encoded

_NAMED = 20
"""The number of packages that an error names."""


@dataclass(frozen=True, slots=True)
class PackageLocks:
    """See the module."""

    builds: Builds
    stores: Stores
    manifests: Manifests
    _contents: dict[str, tuple[str, tuple[LockedRepository, ...]]] = field(default_factory=dict)
    """What lists of the package store have, by their digests: nothing changes it, and to read them takes
    long."""

    async def of_build(self, state: BuildState, actor: Actor) -> Lock:
        """The lock of a build whose transfers are done. Raises Refused for another build, NotFound."""
        lockables = await self.manifests.lockables(state, actor)
        transfers: list[LockedTransfer] = []
        architecture = ""
        for record, lockable in zip(state.checkpoints, lockables, strict=True):
            if lockable is None:
                continue
            architecture = lockable.architecture or architecture
            resolved = await asyncio.to_thread(self._resolved, state, record)
            transfers.append(locked_transfer(record.name, lockable.asks, architecture, resolved))
        if not transfers:
            raise Refused(f"build {state.id} transfers no packages that can be locked")
        secret = WithSecrets(state.manifest, dict(state.parameters))
        without = await self.manifests.without_secrets(secret, actor)
        shown = {
            name: value
            for name, value in sorted(without.parameters.items())
            if value == state.parameters[name] and WITHHELD not in value
        }
        return Lock(
            format="dcd-lock",
            version=1,
            name=state.name,
            parameters=shown,
            profiles=tuple(sorted(state.profiles)),
            transfers=tuple(transfers),
        )

    async def for_plan(self, source: ManifestSource) -> ManifestSource:
        """The manifest for a preview of its plan: an offline one knows the repositories of its lock. Raises
        as `for_submit`."""
        if source.lock is None or not source.offline:
            _require_lock(source)
            return source
        locked = await asyncio.to_thread(self._stored, source.lock, source.owner)
        known = await asyncio.to_thread(known_repositories, self.stores, locked)
        return replace(source, known=known)

    async def for_submit(self, source: ManifestSource) -> Locked | None:
        """What a build with the lock of the manifest uses; None without a lock. Raises UsageError for
        `offline` without a lock, Unprepared when the package store lacks what an offline build needs."""
        if source.lock is None:
            _require_lock(source)
            return None
        use = self._stored if source.offline else self._adopted
        return await asyncio.to_thread(use, source.lock, source.owner)

    def _resolved(self, state: BuildState, record: CheckpointRecord) -> Resolved:
        if not record.done:
            raise Refused(
                f"build {state.id} cannot be locked: {record.name} is not done",
                "a lock has the packages of all transfers",
                f"wait until it has paused or completed: dcctl follow {state.id}",
            )
        if not record.resolved:
            raise Refused(
                f"build {state.id} cannot be locked: what {record.name} resolved is not recorded",
                "the daemon's setting capture was none when its result was made",
                "set capture = packages, reload the daemon, and lock with --fresh",
            )
        return self.stores.packages.resolved(record.resolved)

    def _adopted(self, lock: Lock, owner: int | None) -> Locked:
        """The lists of a lock: those of the package store, or put there. Blocking."""
        found = self._equal(lock, owner, whole=False)
        lists = []
        for transfer in lock.transfers:
            content = encoded(_list(transfer))
            sha256 = found.get(transfer.checkpoint) or hashlib.sha256(content).hexdigest()
            if not self.stores.packages.has(sha256):
                with self.stores.blobs.aside() as file:
                    file.write(content)
                    file.flush()
                    file.seek(0)
                    self.stores.privileged.adopt_package(sha256, file.fileno())
            lists.append(sha256)
        return Locked(tuple(lists), exactly=True, fetch=True)

    def _equal(self, lock: Lock, owner: int | None, *, whole: bool) -> dict[str, str]:
        """The lists in the package store that have the content of a lock, by checkpoint; with `whole` those
        of which the store has all files. `owner` is the user of the build (None: root)."""
        found: dict[str, str] = {}
        wanted = {
            each.checkpoint: (_content(_list(each)), each.repositories) for each in lock.transfers
        }
        for sha256 in sorted(self._candidates(owner)):
            if len(found) == len(wanted):
                break
            try:
                content, checked = self._content_of(sha256)
                equal = [
                    name
                    for name, (expected, keys) in wanted.items()
                    if expected == content and keys in ((), checked)
                ]
                if equal and whole:
                    captured_files(self.stores.packages, [sha256])
                elif equal:
                    self.stores.packages.path(sha256)
            except DcdError:
                continue
            found = {**dict.fromkeys(equal, sha256), **found}
        return found

    def _content_of(self, sha256: str) -> tuple[str, tuple[LockedRepository, ...]]:
        if sha256 not in self._contents:
            resolved = self.stores.packages.resolved(sha256)
            self._contents[sha256] = _content(resolved), tuple(_repositories(resolved))
        return self._contents[sha256]

    def _stored(self, lock: Lock, owner: int | None) -> Locked:
        """The lists in the package store that an offline build with a lock uses. Blocking."""
        found = self._equal(lock, owner, whole=True)
        if lacking := [each for each in lock.transfers if each.checkpoint not in found]:
            raise Unprepared(
                "the package store does not have all that the lock names",
                "\n".join(self._lacking(lacking)),
                "with the network, dcctl submit --locked FILE gets it, while the repositories have the state "
                "of the lock; from another server: dcctl export BUILD there, dcctl rebuild FILE.dcd here",
            )
        return Locked(tuple(found[each.checkpoint] for each in lock.transfers), exactly=True)

    def _candidates(self, owner: int | None) -> set[str]:
        """The lists that the packages of the user `owner` (None: of root) may come from. A lock of version
        0.1.0 does not name keyrings, nor whether repositories are trusted: these are in the list, and so it
        is of a transfer from repositories here, or was brought by the same user or root."""
        trusted = {0, STARTER} if owner is None else {0, STARTER, owner}
        theirs = self.builds.log.locked_builds_of_others(trusted)
        layers = {
            layer.record.resolved
            for layer in self.stores.layers.layers()
            if layer.record.made_by not in theirs
        }
        return (self.builds.log.resolved_lists(theirs) | layers) - {""}

    def _lacking(self, transfers: Sequence[LockedTransfer]) -> Iterator[str]:
        has = self.stores.packages.has
        packages = [one for each in transfers for one in each.packages if not has(one.sha256)]
        for one in packages[:_NAMED]:
            yield f"missing: {one.name} {one.version} {one.architecture}"
        if len(packages) > _NAMED:
            yield f"and {len(packages) - _NAMED} more packages"
        if not packages:
            for each in transfers:
                names = ", ".join(sorted(each.releases))
                yield f"missing: release files, indexes and keyrings for {each.checkpoint}, of {names}"


def locked_transfer(
    checkpoint: str, asks: tuple[str, ...], architecture: str, resolved: Resolved
) -> LockedTransfer:
    """What a lock says of a transfer that has resolved to a list of packages."""
    return LockedTransfer(
        checkpoint=checkpoint,
        architecture=architecture,
        asks=asks,
        files=tuple(_files(resolved)),
        repositories=tuple(_repositories(resolved)),
        packages=tuple(_packages(resolved)),
    )


def require_offline(plan: Plan, lock: Lock) -> None:
    """Raise Unprepared for a plan with other checkpoints that use the network than those of the lock."""
    locked = {each.checkpoint for each in lock.transfers}
    others = [each.name for each in plan.checkpoints if each.network and each.name not in locked]
    if others:
        raise Unprepared(
            f"the build needs the network: {', '.join(others)}",
            "a lock is of packages; what else a checkpoint fetches or sends is not in it",
            "leave these checkpoints out (a profile can), or submit without --offline",
        )


def is_locked_result(stores: Stores, locked: Locked | None, resolved: str) -> bool:
    """Whether a result with this list of packages ("": it has none) is one of a build with a lock.
    Blocking."""
    if locked is None or not locked.exactly or not resolved or resolved in locked.lists:
        return True
    try:
        wanted = [stores.packages.resolved(each) for each in locked.lists]
        return _identities(stores.packages.resolved(resolved)) in map(_identities, wanted)
    except DcdError:
        return False


def _require_lock(source: ManifestSource) -> None:
    if source.offline and source.lock is None:
        raise UsageError(
            "an offline build needs a lock",
            "it says which packages to take from the package store",
            "dcctl lock MANIFEST makes one; then add --locked FILE",
        )


def _list(transfer: LockedTransfer) -> Resolved:
    return Resolved(
        tuple(
            ResolvedPackage(
                "deb",
                each.name,
                each.version,
                each.architecture,
                each.sha256,
                each.size_bytes,
                each.uri,
            )
            for each in transfer.packages
        ),
        tuple(
            RepositoryFile(each.uri, each.suite, each.path, each.sha256, 0)
            for each in transfer.files
        ),
    )


def _packages(resolved: Resolved) -> Iterator[LockedPackage]:
    for each in sorted(
        resolved.packages, key=lambda one: (one.name, one.architecture, one.version)
    ):
        if each.uri:
            yield LockedPackage(
                name=each.name,
                version=each.version,
                architecture=each.architecture,
                sha256=each.sha256,
                size_bytes=each.size_bytes,
                uri=each.uri,
            )


def _files(resolved: Resolved) -> Iterator[LockedFile]:
    for each in sorted(resolved.files, key=lambda one: (one.repository, one.suite, one.path)):
        yield LockedFile(uri=each.repository, suite=each.suite, path=each.path, sha256=each.sha256)


def _repositories(resolved: Resolved) -> Iterator[LockedRepository]:
    """How the repositories were checked, where the list says it: with digests alone it has no keyrings."""
    for each in sorted(resolved.repositories, key=lambda one: (one.uri, one.suite)):
        if each.trusted or each.signed_by or each.keyrings:
            yield LockedRepository(
                uri=each.uri,
                suite=each.suite,
                trusted=each.trusted,
                signed_by=each.signed_by,
                keyrings=tuple(sorted({*each.keyrings})),
            )


def _identities(resolved: Resolved) -> set[tuple[str, str, str, str]]:
    return {
        (each.name, each.version, each.architecture, each.sha256) for each in _packages(resolved)
    }


def _content(resolved: Resolved) -> str:
    """The digest of what a lock says of a list."""
    files = {(each.uri, each.suite, each.path, each.sha256) for each in _files(resolved)}
    return digest([sorted(_identities(resolved)), sorted(files)])
