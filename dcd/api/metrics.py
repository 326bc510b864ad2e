"""The daemon's metrics in Prometheus' format.

Counters and histograms start at 0 with the daemon, as Prometheus expects. Values that must survive a
restart are gauges, read from the event log for each scrape: the number of builds in each state, and the
wait of the oldest queued one. A queue wait is the difference between the times of two events, so it is
correct across a restart.

The cost of a scrape does not depend on the history: states of builds that have not ended are in memory;
values counted or measured on the disk are refreshed once in `MEASURED_SECONDS`.
docs/reference/metrics.md lists the metrics. Observations come from the event loop's thread, those of
the log from its writer's thread.
"""

import asyncio
import contextlib
import time
from collections import Counter as Tally
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from dcd.api.farm_metrics import FarmMetrics
from dcd.engine.builds import now
from dcd.engine.engine import Engine
from dcd.engine.records import Records
from dcd.engine.standing import standing_of
from statemachine import events
from statemachine.build import BuildState, Lifecycle
from statemachine.errors import Unavailable

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

MEASURED_SECONDS = 60.0
"""The maximum age of values counted or measured on the disk."""

_WAITS = (0.1, 1, 10, 60, 300, 900, 3600, 4 * 3600, 12 * 3600)
_CHECKPOINTS = (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 4 * 3600)
_COMMITS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5)
_PAUSES = ("requested", "interrupted", "no-space")
_GAUGES = {
    "oldest_queued_seconds": "Wait of the oldest queued build.",
    "followers": "Clients that follow a build.",
    "event_log_available": "1: events can be appended; 0: not.",
    "event_log_position": "Position of the last event.",
    "layers": "Layers.",
    "layer_bytes": "Size of all layers.",
    "layers_damaged": "Layers whose files were changed.",
    "layer_check_age_seconds": "Since the check of the layer that was read longest ago.",
    "retired_layer_bytes": "Size of the layers of back ends not in use.",
    "artifact_bytes": "Size of all artifacts.",
    "event_log_bytes": "Size of the event log.",
    "free_bytes": "Free space of the state directory.",
}
"""Name, without the prefix `dcd_`, to description."""


