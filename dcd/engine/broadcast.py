"""Telling followers that something changed: new events, new progress.

Only the newest progress of a build is kept, and a listener is a flag, not a queue; so the memory that
followers cost does not depend on how fast they read. Used from the event loop's thread only.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running checkpoint and its build are. Fractions are 0..1 or None when unknown."""

    checkpoint: str
    attempt: int
    fraction: float | None
    message: str
    elapsed_seconds: float
    estimate_seconds: float
    build_fraction: float


@dataclass(frozen=True, slots=True)
class NumberedProgress:
    """Progress with a number that grows, so that a follower can tell old from new."""

    number: int
    data: Progress


class Listener:
    """Wakes when its build changed since the last `wait`."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def notify(self) -> None:
        """Wake the follower."""
        self._changed.set()

    async def wait(self) -> None:
        """Until the build changes."""
        await self._changed.wait()
        self._changed.clear()


@dataclass(slots=True)
class Broadcast:
    """Listeners and newest progress by build."""

    _listeners: dict[str, set[Listener]] = field(default_factory=dict)
    _progress: dict[str, NumberedProgress] = field(default_factory=dict)
    _count: int = 0

    @contextmanager
    def listen(self, build: str) -> Iterator[Listener]:
        """A listener for `build`, for the time of the context."""
        listener = Listener()
        listeners = self._listeners.setdefault(build, set())
        listeners.add(listener)
        try:
            yield listener
        finally:
            listeners.discard(listener)
            if not listeners:
                self._listeners.pop(build, None)

    @property
    def followers(self) -> int:
        """How many listen, to any build."""
        return sum(map(len, self._listeners.values()))

    def changed(self, build: str) -> None:
        """Wake everybody who follows `build`."""
        for listener in self._listeners.get(build, ()):
            listener.notify()

    def report(self, build: str, progress: Progress) -> None:
        """Replace the newest progress of `build`."""
        self._count += 1
        self._progress[build] = NumberedProgress(self._count, progress)
        self.changed(build)

    def progress(self, build: str) -> NumberedProgress | None:
        """The newest progress of `build`, if one of its checkpoints is running."""
        return self._progress.get(build)

    def clear(self, build: str) -> None:
        """Forget the progress of `build`: nothing of it is running."""
        self._progress.pop(build, None)
