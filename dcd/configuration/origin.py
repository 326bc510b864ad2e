"""Effective settings: each value with its origin, and the changes that a reload may apply."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dcd.configuration.settings import SETTINGS, Configuration, Mode, Setting

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Effective:
    """A configuration and the origin of each setting: `default`, `FILE:LINE`, `--OPTION`, `$VARIABLE`
    or an SMF property."""

    configuration: Configuration
    origins: Mapping[str, str]

    def rows(self) -> Iterator[tuple[Setting, Any, str]]:
        """Every setting with its value and origin, in the order of the table."""
        for setting in SETTINGS.values():
            value = getattr(self.configuration, setting.name)
            yield setting, value, self.origins.get(setting.name, DEFAULT)


def plain(value: Any) -> Any:
    """A setting's value in JSON types, in the form of the TOML file."""
    if isinstance(value, Mode | Path):
        return str(value)
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value


def reload(running: Effective, fresh: Effective) -> tuple[Effective, list[str], list[str]]:
    """Apply freshly read settings to a running daemon's.

    Returns the new effective settings, the names that changed, and the names that differ but keep
    their value until a restart.
    """
    changed: list[str] = []
    waiting: list[str] = []
    values: dict[str, Any] = {}
    origins = dict(running.origins)
    for setting, value, origin in fresh.rows():
        if setting.reloads:
            values[setting.name] = value
            origins[setting.name] = origin
        if value != getattr(running.configuration, setting.name):
            (changed if setting.reloads else waiting).append(setting.name)
    return Effective(replace(running.configuration, **values), origins), changed, waiting
