"""The settings about the layers that results stand on."""

from dcd.configuration import Configuration
from dcd.planning.ground import Rule


def ground_rule(settings: Configuration) -> Rule:
    """The rule of the settings."""
    return Rule(settings.grown_builds == "allowed", settings.capture)
