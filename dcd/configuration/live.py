"""The settings of a running daemon: what is in force, and what waits for a restart.

One `Live` for a daemon's life. Calling it gives the configuration in force, so it goes wherever a
`Callable[[], Configuration]` is wanted; `reload` reads the sources again, changes what may change while
builds run, and tells those who watch. Used from the event loop's thread only.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from dcd.configuration.origin import Effective, reload
from dcd.configuration.settings import Configuration, Setting


@dataclass(frozen=True, slots=True)
class Reloaded:
    """Names of the settings that a reload changed, and of those that differ but wait for a restart."""

    changed: tuple[str, ...]
    waiting: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LiveSetting:
    """A setting with the value in force and where that came from; `waiting` is the value, with its
    origin, that a restart would bring, when it is another one."""

    setting: Setting
    value: Any
    origin: str
    waiting: tuple[Any, str] | None


class Live:
    """See the module."""

    def __init__(self, read: Callable[[], Effective]) -> None:
        """`read` reads all sources. Raises InvalidConfiguration, then and at each reload."""
        self._read = read
        self._running = self._fresh = read()
        self._watching: list[Callable[[Reloaded], None]] = []

    def __call__(self) -> Configuration:
        """The configuration in force."""
        return self._running.configuration

    def watch(self, changed: Callable[[Reloaded], None]) -> None:
        """Have `changed` called after each reload."""
        self._watching.append(changed)

    def reload(self) -> Reloaded:
        """Read the sources again. Raises InvalidConfiguration, and everything stays as it was."""
        fresh = self._read()
        self._running, changed, waiting = reload(self._running, fresh)
        self._fresh = fresh
        outcome = Reloaded(tuple(changed), tuple(waiting))
        for tell in self._watching:
            tell(outcome)
        return outcome

    def settings(self) -> Iterator[LiveSetting]:
        """Every setting, in the order of the table."""
        for running, fresh in zip(self._running.rows(), self._fresh.rows(), strict=True):
            setting, value, origin = running
            _, later, later_origin = fresh
            waiting = (later, later_origin) if later != value else None
            yield LiveSetting(setting, value, origin, waiting)
