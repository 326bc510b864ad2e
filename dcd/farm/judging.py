"""Which layers may be shared with other build servers, which are worth it, and what of those of others is
believed. Reads the event log, else pure.
"""

from dcd.farm.shared_layers import SharedLayer
from statemachine.build import BuildState
from statemachine.events import CheckpointCompleted
from statemachine.keys import is_declined
from store.eventlog import EventLog
from store.layers import Products

FIRST_RATE = float(128 << 20)
"""Bytes a second of a layer, unpacked, that are packed and sent, until a transfer has shown how many."""

MARGIN = 3.0
"""A layer is sent when making it took so many times as long as moving it takes."""

REQUESTS_SECONDS = 0.2
"""What the requests for a layer without content take."""

MEASURED_BYTES = 8 << 20
"""Smaller layers show nothing of the rate."""


def worth_sharing(seconds: float, size_bytes: int, rate: float) -> bool:
    """Whether to send a layer of this size that was made in `seconds`; `rate` is in bytes a second."""
    return seconds > MARGIN * (REQUESTS_SECONDS + size_bytes / rate)


def may_be_shared(state: BuildState, checkpoint: str, in_farm: bool) -> bool:
    """Whether a result of a build may leave this host, and somebody else could use it. Where a checkpoint
    reads secrets, it and those after it stay: their trees may hold them. Without a common log no other
    server has the key of a checkpoint that runs in any case."""
    names = [planned.name for planned in state.plan.checkpoints]
    if checkpoint not in names or state.rebuild or state.variation:
        return False
    if reads_secrets(state, checkpoint):
        return False
    return in_farm or not is_declined(state.plan, names.index(checkpoint))


def reads_secrets(state: BuildState, checkpoint: str) -> bool:
    """Whether a checkpoint of the build, or one before it, reads secrets."""
    upto = state.plan.checkpoints[: state.index(checkpoint) + 1]
    return any(planned.secrets for planned in upto)


def event_of(log: EventLog, shared: SharedLayer) -> CheckpointCompleted | None:
    """The event that names a layer, or the result on it, with its content. The build that its manifest names
    is a hint where to look: the log decides."""
    for event in log.completed(shared.build):
        done = event.data
        if isinstance(done, CheckpointCompleted):
            named = ((done.key, done.content), (done.base, done.base_content))
            if (shared.key, shared.content) in named:
                return done
    return None


def products_of(done: CheckpointCompleted | None, key: str) -> Products | None:
    """What the event that names a layer says of it; None for a base, which is nobody's result."""
    if done is None or key != done.key:
        return None
    return Products(
        done.checkpoint,
        done.artifacts,
        done.left,
        done.warnings,
        done.resolved,
        done.publications,
    )