class Metrics:
    """The instruments of one daemon."""

    def __init__(self) -> None:
        # Series that the text format does not declare, and that Prometheus would treat as gauges.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        self._ended: Mapping[Lifecycle, int] = {}
        self._standing = standing_of(())
        """Of a farm's builds."""
        self._measured_at = float("-inf")
        self._queued_at: dict[str, datetime] = {}
        self._attempt_at: dict[str, datetime] = {}
        gauge, counter = partial(Gauge, registry=registry), partial(Counter, registry=registry)
        histogram = partial(Histogram, registry=registry)
        gauge("dcd_info", "The daemon.", ["version"]).labels(version("dcd")).set(1)
        self._requests = counter("dcd_requests", "Requests answered.", ["operation", "status"])
        self._queue_wait = histogram(
            "dcd_queue_wait_seconds",
            "From when a build was queued until it started.",
            buckets=_WAITS,
        )
        self._checkpoints = counter(
            "dcd_checkpoints", "Checkpoints that ended, by class and outcome.", ["type", "outcome"]
        )
        self._checkpoint_seconds = histogram(
            "dcd_checkpoint_seconds",
            "Duration of attempts, by class and outcome.",
            ["type", "outcome"],
            buckets=_CHECKPOINTS,
        )
        self._commits = histogram(
            "dcd_event_log_commit_seconds",
            "Duration of the event log's commits.",
            buckets=_COMMITS,
        )
        self._builds = gauge("dcd_builds", "Builds, by state.", ["state"])
        self._paused = gauge("dcd_builds_paused", "Paused, by cause.", ["cause"])
        self._hooks_behind = gauge(
            "dcd_webhook_behind_events",
            "Events of the log that come after its cursor.",
            ["webhook"],
        )
        self._hooks_failing = gauge(
            "dcd_webhook_failed_attempts",
            "Attempts in a row that failed; 0: it works.",
            ["webhook"],
        )
        self._gauges = {name: gauge(f"dcd_{name}", text) for name, text in _GAUGES.items()}
        self._farm: FarmMetrics | None = None
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

    def request(self, operation: str, status: int) -> None:
        """Count an answered request."""
        self._requests.labels(operation, str(status)).inc()

    def committed(self, position: int, seconds: float | None) -> None:
        """Observe a commit of this process to the event log; for its `on_commit`."""
        if seconds is not None:
            self._commits.observe(seconds)

    def happened(self, before: BuildState | None, event: events.Event) -> None:
        """Observe an appended event; for `Builds.watch`."""
        match event.data:
            case events.BuildResumed() if (
                before is not None and before.lifecycle is Lifecycle.PAUSING
            ):
                pass  # it has its slot already
            case events.BuildSubmitted() | events.BuildResumed():
                self._queued_at[event.build] = event.time
            case events.BuildStarted() if before is not None:
                since = self._queued_at.pop(event.build, before.updated_at)
                self._queue_wait.observe((event.time - since).total_seconds())
            case events.CheckpointStarted():
                self._attempt_at[event.build] = event.time
            case events.CheckpointReused(checkpoint) if before is not None:
                self._checkpoints.labels(_type(before, checkpoint), "reused").inc()
            case events.CheckpointCompleted(checkpoint, seconds=seconds) if before is not None:
                self._attempt(before, checkpoint, "completed", seconds)
            case events.CheckpointFailed(checkpoint, seconds=seconds) if before is not None:
                self._attempt(before, checkpoint, "failed", seconds)
            case events.CheckpointInterrupted(checkpoint) if before is not None:
                # None: the attempt belonged to a dead daemon, and its duration is unknown.
                began = self._attempt_at.get(event.build)
                worked = None if began is None else (event.time - began).total_seconds()
                self._attempt(before, checkpoint, "interrupted", worked)
            case events.BuildPaused() | events.BuildCancelled():
                self._queued_at.pop(event.build, None)

    def _attempt(
        self, before: BuildState, checkpoint: str, outcome: str, seconds: float | None
    ) -> None:
        self._attempt_at.pop(before.id, None)
        labels = (_type(before, checkpoint), outcome)
        self._checkpoints.labels(*labels).inc()
        if seconds is not None:
            self._checkpoint_seconds.labels(*labels).observe(seconds)

    async def scrape(self, engine: Engine) -> bytes:
        """The text of a scrape. What comes from a log that cannot be read, or from the disk, is as it was."""
        records = engine.records
        if time.monotonic() - self._measured_at >= MEASURED_SECONDS:
            with contextlib.suppress(Unavailable):
                await asyncio.to_thread(self._measure, records, in_farm=engine.hosts is not None)
                self._measured_at = time.monotonic()
        standing = self._standing if engine.hosts else standing_of(records.unfinished())
        states = Tally(standing.states) + Tally(self._ended)
        for lifecycle in Lifecycle:
            self._builds.labels(lifecycle).set(states[lifecycle])
        for cause in _PAUSES:
            self._paused.labels(cause).set(standing.paused.get(cause, 0))
        since = standing.queued_since
        self._set(
            oldest_queued_seconds=(now() - since).total_seconds() if since else 0.0,
            followers=records.broadcast.followers,
            event_log_available=engine.log_trouble is None,
            event_log_position=records.position,
        )
        for hooks in (self._hooks_behind, self._hooks_failing):
            hooks.clear()  # of those that are no longer in the settings
        for hook in engine.notifier.states():
            self._hooks_behind.labels(hook.name).set(hook.behind)
            self._hooks_failing.labels(hook.name).set(hook.attempts)
        if engine.hosts is not None:
            self._farm = self._farm or FarmMetrics(self._registry)
            self._farm.show(await asyncio.to_thread(engine.hosts.last_census))
        return await asyncio.to_thread(generate_latest, self._registry)

    def _measure(self, records: Records, *, in_farm: bool) -> None:
        """Set the values measured on the disk, and those counted in the log. Blocking. Raises Unavailable."""
        found = records.sizes()
        self._set(
            layers=found.layers,
            layer_bytes=found.layer_bytes,
            retired_layer_bytes=found.retired_bytes,
            artifact_bytes=found.artifact_bytes,
            event_log_bytes=found.event_log_bytes,
            free_bytes=found.free_bytes,
            layers_damaged=found.soundness.damaged,
            layer_check_age_seconds=time.time() - (found.soundness.read_since or time.time()),
        )
        self._ended = records.ended_counts()
        if in_farm:
            self._standing = records.standing()

    def _set(self, **values: float) -> None:
        for name, value in values.items():
            self._gauges[name].set(value)


def _type(state: BuildState, checkpoint: str) -> str:
    """The class of a checkpoint as named in the manifest."""
    return state.plan.checkpoints[state.index(checkpoint)].checkpoint_class
