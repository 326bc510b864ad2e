"""The settings about manifests that a planner obeys."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from dcd.configuration import Configuration
from dcd.manifest.source import LIMITS
from dcd.worker.kinds import AUTO


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings about manifests; see `dcd.configuration`."""

    include_directories: tuple[str, ...] = ()
    include_map: Mapping[str, str] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    elements: int = LIMITS.max_elements
    checkpoints: int = LIMITS.max_checkpoints
    worker: str = AUTO
    elsewhere: bool = False
    """Another member of a farm may make the image."""


def rules_of(settings: Configuration) -> Rules:
    """The daemon's settings about manifests."""
    return Rules(
        include_directories=tuple(map(str, settings.include_directories)),
        include_map={
            f"{prefix.rstrip('/')}/": str(path) for prefix, path in settings.include_map.items()
        },
        modules=settings.checkpoint_modules,
        elements=settings.elements_limit,
        checkpoints=settings.checkpoints_limit,
        worker=settings.worker,
        elsewhere=bool(settings.farm_database),
    )
