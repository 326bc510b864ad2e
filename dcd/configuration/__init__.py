"""The daemon's settings: one table, read from a TOML file, SMF properties, the environment and
options."""

from dcd.configuration.live import Live, LiveSetting, Reloaded
from dcd.configuration.origin import Effective, plain
from dcd.configuration.read import InvalidConfiguration, from_smf, load
from dcd.configuration.settings import SETTINGS, Configuration, Setting

__all__ = [
    "SETTINGS",
    "Configuration",
    "Effective",
    "InvalidConfiguration",
    "Live",
    "LiveSetting",
    "Reloaded",
    "Setting",
    "from_smf",
    "load",
    "plain",
]
