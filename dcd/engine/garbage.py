"""Collecting garbage: unneeded data, and the least recently used layers over a limit.

Never removed: layers of builds that have not ended (of completed checkpoints, of the running one, and
all below), captured inputs of builds, captured packages of builds and layers, and artifacts and logs, which
are kept until `rm`. Removed on request: layers that no build names any more, stale layers, layers of unused
back ends, captured inputs that no build names any more, the remains of removed builds. Removed over the
limit: layers, least recently used first, children before parents, and downloaded packages. A removed layer
that is needed later is rebuilt. Each removal completes or is finished by the next start, so a crash in
between is harmless. Used from the event loop's thread only.
"""

import asyncio
import heapq
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import structlog

from dcd.configuration import Configuration
from dcd.engine.builds import Builds
from dcd.engine.kept_packages import kept_packages
from dcd.engine.losses import Losses
from dcd.engine.runner import Runner
from dcd.engine.sharing import NOT_SHARED, Sharing
from dcd.engine.stores import Stores
from statemachine.build import BuildState, CheckpointState
from statemachine.errors import DcdError, NotFound, Refused
from store.layers import Layer, Layers
from store.packages import Package

logger = structlog.get_logger()

YOUNG_SECONDS = 3600.0
"""A captured input stored within this time may belong to a build that is being submitted."""


@dataclass(frozen=True, slots=True)
class RemovedLayer:
    """A layer that was (or would be) removed, with the reason."""

    key: str
    build: str
    checkpoint: str
    size_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Collected:
    """The removed data, or with a dry run the data to remove. `builds` are removed builds with
    remaining artifacts or logs; `packages` is the number of packages; `kept_bytes` is the size of the
    remaining layers."""

    layers: tuple[RemovedLayer, ...]
    blobs: tuple[str, ...]
    builds: tuple[str, ...]
    freed_bytes: int
    kept_bytes: int
    packages: int = 0


def pinned_keys(layers: Iterable[Layer], unfinished: Iterable[BuildState]) -> set[str]:
    """The keys of the layers of unfinished builds, and of all layers below them."""
    parents = {layer.record.key: layer.record.parent for layer in layers}
    pinned: set[str] = set()
    for state in unfinished:
        for record in state.checkpoints:
            key: str | None = None
            if record.done or record.state is CheckpointState.RUNNING:
                key = record.key
            while key is not None and key not in pinned:
                pinned.add(key)
                key = parents.get(key)
    return pinned


def layers_to_remove(
    layers: Sequence[Layer],
    pinned: Collection[str],
    named: Collection[str],
    max_bytes: int | None,
    only_over_limit: bool = False,
) -> list[tuple[Layer, str]]:
    """The layers to remove, in order, each with the reason. `named` are the keys that a build names;
    other layers are removed first, and without `max_bytes` (the limit of all layers together) only they
    are removed. With `only_over_limit`, they too are removed only while the layers exceed the limit."""
    by_key = {layer.record.key: layer for layer in layers}
    standing = Counter(layer.record.parent for layer in layers)
    total = sum(layer.size_bytes for layer in layers)
    heap: list[tuple[bool, float, str]] = []

    def offer(layer: Layer) -> None:
        key = layer.record.key
        if key not in pinned and not standing[key]:
            heapq.heappush(heap, (key in named, layer.used_at, key))

    for layer in layers:
        offer(layer)
    removed = []
    while heap:
        is_named, _, key = heapq.heappop(heap)
        layer = by_key[key]
        spared = is_named or only_over_limit
        if spared and (max_bytes is None or total <= max_bytes):
            break
        reason = "least recently used" if is_named else "no build names it"
        removed.append((layer, reason))
        total -= layer.size_bytes
        standing[layer.record.parent] -= 1
        if layer.record.parent in by_key:
            offer(by_key[layer.record.parent])
    return removed


