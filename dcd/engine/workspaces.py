"""The workspaces and layers that belong to a build's state.

The name of an attempt's workspace follows from the state, so it is not recorded elsewhere: the attempt
that failed a build keeps its workspace, for inspection, until the build continues or ends.
"""

from statemachine.build import BuildState, CheckpointRecord, CheckpointState, Lifecycle
from store.layers import Layers


def workspace_name(state: BuildState) -> str:
    """The workspace of the last attempt, at the next checkpoint. The number counts the attempts of all
    checkpoints, since workspaces of two checkpoints at the same index, of the old and the new manifest,
    can exist at once."""
    place = f".{state.variation.place}" if state.variation and state.variation.place else ""
    return f"{state.id}.{state.completed}.{sum(state.attempts.values())}{place}"


def kept_workspace(state: BuildState) -> str | None:
    """The workspace that a failed build keeps, or None. It may not exist: the checkpoint can have
    failed before its workspace was created."""
    record = state.next
    if state.lifecycle is not Lifecycle.FAILED or record is None:
        return None
    return workspace_name(state) if record.state is CheckpointState.FAILED else None


def claiming_workspace(state: BuildState) -> str | None:
    """The workspace of an open attempt that has claimed resources, or None: the resources may use its
    files until they are released."""
    record = state.running
    return workspace_name(state) if record is not None and record.claims else None


def lost_layer(layers: Layers, state: BuildState) -> CheckpointRecord | None:
    """The first completed checkpoint of a build whose layer is missing or stale, or None. Blocking."""
    completed = state.checkpoints[: state.completed]
    # The last layer is valid only while all layers below it are.
    if not completed or layers.find(completed[-1].key) is not None:
        return None
    return next((record for record in completed if layers.find(record.key) is None), None)


def missing_layer(layers: Layers, state: BuildState) -> tuple[str, str] | None:
    """Like `lost_layer`: the checkpoint's name, and the reason for people why it runs again.
    Blocking."""
    record = lost_layer(layers, state)
    if record is None:
        return None
    again = "was built on a layer that has been rebuilt since"
    why = again if layers.stale(record.key) else "is missing"
    if record.damaged:
        why = "is damaged"
    return record.name, f"the layer of {record.name} {why}, so it is rebuilt"
