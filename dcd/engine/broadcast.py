"""Notifying followers of changes: new events, new progress, and the cause of a wait.

Only the newest progress of a build is kept, and a listener is a flag, not a queue; so the memory of
followers does not depend on their speed. Used from the event loop's thread only.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from statemachine.plan import PlannedCheckpoint


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a running checkpoint and its build. Fractions are 0..1 or None when unknown."""

    checkpoint: str
    attempt: int
    fraction: float | None
    message: str
    elapsed_seconds: float
    estimate_seconds: float
    build_fraction: float


def progress(
    plan: Sequence[PlannedCheckpoint],
    index: int,
    attempt: int,
    fraction: float | None,
    message: str,
    elapsed_seconds: float,
) -> Progress:
    """The progress of a build from the fraction of its checkpoint `index`; the others count by their
    estimates."""
    estimates = [planned.estimate_seconds for planned in plan]
    done = sum(estimates[:index]) + (fraction or 0.0) * estimates[index]
    return Progress(
        checkpoint=plan[index].name,
        attempt=attempt,
        fraction=fraction,
        message=message,
        elapsed_seconds=elapsed_seconds,
        estimate_seconds=estimates[index],
        build_fraction=min(1.0, done / (sum(estimates) or 1.0)),
    )


@dataclass(frozen=True, slots=True)
class NumberedProgress:
    """Progress with an increasing number, so that a follower can recognise new progress."""

    number: int
    data: Progress


class Listener:
    """Wakes when its build has changed since the last `wait`."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def notify(self) -> None:
        """Wake the follower."""
        self._changed.set()

    async def wait(self) -> None:
        """Wait until the build changes."""
        await self._changed.wait()
        self._changed.clear()


@dataclass(slots=True)
class Broadcast:
    """Listeners and newest progress by build. Listeners under None are to all builds."""

    _listeners: dict[str | None, set[Listener]] = field(default_factory=dict)
    _progress: dict[str, NumberedProgress] = field(default_factory=dict)
    _waits: dict[str, str] = field(default_factory=dict)
    _count: int = 0

    @contextmanager
    def listen(self, build: str | None) -> Iterator[Listener]:
        """A listener for `build` (None: for all builds) inside the context."""
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
        """The number of listeners to all builds."""
        return sum(map(len, self._listeners.values()))

    def changed(self, build: str) -> None:
        """Wake all followers of `build`."""
        for followed in (build, None):
            for listener in self._listeners.get(followed, ()):
                listener.notify()

    def report(self, build: str, progress: Progress) -> None:
        """Replace the newest progress of `build`."""
        self._count += 1
        self._progress[build] = NumberedProgress(self._count, progress)
        self.changed(build)

    def progress(self, build: str) -> NumberedProgress | None:
        """The newest progress of `build`, None unless one of its checkpoints is running."""
        return self._progress.get(build)

    def newer(self, number: int) -> list[tuple[str, NumberedProgress]]:
        """The progress of all builds with numbers after `number`, oldest first."""
        found = [each for each in self._progress.items() if each[1].number > number]
        return sorted(found, key=lambda each: each[1].number)

    @contextmanager
    def waiting(self, build: str, what: str) -> Iterator[None]:
        """Show `what` as the cause of the build's wait inside the context."""
        before = self._waits.get(build)
        self._waits[build] = what
        try:
            yield
        finally:
            if before is None:
                self._waits.pop(build, None)
            else:
                self._waits[build] = before

    def waits_for(self, build: str) -> str:
        """The cause of the build's wait, or ""."""
        return self._waits.get(build, "")

    def clear(self, build: str) -> None:
        """Discard the progress of `build`, of which no checkpoint is running."""
        self._progress.pop(build, None)
