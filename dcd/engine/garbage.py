"""Collecting garbage: what nobody needs, and what is used least when there is too much.

Never removed: layers on which a build that has not ended stands (its completed checkpoints, the one
that runs, and all below), and artifacts and logs, which stay until `rm`. Removed when asked: layers that no
build names any more, stale ones, or those of a back end that is not in use any more, captured inputs that no
unfinished build names, what a removal of a build left.
Removed over the limit: layers, least recently used first, none before what stands on it. A layer that is
needed later is simply made again. Each removal is whole or finished by the next start, so a crash in
the middle harms nothing. Used from the event loop's thread only.
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
from dcd.engine.losses import Losses
from dcd.engine.runner import Runner
from dcd.engine.stores import Stores
from statemachine.build import BuildState, CheckpointState
from statemachine.errors import DcdError, NotFound, Refused
from store.layers import Layer, LayerStore

logger = structlog.get_logger()

YOUNG_SECONDS = 3600.0
"""A captured input that was stored since may belong to a build that is just being submitted."""


@dataclass(frozen=True, slots=True)
class RemovedLayer:
    """A layer that was removed (or would be), and why."""

    key: str
    build: str
    checkpoint: str
    size_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Collected:
    """What was removed, or with a dry run what would be. `builds` are removed builds of which
    artifacts or logs were left; `kept_bytes` is what the remaining layers use."""

    layers: tuple[RemovedLayer, ...]
    blobs: tuple[str, ...]
    builds: tuple[str, ...]
    freed_bytes: int
    kept_bytes: int


def pinned_keys(layers: Iterable[Layer], unfinished: Iterable[BuildState]) -> set[str]:
    """The keys of the layers on which unfinished builds stand, and of all below them."""
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


def doomed(
    layers: Sequence[Layer],
    pinned: Collection[str],
    named: Collection[str],
    max_bytes: int | None,
    only_over_limit: bool = False,
) -> list[tuple[Layer, str]]:
    """The layers to remove, in order, each with the reason. `named` are the keys that a build names;
    the others go first, and without `max_bytes` (of all layers together) only they go. With
    `only_over_limit` they too go only as far as the layers take more than that."""
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
    """Collects when asked, and whenever a build ends while there is a limit."""

    def __init__(
        self,
        builds: Builds,
        runner: Runner,
        stores: Stores,
        settings: Callable[[], Configuration],
        losses: Losses,
    ) -> None:
        self._losses = losses
        self._builds = builds
        self._runner = runner
        self._stores = stores
        self._settings = settings
        self._collecting = asyncio.Lock()

    async def run(self) -> None:
        """Keep the layers within the configured limit until cancelled."""
        while True:
            if limit := self._settings().layers_max_bytes:
                try:
                    await self.collect(limit, by_itself=True)
                except (DcdError, OSError) as error:
                    logger.error("garbage could not be collected", error=str(error))
            await self._builds.ended.wait()
            self._builds.ended.clear()

    def wake(self) -> None:
        """Look at the limit again: it may have changed."""
        self._builds.ended.set()

    async def collect(
        self, max_bytes: int | None, dry_run: bool = False, by_itself: bool = False
    ) -> Collected:
        """Remove what nobody needs, and with `max_bytes` as many layers as take more than that.

        `by_itself`, when nobody asked for it, layers go only over the limit: those of a removed build
        stay until somebody collects. What builds left that the log has lost is left to people.
        """
        async with self._collecting:
            layers, chosen = await self._choose(max_bytes, by_itself)
            stale = await self._choose_stale()
            layers, chosen = [*layers, *(layer for layer, _ in stale)], [*stale, *chosen]
            blobs = {}
            if not (by_itself and self._losses.error):
                blobs = await asyncio.to_thread(self._unnamed_blobs, self._unfinished())
            builds = await asyncio.to_thread(self._left_over)
            if not dry_run:
                chosen = [pair for pair in chosen if await self._remove(pair[0])]
                for sha256 in blobs:
                    await asyncio.to_thread(self._stores.blobs.remove, sha256)
                for build in builds:
                    await asyncio.to_thread(self._stores.artifacts.remove, build)
                    await asyncio.to_thread(self._stores.logs.remove, build)
            retired = await asyncio.to_thread(self._retired, dry_run)
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
            freed_bytes=sum(layer.size_bytes for layer, _ in chosen) + sum(blobs.values()),
            kept_bytes=kept,
        )

    async def _choose_stale(self) -> list[tuple[Layer, str]]:
        stale = await asyncio.to_thread(self._stores.layers.stale_layers)
        reason = "a layer below it was lost or has been made again"
        return [(layer, reason) for layer in stale]

    async def _choose(
        self, max_bytes: int | None, only_over_limit: bool
    ) -> tuple[list[Layer], list[tuple[Layer, str]]]:
        layers = await asyncio.to_thread(lambda: list(self._stores.layers.layers()))
        keys = [layer.record.key for layer in layers]
        named = await asyncio.to_thread(self._builds.log.known_keys, keys)
        pinned = pinned_keys(layers, self._unfinished())
        return layers, doomed(layers, pinned, named, max_bytes, only_over_limit)

    async def _remove(self, layer: Layer) -> bool:
        """Remove a layer unless somebody has come to need it since it was chosen."""
        key = layer.record.key
        lock = self._runner.locks.of(key)
        if lock.locked():
            return False
        async with lock:
            # While this is held no build can begin to reuse the layer.
            stale = await asyncio.to_thread(self._stores.layers.stale, key)
            if not stale and key in pinned_keys([layer], self._unfinished()):
                return False
            try:
                await asyncio.to_thread(self._stores.layers.remove, key)
            except (Refused, NotFound) as error:
                logger.info("a layer stays", layer=key, reason=str(error))
                return False
        logger.info("layer removed", layer=key, build=layer.record.made_by)
        return True

    def _unfinished(self) -> list[BuildState]:
        return self._builds.unfinished()

    def _unnamed_blobs(self, unfinished: Sequence[BuildState]) -> dict[str, int]:
        named = {file.sha256 for state in unfinished for file in state.inputs}
        oldest_young = time.time() - YOUNG_SECONDS
        return {
            blob.sha256: blob.size_bytes
            for blob in self._stores.blobs.stored()
            if blob.sha256 not in named and blob.stored_at < oldest_young
        }

    def _retired(self, dry_run: bool) -> list[tuple[Layer, str]]:
        look = _all_of if dry_run else _clear
        return [pair for store in self._stores.retired for pair in look(store)]

    def _left_over(self) -> list[str]:
        """Removed builds of which something is left: the daemon died while it removed them."""
        found = {
            path.name
            for directory in (self._stores.artifacts.directory, self._stores.logs.directory)
            if directory.exists()
            for path in directory.iterdir()
        }
        return sorted(self._builds.log.removed_among(found))


def _all_of(store: LayerStore) -> list[tuple[Layer, str]]:
    reason = f"of back end {store.name}, which is not in use"
    return [(layer, reason) for layer in store.layers()]


def _clear(store: LayerStore) -> list[tuple[Layer, str]]:
    """Remove all that a retired back end holds; returns what is gone, each with the reason."""
    held = _all_of(store)
    try:
        store.prepare()
        for name in store.reconcile((), ()):
            logger.info("removed what a retired back end left", backend=store.name, what=name)
    except (DcdError, OSError) as error:
        logger.warning("a retired back end stays", backend=store.name, error=str(error))
    return [(layer, reason) for layer, reason in held if store.find(layer.record.key) is None]
