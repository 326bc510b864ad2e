"""Removal of old builds, as the settings say.

The removal is the one of `dcctl rm`: artifacts and logs go, events stay, and say who removed the build: the
daemon. Every step is a command with its own event, so a crash loses nothing: a failed build that is cancelled
but not removed goes when it is old as a cancelled one. A look is at every start, when the settings change,
and once an hour. Builds that cannot be removed now are left for the next. Used from the event loop's thread
only.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta

import structlog

from dcd.configuration import Configuration
from dcd.engine.builds import DAEMON, Builds, now
from statemachine.build import BuildState, Lifecycle
from statemachine.errors import DcdError
from statemachine.events import Actor
from store.eventlog import BuildSummary

logger = structlog.get_logger()

LOOK_SECONDS = 3600.0
PAGE = 500

_STATES = (Lifecycle.FAILED, Lifecycle.CANCELLED, Lifecycle.COMPLETED)
Carry = Callable[[str, Actor], Awaitable[BuildState]]


def kind_of(build: BuildSummary) -> tuple[str, str]:
    """What a later build has to have in common to take a build's place: the distribution, and the cell of
    its group, which the end of its id stands for."""
    return build.name, build.id.partition("-")[2]


def outdated(
    builds: Iterable[BuildSummary], settings: Configuration, at: datetime
) -> Iterator[BuildSummary]:
    """The builds that the settings let go at a time, of all failed, cancelled and completed ones, newest
    first. Pure."""
    newer: Counter[tuple[str, str]] = Counter()
    for build in builds:
        completed = build.state is Lifecycle.COMPLETED
        days = settings.completed_builds_days if completed else settings.failed_builds_days
        kept = completed and newer[kind_of(build)] < settings.completed_builds_kept
        newer[kind_of(build)] += completed
        if days and not kept and build.updated_at + timedelta(days=days) <= at:
            yield build


class Retention:
    """Removes old builds. `cancel` and `remove` are the engine's commands."""

    def __init__(
        self,
        builds: Builds,
        settings: Callable[[], Configuration],
        *,
        cancel: Carry,
        remove: Carry,
        clock: Callable[[], datetime] = now,
    ) -> None:
        self._builds = builds
        self._settings = settings
        self._cancel = cancel
        self._remove = remove
        self._clock = clock
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Look again now: the settings have changed."""
        self._changed.set()

    async def run(self) -> None:
        """Look again and again until cancelled."""
        while True:
            try:
                await self.look()
            except (DcdError, OSError) as error:
                logger.error("old builds could not be removed", error=str(error))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), LOOK_SECONDS)
            self._changed.clear()

    async def look(self) -> list[str]:
        """Remove the builds that are old now. Returns their ids."""
        settings = self._settings()
        if not (settings.failed_builds_days or settings.completed_builds_days):
            return []
        chosen = list(outdated(await self._ended(), settings, self._clock()))
        removed = []
        for build in chosen:
            try:
                if build.state is Lifecycle.FAILED:
                    await self._cancel(build.id, DAEMON)
                await self._remove(build.id, DAEMON)
            except DcdError as error:
                logger.info("an old build stays", build=build.id, reason=str(error))
                continue
            logger.info("old build removed", build=build.id, state=str(build.state))
            removed.append(build.id)
        return removed

    async def _ended(self) -> list[BuildSummary]:
        """All failed, cancelled and completed builds that are not removed, newest first."""
        found: list[BuildSummary] = []
        before: int | None = None
        while True:
            page = await self._builds.ask(self._builds.log.list_builds, _STATES, PAGE, before)
            found += page
            if len(page) < PAGE:
                return found
            before = page[-1].submitted_position
