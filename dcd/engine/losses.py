"""What the event log should know, and does not: events were lost with a disk, or by hand.

Nothing is ever removed for that reason alone. What unknown builds left stays as it is, so that a backup of
the log that knows them can still be restored: their layers until `dcctl gc`, the rest until somebody removes
it. Blocking.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from statemachine.errors import LostEvents
from store.eventlog import EventLog
from store.layers import LayerStore
from store.layers.choose import TRIAL

_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Losses:
    """`events` were committed once and are not in the log (0: none that is known of); `builds` are unknown
    to the log, and left something."""

    events: int = 0
    builds: tuple[str, ...] = ()

    @property
    def error(self) -> LostEvents | None:
        """The loss for people, or None."""
        if not self.events and not self.builds:
            return None
        parts = []
        if self.events:
            parts.append(f"its last {self.events} events are gone")
        if self.builds:
            more = ", ..." if len(self.builds) > _SHOWN else ""
            named = ", ".join(self.builds[:_SHOWN]) + more
            parts.append(f"it does not know {len(self.builds)} builds that left something: {named}")
        return LostEvents(
            "the event log has lost events",
            "; ".join(parts),
            "restore a backup of the log that has them (dcd restore). What the builds left is kept: their"
            " layers until dcctl gc, their artifacts, logs and workspaces until you remove them",
        )


NO_LOSSES = Losses()


def look_for_losses(events: EventLog, layers: LayerStore, directories: Iterable[Path]) -> Losses:
    """Compare the log with its high-water mark, and with the builds that left layers, workspaces, or a
    directory of their own in one of `directories`."""
    found = {*_makers(layers), *_names(directories)}
    return Losses(events.lost, tuple(sorted(found - events.known_builds(found))))


def _makers(layers: LayerStore) -> Iterator[str]:
    for layer in (*layers.layers(), *layers.stale_layers()):
        if layer.record.made_by != TRIAL:
            yield layer.record.made_by
    for name, _ in layers.workspaces():
        if "." in name:  # an attempt's: BUILD.INDEX.NUMBER
            yield name.split(".")[0]


def _names(directories: Iterable[Path]) -> Iterator[str]:
    for directory in directories:
        if directory.exists():
            yield from (path.name for path in directory.iterdir() if path.is_dir())
