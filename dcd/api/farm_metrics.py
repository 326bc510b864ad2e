"""The metrics of a farm: all members, and why builds wait, as the database says.

A scrape answers with what it said last while it is away; then `dcd_farm_look_age_seconds` grows.
"""

from collections import Counter as Tally
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Gauge

from dcd.engine.hosts import Census, Wait

MOST_LABEL_SETS = 20
"""Manifests name labels as they like: the sets with the fewest builds are counted together, as `other`."""

_OF_MEMBERS = {
    "up": "1: heard within farm_lost_seconds; 0: lost, or never seen.",
    "draining": "1: it takes no builds.",
    "heartbeat_age_seconds": "Since its last heartbeat.",
    "builds": "Unfinished builds that it owns.",
    "clock_ahead_seconds": "How far its clock is ahead of the database's.",
}


class FarmMetrics:
    """The instruments; `show` sets them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._members = {
            name: Gauge(f"dcd_farm_member_{name}", text, ["host"], registry=registry)
            for name, text in _OF_MEMBERS.items()
        }
        self._info = Gauge(
            "dcd_farm_member_info", "A member.", ["host", "version"], registry=registry
        )
        self._waiting = Gauge(
            "dcd_farm_queue_waiting",
            "Builds that wait for a member, by obstacle and required labels.",
            ["reason", "labels"],
            registry=registry,
        )
        self._age = Gauge(
            "dcd_farm_look_age_seconds",
            "Since the database has said what is shown of the farm.",
            registry=registry,
        )

    def show(self, census: Census) -> None:
        """Set the values from a census."""
        for gauge in (*self._members.values(), self._info, self._waiting):
            gauge.clear()  # of members and builds that are gone
        for each in census.hosts:
            self._info.labels(each.host, each.version).set(1)
            values = {
                "up": each.state in ("up", "draining"),
                "draining": each.state == "draining",
                "heartbeat_age_seconds": each.silent_seconds,
                "builds": len(each.builds),
                "clock_ahead_seconds": each.clock_ahead_seconds,
            }
            for name, value in values.items():
                if value is not None:
                    self._members[name].labels(each.host).set(value)
        for (reason, labels), count in _counted(census.waits).items():
            self._waiting.labels(reason, labels).set(count)
        self._age.set(census.age_seconds)


def _counted(waits: Sequence[Wait]) -> dict[tuple[str, str], int]:
    """The number of waiting builds by obstacle and label set, in a bounded number of sets."""
    by_set = Tally(each.labels for each in waits)
    named = {labels for labels, _ in by_set.most_common(MOST_LABEL_SETS)}
    return Tally(
        (each.obstacle, each.labels if each.labels in named else "other") for each in waits
    )
