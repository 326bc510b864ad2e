"""Which workspaces and layers belong to a build's state.

The name of an attempt's workspace follows from the state, so nothing else has to remember it: the
attempt that failed a build keeps its workspace until the build goes on or ends, for a look inside.
"""

from statemachine.build import BuildState, CheckpointRecord, CheckpointState, Lifecycle
from store.layers import LayerStore


def workspace_name(state: BuildState) -> str:
    """The workspace of the last attempt, which was at the checkpoint that is next. Attempts are counted
    through all checkpoints: of two that have the same place, in one manifest and the next, the
    workspaces can be there at once."""
    return f"{state.id}.{state.completed}.{sum(state.attempts.values())}"


def kept_workspace(state: BuildState) -> str | None:
    """The workspace that a failed build keeps, or None. It may be missing: the checkpoint can have
    failed before its workspace was begun."""
    record = state.next
    if state.lifecycle is not Lifecycle.FAILED or record is None:
        return None
    return workspace_name(state) if record.state is CheckpointState.FAILED else None


def claiming_workspace(state: BuildState) -> str | None:
    """The workspace of an open attempt that has claimed resources, or None: they may hold its files
    until they are released."""
    record = state.running
    return workspace_name(state) if record is not None and record.claims else None


def lost_layer(layers: LayerStore, state: BuildState) -> CheckpointRecord | None:
    """The first completed checkpoint of a build whose layer is not there or is stale, or None. Blocking."""
    completed = state.checkpoints[: state.completed]
    # The last layer counts only while all below it do.
    if not completed or layers.find(completed[-1].key) is not None:
        return None
    return next((record for record in completed if layers.find(record.key) is None), None)


def missing_layer(layers: LayerStore, state: BuildState) -> tuple[str, str] | None:
    """As `lost_layer`: the checkpoint's name, and for people why it runs again. Blocking."""
    record = lost_layer(layers, state)
    if record is None:
        return None
    again = "was built on a layer that has been made again since"
    why = again if layers.stale(record.key) else "is missing"
    return record.name, f"the layer of {record.name} {why}, so it is made again"
