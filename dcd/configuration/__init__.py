"""The daemon's settings: one table, read from a TOML file, SMF properties, the environment, options."""

from dcd.configuration.origin import Effective, reload
from dcd.configuration.read import InvalidConfiguration, from_smf, load
from dcd.configuration.settings import SETTINGS, Configuration, Setting

__all__ = [
    "SETTINGS",
    "Configuration",
    "Effective",
    "InvalidConfiguration",
    "Setting",
    "from_smf",
    "load",
    "reload",
]
