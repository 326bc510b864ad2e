"""Detecting events that the event log has lost, with a disk or by a manual change.

No data is removed only for that reason. Data of unknown builds is kept, so that a backup of the log
with these builds can still be restored: layers until `dcctl gc`, all other data until a person removes
it. Blocking.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from statemachine.errors import LostEvents
from store.eventlog import EventLog
from store.layers import Layers
from store.layers.choose import TRIAL

_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Losses:
    """`events` is the number of committed events missing in the log (0: none known); `builds` are
    unknown to the log but have data. `restoring` says how people get them back."""

    events: int = 0
    builds: tuple[str, ...] = ()
    restoring: str = ""

    @property
    def error(self) -> LostEvents | None:
        """The loss as an error for people, or None."""
        if not self.events and not self.builds:
            return None
        parts = []
        if self.events:
            parts.append(f"its last {self.events} events are missing")
        if self.builds:
            more = ", ..." if len(self.builds) > _SHOWN else ""
            named = ", ".join(self.builds[:_SHOWN]) + more
            parts.append(f"{len(self.builds)} builds that have data are missing in it: {named}")
        return LostEvents(
            "the event log has lost events",
            "; ".join(parts),
            f"{self.restoring}. The data of the "
            "builds is kept: layers until dcctl gc, artifacts, logs and workspaces until "
            "you remove them",
        )


NO_LOSSES = Losses()


def look_for_losses(events: EventLog, layers: Layers, directories: Iterable[Path]) -> Losses:
    """Compare the log with its high-water mark, and with the builds that have layers, workspaces, or a
    directory in one of `directories`."""
    found = {*_makers(layers), *_names(directories)}
    return Losses(events.lost, tuple(sorted(found - events.known_builds(found))), events.restoring)


def _makers(layers: Layers) -> Iterator[str]:
    for layer in (*layers.layers(), *layers.stale_layers()):
        if layer.record.made_by != TRIAL and not layer.record.brought:
            yield layer.record.made_by
    for name, _ in layers.workspaces():
        if "." in name:  # an attempt's: BUILD.INDEX.NUMBER
            yield name.split(".")[0]


def _names(directories: Iterable[Path]) -> Iterator[str]:
    for directory in directories:
        if directory.exists():
            yield from (path.name for path in directory.iterdir() if path.is_dir())
