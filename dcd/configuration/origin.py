"""Effective settings: each value with its origin."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcd.configuration.settings import SETTINGS, Configuration, Mode, Setting
from dcd.configuration.webhooks import Webhook, plain_webhook

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
    if isinstance(value, Webhook):
        return plain_webhook(value)
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value