class Collector:
    """Collects on request, and whenever a build ends if a limit is set."""

    def __init__(
        self,
        builds: Builds,
        runner: Runner,
        stores: Stores,
        settings: Callable[[], Configuration],
        losses: Losses,
        sharing: Sharing = NOT_SHARED,
    ) -> None:
        self._losses = losses
        self._sharing = sharing
        self._builds = builds
        self._runner = runner
        self._stores = stores
        self._settings = settings
        self._collecting = asyncio.Lock()

    async def run(self) -> None:
        """Keep the layers within the configured limit until cancelled."""
        while True:
            try:
                if limit := self._settings().layers_max_bytes:
                    await self.collect(limit, by_itself=True)
                elif not self._losses.error:
                    await self._collect_packages(None)
            except (DcdError, OSError) as error:
                logger.error("garbage could not be collected", error=str(error))
            await self._builds.ended.wait()
            self._builds.ended.clear()

    def wake(self) -> None:
        """Check the limit again: it may have changed."""
        self._builds.ended.set()

    async def collect(
        self, max_bytes: int | None, dry_run: bool = False, by_itself: bool = False
    ) -> Collected:
        """Remove unneeded data, and with `max_bytes` layers over that limit.

        With `by_itself`, for an automatic collection, layers are removed only over the limit: those of
        a removed build are kept until a person requests a collection. Data of builds that the log has
        lost is left to people.
        """
        async with self._collecting:
            layers, chosen = await self._choose(max_bytes, by_itself)
            stale = await self._choose_stale()
            layers, chosen = [*layers, *(layer for layer, _ in stale)], [*stale, *chosen]
            blobs = {}
            if not (by_itself and self._losses.error):
                blobs = await asyncio.to_thread(self._unnamed_blobs)
            builds = await asyncio.to_thread(self._left_over)
            if not dry_run:
                chosen = [pair for pair in chosen if await self._remove(pair[0])]
                for sha256 in blobs:
                    await asyncio.to_thread(self._stores.blobs.remove, sha256)
                for build in builds:
                    await asyncio.to_thread(self._stores.privileged.remove_results, build)
            retired = await asyncio.to_thread(self._retired, dry_run)
            packages: Sequence[Package] = ()
            if not (by_itself and self._losses.error):
                gone = {layer.record.key for layer, _ in chosen}
                limit = None if by_itself else max_bytes
                packages = await self._collect_packages(limit, dry_run, gone)
        if not dry_run and not self._losses.error:
            await self._sharing.collect()
        kept = sum(layer.size_bytes for layer in layers)
        kept -= sum(layer.size_bytes for layer, _ in chosen)
        chosen += retired
        return Collected(
            layers=tuple(
                RemovedLayer(
                    layer.record.key,
                    layer.record.made_by,
                    layer.record.checkpoint,
                    layer.size_bytes,
                    reason,
                )
                for layer, reason in chosen
            ),
            blobs=tuple(blobs),
            builds=tuple(builds),
            freed_bytes=sum(layer.size_bytes for layer, _ in chosen)
            + sum(blobs.values())
            + sum(package.size_bytes for package in packages),
            kept_bytes=kept,
            packages=len(packages),
        )

    async def _collect_packages(
        self, max_bytes: int | None, dry_run: bool = False, gone: Collection[str] = ()
    ) -> Sequence[Package]:
        """Remove the packages over the configured limit, and over `max_bytes`, that no build and no layer but
        those that are `gone` keeps; they are downloaded again when they are needed. Returns them. While a
        transfer runs, none: it may be using any of them. The end of its build starts the next collection."""
        limits = [self._settings().packages_max_bytes or None, max_bytes]
        allowed = [limit for limit in limits if limit is not None]
        if not allowed:
            return ()
        store = self._stores.packages
        needed = await asyncio.to_thread(kept_packages, self._stores, self._builds.log, gone)
        removed = []
        for package in await asyncio.to_thread(store.over, min(allowed), needed):
            if self._runner.using_packages():
                break
            if not dry_run:
                await asyncio.to_thread(self._stores.privileged.remove_package, package.sha256)
            removed.append(package)
        return removed

    async def _choose_stale(self) -> list[tuple[Layer, str]]:
        stale = await asyncio.to_thread(self._stores.layers.stale_layers)
        reason = "a layer below it was lost or rebuilt"
        return [(layer, "damaged" if layer.damage else reason) for layer in stale]

    async def _choose(
        self, max_bytes: int | None, only_over_limit: bool
    ) -> tuple[list[Layer], list[tuple[Layer, str]]]:
        layers = await asyncio.to_thread(lambda: list(self._stores.layers.layers()))
        keys = [layer.record.key for layer in layers]
        named = await asyncio.to_thread(self._builds.log.known_keys, keys)
        pinned = pinned_keys(layers, self._builds.unfinished_here())
        return layers, layers_to_remove(layers, pinned, named, max_bytes, only_over_limit)

    async def _remove(self, layer: Layer) -> bool:
        """Remove a layer unless a build has started to need it since it was chosen."""
        key = layer.record.key
        lock = self._runner.locks.of(key)
        if lock.locked():
            return False
        async with lock:
            # While this lock is held no build can start to reuse the layer.
            stale = await asyncio.to_thread(self._stores.layers.stale, key)
            if not stale and key in pinned_keys([layer], self._builds.unfinished_here()):
                return False
            try:
                await asyncio.to_thread(self._stores.layers.remove, key)
            except (Refused, NotFound) as error:
                logger.info("a layer cannot be removed", layer=key, reason=str(error))
                return False
        logger.info("layer removed", layer=key, build=layer.record.made_by)
        return True

    def _unnamed_blobs(self) -> dict[str, int]:
        # Completed builds too: rebuild, reproduce and export read the inputs of these.
        named = self._builds.log.inputs()
        oldest_young = time.time() - YOUNG_SECONDS
        return {
            blob.sha256: blob.size_bytes
            for blob in self._stores.blobs.stored()
            if blob.sha256 not in named and blob.stored_at < oldest_young
        }

    def _retired(self, dry_run: bool) -> list[tuple[Layer, str]]:
        look = _all_of if dry_run else _clear
        return [pair for store in self._stores.privileged.retired for pair in look(store)]

    def _left_over(self) -> list[str]:
        """Removed builds with remaining files: the daemon died during the removal."""
        found = {
            path.name
            for directory in (self._stores.artifacts.directory, self._stores.logs.directory)
            if directory.exists()
            for path in directory.iterdir()
        }
        return sorted(self._builds.log.removed_among(found))


def _all_of(store: Layers) -> list[tuple[Layer, str]]:
    reason = f"its back end {store.name} is not in use"
    return [(layer, reason) for layer in store.layers()]


def _clear(store: Layers) -> list[tuple[Layer, str]]:
    """Remove all layers of a retired back end. Returns the removed layers, each with the reason."""
    held = _all_of(store)
    try:
        store.prepare()
        for name in store.reconcile((), ()):
            logger.info("removed the layers of a retired back end", backend=store.name, what=name)
    except (DcdError, OSError) as error:
        logger.warning("a retired back end cannot be removed", backend=store.name, error=str(error))
    return [(layer, reason) for layer, reason in held if store.find(layer.record.key) is None]
