"""The settings of a running daemon: effective values, and values that wait for a restart.

One `Live` exists for a daemon's life. Calling it returns the effective configuration, so it can be used
as a `Callable[[], Configuration]`; `reload` reads the sources again, applies changes that are safe
while builds run, and notifies watchers. Used from the event loop's thread only.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from dcd.configuration.origin import Effective
from dcd.configuration.settings import Configuration, Setting


@dataclass(frozen=True, slots=True)
class Reloaded:
    """Names of the settings that a reload changed, and of those that differ but wait for a restart."""

    changed: tuple[str, ...]
    waiting: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LiveSetting:
    """A setting with its effective value and origin; `waiting` is the value after a restart, with its
    origin, if it differs."""

    setting: Setting
    value: Any
    origin: str
    waiting: tuple[Any, str] | None


class Live:
    """The settings of a running daemon; see the module."""

    def __init__(self, read: Callable[[], Effective]) -> None:
        """Read the settings by `read`, which reads all sources. Raises InvalidConfiguration, also at
        each reload."""
        self._read = read
        self._running = self._fresh = read()
        self._watching: list[Callable[[Reloaded], None]] = []

    def __call__(self) -> Configuration:
        """The effective configuration."""
        return self._running.configuration

    def watch(self, changed: Callable[[Reloaded], None]) -> None:
        """Register `changed`, to be called after each reload."""
        self._watching.append(changed)

    def reload(self) -> Reloaded:
        """Read the sources again. Raises InvalidConfiguration without changing anything."""
        self._fresh = self._read()
        differing = [each for each in self.settings() if each.waiting]
        applied = [each for each in self._fresh.rows() if each[0].reloads]
        values = {setting.name: value for setting, value, _ in applied}
        origins = {setting.name: origin for setting, _, origin in applied}
        self._running = Effective(
            replace(self._running.configuration, **values), {**self._running.origins, **origins}
        )
        outcome = Reloaded(
            tuple(each.setting.name for each in differing if each.setting.reloads),
            tuple(each.setting.name for each in differing if not each.setting.reloads),
        )
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
