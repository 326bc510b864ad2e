"""The time of a build, SOURCE_DATE_EPOCH of its tools: chosen when it is planned, never the clock's.

It is an ingredient of the first checkpoint's key, and so part of all keys: a reused result has the times that
it would have if it were made again. The time is that of the manifest, else that of the request, else the
newest date of the repositories in the plan, which changes only with their digests, else `UNDATED`, so that
such a build is also reproducible. Pure. Source: the SOURCE_DATE_EPOCH specification of
reproducible-builds.org.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from dcd.manifest.doc import DataObjectCache, distro
from dcd.manifest.times import unix_time
from dcd.manifest.values import BadValue

UNDATED = 1767225600
"""2026-01-01: the time of a build without any date."""

_STATE = re.compile(r"[0-9a-f]{64} (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)")
"""The form of external state with a date; see `Checkpoint.external_state`."""


TimeOrigin = Literal["manifest", "request", "repositories", "none"]
"""Where a build's time comes from; `none`: it is `UNDATED`."""


@dataclass(frozen=True, slots=True)
class BuildTime:
    """The time of a build, in seconds since 1970, and its origin."""

    seconds: int
    origin: TimeOrigin


def choose_epoch(
    doc: DataObjectCache, given: int | None, states: Iterable[Mapping[str, str]]
) -> BuildTime:
    """The time of a build of the manifest in `doc`. `given` is the requested time, `states` the external
    state of its checkpoints."""
    said = distro(doc).source_date_epoch
    if said is not None:
        return BuildTime(unix_time(said), "manifest")
    if given is not None:
        return BuildTime(given, "request")
    dates = [date for state in states for date in _dates(state)]
    return BuildTime(max(dates), "repositories") if dates else BuildTime(UNDATED, "none")


def _dates(state: Mapping[str, str]) -> Iterable[int]:
    for text in state.values():
        if (found := _STATE.fullmatch(text)) is None:
            continue
        try:
            yield unix_time(found[1])
        except BadValue:
            continue  # A server may send anything.
