"""How many builds are in which state: on a single machine from memory, in a farm from the log, since a member
has only its own builds in memory."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from statemachine.build import BuildState, Lifecycle
from statemachine.errors import DcdError
from statemachine.machine import BuildMachine
from store.eventlog import EventLog, is_outage


@dataclass(frozen=True, slots=True)
class Standing:
    """Of the builds that have not ended: their number by state, that of paused ones by cause, and since when
    the oldest queued one waits (None: none does)."""

    states: Mapping[Lifecycle, int]
    paused: Mapping[str, int]
    queued_since: datetime | None


def standing_of(unfinished: Iterable[BuildState]) -> Standing:
    """Of these builds."""
    found = list(unfinished)
    return Standing(
        Counter(state.lifecycle for state in found),
        Counter(state.cause for state in found if state.lifecycle is Lifecycle.PAUSED),
        min((s.updated_at for s in found if s.lifecycle is Lifecycle.QUEUED), default=None),
    )


def standing_in(log: EventLog) -> Standing:
    """Of all builds of a log. Blocking. Raises Unavailable."""
    found = log.unfinished()
    paused = (_state(log, build.id) for build in found if build.state is Lifecycle.PAUSED)
    return Standing(
        Counter(build.state for build in found),
        Counter(each.cause for each in paused if each and each.lifecycle is Lifecycle.PAUSED),
        min((b.updated_at for b in found if b.state is Lifecycle.QUEUED), default=None),
    )


def _state(log: EventLog, build: str) -> BuildState | None:
    """A build's present state: its last event need not be that of its pause. None when it cannot be read."""
    try:
        return BuildMachine.rehydrate(log.read_build(build)).state
    except DcdError as error:
        if is_outage(error):
            raise
        return None
