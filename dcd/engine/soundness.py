"""Whether layers hold what their checkpoints left: checks on request, and in the background.

The launcher holds a layer against its manifest; this module adds what the event log says of the manifest's
digest. The background check reads every layer once in `scrub_days`, the longest unread first, one at a time
and with the lowest priority. When a layer was read last is kept with the layer, so a restart continues.
Used from the event loop's thread only.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import structlog

from dcd.configuration import Configuration
from dcd.engine.builds import Builds
from dcd.engine.stores import Stores
from statemachine.build import BuildState
from statemachine.errors import DcdError, NotFound
from statemachine.events import CheckpointCompleted
from store.eventlog import EventLog
from store.layers import Check, Layer, Layers

logger = structlog.get_logger()

DAY_SECONDS = 86400.0

_LONGEST_WAIT_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Soundness:
    """What is known of all layers: their number, those found damaged, those without a manifest, and when the
    one whose check is longest ago was read (Unix time; None without any)."""

    layers: int
    damaged: int
    unrecorded: int
    read_since: float | None


def soundness(layers: Layers) -> Soundness:
    """The state of all layers, from what is kept with them. Blocking."""
    valid = list(layers.layers())
    recorded = [layer.checked_at for layer in valid if layer.checked_at]
    return Soundness(
        layers=len(valid),
        damaged=sum(1 for layer in layers.stale_layers() if layer.damage),
        unrecorded=len(valid) - len(recorded),
        read_since=min(recorded, default=None),
    )


def recorded_content(log: EventLog, layer: Layer) -> str:
    """The digest of a layer's content in the event of its checkpoint; "" without one. Blocking."""
    made = (layer.record.checkpoint, layer.record.attempt, layer.record.key)
    for event in log.completed(layer.record.made_by):
        match event.data:
            case CheckpointCompleted(checkpoint, attempt, key, content=content) if (
                checkpoint,
                attempt,
                key,
            ) == made:
                return content
    return ""


def check(layers: Layers, log: EventLog, key: str, *, whole: bool, idle: bool = False) -> Check:
    """Hold a layer against its manifest, and this against the event log. Raises NotFound. Blocking."""
    layer = layers.find(key)
    expected = "" if layer is None else recorded_content(log, layer)
    return layers.check(key, whole, idle, expected)


def unchecked(layers: Layers, key: str, sound: Collection[str]) -> list[str]:
    """The layer of that key and those below it, down to the first one in `sound`, each after the one below.
    A base (`dcd.planning.ground`) is no checkpoint's layer, so nothing else checks it. Blocking."""
    line: list[str] = []
    below: str | None = key
    while below is not None and below not in sound and below not in line:
        line.append(below)
        layer = layers.find(below)
        below = None if layer is None else layer.record.parent
    return line[::-1]


class Scrub:
    """Checks the layers in the background, and on request."""

    def __init__(
        self, builds: Builds, stores: Stores, settings: Callable[[], Configuration]
    ) -> None:
        self._log = builds.log
        self._layers = stores.layers
        self._settings = settings
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Look again: the setting may have changed."""
        self._changed.set()

    async def run(self) -> None:
        """Check layers whose turn has come, until cancelled."""
        while True:
            seconds = self._settings().scrub_days * DAY_SECONDS
            try:
                for layer in await asyncio.to_thread(self._due, seconds) if seconds else ():
                    await self._read(layer)
            except (DcdError, OSError) as error:
                logger.error("the layers cannot be checked", error=str(error))
            wait = min(max(seconds / 10, 1.0), _LONGEST_WAIT_SECONDS)
            try:
                async with asyncio.timeout(wait if seconds else None):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()

    def _due(self, seconds: float) -> list[Layer]:
        now = time.time()
        found = [each for each in self._layers.layers() if 0 < each.checked_at <= now - seconds]
        return sorted(found, key=lambda each: each.checked_at)

    async def _read(self, layer: Layer) -> None:
        key = layer.record.key
        began = time.monotonic()
        try:
            found = await asyncio.to_thread(
                check, self._layers, self._log, key, whole=True, idle=True
            )
        except NotFound:
            return  # removed meanwhile
        seconds = time.monotonic() - began
        if found.state == "damaged":
            logger.error("a layer is damaged", layer=key, build=found.made_by, damage=found.damage)
        else:
            logger.info("layer read", layer=key, build=found.made_by, seconds=round(seconds, 1))
        await asyncio.sleep(seconds)  # reading takes half of the time of a disk at most

    async def check(self, key: str) -> Check:
        """Read all of a layer. Raises NotFound."""
        found = await asyncio.to_thread(check, self._layers, self._log, key, whole=True)
        if found.state == "damaged":
            logger.error("a layer is damaged", layer=key, build=found.made_by, damage=found.damage)
        return found

    async def layers(self, state: BuildState | None) -> tuple[Sequence[Layer], Sequence[Layer]]:
        """The valid layers and the others: all, or those with which a build was made."""
        valid, others = await asyncio.to_thread(
            lambda: (list(self._layers.layers()), self._layers.stale_layers())
        )
        if state is None:
            return valid, others
        parents = {layer.record.key: layer.record.parent for layer in (*valid, *others)}
        needed: set[str] = set()
        for record in state.checkpoints:
            key: str | None = record.key if record.done else None
            while key is not None and key not in needed:
                needed.add(key)
                key = parents.get(key)
        return (
            [layer for layer in valid if layer.record.key in needed],
            [layer for layer in others if layer.record.key in needed],
        )
