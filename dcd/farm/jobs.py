"""The jobs of a farm: which builds need one, decided from what the database knows. Pure.

The event log is the truth and jobs are a cache of it, so every member makes them again where they are
missing. A build whose owner may live is left alone: taking it from a living member wastes work. So a job says
in which epoch of its build it was made, and by whom, and a member that gets it looks again: the owner may
have come back meanwhile, or another one may have taken the build.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum

from dcd.farm.takers import queue_of
from statemachine.build import RUNNABLE, Lifecycle

ENDING = frozenset({Lifecycle.PAUSING, Lifecycle.CANCELLING})
"""The states in which a member drives a build and nothing has to be made any more."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Unfinished builds with the same takers: what they require, where they move, `host` where that counts.
    `queue` is the one in which their jobs wait, None without one."""

    requires: Sequence[str]
    moves_to: str | None = None
    host: str = ""
    queue: str | None = None


@dataclass(frozen=True, slots=True)
class Situation:
    """An unfinished build: its state, its owner ("": none yet) and epoch, and its job. `job` is the id of one
    that is queued or taken, None without one; `worker_lost` says that the worker which took the job has
    been silent too long (False for a queued one); `queue` is its queue. `priority`, `requires` and
    `moves_to` are the build's."""

    build: str
    state: str
    host: str
    epoch: int = 0
    job: int | None = None
    fetched: bool = False
    worker_lost: bool = False
    priority: int = 0
    requires: Sequence[str] = ()
    moves_to: str | None = None
    queue: str | None = None


def is_misplaced(found: Kind | Situation) -> bool:
    """Whether the job is in a queue of members that are not to take the build any more."""
    return found.queue is not None and found.queue != queue_of(found)


class Next(Enum):
    """What a member does about a build."""

    NOTHING = "nothing"
    MAKE_JOB = "make a job"
    """No member drives it or is about to: some member is to get a job for it, in place of a lost one."""
    CONTINUE = "continue"
    """This member drove it before it started again, and continues it without a job."""


def next_for(
    found: Situation,
    here: str,
    driving: Collection[str],
    lost_hosts: Collection[str],
    *,
    keeps: bool = True,
) -> Next:
    """What this member, `here`, does about a build. It drives the builds `driving`; `lost_hosts` are the
    members that it may call lost. Without `keeps` it hands the build over, if it owns it and there is
    something to make: to cancel or to pause it waits for nobody."""
    if found.state not in RUNNABLE:
        return Next.NOTHING
    if found.host == here and found.build in driving:
        return Next.NOTHING
    if found.host == here and found.state != "queued" and (keeps or found.state in ENDING):
        # Even if it has a job: other members make one for a build of a lost member.
        return Next.CONTINUE
    if found.job is not None and not (found.fetched or is_misplaced(found)):
        return Next.NOTHING  # somebody will take it
    if found.state == "queued":
        # The worker that has the job is about to take the build.
        needed = not found.fetched or found.worker_lost
    else:
        needed = not found.host or found.host == here or found.host in lost_hosts
    return Next.MAKE_JOB if needed else Next.NOTHING


def may_take(
    found: Situation | None, here: str, epoch: int, maker: str, lost_hosts: Collection[str]
) -> bool:
    """Whether this member, `here`, may take a build for which it got a job that `maker` made in that epoch of
    the build. None: the build has stopped."""
    if found is None or found.epoch != epoch:
        return False
    return found.state == "queued" or found.host in {"", here, maker, *lost_hosts}
