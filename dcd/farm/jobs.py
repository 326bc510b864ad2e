"""The jobs of a farm: which builds need one, decided from what the database knows. Pure.

The event log is the truth and jobs are a cache of it, so every member makes them again where they are
missing. A build whose owner may live is left alone: taking it from a living member wastes work.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

RUNNABLE = frozenset({"queued", "running", "pausing", "cancelling"})
"""The states, as in the log, in which some member is to drive a build."""


@dataclass(frozen=True, slots=True)
class Situation:
    """An unfinished build: its state, its owner ("": none yet), and its job. `job` is the id of one that is
    queued or taken, None without one; `worker_lost` says that the worker which took the job has
    been silent too long (False for a queued one). `priority` and `requires` are the build's."""

    build: str
    state: str
    host: str
    job: int | None = None
    fetched: bool = False
    worker_lost: bool = False
    priority: int = 0
    requires: Sequence[str] = ()


def needs_job(
    found: Situation, here: str, driving: Collection[str], lost_hosts: Collection[str]
) -> bool:
    """Whether a build has no member that drives it or is about to, so that its job has to be made, or taken
    back. `here` is this member, which drives the builds `driving`; `lost_hosts` are the members that it may
    call lost."""
    if found.state not in RUNNABLE:
        return False
    if found.job is not None and not found.fetched:
        return False  # somebody will take it
    mine = found.host == here
    if mine and found.build in driving:
        return False
    if found.state == "queued" and found.fetched:
        return found.worker_lost  # the worker that has the job is about to take the build
    return mine or found.state == "queued" or not found.host or found.host in lost_hosts
