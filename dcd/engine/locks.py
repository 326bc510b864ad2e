"""One lock per layer: held while a build creates it or decides to reuse it, and while it is removed.

A waiting build can be recalled to check its state again: after a cancel or a pause, or when the daemon
stops. Used from the event loop's thread only.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from weakref import WeakValueDictionary

from dcd.engine.broadcast import Broadcast


class LayerLocks:
    """The locks by key, and the builds that wait for one."""

    def __init__(self, broadcast: Broadcast) -> None:
        self._broadcast = broadcast
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._waiting: dict[str, asyncio.Event] = {}

    def of(self, key: str) -> asyncio.Lock:
        """The lock of a layer."""
        return self._locks.setdefault(key, asyncio.Lock())

    def waiting(self) -> Iterator[str]:
        """The builds that are waiting."""
        return iter(tuple(self._waiting))

    def recall(self, build: str) -> None:
        """End the wait of `build`, if it is waiting."""
        if recalled := self._waiting.get(build):
            recalled.set()

    @contextlib.asynccontextmanager
    async def turn(self, build: str, key: str) -> AsyncIterator[bool]:
        """Hold the lock of a layer inside the context. False: the build was recalled before it got the
        lock."""
        lock = self.of(key)
        recalled = self._waiting[build] = asyncio.Event()
        acquiring = asyncio.ensure_future(lock.acquire())
        leaving = asyncio.ensure_future(recalled.wait())
        try:
            with self._broadcast.waiting(build, "another build, which is creating the same layer"):
                await asyncio.wait({acquiring, leaving}, return_when=asyncio.FIRST_COMPLETED)
            del self._waiting[build]
            yield acquiring.done()
        finally:
            leaving.cancel()
            # Not acquired: leaves the queue.
            if not acquiring.cancel():
                lock.release()
