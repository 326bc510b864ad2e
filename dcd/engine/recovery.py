"""What a dead daemon left: its unfinished work is removed, its losses are found. Blocking."""

from collections.abc import Collection, Sequence

import structlog

from dcd.engine.losses import Losses, look_for_losses
from dcd.engine.stores import Stores
from dcd.engine.workspaces import claiming_workspace, kept_workspace
from statemachine.build import BuildState
from store.blobs import Blobs
from store.eventlog import EventLog
from store.layers import Layers
from store.layers.choose import TRIAL

logger = structlog.get_logger()


def recover(events: EventLog, stores: Stores, unfinished: Sequence[BuildState]) -> Losses:
    """Remove the unfinished work of a dead daemon, except for what the unfinished builds of this one need.
    Returns what the log has lost."""
    kept = {
        name for state in unfinished if (name := kept_workspace(state) or claiming_workspace(state))
    }
    losses = _losses(events, stores)
    kept.update(_workspaces_of(stores.layers, losses.builds))
    remove_unfinished(stores.layers, kept)
    _give_inputs(stores.blobs, unfinished)
    return losses


def _give_inputs(blobs: Blobs, unfinished: Sequence[BuildState]) -> None:
    """Record the owners of captured inputs, which version 0.1.0 did not: the submitter of their
    build."""
    for state in unfinished:
        for file in state.inputs:
            if state.actor.uid is not None:
                blobs.give(file.sha256, state.actor.uid)


def _losses(events: EventLog, stores: Stores) -> Losses:
    """The log's losses, also logged as an error."""
    found = look_for_losses(
        events, stores.layers, (stores.artifacts.directory, stores.logs.directory)
    )
    if loss := found.error:
        logger.error(loss.brief, details=loss.details, resolution=loss.resolution)
    return found


def _workspaces_of(layers: Layers, builds: Collection[str]) -> list[str]:
    return [name for name, _ in layers.workspaces() if name.split(".")[0] in builds]


def remove_unfinished(layers: Layers, living: Collection[str]) -> None:
    """Remove the unfinished work of a dead daemon. Complete layers are kept; `gc` removes unneeded
    ones."""
    kept = [layer.record.key for layer in layers.layers() if layer.record.made_by != TRIAL]
    for name in layers.reconcile(kept, living):
        logger.info("removed the unfinished work of a dead daemon", what=name)
